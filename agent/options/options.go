// Package options reads what the kernel command line asks of the agent.
//
// The names are those of Kata Containers, so that its hosts can start this agent. docs/formats/agent-api.md lists them.
package options

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
)

// DefaultServerAddr is where the agent listens unless told otherwise: every CID of this guest.
const DefaultServerAddr = "vsock://-1:" + agentapi.PortText

// LevelTrace and LevelCritical are the levels of agent.log that package slog has no name for.
const (
	LevelTrace    = slog.LevelDebug - 4
	LevelCritical = slog.LevelError + 4
)

// Options is what was asked, or its default. Get one from Parse.
type Options struct {
	Log          slog.Level // least level that reaches the console; errors unless asked for more
	ServerAddr   string     // where to listen
	DebugConsole bool       // a shell on the console
	CgroupV1     bool       // the host asks for version 1 of cgroups, which this agent does not mount
	WaitToWake   bool       // prepare the guest, and serve only once it was woken
	Trace        bool       // spans go to the host
	Panic        bool       // the command line says what the kernel does after a panic
	TestPanic    string     // where to panic; only binaries built for tests look at it

	// The following are zero unless asked for: then there is none, or the default of whoever needs it.
	DebugConsolePort uint32        // with DebugConsole: shells on this vsock port, instead of one on the console
	LogPort          uint32        // the log, as JSON, on this vsock port
	StreamsPort      uint32        // of containers' standard streams
	PipeSize         int           // of each pipe of a process's streams, in bytes
	HotplugTimeout   time.Duration // how long a device may take to appear

	// Complaints are words that could not be used, one sentence each. They never stop the agent.
	Complaints []string
	// Later are options of Kata Containers that this agent knows and does not act on.
	Later []string
}

// later holds the options of Kata Containers' agent that have no effect here yet, without their prefix.
var later = map[string]bool{
	"devmode": true, "cdh_api_timeout": true, "image_pull_timeout": true, "cdi_timeout": true,
	"launch_process_timeout": true, "visible_cdi_devices": true, "config_file": true, "guest_components_rest_api": true,
	"guest_components_procs": true, "secure_storage_integrity": true, "https_proxy": true, "no_proxy": true,
	"mem_agent_enable":        true,
	"mem_agent_memcg_disable": true, "mem_agent_memcg_swap": true, "mem_agent_memcg_swappiness_max": true,
	"mem_agent_memcg_period_secs": true, "mem_agent_memcg_period_psi_percent_limit": true,
	"mem_agent_memcg_eviction_psi_percent_limit": true, "mem_agent_memcg_eviction_run_aging_count_min": true,
	"mem_agent_compact_disable": true, "mem_agent_compact_period_secs": true,
	"mem_agent_compact_period_psi_percent_limit": true,
	"mem_agent_compact_psi_percent_limit":        true, "mem_agent_compact_sec_max": true,
	"mem_agent_compact_order":     true,
	"mem_agent_compact_threshold": true, "mem_agent_compact_force_times": true,
}

// Parse reads a kernel command line. It never fails: what it cannot use becomes a complaint.
func Parse(commandLine string) Options {
	o := Options{Log: slog.LevelError, ServerAddr: DefaultServerAddr}
	noV1, unified := false, true
	for _, w := range Words(commandLine) {
		name, value, assigned := strings.Cut(w, "=")
		complain := func(want string) {
			o.Complaints = append(o.Complaints, fmt.Sprintf("kernel command line: %q: want %s", w, want))
		}
		switch {
		case name == "panic":
			o.Panic = true
		case name == "cgroup_no_v1":
			noV1 = value == "all"
		case name == "systemd.unified_cgroup_hierarchy":
			on, ok := boolean(value, assigned)
			if ok {
				unified = on
			}
		case w == agentapi.WaitWord:
			o.WaitToWake = true
		case name == "agent.log":
			if l, ok := level(value); ok {
				o.Log = l
			} else {
				complain("trace, debug, info, warn, error or critical")
			}
		case name == "agent.server_addr":
			if value == "" {
				complain("an address such as " + DefaultServerAddr)
			} else {
				o.ServerAddr = value
			}
		case name == "agent.debug_console":
			on, ok := boolean(value, assigned)
			if !ok {
				complain("1 or 0")
			}
			o.DebugConsole = on
		case name == "agent.trace":
			on, ok := boolean(value, assigned)
			if !ok {
				complain("1 or 0")
			}
			o.Trace = on
		case name == "agent.debug_console_vport":
			number(value, maxPort, &o.DebugConsolePort, complain)
		case name == "agent.log_vport":
			number(value, maxPort, &o.LogPort, complain)
		case name == "agent.passfd_listener_port":
			number(value, maxPort, &o.StreamsPort, complain)
		case name == "agent.container_pipe_size":
			number(value, maxPipe, &o.PipeSize, complain)
		case name == "agent.hotplug_timeout":
			seconds := int64(o.HotplugTimeout / time.Second)
			number(value, maxSeconds, &seconds, complain)
			o.HotplugTimeout = time.Duration(seconds) * time.Second
		case name == "agent.test_panic":
			o.TestPanic = value
		default:
			short, ours := strings.CutPrefix(name, "agent.")
			switch {
			case !ours:
			case later[short]:
				o.Later = append(o.Later, w)
			default:
				o.Complaints = append(o.Complaints, fmt.Sprintf("kernel command line: no option is called %q", name))
			}
		}
	}
	o.CgroupV1 = !unified && !noV1
	return o
}

// Words splits a kernel command line as the kernel does (lib/cmdline.c, next_arg): at white space outside double
// quotes, where the quotes around a whole word or around its value are not part of it.
func Words(line string) []string {
	var words []string
	var start int
	quoted, inside := false, false
	end := func(i int) {
		if inside {
			words = append(words, unquote(line[start:i]))
		}
		inside = false
	}
	for i := range len(line) {
		switch c := line[i]; {
		case !quoted && (c == ' ' || c >= '\t' && c <= '\r'):
			end(i)
		default:
			if !inside {
				start, inside = i, true
			}
			if c == '"' {
				quoted = !quoted
			}
		}
	}
	end(len(line))
	return words
}

func unquote(w string) string {
	if rest, ok := strings.CutPrefix(w, `"`); ok {
		return strings.TrimSuffix(rest, `"`)
	}
	name, value, ok := strings.Cut(w, "=")
	if rest, quoted := strings.CutPrefix(value, `"`); ok && quoted {
		return name + "=" + strings.TrimSuffix(rest, `"`)
	}
	return w
}

// boolean reads 1, true, yes, on and their opposites; a name alone is true.
func boolean(value string, assigned bool) (on, ok bool) {
	if !assigned {
		return true, true
	}
	switch value {
	case "yes", "on":
		return true, true
	case "no", "off":
		return false, true
	}
	on, err := strconv.ParseBool(value)
	return on, err == nil
}

// Bounds of numbers.
const (
	maxPort    = 1<<32 - 2 // the last is VMADDR_PORT_ANY, <linux/vm_sockets.h>
	maxSeconds = 24 * 60 * 60
	maxPipe    = 1 << 30 // the kernel has its own bound, /proc/sys/fs/pipe-max-size
)

// number reads a whole number from 0 to most. What is none leaves to as it was, and is complained about.
func number[T int | int64 | uint32](value string, most uint64, to *T, complain func(want string)) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n > most {
		complain(fmt.Sprintf("a whole number from 0 to %d", most))
		return
	}
	*to = T(n)
}

func level(name string) (slog.Level, bool) {
	switch name {
	case "trace":
		return LevelTrace, true
	case "debug":
		return slog.LevelDebug, true
	case "info":
		return slog.LevelInfo, true
	case "warn":
		return slog.LevelWarn, true
	case "error":
		return slog.LevelError, true
	case "critical":
		return LevelCritical, true
	}
	return 0, false
}
