package options

import (
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	def := Parse("")
	if want := (Options{Log: slog.LevelError, ServerAddr: DefaultServerAddr}); !reflect.DeepEqual(def, want) {
		t.Fatalf("nothing asked for: got %+v, want %+v", def, want)
	}
	for line, want := range map[string]func(*Options){
		"console=ttyS0 root=/dev/vda ro quiet -- single": func(*Options) {},
		"agent.log=debug\n":                                   func(o *Options) { o.Log = slog.LevelDebug },
		"agent.log=trace":                                     func(o *Options) { o.Log = LevelTrace },
		"agent.log=critical":                                  func(o *Options) { o.Log = LevelCritical },
		"agent.log=debug agent.log=warn":                      func(o *Options) { o.Log = slog.LevelWarn },
		"agent.server_addr=unix:///run/a":                     func(o *Options) { o.ServerAddr = "unix:///run/a" },
		"agent.debug_console":                                 func(o *Options) { o.DebugConsole = true },
		"agent.debug_console=0":                               func(*Options) {},
		"panic=-1":                                            func(o *Options) { o.Panic = true },
		"systemd.unified_cgroup_hierarchy=0":                  func(o *Options) { o.CgroupV1 = true },
		"systemd.unified_cgroup_hierarchy=no":                 func(o *Options) { o.CgroupV1 = true },
		"systemd.unified_cgroup_hierarchy":                    func(*Options) {},
		"cgroup_no_v1=all systemd.unified_cgroup_hierarchy=0": func(*Options) {},
		"agent.container_pipe_size=65536":                     func(o *Options) { o.PipeSize = 65536 },
		"agent.cdi_timeout=3 agent.devmode": func(o *Options) {
			o.Later = []string{"agent.cdi_timeout=3", "agent.devmode"}
		},
		"agent.debug_console agent.debug_console_vport=1026": func(o *Options) {
			o.DebugConsole,
				o.DebugConsolePort = true, 1026
		},
		"agent.debug_console_vport=0": func(*Options) {},
		"agent.trace":                 func(o *Options) { o.Trace = true },
		"agent.trace=0":               func(*Options) {},
		"agent.trace=maybe": func(o *Options) {
			o.Complaints = []string{`kernel command line: "agent.trace=maybe": want 1 or 0`}
		},
		"agent.log_vport=1025 agent.passfd_listener_port=1027": func(o *Options) {
			o.LogPort, o.StreamsPort = 1025,
				1027
		},
		"agent.log_vport=4294967294": func(o *Options) { o.LogPort = 1<<32 - 2 },
		"agent.hotplug_timeout=3":    func(o *Options) { o.HotplugTimeout = 3 * time.Second },
		"agent.hotplug_timeout=5 agent.hotplug_timeout=soon " +
			"agent.log_vport=4294967295 agent.debug_console_vport": func(o *Options) {
			o.HotplugTimeout = 5 * time.Second
			o.Complaints = []string{
				`kernel command line: "agent.hotplug_timeout=soon": want a whole number from 0 to 86400`,
				`kernel command line: "agent.log_vport=4294967295": want a whole number from 0 to 4294967294`,
				`kernel command line: "agent.debug_console_vport": want a whole number from 0 to 4294967294`,
			}
		},
		"agent.logg=debug": func(o *Options) {
			o.Complaints = []string{`kernel command line: no option is called "agent.logg"`}
		},
		"agent.log=loud agent.server_addr= agent.debug_console=maybe": func(o *Options) {
			o.Complaints = []string{
				`kernel command line: "agent.log=loud": want trace, debug, info, warn, error or critical`,
				`kernel command line: "agent.server_addr=": want an address such as vsock://-1:1024`,
				`kernel command line: "agent.debug_console=maybe": want 1 or 0`,
			}
		},
	} {
		o := def
		want(&o)
		if got := Parse(line); !reflect.DeepEqual(got, o) {
			t.Errorf("%q: got %+v, want %+v", line, got, o)
		}
	}
}

func TestWordsSplitAsTheKernelDoes(t *testing.T) {
	for line, want := range map[string][]string{
		"":                           nil,
		"  \t\n ":                    nil,
		"a b=c":                      {"a", "b=c"},
		" a\tb ":                     {"a", "b"},
		`dm="root, ro 0 1" b`:        {"dm=root, ro 0 1", "b"},
		`"dm-mod.create=root, ro" b`: {"dm-mod.create=root, ro", "b"},
		`a="open to the end`:         {"a=open to the end"},
		`a=x"y z"`:                   {`a=x"y z"`},
		`"`:                          {""},
		"a=b=c":                      {"a=b=c"},
	} {
		if got := Words(line); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("agent.log=debug panic=1 dm=\"a b\"")
	f.Add("agent. =\"\" agent.log=\x00")
	f.Fuzz(func(t *testing.T, line string) {
		o := Parse(line)
		if o.ServerAddr == "" {
			t.Error("no address to listen on")
		}
		for _, w := range Words(line) {
			if !strings.Contains(line, "\"") && strings.ContainsAny(w, " \t\n") {
				t.Errorf("word %q holds white space that was not quoted", w)
			}
		}
	})
}
