package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/rootfs/debian/control"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// Change is one thing that differs between two others. From is empty where it is only in the second, To where it is
// only in the first.
type Change struct {
	What string `json:"what"` // file, package, symbol, kernel, command line, size, layout
	Name string `json:"name"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

const (
	maxConfig      = 16 << 20 // bytes of a kernel's configuration; real ones have about 100,000
	maxShownDigest = 1 << 30  // bytes of a file whose digest is shown where it differs: a sparse one may have any size
)

// trees compares two trees name by name. Times count only where times is set: two builds of the same files may have
// stamped other ones.
func trees(ctx context.Context, a, b *tree.Tree, times bool) ([]Change, error) {
	list := func(t *tree.Tree) map[string]*tree.Node {
		m := map[string]*tree.Node{}
		_ = t.Walk(func(p string, n *tree.Node, _ bool) error { m[p] = n; return nil }) // f never fails
		return m
	}
	x, y := list(a), list(b)
	names := map[string]bool{}
	for p := range x {
		names[p] = true
	}
	for p := range y {
		names[p] = true
	}
	var out []Change
	for _, p := range sorted(names) {
		m, n := x[p], y[p]
		switch {
		case m == nil:
			out = append(out, Change{What: "file", Name: p, To: describe(n, times)})
		case n == nil:
			out = append(out, Change{What: "file", Name: p, From: describe(m, times)})
		default:
			from, to := describe(m, times), describe(n, times)
			if from == to && m.Kind == tree.File {
				same, err := tree.SameContent(ctx, m, n)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", p, err)
				}
				if !same && m.Size() > maxShownDigest {
					from += ", other content"
				} else if !same {
					d1, err1 := tree.DigestOf(m.Content)
					d2, err2 := tree.DigestOf(n.Content)
					if err := errors.Join(err1, err2); err != nil {
						return nil, fmt.Errorf("%s: %w", p, err)
					}
					from, to = from+" sha256:"+d1.Short(), to+" sha256:"+d2.Short()
				}
			}
			if from != to {
				out = append(out, Change{What: "file", Name: p, From: from, To: to})
			}
		}
	}
	return out, nil
}

func sorted(m map[string]bool) []string {
	var out []string
	for s := range m {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// describe is a node in a line, without its content.
func describe(n *tree.Node, times bool) string {
	s := fmt.Sprintf("%v %04o %d:%d", n.Kind, n.Mode, n.UID, n.GID)
	switch n.Kind {
	case tree.File:
		s += fmt.Sprintf(" %d bytes", n.Size())
	case tree.Symlink:
		s += " -> " + n.Target
	case tree.CharDevice, tree.BlockDevice:
		s += fmt.Sprintf(" %d:%d", n.Major, n.Minor)
	}
	for _, x := range n.Xattrs {
		s += fmt.Sprintf(" %s=%x", x.Name, x.Value)
	}
	if times {
		s += fmt.Sprintf(" %d.%09d", n.Time.Sec, n.Time.Nsec)
	}
	return s
}

// values compares two sets of names with values.
func values(what string, a, b map[string]string) (out []Change) {
	names := map[string]bool{}
	for n := range a {
		names[n] = true
	}
	for n := range b {
		names[n] = true
	}
	for _, n := range sorted(names) {
		if a[n] != b[n] {
			out = append(out, Change{What: what, Name: n, From: a[n], To: b[n]})
		}
	}
	return out
}

// symbols are the options that a .config sets.
func symbols(config []byte) map[string]string {
	m := map[string]string{}
	for line := range bytes.Lines(config) {
		if name, value, ok := strings.Cut(strings.TrimSpace(string(line)), "="); ok &&
			strings.HasPrefix(name, "CONFIG_") {
			m[name] = value
		}
	}
	return m
}

// packages are those that dpkg's database in a tree says are installed, with their versions; none where there is no
// database.
func packages(t *tree.Tree) (map[string]string, error) {
	m := map[string]string{}
	if t == nil {
		return m, nil
	}
	n, err := t.Resolve("/var/lib/dpkg/status")
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	const most = 64 << 20
	if n.Kind != tree.File || n.Size() > most {
		return nil, fmt.Errorf("/var/lib/dpkg/status is a %v of %d bytes", n.Kind, n.Size())
	}
	data, err := tree.ReadAll(n)
	if err != nil {
		return nil, err
	}
	for stanza := range bytes.SplitSeq(bytes.TrimSpace(data), []byte("\n\n")) {
		c, err := control.Parse(stanza)
		if err != nil {
			return nil, fmt.Errorf("/var/lib/dpkg/status: %w", err)
		}
		m[c.Get("Package")] = c.Get("Version")
	}
	return m, nil
}

// Diff compares two files of the same kind.
func Diff(ctx context.Context, a, b *Artifact, times bool) ([]Change, error) {
	if a.Kind != b.Kind {
		return nil, fmt.Errorf("%s is a %s and %s a %s: only likes can be compared", a.Path, a.Kind, b.Path, b.Kind)
	}
	if a.Digest == b.Digest {
		return nil, nil
	}
	facts := func(t *Artifact) map[string]string {
		m := map[string]string{"size": fmt.Sprint(t.Size)}
		switch {
		case t.Kernel != nil:
			m["release"], m["version"], m["build-id"] = t.Kernel.Release, t.Kernel.Version, t.Kernel.BuildID
		case t.Initrd != nil:
			m["compression"] = t.Initrd.Compression
		case t.Image != nil:
			m["layout"] = t.Image.Layout
			for _, p := range t.Image.Partitions {
				m[fmt.Sprintf("partition %d", p.Number)] = fmt.Sprintf("%d bytes at %d, %s %s", p.Size, p.Offset,
					p.Type, p.UUID)
				if fs := p.FileSystem; fs != nil {
					m[fmt.Sprintf("partition %d file system", p.Number)] = fs.Kind + " " + fs.UUID + " " + fs.Label
				}
			}
		}
		return m
	}
	out := values(a.Kind, facts(a), facts(b))
	if a.Kernel != nil {
		return append(out, values("symbol", symbols(a.Kernel.Config), symbols(b.Kernel.Config))...), nil
	}
	p, err1 := packages(a.Tree)
	q, err2 := packages(b.Tree)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	out = append(out, values("package", p, q)...)
	files, err := trees(ctx, a.Tree, b.Tree, times)
	return append(out, files...), err
}

// Guests compares two folders with guests: what their manifests say, the kernels' configurations, and what their disks
// or initrds hold.
func Guests(ctx context.Context, a, b, spool string, times bool) ([]Change, error) {
	m, _, err1 := manifest.Read(a, "")
	n, _, err2 := manifest.Read(b, "")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	facts := func(m *manifest.Manifest) map[string]string {
		f := map[string]string{
			"name": m.Name, "arch": m.Arch, "kernel release": m.Kernel.Release, "kernel version": m.Kernel.Version,
			"kernel build-id": m.Kernel.BuildID,
			"kernel source":   m.Kernel.Source.Name + " " + m.Kernel.Source.Version, "agent": string(m.Agent.Digest),
			"init": m.Agent.Init,
			"root": m.Root.Kind + " " + m.Root.FileSystem + " " + m.Root.VerityRootHash, "machine": m.Boot.Machine,
			"cpus": fmt.Sprint(m.Boot.CPUs), "memory": fmt.Sprintf("%d MiB", m.Boot.MemoryMiB),
			"command line": m.Boot.CommandLine, "disk": m.Boot.Disk,
		}
		for _, t := range m.Kernel.Toolchain {
			f["tool "+t.Name] = t.Version
		}
		for _, file := range m.Files() {
			f["size of "+file.Path] = fmt.Sprint(file.Size)
		}
		return f
	}
	out := values("guest", facts(m), facts(n))
	c1, err1 := regular.ReadFile(filepath.Join(a, m.Kernel.Config.Path), maxConfig)
	c2, err2 := regular.ReadFile(filepath.Join(b, n.Kernel.Config.Path), maxConfig)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	out = append(out, values("symbol", symbols(c1), symbols(c2))...)
	root := func(dir string, m *manifest.Manifest) (*Artifact, error) {
		return Open(filepath.Join(dir, RootFile(m)), spool)
	}
	x, err := root(a, m)
	if err != nil {
		return nil, err
	}
	defer x.Close()
	y, err := root(b, n)
	if err != nil {
		return nil, err
	}
	defer y.Close()
	if x.Digest == y.Digest {
		return out, nil
	}
	p, err1 := packages(x.Tree)
	q, err2 := packages(y.Tree)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	out = append(out, values("package", p, q)...)
	files, err := trees(ctx, x.Tree, y.Tree, times)
	return append(out, files...), err
}

// RootFile is the path, beside the manifest, of what holds a guest's files.
func RootFile(m *manifest.Manifest) string {
	if m.Image != nil {
		return m.Image.Path
	}
	return m.Initrd.Path
}
