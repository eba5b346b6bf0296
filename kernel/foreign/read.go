package foreign

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// Form is what a configuration leaves out.
type Form string

// The forms.
const (
	Whole     Form = "config"    // a .config: nothing
	Saved     Form = "defconfig" // what `make savedefconfig` writes: all that has its default
	Fragments Form = "fragments" // a list of wishes: what is not named is off
)

// heading is how a whole configuration says what it is of. Linux: scripts/kconfig/confdata.c, and the mainmenu of the
// tree's Kconfig.
var heading = regexp.MustCompile(`(?m)^# Linux/([a-z0-9_]+) ([0-9][^ \n]{0,63}) Kernel Configuration\r?$`)

// Heading is what a whole configuration says it is of: the architecture as Linux calls it, and the version. Both are
// empty where it does not say.
func Heading(config []byte) (linux, version string) {
	if m := heading.FindSubmatch(config[:min(len(config), 4096)]); m != nil {
		return string(m[1]), string(m[2])
	}
	return "", ""
}

// KernelOf is what a configuration says it is of; what it does not say is otherwise's.
func KernelOf(config []byte, otherwise Kernel) Kernel {
	linux, version := Heading(config)
	if version == "" {
		return otherwise
	}
	k := Kernel{Arch: otherwise.Arch, Version: version}
	if now, err := arch.Parse(otherwise.Arch); err == nil && now.Linux == linux {
		return k
	}
	for _, name := range arch.Names(arch.All()) {
		if a, err := arch.Parse(name); err == nil && a.Linux == linux {
			k.Arch = name
		}
	}
	return k
}

// FormOf guesses the form of files that were named together: a generated file is whole, several files or a folder are
// fragments, and another single file is what savedefconfig wrote.
func FormOf(files [][]byte) Form {
	if len(files) != 1 {
		return Fragments
	}
	if bytes.Contains(files[0][:min(len(files[0]), 4096)], []byte("Automatically generated file")) {
		return Whole
	}
	return Saved
}

// Read reads a configuration of any form as leniently as the kernel's own make does: every comment is one, a line may
// end with blanks, and what comes later counts. Other lines are errors.
func Read(name string, data []byte) ([]kconfig.Setting, error) {
	var out []kconfig.Setting
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimRight(line, " \t\r\n")
		symbol, value, ok, err := kconfig.ParseLine(strings.TrimLeft(line, " \t"))
		if err != nil {
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			// CONFIG_X= is how old configurations say nothing of a number.
			if s, ok := strings.CutSuffix(line, "="); ok && strings.HasPrefix(s, prefix) {
				continue
			}
			// A remark behind a value.
			if before, _, found := strings.Cut(line, " #"); found {
				symbol, value, ok, err = kconfig.ParseLine(strings.TrimSpace(before))
			}
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", name, n, err)
			}
		}
		if ok {
			out = append(out, kconfig.Setting{Symbol: symbol, Value: value, File: name, Line: n})
		}
	}
	return out, nil
}

// Final is the configuration that settings make by themselves, the last of each symbol.
func Final(settings []kconfig.Setting) *kconfig.Config {
	values := map[string]kconfig.Value{}
	for _, w := range settings {
		values[w.Symbol] = w.Value
	}
	return kconfig.NewConfig(values)
}

// Elsewhere says whether a fragment is marked as one that is not for an architecture, named in either of two ways: Kata
// Containers' fragments have such marks, !NAME, in the comment that is their first line.
func Elsewhere(data []byte, names ...string) bool {
	first, _, _ := strings.Cut(string(data[:min(len(data), 4096)]), "\n")
	marks, ok := strings.CutPrefix(strings.TrimSpace(first), "#")
	for word := range strings.FieldsSeq(marks) {
		if name, found := strings.CutPrefix(word, "!"); ok && found && slices.Contains(names, name) {
			return true
		}
	}
	return false
}
