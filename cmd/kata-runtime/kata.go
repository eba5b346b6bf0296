package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/internal/manifest"
)

// forKata is what Kata Containers' own configuration has to say for a guest in a folder, whose path is absolute.
func forKata(dir string, m *manifest.Manifest) (string, error) {
	if m.Image != nil && m.Image.Layout == manifest.LayoutBare {
		return "", fmt.Errorf(
			"the image of guest %s has no partition table, and Kata Containers looks for the root in the first "+
				"partition; "+
				"build it with image.layout gpt or mbr-dax", m.Name)
	}
	var b strings.Builder
	p := func(key string, value any) { fmt.Fprintf(&b, "%s = %v\n", key, value) }
	file := func(f manifest.File) string { return quoted(filepath.Join(dir, filepath.FromSlash(f.Path))) }
	fmt.Fprintf(&b, "# The guest %s, for Kata Containers' configuration-qemu.toml; what is set there of these keys "+
		"goes.\n[hypervisor.qemu]\n", m.Name)
	p("kernel", file(m.Kernel.Vmlinux))
	if m.Initrd != nil {
		p("initrd", file(m.Initrd.File))
	}
	if i := m.Image; i != nil {
		p("image", file(i.File))
		p("rootfs_type", quoted(i.FileSystem))
		params := ""
		if v := i.Verity; v != nil {
			params = v.Params.String()
		}
		p("kernel_verity_params", quoted(params))
		p("disable_image_nvdimm", i.Layout != manifest.LayoutMBRDAX)
	}
	return b.String(), nil
}

// quoted is a basic string of TOML.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
