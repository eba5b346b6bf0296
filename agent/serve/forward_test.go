package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestAForwardedConnectionReachesAPort(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c)
			fmt.Fprintf(c, "heard %s", b)
			c.Close()
		}
	}()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Forward(context.Background(), l, slog.New(slog.DiscardHandler)) }()
	port := server.Addr().(*net.TCPAddr).Port
	for said, want := range map[string]string{
		fmt.Sprintf("%d\nhello", port): "ok\nheard hello", // bytes behind the line are the stream's
		"0\n":                          "",
		"x\n":                          "",
		"0001\n":                       "",
		"99999\n":                      "",
		"1234567\n":                    "",
		"1\n":                          "", // nobody listens
	} {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, said); err != nil {
			t.Error(err)
		}
		c.(*net.UnixConn).CloseWrite()
		if got, _ := io.ReadAll(c); string(got) != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
		c.Close()
	}
	l.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestForwardedConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Forward(context.Background(), l, slog.New(slog.DiscardHandler)) }()
	var conns []net.Conn
	for range maxForwards + 1 {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	// Those before it have not said their port yet, and wait.
	last := conns[maxForwards]
	if err := last.SetReadDeadline(time.Now().Add(forwardTime / 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one too many: %v, want the end", err)
	}
	conns[0].Close()
	for end := time.Now().Add(forwardTime / 2); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err = c.Read(make([]byte, 1))
		c.Close()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break // it waits for the port, as those before
		}
		if time.Now().After(end) {
			t.Fatalf("after one has ended there is no place: %v", err)
		}
	}
	l.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func FuzzReadPort(f *testing.F) {
	for _, s := range []string{"8080\nx", "0\n", "65536\n", "", "\n", "12345678"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		port, rest, err := readPort(strings.NewReader(s))
		if err != nil {
			return
		}
		b, err := io.ReadAll(rest)
		if err != nil || port+"\n"+string(b) != s {
			t.Errorf("%q: port %q, rest %q, %v", s, port, b, err)
		}
	})
}
