package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/pty"
)

// typed is a text that a program is waited for to show, and the keys that are typed then.
type typed struct {
	shown, keys string
	again       bool // type them again and again, until the next text is shown
}

// drive runs katabuild in a terminal and types. It returns all that was shown, and the exit code.
func drive(t *testing.T, keys []typed, args ...string) (string, int) {
	t.Helper()
	master, tty, err := pty.Open(unix.Winsize{Row: 40, Col: 120})
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	cmd := command(t, []string{"TERM=xterm"}, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	var mu sync.Mutex
	var shown bytes.Buffer
	var all strings.Builder
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			mu.Lock()
			shown.Write(b[:n])
			all.Write(b[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	for i, k := range keys {
		last := time.Now()
		for deadline := last.Add(6 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
			mu.Lock()
			found := bytes.Contains(shown.Bytes(), []byte(k.shown))
			if found {
				shown.Reset()
			}
			mu.Unlock()
			if found {
				break
			}
			select {
			case <-ended:
				deadline = time.Time{}
			default:
			}
			if i > 0 && keys[i-1].again && time.Since(last) > 3*time.Second {
				last = time.Now()
				if _, err := master.WriteString(keys[i-1].keys); err != nil {
					t.Fatal(err)
				}
			}
			if time.Now().After(deadline) {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				t.Fatalf("it never showed %q:\n%q", k.shown, all.String()[max(0, all.Len()-3000):])
			}
		}
		time.Sleep(time.Second) // the rest of the screen
		if _, err := master.WriteString(k.keys); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait()
	<-ended
	return all.String(), cmd.ProcessState.ExitCode()
}

// TestOptionsAreEditedInTheKernelsOwnEditor switches one option on that nobody decides, and one off that a feature
// asks for, by the keys that a person would type.
func TestOptionsAreEditedInTheKernelsOwnEditor(t *testing.T) {
	need(t, minutes)
	dir := kitchen(t)
	recipe := filepath.Join(dir, "recipes", "tiny")
	// Letters that are keys are shown in a colour of their own, and of a line only what changes is written.
	out, code := drive(t, []typed{
		{shown: "eneral setup", keys: "/"},
		{shown: "Search Configuration Parameter", keys: "SYSVIPC\n"},
		{shown: "Prompt: System V IPC", keys: "1"},
		{shown: "ystem V IPC", keys: "y"},
		{shown: "*", keys: "/"},
		{shown: "Search Configuration Parameter", keys: "PRINTK_TIME\n"},
		{shown: "Prompt: Show timing information", keys: "1"},
		{shown: "how timing information", keys: "n"},
		{keys: "\x1b\x1b", again: true},
		{shown: "save your new configuration", keys: "\n"},
	}, "kernel", "menuconfig", recipe, "--write", "--progress", "plain")
	if code != 0 {
		t.Fatalf("exit code %d\n%q", code, out[max(0, len(out)-3000):])
	}
	for _, want := range []string{"CONFIG_SYSVIPC=y", "the recipe names my.config now",
		"{option: CONFIG_PRINTK_TIME, value: n, reason: } # kernel/features/core.config:"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out[max(0, len(out)-2000):])
		}
	}
	fragment, err := os.ReadFile(filepath.Join(recipe, "my.config"))
	if err != nil {
		t.Fatal(err)
	}
	if s := string(fragment); !strings.Contains(s, "# General setup\n# reason: \nCONFIG_SYSVIPC=y\n") ||
		strings.Contains(s, "PRINTK_TIME") {
		t.Errorf("the fragment is\n%s", s)
	}
	text, err := os.ReadFile(filepath.Join(recipe, "recipe.yaml"))
	if err != nil || !strings.Contains(string(text), "  fragments: [my.config]\n") {
		t.Errorf("the recipe is\n%s%v", text, err)
	}
}

func TestAnEditorNeedsATerminal(t *testing.T) {
	need(t)
	katabuild(t, nil, "kernel", "nconfig", "recipes/tiny").want(t, 1, "nconfig needs a terminal")
}
