package main

import (
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi"
)

func TestAConsoleThatNobodyTurnedOnIsNotDialled(t *testing.T) {
	for _, c := range []struct {
		append string
		port   uint32
		off    bool
	}{
		{"console=hvc0 quiet", agentapi.DebugConsolePort, true},
		{"agent.debug_console agent.debug_console_vport=1026 quiet", agentapi.DebugConsolePort, false},
		{"agent.debug_console=true agent.debug_console_vport=1026", agentapi.DebugConsolePort, false},
		{"agent.debug_console=false agent.debug_console_vport=1026", agentapi.DebugConsolePort, true},
		{"agent.debug_console", agentapi.DebugConsolePort, true}, // on the machine's console
		{"agent.debug_console agent.debug_console_vport=1026", 1025, true},
		{"agent.debug_console agent.debug_console_vport=4000", 4000, false},
	} {
		if off := consoleOff([]string{"qemu", "-append", c.append, "-m", "1"}, c.port); off != c.off {
			t.Errorf("%q, port %d: off is %v", c.append, c.port, off)
		}
	}
	if consoleOff([]string{"qemu"}, agentapi.DebugConsolePort) ||
		consoleOff([]string{"qemu", "-append"}, agentapi.DebugConsolePort) {
		t.Error("a command line that says nothing of the kernel's counts as off")
	}
}
