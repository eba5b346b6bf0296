package template

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/digest"
)

// page is the piece of memory that is written or left out.
const page = 4096

// chunk is how much is read at once, in bytes.
const chunk = 64 * page

// NewMemory is a file for the memory of a machine, in bytes. It has no name, goes with the last process that has it
// open, and may be opened again by its number by everybody who has it.
func NewMemory(size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(memoryName, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory of a guest: %w", err)
	}
	f := os.NewFile(uintptr(fd), memoryName)
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(fmt.Errorf("memory of a guest: %w", err), f.Close())
	}
	return f, nil
}

// copyMemory copies the pages of size bytes of memory that are not all zeros, and digests them: each run of them, which
// a chunk's end ends, is its place and its length, in 8 bytes each and the lowest first, and its bytes. Where a file
// system keeps holes makes no difference to that.
func copyMemory(to io.WriterAt, from *os.File, size int64) (digest.Digest, error) {
	sum := digest.New()
	buf := make([]byte, chunk)
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // nothing but a hole follows
		}
		if err != nil {
			return "", fmt.Errorf("read %s: %w", from.Name(), err)
		}
		// from a chunk's begin on, so that runs end at the same places whatever holes there are
		at = max(at, data/chunk*chunk)
		if at >= size {
			break
		}
		part := buf[:min(chunk, size-at)]
		if _, err := from.ReadAt(part, at); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return "", fmt.Errorf("read %s: %w", from.Name(), err)
		}
		if err := copyRuns(to, part, at, sum); err != nil {
			return "", err
		}
		at += int64(len(part))
	}
	return sum.Digest(), nil
}

// copyRuns copies the runs of one chunk.
func copyRuns(to io.WriterAt, part []byte, at int64, sum *digest.Writer) error {
	for i := 0; i < len(part); {
		if isZero(part[i:min(i+page, len(part))]) {
			i += page
			continue
		}
		end := i
		for end < len(part) && !isZero(part[end:min(end+page, len(part))]) {
			end += page
		}
		run := part[i:min(end, len(part))]
		head := binary.LittleEndian.AppendUint64(nil, uint64(at)+uint64(i))
		_, _ = sum.Write(binary.LittleEndian.AppendUint64(head, uint64(len(run)))) // a digest takes everything
		_, _ = sum.Write(run)
		if _, err := to.WriteAt(run, at+int64(i)); err != nil {
			return fmt.Errorf("copy memory: %w", err)
		}
		i = end
	}
	return nil
}

func isZero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
