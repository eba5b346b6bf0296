package jail

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/pty"
	"github.com/katabuild/katabuild/internal/testenv"
)

// TestAProgramCanHaveATerminal types into a program that asks for the terminal's size, and interrupts another one by
// the terminal's own key, which reaches only whom the terminal controls.
func TestAProgramCanHaveATerminal(t *testing.T) {
	testenv.Require(t, userNamespaces)
	master, tty, err := pty.Open(unix.Winsize{Row: 30, Col: 97})
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		b := make([]byte, 1024)
		for {
			n, err := master.Read(b)
			all.Write(b[:n])
			switch text := all.String(); {
			case err != nil:
				said <- text
				return
			case strings.HasSuffix(text, "name? "):
				io.WriteString(master, "katabuild\n")
			case strings.HasSuffix(text, "waits "):
				io.WriteString(master, "\x03")
			}
		}
	}()
	_, err = Command{Terminal: tty, Args: []string{"sh", "-c", "test -t 0 && test -t 1 && test -t 2 && stty size; " +
		"printf 'name? '; read n; echo \"hello $n\"; trap 'echo interrupted; exit 0' INT; printf 'waits '; sleep 60"},
	}.Run(t.Context())
	tty.Close()
	out := <-said
	master.Close()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{"30 97\r\n", "hello katabuild\r\n", "interrupted\r\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
}

func TestATerminalStandsAlone(t *testing.T) {
	_, err := Command{Args: []string{"true"}, Terminal: new(os.File), Stdout: io.Discard}.Run(t.Context())
	if err == nil {
		t.Error("other streams beside a terminal were accepted")
	}
}
