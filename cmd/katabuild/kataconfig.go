package main

import (
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/manifest"
)

func (a *app) kataConfigCmd() *cobra.Command {
	return &cobra.Command{
		Use: "kata-config [GUEST]", Args: cobra.MaximumNArgs(1), Short: "print what Kata Containers' configuration must say to run a guest",
		Long: `kata-config prints the keys of [hypervisor.qemu] in Kata Containers' own configuration.toml (version 4, Go runtime) that make its runtime boot a
guest of ours (a folder made by "katabuild build", default out/default): put them in the place of those that are there, or into a
file of their own in config.d beside it. Our runtime needs none of this: it reads the guest's manifest.`,
		Example: "  katabuild kata-config out/default > /etc/kata-containers/config.d/50-guest.toml",
		RunE: func(_ *cobra.Command, args []string) error {
			dir := guestDir(args)
			m, _, err := readGuest(dir, "")
			if err != nil {
				return err
			}
			if dir, err = filepath.Abs(dir); err != nil {
				return err
			}
			text, err := kataConfig(m, dir)
			if err != nil {
				return fmt.Errorf("guest %s: %w", dir, err)
			}
			fmt.Fprint(a.out, text)
			return nil
		},
	}
}

// kataConfig is the part of Kata Containers' configuration that names a guest in the folder dir.
func kataConfig(m *manifest.Manifest, dir string) (string, error) {
	path := func(f manifest.File) string { return strconv.Quote(filepath.Join(dir, filepath.FromSlash(f.Path))) }
	text := fmt.Sprintf("# The guest %q, %s, for Kata Containers' own runtime.\n[hypervisor.qemu]\nkernel = %s\n", m.Name, m.Kernel.Release, path(m.Kernel.Vmlinux))
	i := m.Image
	if i == nil {
		// Kata refuses a configuration with both.
		return text + fmt.Sprintf("initrd = %s\nimage = \"\"\n", path(m.Initrd.File)), nil
	}
	if i.Layout == "bare" {
		return "", fmt.Errorf("its image has no partition table, and Kata Containers looks for the root in the first partition; build it with image.layout gpt or mbr-dax")
	}
	text += fmt.Sprintf("image = %s\ninitrd = \"\"\nrootfs_type = %q\n", path(i.File), i.FileSystem)
	// Kata maps images as NVDIMM unless it is told not to, and takes the space for the DAX header for granted.
	text += fmt.Sprintf("disable_image_nvdimm = %v\n", i.Layout != "mbr-dax")
	if v := i.Verity; v != nil {
		p := extension.Params{RootHash: v.RootHash, Salt: v.Salt, DataBlocks: v.DataBlocks, DataBlockSize: v.DataBlockSize, HashBlockSize: v.HashBlockSize}
		text += fmt.Sprintf("kernel_verity_params = %q\n", p)
	} else {
		text += "kernel_verity_params = \"\"\n"
	}
	if m.Agent.Init == "systemd" {
		return text + "# The agent is a service of systemd, as in Kata's own image.\n", nil
	}
	return text, nil
}
