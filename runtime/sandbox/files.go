package sandbox

import (
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

// checked copies a file into memory that nobody can change any more, and checks the digest of the copy: what QEMU gets is what was checked.
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

// checkedInPlace opens a file and checks its digest without a copy, so that all guests which were made from it share its pages. What changes in it
// afterwards has to be found out by somebody else: dm-verity in the guest.
func checkedInPlace(dir string, f manifest.File) (*os.File, error) {
	path := hostPath(dir, f)
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	sum := digest.New()
	if _, err := io.Copy(sum, file); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), file.Close())
	}
	if got := sum.Digest(); got != f.Digest {
		return nil, errors.Join(&digest.Mismatch{Name: path, Want: f.Digest, Got: got}, file.Close())
	}
	return file, nil
}

// sealed copies a file into memory that nobody can change any more, and digests the copy. Of a file that has more than size bytes it copies one
// more, which shows in the digest; a negative size is any.
func sealed(path string, size int64) (_ *os.File, _ digest.Digest, err error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer in.Close()
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
	var from io.Reader = in
	if size >= 0 {
		from = io.LimitReader(in, size+1)
	}
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
