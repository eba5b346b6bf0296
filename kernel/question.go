package kernel

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/katabuild/katabuild/kernel/excerpt"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kbuild"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/menu"
)

// OutputKconfig is a zip archive of the tree's Kconfig files, as far as the architecture's configuration reads them: an
// output of a Request with Kconfig.
const OutputKconfig = "kconfig.zip"

// OutputKbuild is one of those of the tree's Makefiles that its configuration makes a build read, which comes with it.
const OutputKbuild = "kbuild.zip"

// readTree reads the tree's Kconfig files.
func (r Request) readTree(tree fs.FS) (*kconfig.Tree, error) {
	return kconfig.ReadTree(tree, "Kconfig", map[string]string{"SRCARCH": r.Arch.Linux})
}

// leaveKconfig packs the Kconfig files, and the Makefiles that the configuration makes the build read.
func (b *build) leaveKconfig(res *Result, config []byte) error {
	final, err := kconfig.ParseConfig(OutputConfig, config)
	if err != nil {
		return err
	}
	read := excerpt.Of(b.left.FS(maxText))
	if _, err := b.readTree(read); err != nil {
		return err
	}
	packed, err := read.Pack()
	if err := errors.Join(err, b.leave(res, OutputKconfig, packed)); err != nil {
		return err
	}
	read = excerpt.Of(b.left.FS(maxText))
	// What is wrong with Makefiles is told when somebody asks about them.
	_, _ = kbuild.Read(read, b.Arch.Linux, final.On)
	packed, err = read.Pack()
	return errors.Join(err, b.leave(res, OutputKbuild, packed))
}

// Menu is what a kernel's options can be asked about: the final configuration and the Kconfig files are the outputs of
// a Request with OnlyConfig and Kconfig.
func (r Request) Menu(config, kconfigZip []byte) (*menu.Kernel, error) {
	settings, _, err := r.settle(versionOf(config))
	if err != nil {
		return nil, err
	}
	final, err := kconfig.ParseConfig(OutputConfig, config)
	if err != nil {
		return nil, err
	}
	z, err := zip.NewReader(bytes.NewReader(kconfigZip), int64(len(kconfigZip)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", OutputKconfig, err)
	}
	tree, err := r.readTree(z)
	if err != nil {
		return nil, err
	}
	return &menu.Kernel{Tree: tree, Final: final, Settings: settings, Feature: features.Of}, nil
}

// heading is how a configuration says what it is of, above its first option. Linux: scripts/kconfig/confdata.c, and the
// mainmenu of the tree's Kconfig.
var heading = regexp.MustCompile(`(?m)^# Linux/([a-z0-9_]+) ([0-9][^ \n]{0,63}) Kernel Configuration$`)

// versionOf is the version of Linux that a final configuration is of; empty where it does not say.
func versionOf(config []byte) string {
	if m := heading.FindSubmatch(config[:min(len(config), 4096)]); m != nil {
		return string(m[2])
	}
	return ""
}

// touched lists the files that patches change.
func touched(all []Patch) (map[string]bool, error) {
	out := map[string]bool{}
	for _, p := range all {
		names, err := p.Files()
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			out[strings.TrimPrefix(path.Clean(n), "/")] = true
		}
	}
	return out, nil
}
