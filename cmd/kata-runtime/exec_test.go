package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/testenv"
)

func TestACommandsOutputIsToldFromTheShells(t *testing.T) {
	for name, tc := range map[string]struct {
		said string
		want string
		code int
		err  string
	}{
		"a shell with an echo and a prompt": {"# echo N''b; 'x'; echo N''e$?; exit\r\nNb\r\nout\r\nNe0\r\n# " +
			"exit\r\n", "out\n", 0, ""},
		"no output":                     {"Nb\r\nNe3\r\n", "", 3, ""},
		"an output without a line end":  {"Nb\r\npartNe255\r\n", "part", 255, ""},
		"a carriage return alone stays": {"Nb\r\na\rb\r\r\nNe0\r\n", "a\rb\r\n", 0, ""},
		"half a mark in the output":     {"Nb\r\nN\r\nNN\r\nNe1\r\n", "N\nNN\n", 1, ""},
		"the shell ends first":          {"Nb\r\nlast words", "last words", 0, "ended before"},
		"the shell never starts": {"katabuild-agent: the guest has no shell\r\n", "", 0,
			"ended before"},
		"a code that is none":                     {"Nb\r\nNex\r\n", "", 0, `"x" instead of an exit code`},
		"a code that is too large":                {"Nb\r\nNe256\r\n", "", 0, `"256"`},
		"a code without an end, and more of that": {"Nb\r\nNe00000000", "", 0, "instead of an exit code"},
	} {
		for how, r := range map[string]io.Reader{"at once": strings.NewReader(tc.said),
			"byte by byte": iotest.OneByteReader(strings.NewReader(tc.said))} {
			t.Run(name+" "+how, func(t *testing.T) {
				var out strings.Builder
				code, err := commandOutput(&out, r, "N")
				if out.String() != tc.want || code != tc.code || (err == nil) != (tc.err == "") || err != nil &&
					!strings.Contains(err.Error(), tc.err) {
					t.Errorf("%q, %d, %v", out.String(), code, err)
				}
			})
		}
	}
}

func TestWhatATerminalWouldActOnIsNotTyped(t *testing.T) {
	line, err := commandLine("N", []string{"echo", "it's", "a\nb"})
	if want := `echo N''b; 'echo' 'it'\''s' 'a` + "\n" + `b'; echo N''e$?; exit` + "\n"; err != nil || line != want {
		t.Errorf("%q, %v", line, err)
	}
	for _, w := range []string{"a\tb", "\x03", "\x1b", "\x7f", strings.Repeat("x", maxCommand)} {
		if _, err := commandLine("N", []string{w}); err == nil {
			t.Errorf("%.20q is typed", w)
		}
	}
}

func TestTheKeyLeavesAndTheTerminalIsRestored(t *testing.T) {
	testenv.Require(t, testenv.Func(testenv.Terminals, hasTerminals))
	master, tty, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer tty.Close()
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	guest := make(chan string, 1)
	a := &app{in: tty, out: io.Discard, err: io.Discard}
	c, other := pipe(t)
	go func() { // a guest that never ends
		b := make([]byte, 3)
		io.ReadFull(other, b)
		guest <- string(b)
		io.Copy(io.Discard, other)
	}()
	done := make(chan error, 1)
	go func() { done <- a.interact(c) }()
	end := time.Now().Add(10 * time.Second)
	for raw := before; raw.Lflag&unix.ICANON != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the terminal still waits for lines")
		}
		if raw, err = unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := master.Write([]byte{'a', 3, '\r'}); err != nil { // Ctrl-C is the guest's
		t.Fatal(err)
	}
	got := <-guest
	if got != "a\x03\r" {
		t.Errorf("the guest got %q", got)
	}
	if _, err := master.Write([]byte{'x', leave}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is %+v, it was %+v (%v)", after, before, err)
	}
}

// pipe is a connection, both ends.
func TestAShellThatEndsBeforeItsInputIsNoError(t *testing.T) {
	for _, cause := range []error{unix.EPIPE, unix.ECONNRESET} {
		a := &app{in: strings.NewReader("exit\nmore\n")}
		if err := a.typeAll(broken{cause}, false); err != nil {
			t.Errorf("%v: %v", cause, err)
		}
	}
	a := &app{in: strings.NewReader("exit\n")}
	if err := a.typeAll(broken{unix.EIO}, false); !errors.Is(err, unix.EIO) {
		t.Errorf("%v, want EIO", err)
	}
}

// broken is a connection that takes nothing.
type broken struct{ cause error }

func (b broken) Write([]byte) (int, error) { return 0, b.cause }

func pipe(t *testing.T) (one, other net.Conn) {
	t.Helper()
	one, other = net.Pipe()
	t.Cleanup(func() { one.Close(); other.Close() })
	return one, other
}

func TestTheAnswerOfTheSocketIsReadStrictly(t *testing.T) {
	for said, want := range map[string]string{
		"OK 1073741824\nstream": "",
		"":                      "refused",
		"OK\n":                  "want OK and a port",
		"NO 5\n":                "want OK and a port",
		"OK 4294967296\n":       "want OK and a port",
		"OK 5":                  "unexpected EOF",
		strings.Repeat("O", 40): "no line in the first 32 bytes",
	} {
		r := strings.NewReader(said)
		err := readOK(r)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) &&
			!errors.Is(err, io.EOF) {
			t.Errorf("%q: %v, want %q", said, err, want)
		}
		if rest, _ := io.ReadAll(r); want == "" && string(rest) != "stream" {
			t.Errorf("%q: %q of the stream is left", said, rest)
		}
	}
}

func FuzzGuestStreams(f *testing.F) {
	f.Add([]byte("OK 5\nNb\r\nout\r\nNe0\r\n"))
	f.Add([]byte("Nb\r\nN\rNe\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = readOK(bytes.NewReader(b))
		var whole, slow bytes.Buffer
		code, err := commandOutput(&whole, bytes.NewReader(b), "N")
		code2, err2 := commandOutput(&slow, iotest.OneByteReader(bytes.NewReader(b)), "N")
		if code != code2 || (err == nil) != (err2 == nil) || err == nil && whole.String() != slow.String() {
			t.Errorf("at once: %q, %d, %v; byte by byte: %q, %d, %v", whole.Bytes(), code, err, slow.Bytes(), code2,
				err2)
		}
	})
}
