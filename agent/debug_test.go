package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/agent/reap"
	"github.com/katabuild/katabuild/internal/pty"
	"github.com/katabuild/katabuild/internal/testenv"
)

// debugShells serves shells of this machine on a UNIX socket, and returns how to connect. No test here may wait for a
// child in another way.
func debugShells(t *testing.T) func() net.Conn {
	t.Helper()
	testenv.Require(t, testenv.Func(testenv.Shell, func() error { _, err := firstExecutable(shells); return err }),
		testenv.Func(testenv.Terminals, func() error {
			m, tty, err := pty.Open(pty.VT100())
			if err != nil {
				return err
			}
			m.Close()
			return tty.Close()
		}))
	r, err := reap.New()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var log bytes.Buffer
	var wg, reaper sync.WaitGroup
	reaperCtx, endReaper := context.WithCancel(context.Background())
	reaper.Go(func() { r.Run(reaperCtx) })
	wg.Go(func() {
		if err := serveShells(ctx, l, r, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait() // every shell has ended
		endReaper()
		reaper.Wait()
		if log.Len() > 0 {
			t.Errorf("log: %s", log.String())
		}
	})
	return func() net.Conn {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// until reads until re matches, not a byte more, and returns the first group.
func until(t *testing.T, c net.Conn, re string) string {
	t.Helper()
	want := regexp.MustCompile(re)
	var got []byte
	b := make([]byte, 1)
	for {
		n, err := c.Read(b)
		got = append(got, b[:n]...)
		if m := want.FindSubmatch(got); m != nil {
			return string(m[1])
		}
		if err != nil {
			t.Fatalf("no %s in %q: %v", re, got, err)
		}
	}
}

func say(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

// awaitGone waits until a process is no more.
func awaitGone(t *testing.T, pid string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s is still there", pid)
		}
	}
}

// The two quotes tell what a command says from the terminal's echo of the command.
func TestEachConnectionHasAShellOnATerminalOfItsOwn(t *testing.T) {
	dial := debugShells(t)
	a, b := dial(), dial()
	say(t, a, "echo si''ze=$(stty size)=; echo tt''y=$(tty)=\n")
	if s := until(t, a, `size=(.*?)=`); s != "24 80" {
		t.Errorf("the terminal's size is %q", s)
	}
	say(t, b, "echo tt''y=$(tty)=\n")
	if one, other := until(t, a, `tty=(.*?)=`), until(t, b, `tty=(.*?)=`); one == other ||
		!strings.HasPrefix(one, "/dev/pts/") {
		t.Errorf("terminals %q and %q", one, other)
	}
	// What still holds the terminal does not hold the connection.
	say(t, a, "sleep 1000 & echo by''e=$!=; exit\n")
	got, err := io.ReadAll(a)
	m := regexp.MustCompile(`bye=(\d+)=`).FindSubmatch(got)
	if err != nil || m == nil {
		t.Fatalf("%q, %v", got, err)
	}
	if pid, err := strconv.Atoi(string(m[1])); err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
		t.Errorf("what was left in the background is %s, %v", m[1], err)
	}
	say(t, b, "echo sti''ll=here=; exit\n")
	until(t, b, `still=(here)=`)
}

func TestTheShellEndsWithItsConnection(t *testing.T) {
	dial := debugShells(t)
	for name, command := range map[string]string{
		"at its prompt":                 "",
		"with a program in front":       "sleep 1000\n",
		"when it does not hear of ends": "trap '' HUP; while :; do :; done\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := dial()
			say(t, c, "echo pi''d=$$=\n")
			pid := until(t, c, `pid=(\d+)=`)
			say(t, c, command)
			c.Close()
			awaitGone(t, pid)
		})
	}
}

func TestWhatWasAskedBeforeTheEndIsAnswered(t *testing.T) {
	c := debugShells(t)()
	say(t, c, "echo do''ne\n")
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || !strings.Contains(string(got), "done") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTheDebugConsoleIsBounded(t *testing.T) {
	dial := debugShells(t)
	for range maxShells {
		c := dial()
		say(t, c, "echo he''re=1=\n")
		until(t, c, `here=(1)=`)
	}
	got, err := io.ReadAll(dial())
	if want := fmt.Sprintf("there are %d shells already", maxShells); err != nil || !strings.Contains(string(got),
		want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
