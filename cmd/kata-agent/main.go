// Command kata-agent is the agent inside the guest: PID 1 of a small one, a service of a large one.
//
// It starts containers by running itself once more; nobody else does. As PID 1 it takes no arguments: the kernel passes
// it every word of its command line that it does not know itself. Options are read from /proc/cmdline, and for tests
// from KATA_AGENT_SERVER_ADDR and KATA_AGENT_LOG_LEVEL.
//
// The guest's processors may be few and its idle time is worth money: Go shall not look for cgroup limits at start, nor
// every second.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import "github.com/katabuild/katabuild/cmd/kata-agent/program"

// version is set by -ldflags "-X main.version=..."; else it is that of the module.
var version = ""

func main() { program.Main(version, nil) }
