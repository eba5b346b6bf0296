package wake

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/wake"
)

// fakeMachine writes down what is done to it.
type fakeMachine struct {
	deeds []string
	fails string // the deed that fails
}

func (m *fakeMachine) do(name, value string) error {
	m.deeds = append(m.deeds, name+" "+value)
	if name == m.fails {
		return errors.New("cannot")
	}
	return nil
}

func (m *fakeMachine) ReseedRandomDev(b []byte) error { return m.do("seed", hex.EncodeToString(b)) }

func (m *fakeMachine) SetGuestDateTime(s, us int64) error {
	return m.do("time", time.Unix(s, us*1000).UTC().Format(time.RFC3339Nano))
}

// woken is what became of a stage: what its host was answered, the arguments of the program, and the error.
func woken(t *testing.T, m *fakeMachine, root string, say func(net.Conn)) (answer error, args []string, err error) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	g := Guest{Machine: m, Root: root, Now: func() time.Duration { return 5 }, Before: "found before",
		Execute: func(a []string) error { args = a; return errors.New("executed") }}
	waits, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- g.Wait(l, func() { close(waits) }) }()
	<-waits
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(c)
	answer = wake.Await(c)
	return answer, args, <-ended
}

func request(t *testing.T) *wake.Request {
	t.Helper()
	r, err := wake.New(strings.NewReader(strings.Repeat("abcdefgh", 20)), time.Unix(1700000000, 123456789), "")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAGuestIsWokenInOrderAndBeginsAnew(t *testing.T) {
	m, r, root := &fakeMachine{}, request(t), t.TempDir()
	for _, d := range []string{"etc", "run"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/machine-id"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	answer, args, err := woken(t, m, root, func(c net.Conn) {
		if err := r.Send(c); err != nil {
			t.Error(err)
		}
	})
	if answer != nil || err == nil || !strings.Contains(err.Error(), "executed") {
		t.Errorf("answered %v, ended %v", answer, err)
	}
	want := []string{"seed " + r.Seed, "time 2023-11-14T22:13:20.123456Z"}
	if strings.Join(m.deeds, "; ") != strings.Join(want, "; ") {
		t.Errorf("deeds %q, want %q", m.deeds, want)
	}
	if id, err := os.ReadFile(filepath.Join(root, "run/machine-id")); err != nil || string(id) != r.MachineID+"\n" {
		t.Errorf("machine id %q, %v", id, err)
	}
	if at, before, ok := Woken(args); !ok || at != 5 || before != "found before" {
		t.Errorf("the program's arguments %q", args)
	}
}

func TestAGuestThatIsWokenByHalfServesNothing(t *testing.T) {
	send := func(c net.Conn) {
		if err := request(t).Send(c); err != nil {
			t.Error(err)
		}
	}
	for name, tc := range map[string]struct {
		m   fakeMachine
		say func(net.Conn)
	}{
		"no randomness":    {fakeMachine{fails: "seed"}, send},
		"no clock":         {fakeMachine{fails: "time"}, send},
		"no document":      {fakeMachine{}, func(c net.Conn) { _, _ = c.Write([]byte("\x00\x00\x00\x02{}")) }},
		"another protocol": {fakeMachine{}, func(c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte("GET "), 4)) }},
	} {
		answer, args, err := woken(t, &tc.m, t.TempDir(), tc.say)
		if answer == nil || args != nil || err == nil {
			t.Errorf("%s: answered %v, executed %q, ended %v", name, answer, args, err)
		}
	}
}

func TestTheKernelCommandLineMakesNobodyWoken(t *testing.T) {
	for _, args := range [][]string{
		nil, {"/init"}, {"/init", name}, {"/init", name, "5"}, {name}, {name, "0", ""}, {name, "x", ""}, {name, "5"},
		{name, "5", "6", "7"},
	} {
		if _, _, ok := Woken(args); ok {
			t.Errorf("%q is woken", args)
		}
	}
}
