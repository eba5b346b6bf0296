// Package console collects what a guest writes to its serial console.
//
// In comes a stream, such as the other end of QEMU's serial port; out go the last lines, cleaned for people, a copy for
// whoever wants all of it, and each line as it is complete. It does not know what the lines mean. The guest can write
// what and as much as it likes: memory is bounded, and terminals see no control characters of the guest's through
// Lines.
package console

import (
	"bytes"
	"io"
	"sync"

	"github.com/katabuild/katabuild/internal/printable"
)

// size is how many bytes are kept: the last ones.
const size = 256 << 10

// maxLine bounds the line that OnLine gets, in bytes. A longer one comes in pieces.
const maxLine = 4096

// Options are what to do with the stream. The zero value only keeps the last bytes.
type Options struct {
	Copy   io.Writer         // gets every byte, unchanged; its errors end the copying, not the console
	OnLine func(line string) // gets every line, cleaned, from the console's goroutine; must not block for long
	OnByte func()            // called once, before the first byte is looked at
}

// Console is a console being read. Its methods may be called from several goroutines.
type Console struct {
	in   io.ReadCloser
	opt  Options
	done chan struct{}
	// close closes in, once.
	close func() error

	mu    sync.Mutex // guards what follows
	ring  []byte
	start int
}

// New reads in, in a goroutine of its own, until it ends. The Console owns in.
func New(in io.ReadCloser, opt Options) *Console {
	c := &Console{in: in, opt: opt, done: make(chan struct{}), close: sync.OnceValue(in.Close)}
	go c.read()
	return c
}

// Done is closed when the stream has ended: no more bytes come.
func (c *Console) Done() <-chan struct{} { return c.done }

// Close stops reading. What was read stays readable. Calling it again is a no-op.
func (c *Console) Close() error {
	err := c.close()
	<-c.done
	return err
}

func (c *Console) read() {
	defer close(c.done)
	buf := make([]byte, 32<<10)
	var line []byte
	first := true
	for {
		n, err := c.in.Read(buf)
		if n > 0 {
			if first && c.opt.OnByte != nil {
				c.opt.OnByte()
			}
			first = false
			b := buf[:n]
			c.keep(b)
			if c.opt.Copy != nil {
				if _, err := c.opt.Copy.Write(b); err != nil {
					c.opt.Copy = nil
				}
			}
			if c.opt.OnLine != nil {
				line = c.lines(append(line, b...))
			}
		}
		if err != nil {
			break
		}
	}
	if c.opt.OnLine != nil && len(line) > 0 {
		c.opt.OnLine(printable.Clean(line))
	}
}

// lines hands out the complete lines of b and returns the rest.
func (c *Console) lines(b []byte) []byte {
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 && len(b) > maxLine || i > maxLine {
			i = maxLine
			c.opt.OnLine(printable.Clean(b[:i]))
			b = b[i:]
			continue
		}
		if i < 0 {
			return append([]byte(nil), b...)
		}
		c.opt.OnLine(printable.Clean(b[:i]))
		b = b[i+1:]
	}
}

func (c *Console) keep(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(b) > size {
		b = b[len(b)-size:]
	}
	if room := size - len(c.ring); room > 0 {
		n := min(room, len(b))
		c.ring = append(c.ring, b[:n]...)
		b = b[n:]
	}
	for len(b) > 0 { // the ring is full: overwrite the oldest
		n := copy(c.ring[c.start:], b)
		c.start = (c.start + n) % size
		b = b[n:]
	}
}

// Bytes is a copy of the last bytes, unchanged.
func (c *Console) Bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(append([]byte(nil), c.ring[c.start:]...), c.ring[:c.start]...)
}

// Lines is the last n lines, cleaned, an unfinished one included. Empty lines do not count.
func (c *Console) Lines(n int) []string {
	var lines []string
	for l := range bytes.SplitSeq(c.Bytes(), []byte("\n")) {
		if s := printable.Clean(l); s != "" {
			lines = append(lines, s)
		}
	}
	return lines[max(0, len(lines)-n):]
}
