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
func checked(dir string, f manifest.File) (_ *os.File, err error) {
	path := hostPath(dir, f)
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	fd, err := unix.MemfdCreate(filepath.Base(path), unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memory for %s: %w", path, err)
	}
	out := os.NewFile(uintptr(fd), path)
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close())
		}
	}()
	sum := digest.New()
	// One byte more than it should have shows that it has more.
	if _, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(in, f.Size+1)); err != nil {
		return nil, fmt.Errorf("copy %s into memory: %w", path, err)
	}
	if got := sum.Digest(); got != f.Digest {
		got, _, err := digest.File(path) // of all of it, for the message
		if err != nil {
			return nil, err
		}
		return nil, &digest.Mismatch{Name: path, Want: f.Digest, Got: got}
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(out.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("seal the copy of %s: %w", path, err)
	}
	return out, nil
}
