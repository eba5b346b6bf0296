package fatal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/testenv"
)

// speak makes a handler whose end can be waited for.
func speak() (*Handler, *bytes.Buffer, chan struct{}) {
	var console bytes.Buffer
	ended := make(chan struct{})
	return &Handler{Say: func(m string) { console.WriteString(m) }, End: func() { close(ended) }}, &console, ended
}

func TestAPanicIsTheLastMessage(t *testing.T) {
	h, console, ended := speak()
	h.Go(func() {
		var list []int
		_ = list[len(console.String())]
	})
	<-ended
	lines := strings.Split(console.String(), "\n")
	if lines[0] != "katabuild-agent: panic: runtime error: index out of range [0] with length 0" {
		t.Errorf("first line %q", lines[0])
	}
	if !strings.HasPrefix(lines[1], "  github.com/katabuild/katabuild/agent/fatal.TestAPanicIsTheLastMessage.func") ||
		!strings.Contains(lines[1], "fatal_test.go:") {
		t.Errorf("who panicked: %q", lines[1])
	}
	if len(lines) > maxFrames+2 {
		t.Errorf("%d lines", len(lines))
	}
}

func TestOnlyTheFirstEndIsTold(t *testing.T) {
	h, console, ended := speak()
	h.Go(func() { h.Die(errors.New("listen: no vsock")) })
	<-ended
	h.Go(func() { panic("later") })
	if got := console.String(); got != prefix+"listen: no vsock\n" {
		t.Errorf("%q", got)
	}
}

func TestNothingHappensWithoutAPanic(t *testing.T) {
	h, console, _ := speak()
	func() { defer h.Guard() }()
	if console.Len() != 0 {
		t.Errorf("%q", console)
	}
}

func TestAGuestThatCannotPowerOffRestarts(t *testing.T) {
	yes, no := func(string) bool { return true }, func(string) bool { return false }
	both := []int{unix.LINUX_REBOOT_CMD_POWER_OFF, unix.LINUX_REBOOT_CMD_RESTART}
	if got := howToEnd("amd64", no); !slices.Equal(got, both[1:]) {
		t.Error("x86 without ACPI", got)
	}
	if got := howToEnd("amd64", yes); !slices.Equal(got, both) {
		t.Error("x86 with ACPI", got)
	}
	if got := howToEnd("s390x", no); !slices.Equal(got, both) {
		t.Error("s390x", got)
	}
}

func TestConsoleTellsAPlainFileOnce(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	Console(f, "a\nb\n")
	if b, err := os.ReadFile(f.Name()); err != nil || string(b) != "a\nb\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestATerminalThatPassedItsBytesOnIsNotWaitedFor(t *testing.T) {
	var tty *os.File
	testenv.Require(t, testenv.Func(testenv.Terminals, func() (err error) {
		tty, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
		return err
	}))
	defer tty.Close()
	if !drained(int(tty.Fd()), time.Second) {
		t.Error("nothing was written and still it waits")
	}
}
