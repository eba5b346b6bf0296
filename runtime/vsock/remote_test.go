package vsock

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// answering listens at a path as a device would, and answers each connection's first line.
func answering(t *testing.T, path string, answer func(line string) string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			_, _ = io.WriteString(c, answer(line))
			c.Close()
		}
	}()
}

func TestARemoteDeviceIsReachedByItsSocket(t *testing.T) {
	path := t.TempDir() + "/v"
	answering(t, path, func(line string) string {
		switch line {
		case "CONNECT 1024\n":
			return "OK 4294967295\nthe stream"
		case "CONNECT 1\n":
			return ""
		}
		return "NO 5\n"
	})
	r := NewRemote(path, -1)
	c, err := r.Dial(t.Context(), 1024)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a, ok := c.LocalAddr().(*addr); !ok || a.Port != 4294967295 {
		t.Errorf("the host's end is %v", c.LocalAddr())
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "the stream" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := r.Dial(t.Context(), 1); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error("a guest that refuses:", err)
	}
	if _, err := r.Dial(t.Context(), 2); err == nil || !strings.Contains(err.Error(), `"NO 5": want OK and a port`) {
		t.Error("a device that says something else:", err)
	}
	if _, err := NewRemote(path+"x", -1).Dial(t.Context(), 1); !errors.Is(err, os.ErrNotExist) {
		t.Error("a device that is not there yet:", err)
	}
}

func TestARemoteDeviceThatSaysNothingIsGivenUp(t *testing.T) {
	path := t.TempDir() + "/v"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("had enough"))
	defer cancel()
	if _, err := NewRemote(path, -1).Dial(ctx, 1); err == nil || !strings.Contains(err.Error(), "had enough") {
		t.Error(err)
	}
}

func TestARemoteDeviceReachesTheHost(t *testing.T) {
	path := t.TempDir() + "/v"
	r := NewRemote(path, os.Getuid())
	l, err := r.Listen(1031)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Listen(1031); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error("a port twice:", err)
	}
	c, err := net.Dial("unix", fmt.Sprintf("%s_%d", path, 1031))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := r.Listen(1); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := os.Lstat(path + "_1031"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a socket is left:", err)
	}
}

func FuzzAnswersOfARemoteDevice(f *testing.F) {
	f.Add([]byte("OK 1024\nstream"))
	f.Add([]byte("OK 99999999999\n"))                 // no port
	f.Add([]byte("OK 1"))                             // no end
	f.Add(bytes.Repeat([]byte("O"), maxHandshake*10)) // without an end
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if _, err := readOK(r); err == nil && !bytes.HasPrefix(b, []byte("OK ")) {
			t.Errorf("%q is OK", b)
		}
		if read := len(b) - r.Len(); read > maxHandshake {
			t.Errorf("%d bytes were read", read)
		}
	})
}
