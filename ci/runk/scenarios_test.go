package runk_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katabuild/katabuild/internal/mountinfo"
)

func ptr[T any](v T) *T { return &v }

func TestTheExitCodeIsTheProcesss(t *testing.T) {
	both(t, func(h *host) string {
		out := ""
		for _, script := range []string{"true", "echo out; echo err >&2; exit 7",
			"sleep 100 & kill -9 $!; wait $!", "cat; echo end"} {
			out += h.sh(script).run() + "\n"
		}
		return out
	})
}

func TestAProgramThatIsNotThereIsAnError(t *testing.T) {
	both(t, func(h *host) string {
		h.spec.Process.Args = []string{"nosuch"}
		h.write()
		r := h.do("run", h.id())
		said := strings.Contains(r.Err, "executable file not found in $PATH")
		left := strings.TrimSpace(h.good("list", "--quiet"))
		return fmt.Sprintf("%d %v %q", r.Code, said, left)
	})
}

func TestRightsAreThoseOfTheSpecification(t *testing.T) {
	script := "grep -e ^Uid -e ^Gid -e ^Groups -e ^Cap -e ^NoNew -e ^Seccomp: -e ^Sig[BIC] -e ^Umask " +
		"/proc/self/status; id; env | sort; pwd; ulimit -a; cat /proc/self/oom_score_adj; ls /proc/self/fd"
	for name, change := range map[string]func(*specs.Spec){
		"as runc has it": func(*specs.Spec) {},
		"a user": func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 6}, Umask: ptr(uint32(0o77))}
			s.Process.Cwd, s.Process.Env = "/home/someone", append(s.Process.Env, "A=b c")
		},
		"all rights": func(s *specs.Spec) {
			all := []string{"CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_NET_RAW", "CAP_BPF"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
			s.Process.NoNewPrivileges = false
		},
		"limits": func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200},
				{Type: "RLIMIT_CORE", Soft: 0, Hard: 0}, {Type: "RLIMIT_NPROC", Soft: 77, Hard: 77}}
			s.Process.OOMScoreAdj = ptr(500)
		},
		"a filter": func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
				Architectures: []specs.Arch{specs.ArchX86_64},
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno,
					ErrnoRet: ptr(uint(13))}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(h *host) string {
				change(h.spec)
				return h.sh(script + "; mkdir /tmp/x 2>&1").run()
			})
		})
	}
}

func TestMountsAreThoseOfTheSpecification(t *testing.T) {
	both(t, func(h *host) string {
		h.spec.Mounts = append(h.spec.Mounts,
			specs.Mount{Destination: "/data/in", Type: "bind", Source: "/etc",
				Options: []string{"rbind", "ro", "nosuid"}},
			specs.Mount{Destination: "/file", Type: "bind", Source: "/etc/hostname",
				Options: []string{"bind", "ro"}},
			specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs",
				Options: []string{"size=1m", "noexec"}})
		out := h.sh("cat /proc/self/mountinfo").run()
		list, _, _ := strings.Cut(out, "(0)")
		all, err := mountinfo.Parse(list)
		if err != nil {
			h.Fatal(err)
		}
		masked := append(slices.Clone(h.spec.Linux.MaskedPaths), "/sys/fs/cgroup")
		var got []string
		for i, l := range strings.Split(strings.TrimSpace(list), "\n") {
			m := all[i]
			seen := m.Point + " " + m.Type + " " + strings.Fields(l)[5]
			if slices.Contains(masked, m.Point) { // what is in its place is the runtime's own choice
				seen = m.Point
			}
			got = append(got, seen)
		}
		slices.Sort(got)
		return strings.ReplaceAll(strings.Join(got, "\n"), h.bundle, "")
	})
}

func TestDevicesAreThoseOfTheSpecification(t *testing.T) {
	both(t, func(h *host) string {
		h.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/more", Type: "c", Major: 1, Minor: 3,
			FileMode: ptr(os.FileMode(0o640)), UID: ptr(uint32(7)), GID: ptr(uint32(8))}}
		return h.sh("cd /dev; for f in * pts/ptmx; do stat -c '%n %F %a %u %g %t %T %N' $f; done; " +
			"echo x >/dev/more").run()
	})
}

func TestNamespacesAreThoseOfTheSpecification(t *testing.T) {
	kinds := []string{"pid", "net", "ipc", "uts", "mnt", "cgroup", "user", "time"}
	seen := func(h *host) string {
		out := h.sh("hostname; for k in " + strings.Join(kinds, " ") + "; do readlink /proc/self/ns/$k; done; " +
			"echo $$; cat /proc/self/uid_map /proc/self/cgroup").run()
		for _, k := range kinds {
			own, err := os.Readlink("/proc/self/ns/" + k)
			if err != nil {
				h.Fatal(err)
			}
			out = strings.Replace(out, own, "the host's", 1)
		}
		var got []string
		for l := range strings.Lines(out) {
			if name, _, is := strings.Cut(l, ":["); is {
				l = "its own " + name + "\n"
			}
			if strings.HasPrefix(l, "0::") { // runc's version leaves that of version 2 alone, as runk does
				continue
			}
			got = append(got, l)
		}
		return strings.ReplaceAll(strings.Join(got, ""), h.group(), "GROUP")
	}
	for name, change := range map[string]func(*specs.Spec){
		"as runc has it": func(*specs.Spec) {},
		"few": func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}
			s.Hostname = ""
		},
		"another's network": func(s *specs.Spec) {
			for i := range s.Linux.Namespaces {
				if n := &s.Linux.Namespaces[i]; n.Type == specs.NetworkNamespace {
					n.Path = "/proc/self/ns/net"
				}
			}
		},
		"users": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(h *host) string {
				if name == "users" { // its root has to get to the root file system
					for _, d := range []string{h.bundle, filepath.Dir(h.bundle), filepath.Dir(filepath.Dir(h.bundle))} {
						if err := os.Chmod(d, 0o755); err != nil {
							h.Fatal(err)
						}
					}
				}
				change(h.spec)
				return seen(h)
			})
		})
	}
}

func TestLimitsAreThoseOfTheSpecification(t *testing.T) {
	files := strings.Fields("memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes memory/memory.swappiness " +
		"memory/memory.oom_control cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus " +
		"cpuset/cpuset.mems pids/pids.max")
	read := func(h *host) string {
		out := ""
		for _, f := range files {
			controller, name, _ := strings.Cut(f, "/")
			b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, h.group(), name))
			if err != nil {
				b = []byte("none\n")
			}
			out += f + " " + string(b)
		}
		return out
	}
	both(t, func(h *host) string {
		h.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20)),
			Reservation: ptr(int64(32 << 20))}
		h.spec.Linux.Resources.CPU = &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)),
			Period: ptr(uint64(100000)), Cpus: "0"}
		h.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(33))}
		h.background()
		out := read(h)
		limits := filepath.Join(h.bundle, "limits.json")
		if err := os.WriteFile(limits, []byte(`{"memory":{"limit":134217728},"cpu":{"shares":256,"quota":20000,
			"period":100000},"pids":{"limit":44}}`), 0o644); err != nil {
			h.Fatal(err)
		}
		h.good("update", "--resources", limits, h.id())
		return out + read(h)
	})
}

func TestDevicesAreRefused(t *testing.T) {
	for name, rules := range map[string][]specs.LinuxDeviceCgroup{
		"none but the default ones": {{Allow: false, Access: "rwm"}},
		"one more": {{Allow: false, Access: "rwm"},
			{Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rw"}},
		"all": {{Allow: true, Access: "rwm"}},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(h *host) string {
				h.spec.Linux.Resources.Devices = rules
				all := []string{"CAP_MKNOD"}
				h.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
				h.spec.Process.NoNewPrivileges = false
				h.spec.Root.Readonly = false
				return h.sh("busybox=/bin/busybox; for d in 'c 1 3' 'c 1 11' 'c 10 229' 'b 7 0'; do " +
					"$busybox mknod /dev/x $d 2>&1; (: </dev/x) 2>&1; $busybox rm -f /dev/x; done").run()
			})
		})
	}
}

// seenState is what can be compared of a state.
func seenState(h *host, said string) string {
	var s map[string]any
	if err := json.Unmarshal([]byte(said), &s); err != nil {
		h.Fatal(err)
	}
	if pid, ok := s["pid"].(float64); ok && pid > 0 {
		s["pid"] = "some"
	}
	delete(s, "created")
	s["owner"] = fmt.Sprint(s["owner"])
	b, err := json.Marshal(s)
	if err != nil {
		h.Fatal(err)
	}
	return strings.NewReplacer(h.bundle, "BUNDLE", h.id(), "ID").Replace(string(b)) + "\n"
}

func TestAContainerLives(t *testing.T) {
	both(t, func(h *host) string {
		h.spec.Annotations = map[string]string{"some": "thing"}
		h.spec.Root.Readonly = false
		h.sh("trap 'echo bye; exit 3' TERM; touch /tmp/up; while :; do sleep 0.01; done")
		pidfile := filepath.Join(h.bundle, "pid")
		said, code := "", func(args ...string) string { return fmt.Sprintf("%s: %d\n", args[0], h.do(args...).Code) }
		said += code("state", h.id()) + code("start", h.id()) + code("kill", h.id()) + code("delete", h.id()) +
			code("delete", "--force", h.id()) + code("exec", h.id(), "true")
		h.good("create", "--pid-file", pidfile, h.id())
		said += seenState(h, h.good("state", h.id()))
		said += code("create", h.id())
		if _, err := os.Stat(h.file("up")); err == nil {
			h.Error("it runs before it is started")
		}
		pid, err := os.ReadFile(pidfile)
		if err != nil || !strings.Contains(h.good("state", h.id()), `"pid": `+string(pid)) {
			h.Errorf("pid file %q, %v", pid, err)
		}
		said += code("exec", h.id(), "true")
		h.good("start", h.id())
		h.await(h.file("up"))
		said += seenState(h, h.good("state", h.id())) + code("start", h.id()) + code("delete", h.id())
		var all []json.RawMessage
		if err := json.Unmarshal([]byte(h.good("list", "--format", "json")), &all); err != nil || len(all) != 1 {
			h.Fatal(err)
		}
		said += seenState(h, string(all[0]))
		said += h.good("list", "--quiet")[:5] + "\n"
		said += fmt.Sprintf("%d columns\n", len(strings.Fields(strings.Split(h.good("list"), "\n")[0])))
		h.good("pause", h.id())
		said += seenState(h, h.good("state", h.id())) + code("pause", h.id()) + code("exec", h.id(), "true")
		h.good("resume", h.id())
		said += seenState(h, h.good("state", h.id())) + code("resume", h.id())
		h.good("kill", h.id(), "TERM")
		h.status("stopped")
		said += seenState(h, h.good("state", h.id()))
		said += code("kill", h.id(), "KILL") + code("exec", h.id(), "true") + code("start", h.id())
		h.good("delete", h.id())
		return said + code("state", h.id())
	})
}

func TestACreatedContainerCanBeGivenUp(t *testing.T) {
	both(t, func(h *host) string {
		h.sh("echo never")
		h.good("create", h.id())
		h.good("delete", h.id())
		h.good("create", h.id())
		h.good("kill", h.id(), "KILL")
		h.status("stopped")
		h.good("delete", h.id())
		return fmt.Sprint(h.do("state", h.id()).Code)
	})
}

func TestAnExecIsInTheContainer(t *testing.T) {
	both(t, func(h *host) string {
		h.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(33))}
		h.background()
		show := func(args ...string) string {
			r := h.do(append([]string{"exec"}, args...)...)
			return strings.ReplaceAll(fmt.Sprintf("%s(%d)\n", r.Out, r.Code), h.group(), "GROUP")
		}
		said := show(h.id(), "sh", "-c", "exit 9") + show(h.id(), "nosuch") +
			show("--user", "1000:1000", "--env", "MORE=x", "--cwd", "/tmp", "--additional-gids", "5", h.id(), "sh",
				"-c", "id; env | sort; pwd; grep -e ^Cap -e ^NoNew /proc/self/status") +
			show("--cap", "CAP_SYS_TIME", h.id(), "grep", "^Cap", "/proc/self/status") +
			show(h.id(), "sh", "-c", "ls /proc/self/fd; cat /proc/self/cgroup | grep -v ^0: ; hostname")
		process := filepath.Join(h.bundle, "process.json")
		if err := os.WriteFile(process, []byte(`{"cwd":"/tmp",
			"args":["sh","-c","env; pwd; id; grep ^Cap /proc/self/status; exit 4"],
			"env":["PATH=/bin","X=y"],"user":{"uid":5,"gid":6}}`), 0o644); err != nil {
			h.Fatal(err)
		}
		said += show("--process", process, h.id())
		pidfile := filepath.Join(h.bundle, "execpid")
		said += show("--detach", "--pid-file", pidfile, h.id(), "sleep", "999")
		pid, err := os.ReadFile(pidfile)
		if err != nil {
			h.Fatal(err)
		}
		var pids []int
		if err := json.Unmarshal([]byte(h.good("ps", "--format", "json", h.id())), &pids); err != nil {
			h.Fatal(err)
		}
		said += fmt.Sprintf("%d processes, the one of the file among them: %v\n", len(pids),
			slices.Contains(strings.Fields(fmt.Sprint(pids)), strings.TrimSpace(string(pid))) ||
				strings.Contains(fmt.Sprint(pids), string(pid)))
		said += fmt.Sprintf("%d lines of ps\n", strings.Count(h.good("ps", h.id()), "\n"))
		h.good("kill", "--all", h.id(), "KILL")
		h.status("stopped")
		return said
	})
}

func TestHooksAreRunInTheirOrder(t *testing.T) {
	both(t, func(h *host) string {
		said := filepath.Join(h.bundle, "said")
		hook := func(kind string) []specs.Hook {
			return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo " + kind + " $E >>" + said +
				"; cat >>" + said + "; echo >>" + said}, Env: []string{"E=f", "PATH=/bin:/usr/bin"}}}
		}
		h.spec.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime"), Poststart: hook("poststart"),
			Poststop: hook("poststop")}
		//lint:ignore SA1019 prestart hooks are deprecated, and in use
		h.spec.Hooks.Prestart = hook("prestart")
		h.spec.Hooks.CreateContainer = []specs.Hook{{Path: "/bin/sh",
			Args: []string{"sh", "-c", "echo createContainer >>" + said}}}
		h.spec.Hooks.StartContainer = []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo startContainer"}}}
		h.spec.Root.Readonly = false
		out := h.sh("echo main").run()
		b, err := os.ReadFile(said)
		if err != nil {
			h.Fatal(err)
		}
		kind := ""
		for l := range strings.Lines(string(b)) {
			if strings.HasPrefix(l, "{") {
				l = seenState(h, l)
				if strings.HasPrefix(kind, "poststart") { // runc 1.1 calls a container created that runs
					l = strings.Replace(l, `"created"`, `"running"`, 1)
				}
			}
			kind = l
			out += l
		}
		return out
	})
}

func TestAHookThatFailsIsTheEnd(t *testing.T) {
	both(t, func(h *host) string {
		h.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		r := h.do("run", h.sh("echo main").id())
		return fmt.Sprintf("%d %q %q", r.Code, r.Out, h.good("list", "--quiet"))
	})
}

func TestFilesAreHandedOn(t *testing.T) {
	both(t, func(h *host) string {
		h.sh("cat <&3; cat <&4; ls /proc/self/fd")
		cmd := h.command("run", "--preserve-fds", "2", h.id())
		for _, text := range []string{"three", "four"} {
			path := filepath.Join(h.bundle, text)
			if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
				h.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				h.Fatal(err)
			}
			defer f.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
		r := h.with(cmd)
		return fmt.Sprintf("%s(%d)", r.Out, r.Code)
	})
}

func TestErrorsAreLogged(t *testing.T) {
	both(t, func(h *host) string {
		log := filepath.Join(h.bundle, "log")
		r := h.do("--log", log, "--log-format", "json", "state", "nosuch")
		b, err := os.ReadFile(log)
		if err != nil {
			h.Fatal(err)
		}
		var line struct{ Level, Msg, Time string }
		if err := json.Unmarshal([]byte(strings.Split(string(b), "\n")[0]), &line); err != nil {
			h.Fatal(err)
		}
		return fmt.Sprint(r.Code, line.Level, strings.Contains(line.Msg, "container does not exist"), line.Time != "")
	})
}

// TestTheCommandsOfThePage runs all of docs/runk.md.
func TestTheCommandsOfThePage(t *testing.T) {
	need(t)
	page, err := os.ReadFile("../../docs/runk.md")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(program(t), filepath.Join(bin, "runk")); err != nil {
		t.Fatal(err)
	}
	script := "set -eu\n"
	for i, part := range strings.Split(string(page), "\n```") {
		if commands, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			script += commands + "\n"
		}
	}
	script = strings.ReplaceAll(strings.ReplaceAll(script, "runk ", "runk --root $PWD/states "), "web1", "test-page-1")
	script = strings.ReplaceAll(script, "web2", "test-page-2")
	cmd := exec.Command("sh", "-xc", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\nhere\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWhatAContainerUsesIsTold(t *testing.T) {
	both(t, func(h *host) string {
		h.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
		h.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(33))}
		h.background()
		var e struct {
			Type, ID string
			Data     struct {
				CPU    struct{ Usage struct{ Total uint64 } }
				Memory struct {
					Usage struct{ Limit, Usage uint64 }
					Raw   map[string]uint64
				}
				Pids struct{ Current, Limit uint64 }
			}
		}
		if err := json.Unmarshal([]byte(h.good("events", "--stats", h.id())), &e); err != nil {
			h.Fatal(err)
		}
		d := e.Data
		return fmt.Sprint(e.Type, e.ID == h.id(), d.CPU.Usage.Total > 0, d.Memory.Usage.Limit, d.Memory.Usage.Usage > 0,
			d.Memory.Raw["hierarchical_memory_limit"], d.Pids.Current, d.Pids.Limit)
	})
}

func TestLackOfMemoryIsTold(t *testing.T) {
	need(t)
	h := newHost(t, "runk", program(t))
	h.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(8 << 20))}
	h.spec.Root.Readonly = false
	h.sh("touch /tmp/up; until [ -e /tmp/go ]; do sleep 0.01; done; " +
		"head -c 100000000 /dev/zero | tail >/dev/null; touch /tmp/done; exec sleep 1000")
	t.Cleanup(func() { h.do("delete", "--force", h.id()) })
	h.good("run", "--detach", h.id())
	h.await(h.file("up"))
	cmd := h.command("events", "--interval", "20ms", h.id())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := drain(out, "\n")
	if err := os.WriteFile(h.file("go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	said += drain(out, `"type":"oom"`)
	h.await(h.file("done"))
	h.good("kill", h.id(), "KILL")
	said += drain(out, "")
	if err := cmd.Wait(); err != nil || !strings.Contains(said, `"type":"oom"`) {
		t.Errorf("%v\n%s", err, said)
	}
}

// TestControlGroupsOfVersion2 runs a container where version 2 is all there is. On a host that has both, the
// controllers are those of version 1, and what is left are processes, the freezer, devices and the end of all.
func TestControlGroupsOfVersion2(t *testing.T) {
	need(t)
	h := newHost(t, "runk", program(t))
	mount := "/sys/fs/cgroup"
	if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil {
		h.version2, mount = true, "/sys/fs/cgroup/unified"
	}
	t.Cleanup(func() { h.do("delete", "--force", h.id()) })
	h.spec.Process.NoNewPrivileges = false
	h.background()
	group := filepath.Join(mount, h.group())
	if r := h.do("exec", h.id(), "sh", "-c", "sleep 1000 & exit 3"); r.Code != 3 {
		t.Errorf("%+v", r)
	}
	procs, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil || len(strings.Fields(string(procs))) != 2 {
		t.Errorf("%q, %v", procs, err)
	}
	h.good("pause", h.id())
	h.status("paused")
	h.good("resume", h.id())
	h.status("running")
	if out := h.good("events", "--stats", h.id()); !strings.Contains(out, `"total":`) {
		t.Error(out)
	}
	h.good("kill", "--all", h.id(), "KILL")
	h.status("stopped")
	h.good("delete", h.id())
	if _, err := os.Stat(group); err == nil {
		t.Errorf("%s is left", group)
	}
}

func TestAUserWithoutRightsRunsContainers(t *testing.T) {
	both(t, func(h *host) string {
		const nobody = 65534
		h.user = nobody
		h.spec.Linux.Namespaces = append(h.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: nobody, Size: 1}}
		h.spec.Linux.UIDMappings, h.spec.Linux.GIDMappings = m, m
		h.spec.Linux.Resources, h.spec.Linux.CgroupsPath = nil, ""
		for i := range h.spec.Mounts { // a group that is not mapped
			opts := &h.spec.Mounts[i].Options
			*opts = slices.DeleteFunc(*opts, func(o string) bool { return o == "gid=5" })
		}
		h.sh("id; cat /proc/self/uid_map /proc/self/setgroups; grep -e ^Cap -e ^Groups /proc/self/status; " +
			"ls -l /dev; exit 5")
		for _, dir := range []string{h.bundle, h.root} {
			if out, err := exec.Command("chown", "-R", fmt.Sprint(nobody), dir).CombinedOutput(); err != nil {
				h.Fatalf("%v: %s", err, out)
			}
		}
		if err := os.Chmod(filepath.Dir(h.bundle), 0o755); err != nil {
			h.Fatal(err)
		}
		return regexp.MustCompile(`[A-Z][a-z]{2} +[0-9]+ [0-9:]+`).ReplaceAllString(h.run(), "DATE")
	})
}
