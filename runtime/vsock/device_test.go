package vsock

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/testenv"
)

func newTestDevice(t testing.TB) *Device {
	d := NewDevice(nil)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// Feature bits that a driver may decline.
const (
	noIndirect = 1 << 28
	noEventIdx = 1 << 29
)

func TestConnsBehaveLikeNetConns(t *testing.T) {
	for name, without := range map[string]uint64{"with event idx": 0, "without event idx": noEventIdx} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				d := newTestDevice(t)
				g := newGuest(t, d, without)
				l, err := g.mux.listen(1024)
				if err != nil {
					return nil, nil, nil, err
				}
				c1, err = d.Dial(testContext(t), 1024)
				if err != nil {
					return nil, nil, nil, err
				}
				c2, err = l.Accept()
				return c1, c2, func() { c1.Close(); c2.Close() }, err
			})
		})
	}
}

func TestNothingIsLostAtClose(t *testing.T) {
	d := newTestDevice(t)
	g := newGuest(t, d, 0)
	const size = 8 << 20
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	want := sha256.Sum256(data)

	send := func(c net.Conn) {
		if _, err := c.Write(data); err != nil {
			t.Errorf("write: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	check := func(c net.Conn) {
		h := sha256.New()
		n, err := io.Copy(h, c)
		if err != nil || n != size || [32]byte(h.Sum(nil)) != want {
			t.Errorf("read %d of %d bytes, %v", n, size, err)
		}
		c.Close()
	}
	t.Run("to the guest", func(t *testing.T) {
		l, err := g.mux.listen(5)
		if err != nil {
			t.Fatal(err)
		}
		c, err := d.Dial(testContext(t), 5)
		if err != nil {
			t.Fatal(err)
		}
		gc, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go send(c)
		check(gc)
	})
	t.Run("from the guest", func(t *testing.T) {
		l, err := d.Listen(6)
		if err != nil {
			t.Fatal(err)
		}
		gc, err := g.dial(6)
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go send(gc)
		check(c)
	})
	eventually(t, "no connection is left", func() bool { return d.openConns() == 0 && muxOpen(g.mux) == 0 })
}

func muxOpen(m *mux) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open + len(m.conns)
}

func (d *Device) openConns() int { return muxOpen(d.mux) }

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func TestHalfClose(t *testing.T) {
	d := newTestDevice(t)
	g := newGuest(t, d, 0)
	l, err := g.mux.listen(7)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial(testContext(t), 7)
	if err != nil {
		t.Fatal(err)
	}
	gc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	question := bytes.Repeat([]byte("question"), 100_000)
	answer := bytes.Repeat([]byte("answer"), 100_000)
	go func() {
		c.Write(question)
		c.(*muxConn).CloseWrite()
	}()
	got, err := io.ReadAll(gc)
	if err != nil || !bytes.Equal(got, question) {
		t.Fatalf("guest read %d bytes, %v", len(got), err)
	}
	go func() {
		gc.Write(answer)
		gc.Close()
	}()
	got, err = io.ReadAll(c)
	if err != nil || !bytes.Equal(got, answer) {
		t.Fatalf("host read %d bytes, %v", len(got), err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after CloseWrite: %v, want EPIPE", err)
	}
	c.Close()
	eventually(t, "no connection is left", func() bool { return d.openConns() == 0 && muxOpen(g.mux) == 0 })
}

func TestRefusedPorts(t *testing.T) {
	d := newTestDevice(t)
	g := newGuest(t, d, 0)
	if _, err := d.Dial(testContext(t), 9); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("host to a closed port of the guest: %v, want ECONNREFUSED", err)
	}
	if _, err := g.dial(9); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("guest to a closed port of the host: %v, want ECONNREFUSED", err)
	}
	if n := d.openConns() + muxOpen(g.mux); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestResetReachesThePeer(t *testing.T) {
	d := newTestDevice(t)
	g := newGuest(t, d, 0)
	l, err := d.Listen(6)
	if err != nil {
		t.Fatal(err)
	}
	for name, byHost := range map[string]bool{"by the host": true, "by the guest": false} {
		t.Run(name, func(t *testing.T) {
			gc, err := g.dial(6)
			if err != nil {
				t.Fatal(err)
			}
			a, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			c := a.(*muxConn)
			if byHost {
				c, gc = gc, c
			}
			c.Write([]byte("before"))
			var six [6]byte
			io.ReadFull(gc, six[:])
			gc.Reset()
			if _, err := c.Read(six[:]); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read: %v, want ECONNRESET", err)
			}
			if _, err := c.Write(six[:]); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("write: %v, want ECONNRESET", err)
			}
			c.Close()
		})
	}
	eventually(t, "no connection is left", func() bool { return d.openConns() == 0 && muxOpen(g.mux) == 0 })
}

func TestManyConnectionsAtOnce(t *testing.T) {
	d := newTestDevice(t)
	g := newGuest(t, d, 0)
	l, err := g.mux.listen(7)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	ctx := testContext(t)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			c, err := d.Dial(ctx, 7)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			msg := bytes.Repeat([]byte{byte(i)}, 20_000)
			go func() {
				c.Write(msg)
				c.(*muxConn).CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, msg) {
				t.Errorf("connection %d: read %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
	eventually(t, "no connection is left", func() bool { return d.openConns() == 0 && muxOpen(g.mux) == 0 })
}

func TestHybridSockets(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v")
	d := newTestDevice(t)
	if err := d.ServeHybrid(path); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, d, 0)
	l, err := g.mux.listen(1024)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	dial := func(t *testing.T, line string) *net.UnixConn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(c, line)
		return c.(*net.UnixConn)
	}
	msg := bytes.Repeat([]byte("0123456789"), 50_000)
	t.Run("a client reaches a port of the guest", func(t *testing.T) {
		c := dial(t, "CONNECT 1024\n"+string(msg[:100])) // pipelined
		var port uint32
		line := make([]byte, 0, 32)
		for len(line) == 0 || line[len(line)-1] != '\n' {
			var b [1]byte
			if _, err := io.ReadFull(c, b[:]); err != nil {
				t.Fatal(err)
			}
			line = append(line, b[0])
		}
		if n, err := fmt.Sscanf(string(line), "OK %d\n", &port); n != 1 || err != nil {
			t.Fatalf("answer %q", line)
		}
		go func() { c.Write(msg[100:]); c.CloseWrite() }()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, msg) {
			t.Fatalf("read %d of %d bytes, %v", len(got), len(msg), err)
		}
	})
	for name, line := range map[string]string{
		"a refused port closes the socket": "CONNECT 99\n", "an unknown word does": "HELLO 1024\n",
		"a bad port does":      "CONNECT 4294967296\n",
		"an endless line does": "CONNECT 00000000000000000000000000000000000000000000",
	} {
		t.Run(name, func(t *testing.T) {
			if b, err := io.ReadAll(dial(t, line)); len(b) != 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read %q, %v", b, err)
			}
		})
	}
	t.Run("the guest reaches a UNIX socket", func(t *testing.T) {
		ul, err := net.Listen("unix", path+"_55")
		if err != nil {
			t.Fatal(err)
		}
		defer ul.Close()
		c, err := g.dial(55)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		u, err := ul.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() { c.Write(msg); c.Close() }()
		if got, err := io.ReadAll(u); err != nil || !bytes.Equal(got, msg) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		u.Close()
	})
	t.Run("a client that closes with bytes unread loses none that it wrote", func(t *testing.T) {
		ul, err := net.Listen("unix", path+"_56")
		if err != nil {
			t.Fatal(err)
		}
		defer ul.Close()
		c, err := g.dial(56)
		if err != nil {
			t.Fatal(err)
		}
		u, err := ul.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("never read"))
		u.Write(msg)
		u.Close()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, msg) {
			t.Errorf("guest read %d bytes, %v", len(got), err)
		}
		c.Close()
	})
	t.Run("a stale socket refuses", func(t *testing.T) {
		if err := os.WriteFile(path+"_57", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := g.dial(57); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v, want ECONNREFUSED", err)
		}
	})
	eventually(t, "no connection is left", func() bool { return d.openConns() == 0 && muxOpen(g.mux) == 0 })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestDialWaitsForTheDriver(t *testing.T) {
	d := newTestDevice(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.Dial(ctx, 7); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("without a guest: %v, want the context's error", err)
	}
	got := make(chan error)
	go func() {
		_, err := d.Dial(testContext(t), 7)
		got <- err
	}()
	newGuest(t, d, 0)
	if err := <-got; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("with a guest: %v, want the guest's refusal", err)
	}
}

func TestDriverRestartResetsConnections(t *testing.T) {
	d := newTestDevice(t)
	g := newGuest(t, d, 0)
	l, err := d.Listen(6)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.dial(6); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	// Paused and continued: the rings go on where they stopped.
	rxBase, txBase := g.rx.Stop(), g.tx.Stop()
	if rxBase == 0 || txBase == 0 {
		t.Fatalf("bases %d and %d: nothing moved", rxBase, txBase)
	}
	g.rx.Start(rxBase)
	g.tx.Start(txBase)
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("after a pause: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	// Begun anew: the indexes start at 0 again.
	g.rx.Stop()
	g.tx.Stop()
	g.rx.Start(0)
	g.tx.Start(0)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("after a restart: %v, want ECONNRESET", err)
	}
}

func TestFrontEndGoneResetsConnections(t *testing.T) {
	d := newTestDevice(t)
	g := newGuest(t, d, 0)
	l, err := d.Listen(6)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.dial(6); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	g.Conn.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%v, want ECONNRESET", err)
	}
}

func TestServiceRunsRoundRobin(t *testing.T) {
	m := newMux(agentapi.HostCID, guestCID)
	var conns []*muxConn
	for i := range 3 {
		c := m.newConn(key{uint32(i), 1})
		c.established, c.peerAlloc = true, 1<<20
		c.Write(make([]byte, 3000))
		conns = append(conns, c)
	}
	var order []uint32
	for {
		h, _, _, done, ok := m.next(1000)
		if !ok {
			break
		}
		order = append(order, h.srcPort)
		done()
	}
	if fmt.Sprint(order) != "[0 1 2 0 1 2 0 1 2]" {
		t.Errorf("packets of connections %v", order)
	}
	for _, c := range conns {
		if c.out.len() != 0 {
			t.Errorf("%d bytes are left", c.out.len())
		}
	}
}

func TestNoGoroutineOrFileIsLeft(t *testing.T) {
	testenv.Require(t, testenv.Func(testenv.Proc, func() error {
		_, err := os.Stat("/proc/self/fd")
		return err
	}))
	files := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	round := func() {
		t.Run("", func(t *testing.T) {
			d := newTestDevice(t)
			g := newGuest(t, d, 0)
			l, _ := d.Listen(6)
			g.dial(6)
			l.Accept()
			g.rx.Start(g.rx.Stop())
			g.SetMemory(0)
		})
	}
	n := runtime.NumGoroutine()
	round()
	eventually(t, "as many goroutines as at first", func() bool { return runtime.NumGoroutine() <= n })
	f := files() // among them what the first round opens for all
	for range 5 {
		round()
	}
	eventually(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= n })
	if got := files(); got > f {
		t.Errorf("%d files are open, %d were", got, f)
	}
}
