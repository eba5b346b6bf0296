// Package kbuild reads from a kernel tree's Makefiles which options an object is built for.
//
// In come the Makefile and Kbuild files of a tree, as foreign bytes, and a configuration; out comes a Need for each
// object that the configuration builds. It reads assignments, conditionals, includes and the functions of make that
// lists of objects are made with (Linux: Documentation/kbuild/makefiles.rst), and runs nothing. What only a build could
// decide is taken as if it were so, since which objects there are is told by the build's own log.
package kbuild

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Tree is what the Makefiles of a tree build under one configuration.
type Tree struct {
	// Objects are those that one file of C or assembly makes, by their paths.
	Objects map[string]Need
	// Composites are those that are linked from others.
	Composites map[string]Need
	folders    map[string]Need
}

// Of is what an object or a composite needs; ok is false where no Makefile leads to it or to a folder that it lies in.
// An object that no list names, such as one of an image that is built into the kernel, needs what its folder needs.
func (t *Tree) Of(object string) (need Need, ok bool) {
	for _, all := range []map[string]Need{t.Objects, t.Composites} {
		if n, ok := all[object]; ok {
			return n, true
		}
	}
	for dir := path.Dir(object); dir != "."; dir = path.Dir(dir) {
		if n, ok := t.folders[dir]; ok {
			return n, true
		}
	}
	return nil, false
}

// Bounds of what one tree may make us read; Linux 6.12 has 3,200 Makefiles of 4 MB, 10 folders deep.
const (
	maxFile    = 1 << 20
	maxTotal   = 64 << 20
	maxFolders = 20_000 // ways that lead to folders
	maxObjects = 200_000
	maxFolder  = 32
)

// item is a word of a list of objects.
type item struct {
	word
	members []word // of a composite
}

// reader reads one tree.
type reader struct {
	fsys    fs.FS
	arch    string
	config  func(symbol string) string
	total   int
	walked  int
	objects int
	items   map[string][]item // by folder
	// exported are the variables that the root's Makefile hands on.
	exported map[string]variable
	out      *Tree
}

// Read reads a tree's Makefiles from its root. arch is the folder below arch/; config is an option's value: y, m, a
// number or a string, and empty where it is off.
func Read(fsys fs.FS, arch string, config func(symbol string) string) (*Tree, error) {
	r := &reader{fsys: fsys, arch: arch, config: config, items: map[string][]item{},
		out: &Tree{Objects: map[string]Need{}, Composites: map[string]Need{}, folders: map[string]Need{}}}
	// The root's Makefile and the architecture's name further folders: ARCH_CORE, ARCH_LIB and ARCH_DRIVERS of Kbuild.
	top := r.makefile("")
	data, err := r.file("Makefile")
	if err != nil {
		return nil, err
	}
	if data == nil {
		return nil, errors.New("the tree has no Makefile")
	}
	if err := top.read("Makefile", data, 0); err != nil {
		return nil, err
	}
	r.exported = map[string]variable{}
	for name := range top.exports {
		if v, ok := top.variables[name]; ok {
			r.exported[name] = v
		}
	}
	var more []word
	for _, list := range []string{"core-y", "core-m", "libs-y", "libs-m", "drivers-y", "drivers-m"} {
		more = append(more, top.variables[list].words...)
	}
	for _, w := range more {
		if strings.HasSuffix(w.text, "/") {
			if err := r.walk(path.Clean(w.text), w.need, 0); err != nil {
				return nil, err
			}
		}
	}
	for _, head := range top.variables["head-y"].words {
		r.add(r.out.Objects, path.Clean(head.text), head.need)
	}
	return r.out, r.walk(".", always(), 0)
}

func (r *reader) makefile(dir string) *makefile {
	return &makefile{tree: r, dir: dir, variables: map[string]variable{}, exports: map[string]bool{}}
}

// file reads a file; nil without an error where there is none.
func (r *reader) file(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, nil
	}
	fi, err := fs.Stat(r.fsys, name)
	if err != nil || fi.IsDir() {
		return nil, nil
	}
	if r.total += int(min(fi.Size(), maxTotal)); fi.Size() > maxFile || r.total > maxTotal {
		return nil, fmt.Errorf("%s: more than %d bytes, or all Makefiles more than %d", name, maxFile, maxTotal)
	}
	return fs.ReadFile(r.fsys, name)
}

// lists are the variables that name objects and folders. Linux: scripts/Makefile.build.
func lists() []string {
	return []string{"obj-y", "obj-m", "lib-y", "lib-m", "extra-y", "always-y", "subdir-y", "subdir-m"}
}

// itemsOf lists what a folder builds.
func (r *reader) itemsOf(dir string) ([]item, error) {
	if all, ok := r.items[dir]; ok {
		return all, nil
	}
	var data []byte
	name := ""
	for _, n := range []string{"Kbuild", "Makefile"} {
		if dir == "." && n == "Makefile" {
			break // which builds no objects
		}
		name = path.Join(dir, n)
		var err error
		if data, err = r.file(name); err != nil {
			return nil, err
		}
		if data != nil {
			break
		}
	}
	m := r.makefile(dir)
	if err := m.read(name, data, 0); err != nil {
		return nil, err
	}
	var all []item
	for _, list := range lists() {
		for _, w := range m.variables[list].words {
			if strings.HasPrefix(list, "subdir-") && !strings.HasSuffix(w.text, "/") {
				w.text += "/"
			}
			i := slices.IndexFunc(all, func(o item) bool { return o.text == w.text })
			if i >= 0 {
				all[i].need = all[i].need.or(w.need)
				continue
			}
			all = append(all, item{w, m.members(w.text)})
		}
	}
	r.items[dir] = all
	return all, nil
}

// members are the objects that a composite is linked from.
func (m *makefile) members(object string) []word {
	base, ok := strings.CutSuffix(object, ".o")
	if !ok {
		return nil
	}
	var out []word
	for _, suffix := range []string{"-objs", "-y", "-m"} {
		out = append(out, m.variables[base+suffix].words...)
	}
	return out
}

// walk adds what a folder and those below it build.
func (r *reader) walk(dir string, need Need, depth int) error {
	if r.walked++; r.walked > maxFolders || depth > maxFolder || r.objects > maxObjects {
		return fmt.Errorf("%s: the Makefiles lead to too many folders or objects", dir)
	}
	if !fs.ValidPath(dir) {
		return nil // of the build's own folder, such as a library's
	}
	if dir != "." {
		r.add(r.out.folders, dir, need)
	}
	items, err := r.itemsOf(dir)
	if err != nil {
		return err
	}
	for _, i := range items {
		name := path.Join(dir, i.text)
		switch {
		case strings.HasSuffix(i.text, "/"):
			err = r.walk(name, need.and(i.need), depth+1)
		case path.Ext(i.text) != ".o":
		case len(i.members) == 0:
			r.add(r.out.Objects, name, need.and(i.need))
		default:
			r.add(r.out.Composites, name, need.and(i.need))
			for _, m := range i.members {
				if path.Ext(m.text) == ".o" {
					r.add(r.out.Objects, path.Join(dir, m.text), need.and(i.need).and(m.need))
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) add(to map[string]Need, name string, need Need) {
	r.objects++
	if old, ok := to[name]; ok {
		need = old.or(need)
	}
	to[name] = need
}
