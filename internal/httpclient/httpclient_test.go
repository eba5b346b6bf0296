package httpclient

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// raw serves one answer a connection, byte for byte as say writes it, until the test ends.
func raw(t *testing.T, say func(c net.Conn, stop <-chan struct{})) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop); l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 4096))
				say(c, stop)
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// trickle writes what each yields, a little at a time, until the test ends or the other side does.
func trickle(c net.Conn, stop <-chan struct{}, each func(i int) string) {
	for i := 0; ; i++ {
		if _, err := io.WriteString(c, each(i)); err != nil {
			return
		}
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestAServerThatKeepsUsWaitingIsGivenUp(t *testing.T) {
	patience := deadlines{Connect: 50 * time.Millisecond, Header: 50 * time.Millisecond,
		Stall: 100 * time.Millisecond, MinBytes: 1000}
	for _, c := range []struct {
		name, want string
		say        func(c net.Conn, stop <-chan struct{})
	}{
		{"silent", "gave no answer within 50ms", func(_ net.Conn, stop <-chan struct{}) { <-stop }},
		{"a header a line now and then", "gave no answer within 50ms", func(c net.Conn, stop <-chan struct{}) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\n")
			trickle(c, stop, func(i int) string { return fmt.Sprintf("X-%d: y\r\n", i) })
		}},
		{"a body a byte now and then", "stopped sending: less than 1000 bytes in 100ms",
			func(c net.Conn, stop <-chan struct{}) {
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
				trickle(c, stop, func(int) string { return "x" })
			}},
		{"a body that ends in silence", "stopped sending", func(c net.Conn, stop <-chan struct{}) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 5000))
			<-stop
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := New(&http.Client{Transport: &patient{Deadlines: patience}})
			resp, err := client.Get(raw(t, c.say))
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestASlowButSteadyServerIsWaitedFor(t *testing.T) {
	const n = 20
	addr := raw(t, func(c net.Conn, _ <-chan struct{}) {
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n*100)
		for range n {
			time.Sleep(10 * time.Millisecond)
			fmt.Fprint(c, strings.Repeat("x", 100))
		}
	})
	// The whole body takes longer than any of its parts may.
	client := New(&http.Client{Transport: &patient{Deadlines: deadlines{Stall: 150 * time.Millisecond,
		MinBytes: 100}}})
	resp, err := client.Get(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) != n*100 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestWhoeverCancelsIsTheCause(t *testing.T) {
	addr := raw(t, func(_ net.Conn, stop <-chan struct{}) { <-stop })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(nil).Do(req)
	if err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("got %v", err)
	}
}

func TestBytesArriveAsTheServerSendsThem(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("the client accepts %q", got)
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		fmt.Fprint(z, "unpacked")
		z.Close()
	}))
	defer s.Close()
	resp, err := New(nil).Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.HasPrefix(string(b), "\x1f\x8b") {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestARedirectToAnotherSchemeIsRefused(t *testing.T) {
	for _, to := range []string{"https://127.0.0.1:1/x", "file:///etc/passwd", "ftp://127.0.0.1/x"} {
		s := httptest.NewServer(http.RedirectHandler(to, http.StatusFound))
		_, err := New(nil).Get(s.URL)
		s.Close()
		if err == nil || !strings.Contains(err.Error(), "name the address that it leads to: "+to) {
			t.Errorf("to %s: %v", to, err)
		}
	}
}

// slowly gives a byte each time, a while after the one before.
type slowly struct{ left int }

func (s *slowly) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(20 * time.Millisecond)
	s.left--
	p[0] = 'x'
	return 1, nil
}

func TestAnUploadMayTakeAsLongAsItMoves(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
		if r.URL.Path == "/silent" {
			time.Sleep(time.Second)
		}
	}))
	t.Cleanup(s.Close)
	client := New(&http.Client{Transport: &patient{Deadlines: deadlines{Header: 200 * time.Millisecond}}})
	resp, err := client.Post(s.URL, "text/plain", &slowly{30}) // 600 ms
	if err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || string(said) != "30 <nil>" {
		t.Errorf("%s, %v", said, err)
	}
	resp, err = client.Post(s.URL+"/silent", "text/plain", &slowly{1})
	if err == nil {
		_ = resp.Body.Close()
		t.Error("a server that says nothing behind an upload is waited for")
	}
}
