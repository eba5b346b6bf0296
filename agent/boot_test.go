package agent_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// kernel names the variable that holds the path of an x86_64 kernel for boot tests.
const kernel = "KATABUILD_TEST_VMLINUX"

// bootTimeout is many times what a boot takes under emulation on a busy machine.
const bootTimeout = 3 * time.Minute

// Each way in which the agent can die ends the guest by itself, with the reason on the console. Without panic= on the
// command line, a kernel would stand still after PID 1 ends, had the agent not told it otherwise.
func TestWhateverEndsTheAgentEndsTheGuest(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File(kernel),
		testenv.Tool("qemu-system-x86_64"), testenv.Tool("go"))
	initrd := boottest.Initrd(t, boottest.Build(t, "", "build", "-trimpath", "-tags=katabuild_test", "-ldflags=-s -w",
		"../cmd/kata-agent"))
	for how, want := range map[string]string{
		"agent.test_panic=main":      "katabuild-agent: panic: runtime error: index out of range [4] with length 0",
		"agent.test_panic=goroutine": "katabuild-agent: panic: asked for by agent.test_panic",
		"agent.test_panic=error":     "katabuild-agent: panic: asked for by agent.test_panic",
		"agent.test_panic=throw":     "fatal error: sync: unlock of unlocked mutex",
		"agent.server_addr=tcp://x":  `katabuild-agent: panic: listen on "tcp://x": want vsock://CID:PORT or unix://PATH`,
	} {
		t.Run(how, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
			defer cancel()
			cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m",
				"256",
				"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
				"-kernel", os.Getenv(kernel), "-initrd", initrd, "-append", "console=ttyS0 quiet "+how)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s\n%v\n%s", cmd, err, out)
			}
			console := strings.ReplaceAll(string(out), "\r", "")
			if !strings.Contains(console, "katabuild-agent: init\n") || !strings.Contains(console, "\n"+want+"\n") {
				t.Errorf("the console lacks %q:\n%s", want, console)
			}
		})
	}
}
