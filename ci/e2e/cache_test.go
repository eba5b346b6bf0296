package e2e

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// served is the store of the user, served until the test ends.
type served struct {
	address string // grpc://…
	cmd     *exec.Cmd
}

func serveStore(t *testing.T, env []string, flags ...string) *served {
	t.Helper()
	s := &served{cmd: command(t, env, append([]string{"store", "serve", "127.0.0.1:0"}, flags...)...)}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			s.end(t)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if s.address = regexp.MustCompile(`grpc://[0-9.:]+`).FindString(line); s.address == "" {
		t.Fatalf("it said %q", line)
	}
	return s
}

// end interrupts the server, which must end well, and returns the processor time that it took.
func (s *served) end(t *testing.T) time.Duration {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the server: %v", err)
	}
	return s.cmd.ProcessState.UserTime() + s.cmd.ProcessState.SystemTime()
}

// TestAColdMachineBuildsAGuestFromAWarmCache has an empty store, which reaches no archive and has no tool-chain, build
// the tiny and the default guest from the store of those who have built them.
func TestAColdMachineBuildsAGuestFromAWarmCache(t *testing.T) {
	need(t)
	for _, name := range []string{"tiny", "default"} {
		t.Run(name, func(t *testing.T) { warm(t, name) })
	}
}

// warm builds a guest, which the user's store has, on a cold machine.
func warm(t *testing.T, name string) {
	t.Helper()
	tmp := t.TempDir()
	in := func(name string) string { return filepath.Join(tmp, name) }
	server := serveStore(t, nil)
	key := katabuild(t, nil, "store", "key")
	key.want(t, 0)
	// Where nothing can be fetched from.
	cold := []string{"KATABUILD_STORE=" + in("store"), "KATABUILD_STORE_KEY=" + in("key"),
		"KATABUILD_ARCHIVE=http://127.0.0.1:1/debian", "KATABUILD_SNAPSHOT=http://127.0.0.1:1/snapshot"}
	katabuild(t, cold, "store", "trust", strings.TrimSpace(key.out), "ci").want(t, 0)
	build := command(t, cold, "build", "recipes/"+name, "--lock", abs(t, "out/"+name+".lock.json"), "-o", in("guest"),
		"--progress", "json", "--cache-from", server.address)
	var said bytes.Buffer
	build.Stdout, build.Stderr = &said, &said
	begin := time.Now()
	if err := build.Run(); err != nil {
		t.Fatalf("%v: %s", err, &said)
	}
	wall := time.Since(begin)
	used := build.ProcessState.UserTime() + build.ProcessState.SystemTime()
	t.Logf("%s: %v, %v of processor time, %v the server's", name, wall, used, server.end(t))

	for _, wrong := range []string{`"kind":"start"`, `"kind":"log"`, `"kind":"fail"`, "compile"} {
		if strings.Contains(said.String(), wrong) {
			t.Errorf("a step ran, or there is a warning: %s", &said)
		}
	}
	if n := strings.Count(said.String(), `"kind":"hit"`); n != 2 {
		t.Errorf("%d hits, want 2: %s", n, &said)
	}
	for _, file := range []string{"manifest.json", "guest.lock.json"} {
		want, err1 := os.ReadFile(filepath.Join(abs(t, "out/"+name), file))
		got, err2 := os.ReadFile(filepath.Join(in("guest"), file))
		if err1 != nil || err2 != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs (%v, %v)", file, err1, err2)
		}
	}
	katabuild(t, cold, "verify", in("guest")).want(t, 0)
	katabuild(t, cold, "store", "verify").want(t, 0, "2 steps")
	// No tool-chain was unpacked, no source fetched, no object compiled.
	for _, folder := range []string{"toolchains", "objects", "logs"} {
		if left, err := filepath.Glob(in("store/" + folder + "/*")); err != nil || len(left) > 0 {
			t.Errorf("%s has %v (%v)", folder, left, err)
		}
	}
}
