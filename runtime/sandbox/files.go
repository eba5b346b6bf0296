package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
)

// CheckFiles compares every file that m names, in dir, with m. A file that differs is a *digest.Mismatch.
func CheckFiles(m *manifest.Manifest, dir string) error {
	for _, f := range m.Files() {
		if err := digest.Check(hostPath(dir, f), f.Digest); err != nil {
			return err
		}
	}
	return nil
}

func hostPath(dir string, f manifest.File) string {
	return filepath.Join(dir, filepath.FromSlash(f.Path))
}

// checked copies a file into memory that nobody can change any more, and checks the digest of the copy: what QEMU gets
// is what was checked.
func checked(dir string, f manifest.File) (*os.File, error) {
	path := hostPath(dir, f)
	out, got, err := sealed(path, f.Size)
	if err != nil {
		return nil, err
	}
	if got != f.Digest {
		got, _, err := digest.File(path) // of all of it, for the message
		if err == nil {
			err = &digest.Mismatch{Name: path, Want: f.Digest, Got: got}
		}
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// checkedInPlace opens a file and checks its digest without a copy, so that all guests which were made from it share
// its pages. What changes in it afterwards has to be found out by somebody else: dm-verity in the guest.
func checkedInPlace(dir string, f manifest.File) (*os.File, error) {
	path := hostPath(dir, f)
	file, got, err := digested(path)
	if err != nil {
		return nil, err
	}
	if got != f.Digest {
		return nil, errors.Join(&digest.Mismatch{Name: path, Want: f.Digest, Got: got}, file.Close())
	}
	return file, nil
}

// digested opens a file and digests it.
func digested(path string) (*os.File, digest.Digest, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	sum := digest.New()
	if _, err := io.Copy(sum, file); err != nil {
		return nil, "", errors.Join(fmt.Errorf("read %s: %w", path, err), file.Close())
	}
	return file, sum.Digest(), nil
}

// booted are the files that a guest is started from, open for QEMU.
type booted struct {
	kernel, initrd, image *os.File // those that the guest has not are nil
	files                 []BootedFile
}

// close closes what is open.
func (b *booted) close() error {
	var errs []error
	for _, f := range []*os.File{b.kernel, b.initrd, b.image} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// openChecked opens a manifest's files, and compares each with it.
func openChecked(cfg Config) (b *booted, err error) {
	b = &booted{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	m := cfg.Manifest
	kernel := m.Kernel.Vmlinux
	if cfg.Kernel == Image {
		kernel = m.Kernel.Image
	}
	if b.kernel, err = checked(cfg.Dir, kernel); err != nil {
		return b, err
	}
	if i := m.Initrd; i != nil {
		if b.initrd, err = checked(cfg.Dir, i.File); err != nil {
			return b, err
		}
	}
	if i := m.Image; i != nil {
		open := checked
		if i.Verity != nil && m.Boot.Disk != manifest.NVDIMM {
			open = checkedInPlace
		}
		if b.image, err = open(cfg.Dir, i.File); err != nil {
			return b, err
		}
	}
	return b, nil
}

// openPlain opens the files of a plain guest, and notes what they are. The image is used where it lies, so that all
// guests share its pages.
func openPlain(g *guest) (b *booted, err error) {
	b = &booted{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	sum := g.plain.Digest
	if g.plain.unpacked != nil {
		b.kernel, _, err = sealedFrom(g.kernel, bytes.NewReader(g.plain.unpacked))
	} else {
		b.kernel, sum, err = sealed(g.kernel, maxKernel)
	}
	if err != nil {
		return b, err
	}
	b.files = append(b.files, BootedFile{g.kernel, sum})
	if g.initrd != "" {
		f, d, err := sealed(g.initrd, -1)
		if err != nil {
			return b, err
		}
		b.initrd, b.files = f, append(b.files, BootedFile{g.initrd, d})
	}
	if g.image != "" {
		f, d, err := digested(g.image)
		if err != nil {
			return b, err
		}
		b.image, b.files = f, append(b.files, BootedFile{g.image, d})
	}
	return b, nil
}

// sealed copies a file into memory that nobody can change any more, and digests the copy. Of a file that has more than
// size bytes it copies one more, which shows in the digest; a negative size is any.
func sealed(path string, size int64) (*os.File, digest.Digest, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer in.Close()
	var from io.Reader = in
	if size >= 0 {
		from = io.LimitReader(in, size+1)
	}
	return sealedFrom(path, from)
}

// sealedFrom is sealed of what a reader has, under the name of a file.
func sealedFrom(path string, from io.Reader) (_ *os.File, _ digest.Digest, err error) {
	fd, err := unix.MemfdCreate(filepath.Base(path), unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, "", fmt.Errorf("memory for %s: %w", path, err)
	}
	out := os.NewFile(uintptr(fd), path)
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close())
		}
	}()
	sum := digest.New()
	if _, err := io.Copy(io.MultiWriter(out, sum), from); err != nil {
		return nil, "", fmt.Errorf("copy %s into memory: %w", path, err)
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(out.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, "", fmt.Errorf("seal the copy of %s: %w", path, err)
	}
	return out, sum.Digest(), nil
}
