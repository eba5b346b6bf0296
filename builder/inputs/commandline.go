package inputs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/bootwords"
	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/rootfs"
)

// longestLine is the longest command line that a boot of the recipe makes without words of the host's own: numbers and
// digests are as long as they get.
func longestLine(r *recipe.Recipe, a arch.Arch) (string, error) {
	line, tcg := bootwords.Built(a, r.Boot.Machine)
	for _, w := range r.Boot.CommandLine {
		line += " " + w
	}
	if i := r.Image; i != nil {
		const size, block = 1 << 43, dmverity.BlockSize // 8 TiB: more than a disk of ours is
		l := manifest.ImageLayout{Layout: i.Layout, FileSystem: i.FileSystem, Offset: block, Length: size}
		if i.WithVerity() {
			hex := strings.Repeat("f", 64)
			l.Verity = &manifest.Verity{Params: dmverity.Params{RootHash: hex, Salt: hex, DataBlocks: size / block,
				DataBlockSize: block, HashBlockSize: block}, Offset: size + block, Length: size}
		}
		root, err := rootfs.CommandLine(l, DiskName(r.Boot.Disk))
		if err != nil {
			return "", err
		}
		line += " " + root
		if r.Rootfs != nil && r.Rootfs.Init == manifest.InitSystemd {
			line += " " + SystemdWord
		}
	}
	if tcg != "" {
		line += " " + bootwords.OnHost(tcg, bootwords.LongestClock)
	}
	return line + " " + bootwords.ClearMemory, nil
}

// checkLine refuses words of a recipe that the boot says itself, and more of them than the kernel keeps.
func checkLine(r *recipe.Recipe) error {
	if r.Extension {
		return nil
	}
	a, err := arch.Parse(r.Arch)
	if err != nil {
		return err
	}
	own := map[string]string{}
	line, tcg := bootwords.Built(a, r.Boot.Machine)
	for w := range strings.FieldsSeq(line + " " + tcg) {
		name, _, _ := strings.Cut(w, "=")
		own[name] = w
	}
	var errs []error
	for i, w := range r.Boot.CommandLine {
		name, _, _ := strings.Cut(strings.ReplaceAll(w, `"`, ""), "=")
		if ours := own[name]; ours != "" {
			errs = append(errs, r.Blame(fmt.Sprintf("boot.command_line[%d]", i),
				fmt.Errorf("%q: the boot says %s itself; leave it out, or add it to one boot with `katabuild boot "+
					"--append`", w, ours)))
		}
	}
	longest, err := longestLine(r, a)
	if err != nil {
		return err
	}
	// The kernel keeps a NUL behind the line.
	if most := a.CommandLine - 1; a.CommandLine > 0 && len(longest) > most {
		own := len(strings.Join(r.Boot.CommandLine, " "))
		errs = append(errs, r.Blame("boot.command_line",
			fmt.Errorf("its words have %d bytes, and this guest's boot adds up to %d; a kernel for %s keeps %d: at "+
				"most %d are left",
				own, len(longest)-own, a.Name, most, max(0, most-len(longest)+own))))
	}
	return errors.Join(errs...)
}

// SystemdWord makes systemd start what a guest of ours needs.
const SystemdWord = "systemd.unit=kata-containers.target"

// DiskName is the name in a guest of its first disk, of a kind.
func DiskName(kind string) string {
	return map[string]string{manifest.VirtioBlk: "/dev/vda", manifest.NVDIMM: "/dev/pmem0"}[kind]
}
