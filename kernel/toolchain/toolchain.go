// Package toolchain finds the programs a kernel is built with and says exactly which they are.
//
// An identity is a tool's name, its version line and the digest of its executable, so that two machines with the same
// identities build the same bytes. Nothing here depends on $PATH: the folders are an argument.
package toolchain

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
)

// Tool is one program, or a library that a program of the kernel's own is linked with.
type Tool struct {
	Name    string
	Version string // first line of --version; for a library, its file name
	Digest  digest.Digest
	Path    string // of the file itself, behind all symbolic links; not part of the identity
}

// Toolchain is every tool, sorted by name.
type Toolchain struct {
	Kind   string // Debian, LLVM or Host
	Tools  []Tool // programs; of a pinned tool-chain its packages
	Prefix string // CROSS_COMPILE of the kernel's make; empty for the machine's own architecture
	Root   string // folder that a pinned tool-chain is unpacked in; no part of the identity
}

// Identity is what decides a build's bytes: name, version and digest of every tool.
func (t Toolchain) Identity() []Tool {
	id := slices.Clone(t.Tools)
	for i := range id {
		id[i].Path = ""
	}
	return id
}

// Need is one thing a kernel build cannot do without.
type Need struct {
	Name   string // program, or file when Kind says so
	Debian string // package that has it
	Why    string
	kind   kind
}

type kind int

const (
	program  kind = iota
	compiler      // a program with the cross prefix
	inside        // found by asking the compiler for a program of its own
	header        // a C header that must compile
	library       // found by asking the compiler for a file
)

// Needs lists everything, for doctors. The order is the order of error messages.
func Needs() []Need {
	return []Need{
		{"gcc", "gcc", "compiles", compiler},
		{"cc1", "gcc", "is the compiler proper", inside},
		{"as", "binutils", "assembles", compiler},
		{"ld", "binutils", "links", compiler},
		{"ar", "binutils", "collects objects", compiler},
		{"nm", "binutils", "lists symbols", compiler},
		{"objcopy", "binutils", "cuts sections", compiler},
		{"objdump", "binutils", "is asked by scripts of the kernel", compiler},
		{"readelf", "binutils", "is asked by scripts of the kernel", compiler},
		{"strip", "binutils", "strips symbols", compiler},
		{"make", "make", "runs the build", program},
		{"sh", "dash", "runs the build's commands", program},
		{"flex", "flex", "makes the configurator's scanner", program},
		{"bison", "bison", "makes the configurator's parser", program},
		{"m4", "m4", "is called by bison and flex", program},
		{"bc", "bc", "computes constants", program},
		{"perl", "perl-base", "writes assembly of cryptography", program},
		{"awk", "mawk", "writes tables", program},
		{"sed", "sed", "edits generated files", program},
		{"grep", "grep", "is called by scripts of the kernel", program},
		{"gzip", "gzip", "packs the configuration into the kernel", program},
		{"zstd", "zstd", "packs bzImage", program},
		{"xz", "xz-utils", "packs bzImage, when asked for", program},
		{"lz4", "lz4", "packs bzImage, when asked for", program},
		{"cpio", "cpio", "packs headers", program},
		{"depmod", "kmod", "indexes modules", program},
		{"find", "findutils", "is called by scripts of the kernel", program},
		{"date", "coreutils", "reads the build's time", program},
		{"libelf", "libelf-dev", "lets objtool write objects", library},
		{"gelf.h", "libelf-dev", "lets objtool be compiled", header},
		{"stdlib.h", "libc6-dev", "lets the build's own programs be compiled", header},
	}
}

// pahole is needed where Options.Types asks for it.
func pahole() Need { return Need{"pahole", "pahole", "makes types of debugging information", program} }

// needs lists what is looked for.
func (o Options) needs() []Need {
	if o.Types {
		return append(Needs(), pahole())
	}
	return Needs()
}

// Missing lists what was not found, all at once.
type Missing struct{ Needs []Need }

func (m *Missing) Error() string {
	var names []string
	for _, n := range m.Needs {
		names = append(names, n.Name)
	}
	return fmt.Sprintf("missing to build a kernel: %s (Debian packages: %s)", strings.Join(names, ", "),
		strings.Join(m.packages(), " "))
}

// packages lists the Debian packages that have what is missing, sorted, each once.
func (m *Missing) packages() []string {
	var p []string
	for _, n := range m.Needs {
		if !slices.Contains(p, n.Debian) {
			p = append(p, n.Debian)
		}
	}
	slices.Sort(p)
	return p
}

// Options of Find.
type Options struct {
	Arch  arch.Arch
	Host  arch.Arch // architecture of this machine; where it differs from Arch, the cross tools are looked for
	Dirs  []string  // where programs are, first match first
	Types bool      // types of the kernel are to be made, which needs pahole
	Cache string    // folder for what is known of files that have not changed since; empty remembers nothing
}

// Find finds every tool. A *Missing error lists all that are not there.
func Find(ctx context.Context, o Options) (Toolchain, error) {
	t := Toolchain{Kind: Host}
	if o.Arch.Name != o.Host.Name {
		t.Prefix = o.Arch.CrossPrefix
	}
	c := openCache(o.Cache)
	var missing Missing
	var failed error
	var mu sync.Mutex
	var wg sync.WaitGroup
	gcc, _ := lookUp(o.Dirs, t.Prefix+"gcc")
	for _, n := range o.needs() {
		wg.Go(func() {
			tool, err := find(ctx, n, o.Dirs, t.Prefix, gcc, c)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, os.ErrNotExist):
				missing.Needs = append(missing.Needs, n)
			case err != nil:
				failed = errors.Join(failed, fmt.Errorf("%s: %w", n.Name, err))
			case n.kind != header:
				t.Tools = append(t.Tools, tool)
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return Toolchain{}, failed
	}
	if len(missing.Needs) > 0 {
		all := o.needs()
		slices.SortFunc(missing.Needs, func(a, b Need) int { return slices.Index(all, a) - slices.Index(all, b) })
		return Toolchain{}, &missing
	}
	slices.SortFunc(t.Tools, func(a, b Tool) int { return strings.Compare(a.Name, b.Name) })
	if err := c.save(); err != nil {
		return Toolchain{}, fmt.Errorf("remember the tool-chain: %w", err)
	}
	return t, nil
}

func find(ctx context.Context, n Need, dirs []string, prefix, gcc string, c *cache) (Tool, error) {
	path, ask := "", ""
	switch n.kind {
	case program, compiler:
		name := n.Name
		if n.kind == compiler {
			name = prefix + name
		}
		var err error
		if path, err = lookUp(dirs, name); err != nil {
			return Tool{}, err
		}
	case inside:
		ask = "-print-prog-name=" + n.Name
	case library:
		ask = "-print-file-name=" + n.Name + ".so"
	case header:
		return Tool{}, findHeader(n.Name)
	}
	if ask != "" {
		if gcc == "" {
			return Tool{}, os.ErrNotExist
		}
		answer, err := c.remember(gcc, ask, func(real string) (string, error) { return output(ctx, gcc, ask) })
		if err != nil {
			return Tool{}, err
		}
		if path = answer; !filepath.IsAbs(path) { // gcc answers with the bare name when it has none
			return Tool{}, os.ErrNotExist
		}
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Tool{}, err
	}
	sum, err := c.remember(real, "digest", func(real string) (string, error) {
		d, _, err := digest.File(real)
		return string(d), err
	})
	if err != nil {
		return Tool{}, err
	}
	version := filepath.Base(real)
	if n.kind != library {
		version, err = c.remember(real, "version "+n.Name, func(string) (string, error) {
			return firstLine(ctx, path,
				real)
		})
		if err != nil {
			return Tool{}, err
		}
	}
	return Tool{Name: n.Name, Version: version, Digest: digest.Digest(sum), Path: real}, nil
}

// lookUp finds a program in a list of folders.
func lookUp(dirs []string, name string) (string, error) {
	for _, d := range dirs {
		p := filepath.Join(d, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, os.ErrNotExist)
}

// findHeader looks where every Debian compiler looks; asking the compiler itself would take longer than all the rest.
func findHeader(name string) error {
	for _, pattern := range []string{"/usr/include/" + name, "/usr/include/*/" + name} {
		if m, _ := filepath.Glob(pattern); len(m) > 0 {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", name, os.ErrNotExist)
}

// environment of everything that is asked for its version.
var environment = []string{"LC_ALL=C", "TZ=UTC", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}

func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = environment
	cmd.WaitDelay = 10 * time.Second // a busy machine may not read what was said for a second
	return cmd
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := command(ctx, name, args...).Output()
	return strings.TrimSpace(string(out)), err
}

// noVersion is the version of a program that has no --version, such as dash; its digest says enough.
const noVersion = "no version"

// firstLine is the first line a program says to --version that has a digit in it.
func firstLine(ctx context.Context, path, real string) (string, error) {
	if b := filepath.Base(real); b == "dash" || b == "sh" {
		return noVersion, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var buf bytes.Buffer
	cmd := command(ctx, path, "--version")
	cmd.Args[0] = filepath.Base(path) // sed repeats it
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err := cmd.Run() // mawk before 1.3.4 exits with 2
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	s := bufio.NewScanner(&buf)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); strings.ContainsAny(line, "0123456789") && err == nil {
			return line, nil
		}
	}
	return noVersion, nil
}

// cache remembers facts of files, keyed by what changes when the file does.
type cache struct {
	path  string
	mu    sync.Mutex
	facts map[string]string
	dirty bool
}

// cacheName is the one file in the cache folder.
const cacheName = "toolchain.json"

func openCache(dir string) *cache {
	c := &cache{facts: map[string]string{}}
	if dir == "" {
		return c
	}
	c.path = filepath.Join(dir, cacheName)
	if data, err := os.ReadFile(c.path); err == nil {
		if json.Unmarshal(data, &c.facts) != nil {
			c.facts = map[string]string{} // written by somebody else; forget it
		}
	}
	return c
}

// remember returns a fact of the file at path, and finds it out when it is new.
func (c *cache) remember(path, what string, ask func(real string) (string, error)) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	fi, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	st := fi.Sys().(*syscall.Stat_t) // always, on Linux
	// The change time is set by the kernel alone, so nobody replaces a file behind our back with touch.
	key := fmt.Sprintf("%s %s %d %d %d.%d %d.%d", what, real, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec,
		st.Ctim.Nsec)
	c.mu.Lock()
	fact, ok := c.facts[key]
	c.mu.Unlock()
	if ok {
		return fact, nil
	}
	if fact, err = ask(real); err != nil {
		return "", err
	}
	c.mu.Lock()
	c.facts[key], c.dirty = fact, true
	c.mu.Unlock()
	return fact, nil
}

// save writes the cache when it has learnt something.
func (c *cache) save() error {
	if c.path == "" || !c.dirty {
		return nil
	}
	data, err := json.Marshal(c.facts)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(c.path), cacheName+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), c.path)
}
