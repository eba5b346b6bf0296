// Package modules loads modules of the guest's kernel, as modprobe(8) does for a name: what they need first.
//
// It reads the index that depmod(8) leaves beside the modules, and calls nothing but finit_module(2). Aliases and
// modprobe.d(5) are not for it: whoever asks for a module of a guest names it.
package modules

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/kmodule"
)

// libModules is where a kernel's modules lie, each release's in a folder of its own.
const libModules = "/lib/modules"

// sysModules lists what is loaded or built in and has parameters. Linux: Documentation/ABI/testing/sysfs-module.
const sysModules = "/sys/module"

// The most that is read: Linux 6.12 with everything as modules has an index of 1 MB.
const (
	maxIndex = 16 << 20
	maxLine  = 1 << 20
)

// missing says that the guest's kernel has no such module.
type missing struct{ Name, Release string }

func (e *missing) Error() string {
	return fmt.Sprintf("kernel module %s: neither built into this guest's kernel nor below %s/%s", e.Name, libModules,
		e.Release)
}

// index is what modules.dep says: the path of each module below its folder, and of those that it needs.
type index map[string][]string

// readIndex reads modules.dep: lines of a path, a colon, and the paths of what it needs, transitively, what has to be
// loaded first last. Paths that lead out of the folder are an error. modules.dep(5).
func readIndex(r io.Reader) (index, error) {
	x := index{}
	s := bufio.NewScanner(io.LimitReader(r, maxIndex))
	s.Buffer(nil, maxLine)
	for n := 1; s.Scan(); n++ {
		file, needs, ok := strings.Cut(s.Text(), ":")
		if !ok {
			return nil, fmt.Errorf("line %d: no colon", n)
		}
		paths := append([]string{file}, strings.Fields(needs)...)
		for _, p := range paths {
			if !fs.ValidPath(p) {
				return nil, fmt.Errorf("line %d: %q is no path below the folder", n, p)
			}
		}
		name := strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
		x[name] = paths
	}
	return x, s.Err()
}

// order lists the files to load for a module, in their order; nil where there is none.
func (x index) order(name string) []string {
	paths := x[name]
	out := make([]string, 0, len(paths))
	for i := len(paths) - 1; i >= 0; i-- {
		out = append(out, paths[i])
	}
	return out
}

// Load loads a module with what it needs. Its parameters are for itself alone. A module that is there already, or built
// in, is fine; a built-in one takes no parameters any more. A missing one is one that the kernel does not have.
func Load(m kmodule.Module) error {
	// Only what was loaded has a state.
	if _, err := os.Stat(filepath.Join(sysModules, m.Loaded(), "initstate")); err == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(sysModules, m.Loaded())); err == nil {
		if len(m.Params) > 0 {
			return fmt.Errorf("kernel module %s: it is built into this guest's kernel; its parameters go on the "+
				"kernel's command line, as %s.NAME=VALUE", m.Name, m.Loaded())
		}
		return nil
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("kernel module %s: %w", m.Name, err)
	}
	return load(libModules, unix.ByteSliceToString(u.Release[:]), m.Loaded(), m.Line(), insert)
}

// load is Load for a folder, by a way to insert files.
func load(folder, release, name, params string, insert func(file, params string) error) error {
	root, err := os.OpenRoot(filepath.Join(folder, release))
	if errors.Is(err, fs.ErrNotExist) {
		return &missing{name, release}
	}
	if err != nil {
		return fmt.Errorf("kernel module %s: %w", name, err)
	}
	defer root.Close()
	f, err := root.Open("modules.dep")
	if errors.Is(err, fs.ErrNotExist) {
		return &missing{name, release}
	}
	if err != nil {
		return fmt.Errorf("kernel module %s: %w", name, err)
	}
	x, err := readIndex(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("kernel module %s: modules.dep: %w", name, err)
	}
	files := x.order(name)
	if len(files) == 0 {
		return &missing{name, release}
	}
	for i, file := range files {
		own := ""
		if i == len(files)-1 {
			own = params
		}
		err := insert(filepath.Join(folder, release, file), own)
		if err != nil && !errors.Is(err, unix.EEXIST) { // somebody was faster
			return fmt.Errorf("kernel module %s: load %s: %w", name, file, err)
		}
	}
	return nil
}

// insert loads one file.
func insert(file, params string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), params, 0)
}

// loadFolders are where administrators and packages say which modules a guest loads when it starts, the first of two
// files of one name winning. modules-load.d(5).
func loadFolders() []string {
	return []string{"etc/modules-load.d", "run/modules-load.d", "usr/lib/modules-load.d"}
}

// The most of them.
const (
	maxConfigured     = 1024
	maxConfiguredFile = 64 << 10
)

// configured lists the modules that the guest whose root is at root loads when it starts, in order of the files' names.
func configured(root string) ([]string, error) {
	files := map[string]string{}
	for _, dir := range loadFolders() {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if _, there := files[e.Name()]; !there && strings.HasSuffix(e.Name(), ".conf") {
				files[e.Name()] = filepath.Join(root, dir, e.Name())
			}
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, err := os.Open(files[name])
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(f, maxConfiguredFile))
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
				continue
			}
			if out = append(out, line); len(out) > maxConfigured {
				return nil, fmt.Errorf("more than %d modules", maxConfigured)
			}
		}
	}
	return out, nil
}

// LoadConfigured loads what configured lists. What goes wrong with one is told and keeps no other from being loaded.
func LoadConfigured(root string) error {
	names, err := configured(root)
	if err != nil {
		return fmt.Errorf("modules to load: %w", err)
	}
	var errs []error
	for _, name := range names {
		m, err := kmodule.New(name, nil)
		if err == nil {
			err = Load(m)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
