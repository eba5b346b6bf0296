package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/regular"
)

// tops are the files that every kernel tree has at its top.
var tops = [...]string{"Makefile", "Kconfig"}

// checkTree says why a folder is no kernel tree that can be copied, or nothing where it is one.
func checkTree(entries []checkout.Entry) error {
	kinds := map[string]byte{}
	for _, e := range entries {
		kinds[e.Name] = e.Kind
		if e.Kind == checkout.Symlink {
			if err := inside(e.Name, e.Target); err != nil {
				return fmt.Errorf("%s is a %w; take it away, or put a copy in its place", e.Name, err)
			}
		}
	}
	for _, name := range tops {
		switch k := kinds[name]; k {
		case checkout.File, checkout.Executable:
		case 0:
			return fmt.Errorf("it is no kernel tree: no %s at its top", name)
		default:
			return fmt.Errorf("it is no kernel tree: %s at its top is no file", name)
		}
	}
	return nil
}

// inside says why a symbolic link would lead out of the tree that it is part of.
func inside(name, target string) error {
	if path.IsAbs(target) {
		return fmt.Errorf("symbolic link to the absolute path %q", target)
	}
	if to := path.Join(path.Dir(name), target); to == ".." || strings.HasPrefix(to, "../") {
		return fmt.Errorf("symbolic link to %q, which lies outside", target)
	}
	return nil
}

// TreeDigest is the digest of a folder with a kernel tree by the rule of internal/checkout. What is no kernel tree is
// an error. dir may be a link to it.
func TreeDigest(ctx context.Context, dir string) (digest.Digest, error) {
	entries, err := checkout.List(ctx, dir)
	if err == nil {
		err = checkTree(entries)
	}
	if err != nil {
		return "", err
	}
	return checkout.Digest(ctx, dir)
}

// copyTree copies a tree and digests what it copied.
func copyTree(ctx context.Context, s Source, dir string, o Options) error {
	entries, err := checkout.List(ctx, s.Path)
	if err != nil {
		return err
	}
	if err := checkTree(entries); err != nil {
		return fmt.Errorf("%s: %w", s.name(), err)
	}
	w := newWriter(dir, o)
	var total, done int64
	for _, e := range entries {
		switch e.Kind {
		case checkout.Dir:
			err = w.mkdir(e.Name)
		case checkout.Symlink:
			err = w.symlink(e.Name, e.Target)
		default:
			total += e.Size
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", e.Name, err)
		}
	}
	for i := range entries {
		e := &entries[i]
		if e.Kind != checkout.File && e.Kind != checkout.Executable {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		in, err := regular.Open(e.Path)
		if err != nil {
			return err
		}
		h, n := digest.New(), &size{}
		err = w.file(entry{name: e.Name, executable: e.Kind == checkout.Executable},
			io.TeeReader(in, io.MultiWriter(h, n)))
		if err = errors.Join(err, in.Close()); err != nil {
			return fmt.Errorf("copy %s: %w", e.Name, err)
		}
		e.Sum = h.Digest()
		if done += n.bytes; o.Progress != nil && i%256 == 0 {
			o.Progress(done, max(total, done))
		}
	}
	if got := checkout.Sum(entries); got != s.Digest {
		return &digest.Mismatch{Name: s.name(), Want: s.Digest, Got: got}
	}
	return w.finish()
}

// size counts what is written to it.
type size struct{ bytes int64 }

func (s *size) Write(p []byte) (int, error) { s.bytes += int64(len(p)); return len(p), nil }

// name is what people call the source.
func (s Source) name() string {
	if s.Name != "" {
		return s.Name
	}
	return filepath.Base(s.Path)
}

// maxMakefile bounds the Makefile of a tree, in bytes; that of Linux 6.12 has 0.07 MB.
const maxMakefile = 4 << 20

// Version reads the version off the tree's Makefile, as the kernel's own make puts it together.
func Version(tree *regular.Folder) (string, error) {
	data, err := tree.ReadFile("Makefile", maxMakefile)
	if err != nil {
		return "", err
	}
	parts := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if _, seen := parts[key]; ok && !seen {
			parts[key] = value
		}
	}
	v := parts["VERSION"]
	for _, key := range []string{"PATCHLEVEL", "SUBLEVEL"} {
		if parts[key] != "" {
			v += "." + parts[key]
		}
	}
	v += parts["EXTRAVERSION"]
	if parts["VERSION"] == "" || strings.ContainsAny(v, "$() \t/") {
		return "", fmt.Errorf("the Makefile names no version that we can read (%q)", v)
	}
	return v, nil
}
