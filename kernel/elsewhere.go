package kernel

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/history"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// elsewhere knows where symbols are that a tree does not have for its architecture: on others, or in other versions.
type elsewhere struct {
	left    *regular.Folder
	tree    fs.FS // of left
	arch    arch.Arch
	version string
	others  []otherArch // read when the first symbol is looked for
	read    bool
	known   map[string]string // what was found
}

// otherArch is an architecture of Linux, by its name there, with its symbols.
type otherArch struct {
	name string
	tree *kconfig.Tree
}

func newElsewhere(b *build) *elsewhere {
	return &elsewhere{left: b.left, tree: b.left.FS(maxText), arch: b.Arch, version: b.sourceVersion,
		known: map[string]string{}}
}

// find says where a symbol is, for people; empty where nobody knows.
func (e *elsewhere) find(symbol string) string {
	if s, ok := e.known[symbol]; ok {
		return s
	}
	s := e.onOthers(symbol)
	if s == "" {
		s = e.ofFeatures(symbol)
	}
	if s == "" {
		s = history.Of(symbol, e.version)
	}
	e.known[symbol] = s
	return s
}

// maxArchs bounds how many architectures of a tree are looked at; Linux 6.12 has 21.
const maxArchs = 40

// onOthers names the architectures that have a symbol.
func (e *elsewhere) onOthers(symbol string) string {
	if !e.read {
		e.read = true
		for _, name := range e.folders() {
			// One that cannot be read names nothing: the message is only shorter.
			t, err := kconfig.ReadTree(e.tree, "Kconfig", map[string]string{"SRCARCH": name})
			if name != e.arch.Linux && err == nil {
				e.others = append(e.others, otherArch{name, t})
			}
		}
	}
	var names []string
	for _, o := range e.others {
		if o.tree.Has(symbol) {
			names = append(names, o.name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("an option of %s, not of %s", strings.Join(names, ", "), e.arch.Linux)
}

// folders lists the architectures of the tree; none where it has no folder for them.
func (e *elsewhere) folders() []string {
	if fi, err := e.left.Root().Lstat("arch"); err != nil || !fi.IsDir() {
		return nil
	}
	d, err := e.left.Root().Open("arch")
	if err != nil {
		return nil
	}
	defer d.Close()                   // only read from
	entries, _ := d.ReadDir(maxArchs) // those up to an error, which only makes the message shorter
	var names []string
	for _, f := range entries {
		if f.IsDir() {
			names = append(names, f.Name())
		}
	}
	slices.Sort(names)
	return names
}

// ofFeatures says in which other versions the features ask for a symbol.
func (e *elsewhere) ofFeatures(symbol string) string {
	all, err := features.Known(symbol)
	if err != nil {
		return "" // the features have been read before
	}
	var when []string
	for _, w := range all {
		if w.When.In(e.version) {
			continue
		}
		versions := kconfig.When{Since: w.When.Since, Until: w.When.Until}.String()
		if !slices.Contains(when, versions) {
			when = append(when, versions)
		}
	}
	if len(when) == 0 {
		return ""
	}
	return fmt.Sprintf("Linux has it %s, and this is %s", strings.Join(when, ", "), e.version)
}
