package kernel

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
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/modsign"
)

// External is a module whose source is not part of the kernel's tree: a folder with a Kbuild file or a Makefile.
type External struct {
	Name   string        // lower-case letters, digits, - and _; unique
	Path   string        // the folder
	Digest digest.Digest // of the folder, as internal/checkout has it; compared while it is copied
}

// externalName is the form of External.Name.
var externalName = regexp.MustCompile(`^[a-z0-9_][a-z0-9_-]{0,62}$`)

// The folder below WorkDir that external modules are copied into, and the file of the tree that is the certificate of
// the key for modules, which the feature module-signing names.
const (
	externalDir     = "external"
	certificateFile = "certs/katabuild-modules.pem"
)

// maxExternal bounds the source of an external module, in bytes.
const maxExternal = 1 << 30

// checkExternal refuses names that are none, or twice there.
func (r Request) checkExternal() error {
	for i, x := range r.External {
		if !externalName.MatchString(x.Name) || slices.ContainsFunc(r.External[:i],
			func(y External) bool { return y.Name == x.Name }) {
			return fmt.Errorf(
				"kernel: external module %d: name %q: want a unique one of lower-case letters, digits, - "+
					"and _", i+1, x.Name)
		}
	}
	if len(r.External) > 0 && !r.Modules {
		return errors.New("kernel: external modules need loadable modules")
	}
	return nil
}

// signs says whether modules are signed.
func signs(fs []features.Feature) bool {
	return slices.ContainsFunc(fs, func(f features.Feature) bool { return f.Name == features.ModuleSigning })
}

// trust makes the key for modules, and lets the kernel trust its certificate.
func (b *build) trust() error {
	fs, err := b.features()
	if err != nil || !signs(fs) {
		return err
	}
	if b.ModuleKey != nil {
		b.key, err = modsign.Parse(b.ModuleKey)
	} else {
		var inputs []artifact.Input
		if inputs, err = b.Inputs(); err == nil {
			b.key, err = modsign.Derive(digest.Of(fmt.Appendf(nil, "%q", inputs)), b.Time)
		}
	}
	if err != nil {
		return fmt.Errorf("the key for modules: %w", err)
	}
	return b.left.WriteFile(certificateFile, b.key.Certificate(), 0o644)
}

// external builds and installs the modules that are not part of the tree.
func (b *build) external(ctx context.Context, install ...string) error {
	if len(b.External) == 0 {
		return nil
	}
	if err := os.Mkdir(filepath.Join(b.WorkDir, externalDir), 0o755); err != nil {
		return err
	}
	b.show(externalDir, true)
	for _, x := range b.External {
		if err := x.copy(ctx, filepath.Join(b.WorkDir, externalDir, x.Name)); err != nil {
			return fmt.Errorf("external module %s: %w", x.Name, err)
		}
		m := "M=" + guestDir + "/" + externalDir + "/" + x.Name
		if err := b.make(ctx, m, "modules"); err != nil {
			return fmt.Errorf("external module %s: %w", x.Name, err)
		}
		if err := b.make(ctx, append([]string{m, "modules_install"}, install...)...); err != nil {
			return fmt.Errorf("external module %s: %w", x.Name, err)
		}
	}
	return nil
}

// copy makes a copy of the folder, whose digest it compares.
func (x External) copy(ctx context.Context, to string) error {
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

// forHeaders says whether a file of a built tree is needed to build modules against it: the build system with its
// programs, all headers, and what says what the kernel has. Linux: Documentation/kbuild/modules.rst, 2.
func (r Request) forHeaders(p string) bool {
	base := path.Base(p)
	top, _, _ := strings.Cut(p, "/")
	switch {
	case strings.HasPrefix(base, ".tmp") || strings.HasSuffix(base, ".o") || strings.HasSuffix(base, ".cmd"):
		return p == "scripts/module.lds"
	case p == ".config", p == "Module.symvers", p == "tools/objtool/objtool", p == "include/config/kernel.release":
		return true
	case top == "scripts", top == "include":
		return !strings.HasPrefix(p, "scripts/dtc/include-prefixes/") // links to sources of device trees
	case strings.HasPrefix(base, "Makefile"), strings.HasPrefix(base, "Kbuild"), strings.HasPrefix(base, "Kconfig"):
		return top != "tools" && top != "Documentation"
	case top == "arch":
		own := strings.HasPrefix(p, "arch/"+r.Arch.Linux+"/")
		return own && (strings.HasSuffix(base, ".h") || strings.HasSuffix(base, ".sh") || base == "Platform" ||
			base == "module.lds" || strings.Contains(p, "/scripts/") || strings.Contains(p, "/tools/"))
	}
	return false
}

// packHeaders writes what external modules are built against as a tar, below linux-headers-RELEASE.
func (b *build) packHeaders(ctx context.Context, res *Result) error {
	out := filepath.Join(b.OutDir, OutputHeaders)
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buf)
	top := "linux-headers-" + b.release + "/"
	made := map[string]bool{}
	folder := func(dir string) error {
		var missing []string
		for ; dir != "." && !made[dir]; dir = path.Dir(dir) {
			missing, made[dir] = append(missing, dir), true
		}
		for _, d := range slices.Backward(missing) {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: top + d + "/", Mode: 0o755,
				ModTime: b.Time,
				Format:  tar.FormatPAX, Uname: "root", Gname: "root"}); err != nil {
				return err
			}
		}
		return nil
	}
	err = filepath.WalkDir(b.tree(), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(b.tree(), p)
		if err != nil || !d.Type().IsRegular() && d.Type() != fs.ModeSymlink || !b.forHeaders(filepath.ToSlash(rel)) {
			return err
		}
		name := filepath.ToSlash(rel)
		if err := folder(path.Dir(name)); err != nil {
			return err
		}
		h := &tar.Header{Name: top + name, ModTime: b.Time, Format: tar.FormatPAX, Uname: "root", Gname: "root"}
		if d.Type() == fs.ModeSymlink {
			h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
			if h.Linkname, err = os.Readlink(p); err != nil {
				return err
			}
			if !filepath.IsLocal(filepath.Join(filepath.Dir(rel), h.Linkname)) {
				return fmt.Errorf("%s is a link that leads out of the tree, to %q", name, h.Linkname)
			}
			return w.WriteHeader(h)
		}
		return b.addHeader(w, h, name)
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
	res.Outputs = append(res.Outputs, artifact.Output{Name: OutputHeaders, Path: out})
	return nil
}

// addHeader writes one file of the tree.
func (b *build) addHeader(w *tar.Writer, h *tar.Header, name string) error {
	in, err := b.left.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Mode, h.Size = tar.TypeReg, 0o644, fi.Size()
	if fi.Mode()&0o111 != 0 {
		h.Mode = 0o755
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, in)
	return err
}
