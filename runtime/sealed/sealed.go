// Package sealed makes copies of files in memory that nobody can change any more, this process included: what was
// checked or written is what another process reads.
package sealed

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"golang.org/x/sys/unix"
)

// Copy copies a file into memory that nobody can change any more, and digests the copy. Of a file that has more than
// size bytes it copies one more, which shows in the digest; a negative size is any.
func Copy(path string, size int64) (*os.File, digest.Digest, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer in.Close()
	var from io.Reader = in
	if size >= 0 {
		from = io.LimitReader(in, size+1)
	}
	return From(path, from)
}

// From is Copy of what a reader has, under the name of a file.
func From(path string, from io.Reader) (_ *os.File, _ digest.Digest, err error) {
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
	if err := seal(out); err != nil {
		return nil, "", fmt.Errorf("seal the copy of %s: %w", path, err)
	}
	return out, sum.Digest(), nil
}

// sealTime is how long sealing is tried.
const sealTime = 5 * time.Second

// seal takes away all ways to change a file. The kernel refuses it with EBUSY while anybody holds one of its pages, as
// its own work of moving pages does for moments (Linux: mm/memfd.c, memfd_wait_for_pins).
func seal(f *os.File) error {
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	for end := time.Now().Add(sealTime); ; time.Sleep(10 * time.Millisecond) {
		_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}
