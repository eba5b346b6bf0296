package flow

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

// reader counts its calls, and is full of zeros.
type reader struct {
	left  int
	sizes []int
}

func (r *reader) Read(b []byte) (int, error) {
	r.sizes = append(r.sizes, len(b))
	n := min(len(b), r.left)
	r.left -= n
	if r.left == 0 {
		return n, io.EOF // with the last bytes
	}
	return n, nil
}

func TestEverythingArrives(t *testing.T) {
	data := make([]byte, 3*largeBuffer+5)
	for i := range data {
		data[i] = byte(i * i >> 8)
	}
	for name, from := range map[string]io.Reader{
		"at once":      bytes.NewReader(data),
		"in bits":      iotest.HalfReader(bytes.NewReader(data)),
		"EOF with all": iotest.DataErrReader(bytes.NewReader(data)),
	} {
		var to bytes.Buffer
		if err := Copy(&to, from); err != nil || !bytes.Equal(to.Bytes(), data) {
			t.Errorf("%s: %d of %d bytes: %v", name, to.Len(), len(data), err)
		}
	}
}

func TestOnlyABusyStreamHasALargeBuffer(t *testing.T) {
	quiet := &reader{left: smallBuffer - 1}
	busy := &reader{left: smallBuffer + 2*largeBuffer}
	for _, r := range []*reader{quiet, busy} {
		if err := Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
	}
	if n := quiet.sizes[len(quiet.sizes)-1]; n != smallBuffer {
		t.Errorf("a quiet stream is read by %d", n)
	}
	if n := busy.sizes[len(busy.sizes)-1]; n != largeBuffer {
		t.Errorf("a busy stream is read by %d", n)
	}
}

func TestErrorsOfBothSidesAreTold(t *testing.T) {
	failed := errors.New("failed")
	if err := Copy(io.Discard, iotest.ErrReader(failed)); !errors.Is(err, failed) {
		t.Errorf("of the reader: %v", err)
	}
	r, w := io.Pipe()
	r.CloseWithError(failed)
	if err := Copy(w, bytes.NewReader([]byte("x"))); !errors.Is(err, failed) {
		t.Errorf("of the writer: %v", err)
	}
}

func TestAPipeIsWidened(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	Widen(w, PipeSize)
	n, err := unix.FcntlInt(r.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil || n != PipeSize {
		t.Errorf("the pipe holds %d, want %d: %v", n, PipeSize, err)
	}
	Widen(w, 1<<40) // too much: no harm is done
}
