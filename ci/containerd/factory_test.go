package containerd

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// factoryVariable says where the guests of pods come from, in all tests: "template" or "pool". Otherwise they boot.
const (
	factoryVariable = "KATABUILD_TEST_FACTORY"
	pooled          = "pool"
)

// waiting is how many guests the pool keeps ready.
const waiting = 2

// What the log of a pod says of a guest that came from there.
const (
	fromTemplate = "the guest was restored from a template"
	fromPool     = "the guest waited in the pool"
)

// factory is where guests come from.
type factory struct{ kind, dir string }

// factoryOf reads the variable. Templates and the socket lie below dir.
func factoryOf(t *testing.T, dir string) factory {
	t.Helper()
	kind := os.Getenv(factoryVariable)
	if kind != "" && kind != "template" && kind != pooled {
		t.Fatalf("%s is %q: want template or pool", factoryVariable, kind)
	}
	return factory{kind, dir}
}

// hypervisor is what section [hypervisor.qemu] has for it: microvm takes no devices while it runs.
func (f factory) hypervisor() string {
	if f.kind == "" {
		return ""
	}
	return "machine_type = \"q35\"\n"
}

// section is what the configuration has for it.
func (f factory) section() string {
	if f.kind == "" {
		return ""
	}
	text := fmt.Sprintf("[factory]\nenable_template = true\ntemplate_path = %q\n", filepath.Join(f.dir, "templates"))
	if f.kind == pooled {
		text += fmt.Sprintf("vm_cache_number = %d\nvm_cache_endpoint = %q\n", waiting, filepath.Join(f.dir, "pool/s"))
	}
	return text
}

// start makes the template and starts the pool's daemon, which end with the test. Guests must have come from there by
// then; those that did not are told with the reason.
func (f factory) start(t *testing.T, s *setting) {
	t.Helper()
	if f.kind == "" || !s.guest() {
		return
	}
	f.prepare(t, s.config)
	came := fromTemplate
	if f.kind == pooled {
		came = fromPool
		f.serve(t, s.config)
	}
	t.Cleanup(func() {
		b, err := os.ReadFile(s.LogFile())
		if err != nil {
			t.Error(err)
		}
		n := 0
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, came) {
				n++
			}
			if strings.Contains(line, "the guest boots, as") || strings.Contains(line, "as none of the pool is had") {
				t.Log(strings.TrimSpace(line))
			}
		}
		t.Logf("%d guests came from the %s", n, f.kind)
		if n == 0 {
			t.Errorf("no guest came from the %s", f.kind)
		}
	})
}

// runtimeProgram is kata-runtime.
func runtimeProgram(t *testing.T) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join(repository, "bin/kata-runtime"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// prepare makes the template.
func (f factory) prepare(t *testing.T, config string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), runtimeProgram(t), "--config", config, "factory", "init").
		CombinedOutput()
	if err != nil {
		t.Fatalf("factory init: %v: %s", err, out)
	}
}

// serve runs the pool's daemon until the test ends, and waits until it has a guest.
func (f factory) serve(t *testing.T, config string) {
	t.Helper()
	program := runtimeProgram(t)
	var said bytes.Buffer
	cmd := exec.Command(program, "--config", config, "factory", "serve")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended, which Wait says
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("factory serve: %v: %s", err, said.Bytes())
		}
	})
	until(t, patience, "a guest of the pool", func() bool {
		out, _ := exec.CommandContext(t.Context(), program, "--config", config, "factory", "status").CombinedOutput()
		return strings.Contains(string(out), "pool: ") && !strings.Contains(string(out), "pool: 0 ")
	})
}
