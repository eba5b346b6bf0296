package modules

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/regular"
)

// External is a module whose source is not part of the kernel's tree: a folder with a Kbuild file or a Makefile.
type External struct {
	Name   string        // lower-case letters, digits, - and _; unique
	Path   string        // the folder
	Digest digest.Digest // of the folder, as internal/checkout has it; compared while it is copied
}

// maxExternal bounds the source of an external module, in bytes.
const maxExternal = 1 << 30

// Copy makes a copy of the folder, whose digest it compares.
func (x External) Copy(ctx context.Context, to string) error {
	list, err := checkout.List(ctx, x.Path)
	if err != nil {
		return err
	}
	sum := checkout.NewSummer()
	var total int64
	for i := range list {
		e := &list[i]
		out := filepath.Join(to, filepath.FromSlash(e.Name))
		if total += e.Size; total > maxExternal {
			return fmt.Errorf("more than %d bytes", int64(maxExternal))
		}
		var got digest.Digest
		switch e.Kind {
		case checkout.Dir:
			err = os.Mkdir(out, 0o755)
		case checkout.Symlink:
			err = os.Symlink(e.Target, out)
		default:
			got, err = copyTo(e.Path, out, e.Kind == checkout.Executable)
		}
		if err != nil {
			return err
		}
		sum.Add(e, got)
	}
	if got := sum.Digest(); got != x.Digest {
		return &digest.Mismatch{Name: x.Path, Want: x.Digest, Got: got}
	}
	return nil
}

func copyTo(from, to string, executable bool) (digest.Digest, error) {
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	mode := os.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return "", err
	}
	sum := digest.New()
	_, err = io.Copy(io.MultiWriter(out, sum), io.LimitReader(in, maxExternal))
	return sum.Digest(), errors.Join(err, out.Close())
}

// HeadersRevision changes whenever Headers.Pack makes other bytes of the same tree.
const HeadersRevision = "2"

// forHeaders says whether a file of a built tree is needed to build modules against it: the build system with its
// programs, all headers, and what says what the kernel has. Linux: Documentation/kbuild/modules.rst, 2.
func forHeaders(linuxArch, p string) bool {
	base := path.Base(p)
	top, _, _ := strings.Cut(p, "/")
	switch {
	case strings.HasPrefix(base, ".tmp") || intermediate(base):
		return false
	case p == ".config", p == "Module.symvers", p == "tools/objtool/objtool", p == "include/config/kernel.release":
		return true
	case top == "scripts", top == "include":
		return !strings.HasPrefix(p, "scripts/dtc/include-prefixes/") // links to sources of device trees
	case strings.HasPrefix(base, "Makefile"), strings.HasPrefix(base, "Kbuild"), strings.HasPrefix(base, "Kconfig"):
		return top != "tools" && top != "Documentation"
	case top == "arch":
		own := strings.HasPrefix(p, "arch/"+linuxArch+"/")
		return own && (strings.HasSuffix(base, ".h") || strings.HasSuffix(base, ".sh") || base == "Platform" ||
			base == "module.lds" || strings.Contains(p, "/scripts/") || strings.Contains(p, "/tools/"))
	}
	return false
}

// intermediate says whether a file is what a make leaves on its way to another one.
func intermediate(base string) bool {
	switch path.Ext(base) {
	case ".o", ".a", ".s", ".i", ".ko", ".cmd", ".d", ".order":
		return true
	}
	return false
}

// Headers are what further modules are built against.
type Headers struct {
	Tree    string          // the built tree
	Left    *regular.Folder // a handle on it
	Arch    string          // ARCH= of the kernel's make
	Release string          // uname -r
	Time    time.Time       // stamped into the tar
}

// Pack writes what external modules are built against as a tar, below linux-headers-RELEASE.
func (h Headers) Pack(ctx context.Context, out string) error {
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buf)
	top := "linux-headers-" + h.Release + "/"
	made := map[string]bool{}
	folder := func(dir string) error {
		var missing []string
		for ; dir != "." && !made[dir]; dir = path.Dir(dir) {
			missing, made[dir] = append(missing, dir), true
		}
		for _, d := range slices.Backward(missing) {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: top + d + "/", Mode: 0o755,
				ModTime: h.Time,
				Format:  tar.FormatPAX, Uname: "root", Gname: "root"}); err != nil {
				return err
			}
		}
		return nil
	}
	err = filepath.WalkDir(h.Tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(h.Tree, p)
		if err != nil || !d.Type().IsRegular() && d.Type() != fs.ModeSymlink ||
			!forHeaders(h.Arch, filepath.ToSlash(rel)) {
			return err
		}
		name := filepath.ToSlash(rel)
		if err := folder(path.Dir(name)); err != nil {
			return err
		}
		head := &tar.Header{Name: top + name, ModTime: h.Time, Format: tar.FormatPAX, Uname: "root", Gname: "root"}
		if d.Type() == fs.ModeSymlink {
			head.Typeflag, head.Mode = tar.TypeSymlink, 0o777
			if head.Linkname, err = os.Readlink(p); err != nil {
				return err
			}
			if filepath.IsAbs(head.Linkname) || !filepath.IsLocal(filepath.Join(filepath.Dir(rel), head.Linkname)) {
				return fmt.Errorf("%s is a link that leads out of the tree, to %q", name, head.Linkname)
			}
			return w.WriteHeader(head)
		}
		return h.add(w, head, name)
	})
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = buf.Flush()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("pack the headers: %w", err)
	}
	return nil
}

// add writes one file of the tree.
func (h Headers) add(w *tar.Writer, head *tar.Header, name string) error {
	in, err := h.Left.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	head.Typeflag, head.Mode, head.Size = tar.TypeReg, 0o644, fi.Size()
	if fi.Mode()&0o111 != 0 {
		head.Mode = 0o755
	}
	if err := w.WriteHeader(head); err != nil {
		return err
	}
	_, err = io.Copy(w, in)
	return err
}
