// Package flow moves bytes: those of standard streams, and those of work that may be given up.
package flow

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A stream's buffer is small until the stream fills it: most carry little, and those that carry much gain by fewer
// turns.
const (
	smallBuffer = 8 << 10
	largeBuffer = 256 << 10
)

// PipeSize is what a pipe of a stream holds, in bytes, where it is up to us: four times Linux's default, so that writer
// and reader take turns less often. pipe(7).
const PipeSize = 256 << 10

// Copy copies to the end of from, which is no error. It uses nothing of the two but Read and Write.
func Copy(to io.Writer, from io.Reader) error {
	b := make([]byte, smallBuffer)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if n == len(b) && n < largeBuffer {
			b = make([]byte, largeBuffer)
		}
	}
}

// Widen has a pipe hold size bytes. Where the kernel permits no more, the pipe stays as it is, and slower.
func Widen(pipe *os.File, size int) {
	c, err := pipe.SyscallConn() // Fd would make it block
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size) })
}
