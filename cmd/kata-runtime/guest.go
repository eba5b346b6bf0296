package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/printable"
	"github.com/katabuild/katabuild/runtime/record"
)

// dialTime bounds the way to a port of the guest. The runtime gives a guest 10 s.
const dialTime = 15 * time.Second

// maxAnswer bounds the line "OK <port>\n", in bytes. docs/formats/vsock.md.
const maxAnswer = 32

var errNoPod = errors.New("no such pod")

// refusedError says that nobody in the guest listens on a port.
type refusedError struct {
	id      string
	port    uint32
	console bool // the port is meant to be the debug console's
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("pod %s: nobody listens on port %d of the guest", e.id, e.port)
}

// record reads the record of a pod. An unknown id is errNoPod.
func (a *app) record(id string) (*record.Record, error) {
	r, err := record.Read(a.dirs, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pod %s: %w in %s", id, errNoPod, a.dirs.WithDefaults().State)
	}
	return r, err
}

// dial connects to a port of a pod's guest.
func (a *app) dial(ctx context.Context, id string, port uint32) (net.Conn, error) {
	if _, err := a.record(id); err != nil {
		return nil, err
	}
	c, err := dialHybrid(ctx, a.dirs.VsockSocket(id), port)
	switch {
	case errors.Is(err, errRefused):
		return nil, &refusedError{id: id, port: port}
	case errors.Is(err, fs.ErrNotExist), isConnectionRefused(err):
		return nil, fmt.Errorf("pod %s: its guest cannot be reached; has it ended? %w", id, err)
	case err != nil:
		return nil, fmt.Errorf("pod %s: %w", id, err)
	}
	return c, nil
}

var errRefused = errors.New("the guest refused")

// dialHybrid asks a hybrid vsock socket for a port. When the guest has nobody there it is errRefused.
func dialHybrid(ctx context.Context, path string, port uint32) (_ net.Conn, err error) {
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
		return nil, fmt.Errorf("ask for port %d: %w", port, err)
	}
	if err := readOK(c); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("ask for port %d: %w", port, err)
	}
	return c, nil
}

// readOK reads "OK <port>\n" and not a byte more: what follows is the stream.
func readOK(r io.Reader) error {
	var line []byte
	var b [1]byte
	for len(line) < maxAnswer {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			if len(line) == 0 && (errors.Is(err, io.EOF) || isConnectionReset(err)) {
				return errRefused
			}
			return fmt.Errorf("read the answer: %w", err)
		}
		if b[0] != '\n' {
			line = append(line, b[0])
			continue
		}
		word, arg, _ := strings.Cut(string(line), " ")
		if _, err := strconv.ParseUint(arg, 10, 32); err != nil || word != "OK" {
			return fmt.Errorf("the answer %q: want OK and a port", line)
		}
		return nil
	}
	return fmt.Errorf("no line in the first %d bytes of the answer", maxAnswer)
}

// printGuest prints text of a guest's, cleaned of what a terminal would act on.
func (a *app) printGuest(text []byte) error {
	for l := range bytes.Lines(text) {
		if _, err := fmt.Fprintln(a.out, printable.Clean(bytes.TrimSuffix(l, []byte("\n")))); err != nil {
			return err
		}
	}
	return nil
}
