package runk_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/pty"
)

// console listens for a terminal's master at a socket, whose path it returns; take waits for it.
func console(h *host) (path string, take func() (*os.File, string)) {
	h.Helper()
	dir, err := os.MkdirTemp("", "console") // a socket's path is short
	if err != nil {
		h.Fatal(err)
	}
	path = filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	return path, func() (*os.File, string) {
		c, err := l.AcceptUnix()
		if err != nil {
			h.Fatal(err)
		}
		defer c.Close()
		b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
		if err != nil {
			h.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			h.Fatal(messages, err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			h.Fatal(fds, err)
		}
		return os.NewFile(uintptr(fds[0]), "master"), string(b[:n])
	}
}

func TestATerminalIsHandedOver(t *testing.T) {
	both(t, func(h *host) string {
		h.spec.Process.Terminal = true
		if err := json.Unmarshal([]byte(`{"height": 33, "width": 99}`), &h.spec.Process.ConsoleSize); err != nil {
			h.Fatal(err)
		}
		h.sh("tty; stty size; read x; echo got $x; readlink /proc/self/fd/0; stat -c '%t %T' /dev/console; " +
			"exec sleep 1000")
		path, take := console(h)
		refused := h.do("create", h.id())
		h.good("create", "--console-socket", path, h.id())
		master, name := take()
		defer master.Close()
		h.good("start", h.id())
		out := drain(master, "33 99")
		if _, err := master.WriteString("word\n"); err != nil {
			h.Fatal(err)
		}
		out += drain(master, "88 0") // the numbers of a first terminal
		return fmt.Sprint(refused.Code, strings.HasPrefix(name, "/dev/p"), out)
	})
}

func TestAnExecHasATerminal(t *testing.T) {
	both(t, func(h *host) string {
		h.background()
		path, take := console(h)
		h.good("exec", "--tty", "--detach", "--console-socket", path, h.id(), "sh", "-c", "read x; echo got $x; tty")
		master, _ := take()
		defer master.Close()
		if _, err := master.WriteString("word\n"); err != nil {
			h.Fatal(err)
		}
		return drain(master, "/dev/pts/0")
	})
}

func TestAForegroundHasTheTerminalOfItsCaller(t *testing.T) {
	both(t, func(h *host) string {
		h.spec.Process.Terminal = true
		h.sh("until [ -n \"$(stty size 2>/dev/null)\" ]; do :; done; stty size; read x; echo got $x; exit 5")
		size := pty.VT100()
		size.Row, size.Col = 40, 111
		master, tty, err := pty.Open(size)
		if err != nil {
			h.Fatal(err)
		}
		defer master.Close()
		cmd := h.command("run", h.id())
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		if err := cmd.Start(); err != nil {
			h.Fatal(err)
		}
		tty.Close()
		out := drain(master, "40 111")
		if _, err := master.WriteString("word\r"); err != nil {
			h.Fatal(err)
		}
		out += drain(master, "got word")
		err = cmd.Wait()
		return fmt.Sprint(out, err)
	})
}
