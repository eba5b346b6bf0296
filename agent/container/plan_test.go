package container

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestMountOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		in   specs.Mount
		want stage.Mount
	}{
		"a file system with flags and data": {
			specs.Mount{Destination: "/d", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "size=1m",
				"ro", "mode=755", "rw", "nodev"}},
			stage.Mount{Source: "tmpfs", Type: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_NODEV,
				Data: "size=1m,mode=755"},
		},
		"a tmpfs that begins with what is below": {
			specs.Mount{Destination: "/d", Type: "tmpfs", Options: []string{"tmpcopyup", "ro"}},
			stage.Mount{Source: "tmpfs", Type: "tmpfs", Flags: unix.MS_RDONLY, CopyUp: true, AsBelow: true},
		},
		"a bind with flags": {
			specs.Mount{Destination: "/d", Type: "none", Source: "/s", Options: []string{"bind", "ro", "nosuid",
				"rprivate", "size=1m"}},
			stage.Mount{Source: "/s", Bind: true, Set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID,
				Propagation: []uint64{unix.MS_PRIVATE | unix.MS_REC}},
		},
		"the last of two opposites counts": {
			specs.Mount{Destination: "/d", Type: "bind", Source: "/s", Options: []string{"rbind", "ro", "rw", "exec",
				"noexec"}},
			stage.Mount{Source: "/s", Bind: true, Recursive: true, Set: unix.MOUNT_ATTR_NOEXEC,
				Clear: unix.MOUNT_ATTR_RDONLY},
		},
		"access times are one field": {
			specs.Mount{Destination: "/d", Type: "bind", Source: "/s", Options: []string{"relatime", "noatime"}},
			stage.Mount{Source: "/s", Bind: true, Set: unix.MOUNT_ATTR_NOATIME, Clear: unix.MOUNT_ATTR__ATIME},
		},
		"recursive flags": {
			specs.Mount{Destination: "/d", Type: "bind", Source: "/s", Options: []string{"rbind", "rro", "rnosuid"}},
			stage.Mount{Source: "/s", Bind: true, Recursive: true,
				RSet: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID},
		},
		"cgroups": {
			specs.Mount{Destination: "/d", Type: "cgroup", Source: "x", Options: []string{"ro", "nosuid"}},
			stage.Mount{Source: "cgroup", Type: "cgroup2", Flags: unix.MS_RDONLY | unix.MS_NOSUID},
		},
		"proc is where it says": {
			specs.Mount{Destination: "d", Type: "proc"},
			stage.Mount{Source: "proc", Type: "proc", Exact: true},
		},
	} {
		tc.want.Name, tc.want.Destination = tc.in.Destination, "/d"
		if got, err := mount(tc.in); err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, tc.want)
		}
	}
	for name, m := range map[string]specs.Mount{
		"no type":           {Destination: "/d", Source: "/s"},
		"a relative source": {Destination: "/d", Type: "bind", Source: "s"},
		"the root":          {Destination: "/..", Type: "tmpfs"},
		"no destination":    {Type: "tmpfs"},
	} {
		if _, err := mount(m); err == nil || !strings.HasPrefix(err.Error(), "mount "+m.Destination) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMountsWithOtherOwners(t *testing.T) {
	some := []specs.LinuxIDMapping{{HostID: 1000, Size: 10}}
	own := []specs.LinuxIDMapping{{HostID: 5000, Size: 10}}
	with := func(m specs.Mount, namespaces ...specs.LinuxNamespace) (*blueprint, error) {
		s := spec("true")
		s.Linux.Namespaces = append(s.Linux.Namespaces, namespaces...)
		s.Linux.UIDMappings, s.Linux.GIDMappings = own, own
		m.Destination, m.Source = "/d", "/s"
		s.Mounts = append(s.Mounts, m)
		return newBlueprint("x", "/x", s, false)
	}
	last := len(spec("true").Mounts)
	for name, tc := range map[string]struct {
		in   specs.Mount
		ns   []specs.LinuxNamespace
		want idmap
	}{
		"mappings": {specs.Mount{Type: "bind", UIDMappings: some, GIDMappings: some}, nil,
			idmap{uids: some, gids: some}},
		"mappings and an option": {specs.Mount{Type: "bind", Options: []string{"ridmap"}, UIDMappings: some,
			GIDMappings: some}, nil, idmap{recursive: true, uids: some, gids: some}},
		"those of the container": {specs.Mount{Type: "bind", Options: []string{"idmap"}},
			[]specs.LinuxNamespace{{Type: "user"}}, idmap{uids: own, gids: own}},
		"those of its namespace": {specs.Mount{Type: "bind", Options: []string{"idmap"}},
			[]specs.LinuxNamespace{{Type: "user", Path: "/u"}}, idmap{}},
		"others than its own are": {specs.Mount{Type: "bind", UIDMappings: some, GIDMappings: some},
			[]specs.LinuxNamespace{{Type: "user"}}, idmap{uids: some, gids: some}},
	} {
		tc.want.mount = last
		b, err := with(tc.in, tc.ns...)
		if err != nil || len(b.trees) < 1 || !reflect.DeepEqual(b.trees[0], tc.want) ||
			b.stage.Trees != len(b.trees) || b.stage.Mounts[last].Tree != 1 || b.stage.Mounts[0].Tree != 0 {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	for name, m := range map[string]specs.Mount{
		"no bind":         {Type: "tmpfs", Options: []string{"idmap"}, UIDMappings: some, GIDMappings: some},
		"nobody's":        {Type: "bind", Options: []string{"idmap"}},
		"only half of it": {Type: "bind", UIDMappings: some},
	} {
		if _, err := with(m); err == nil || !strings.HasPrefix(err.Error(), "mount /d: other owners: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := fileSystem("/proc"); got != "proc" {
		t.Error(got)
	}
	if got := fileSystem("/nowhere"); got != "(unknown)" {
		t.Error(got)
	}
}

func TestCapabilities(t *testing.T) {
	if len(capabilities) != unix.CAP_LAST_CAP+1 || capabilities[unix.CAP_SYS_ADMIN] != "SYS_ADMIN" ||
		capabilities[unix.CAP_BPF] != "BPF" {
		t.Error("the names are not in the order of <linux/capability.h>")
	}
	got, unknown, err := caps(&specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "cap_kill"},
		Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL"}})
	if want := (&stage.Caps{Bounding: 1 | 1<<unix.CAP_KILL, Permitted: 1 << unix.CAP_KILL,
		Effective: 1 << unix.CAP_KILL}); err != nil || !reflect.DeepEqual(got, want) || len(unknown) > 0 {
		t.Errorf("%+v, %v, %v", got, unknown, err)
	}
	if _, _, err := caps(&specs.LinuxCapabilities{Effective: []string{"CAP_KILL"}}); err == nil {
		t.Error("effective, and not permitted: no error")
	}
	got, unknown, err = caps(&specs.LinuxCapabilities{Bounding: []string{"CAP_X", "CAP_CHOWN", "CAP_FUTURE"},
		Permitted: []string{"CAP_X"}})
	if err != nil || got.Bounding != 1 || got.Permitted != 0 || strings.Join(unknown, " ") != "CAP_FUTURE CAP_X" {
		t.Errorf("unknown ones: %+v, %v, %v", got, unknown, err)
	}
}

func TestLimitsBeyondTheKernelsBoundAreNamed(t *testing.T) {
	list := []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1048577}}
	if _, err := rlimits(list, func() uint64 { return 1048576 }); err == nil || !strings.Contains(err.Error(),
		"RLIMIT_NOFILE of 1048577") ||
		!strings.Contains(err.Error(), "bound of 1048576, fs.nr_open") {
		t.Error(err)
	}
	if got, err := rlimits(list, func() uint64 { return 1048577 }); err != nil || len(got) != 1 ||
		got[0].Name != "RLIMIT_NOFILE" {
		t.Error(got, err)
	}
	if n := maxFiles(); n < 1024 {
		t.Error(n)
	}
}

func TestSpecificationsThatCannotBe(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*specs.Spec)
		says   string
	}{
		"no process":      {func(s *specs.Spec) { s.Process = nil }, "no process"},
		"no arguments":    {func(s *specs.Spec) { s.Process.Args = nil }, "no arguments"},
		"a relative root": {func(s *specs.Spec) { s.Root.Path = "x" }, "not an absolute path"},
		"a namespace twice": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "pid"})
		}, "twice"},
		"a namespace of no one": {func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "x" }, "unknown"},
		"the guest's host name": {func(s *specs.Spec) { s.Linux.Namespaces = nil }, "UTS"},
		"a limit twice": {func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CPU"}}
		}, "twice"},
		"an unknown limit": {func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
			"unknown"},
		"a device of no type": {func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x",
				Type: "x"}}
		}, "none of"},
		"an odd propagation": {func(s *specs.Spec) { s.Linux.RootfsPropagation = "x" }, "propagation"},
		"a zero byte":        {func(s *specs.Spec) { s.Process.Env = []string{"A=\x00"} }, "zero byte"},
		"a user without a root": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		}, "no root"},
	} {
		s := spec("true")
		tc.change(s)
		if _, err := newBlueprint("x", "/x", s, false); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newBlueprint("x", "/x", spec("true"), false); err != nil {
		t.Error(err)
	}
}

func TestSysctls(t *testing.T) {
	own := func(int) bool { return true }
	for name, ok := range map[string]bool{
		"kernel.shmmax": true, "kernel.sem": true, "fs.mqueue.msg_max": true, "net.ipv4.ip_forward": true,
		"net/ipv4/conf/eth0.1/rp_filter": true,
		"kernel.hostname":                false, "kernel.domainname": false, "kernel.panic": false,
		"vm.swappiness": false, "": false, "net...kernel": false, "net/../kernel/panic": false, "/kernel/panic": false,
	} {
		if err := sysctl(name, own); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := sysctl("kernel.sem", func(int) bool { return false }); err == nil {
		t.Error("without an IPC namespace")
	}
}

func TestExecsInherit(t *testing.T) {
	score := 5
	from := &specs.Process{Capabilities: &specs.LinuxCapabilities{}, OOMScoreAdj: &score, NoNewPrivileges: true,
		Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}}}
	got := inherit(specs.Process{Args: []string{"x"}}, from)
	if got.Capabilities != from.Capabilities || !got.NoNewPrivileges || len(got.Rlimits) != 1 ||
		got.OOMScoreAdj != &score || got.Args[0] != "x" {
		t.Errorf("%+v", got)
	}
	own := &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}
	if got := inherit(specs.Process{Capabilities: own}, from); got.Capabilities != own {
		t.Error("its own capabilities are lost")
	}
}

func TestSignalsThatAreHandled(t *testing.T) {
	const status = "Name:\tx\nSigBlk:\t0000000000010000\nSigIgn:\t0000000000000004\nSigCgt:\t0000000000004000\n"
	for sig, want := range map[unix.Signal]bool{unix.SIGTERM: true, unix.SIGQUIT: true, unix.SIGCHLD: true,
		unix.SIGINT: false} {
		if got := handlesIn(status, sig); got != want {
			t.Errorf("%s: %v", unix.SignalName(sig), got)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("Name:\tx\nSigCgt:\t0000000000004000\n", []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, s string, b []byte) {
		handlesIn(s, unix.SIGTERM)
		watches(b)
	})
}

// FuzzBlueprint: a host may ask for anything; it gets a plan or an error.
func FuzzBlueprint(f *testing.F) {
	b, err := json.Marshal(spec("true"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s specs.Spec
		if json.Unmarshal(b, &s) == nil {
			newBlueprint("x", "/x", &s, false)
		}
	})
}

func TestIDsAreNamesOfFolders(t *testing.T) {
	for id, want := range map[string]bool{
		"abc": true, "0_a.b-c": true, strings.Repeat("x", 255): true, "": false, ".": false, "..": false, "-x": false,
		"a/b": false, "shared": false, "sandbox": false, strings.Repeat("x", 256): false, "ä": false,
	} {
		if got := validID(id); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}

func TestTheAgentMountsWhatShowsThePod(t *testing.T) {
	s := spec("true")
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"},
		specs.LinuxNamespace{Type: "network", Path: "/n"})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 5000, Size: 10}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
	s.Linux.Sysctl = map[string]string{"net.core.somaxconn": "7"}
	s.Mounts = append(s.Mounts, specs.Mount{Type: "sysfs", Source: "sysfs", Destination: "/sys2",
		Options: []string{"ro", "nosuid"}})
	last := len(s.Mounts) - 1
	b, err := newBlueprint("x", "/x", s, false)
	if err != nil {
		t.Fatal(err)
	}
	tree := b.stage.Mounts[last].Tree
	if tree == 0 || len(b.stage.Sysctls) > 0 || len(b.sysctls) != 1 {
		t.Fatalf("%+v", b)
	}
	want := idmap{mount: last, fs: "sysfs", attr: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID,
		in: join{flag: unix.CLONE_NEWNET, path: "/n"}}
	if got := b.trees[tree-1]; !reflect.DeepEqual(got, want) || !b.stage.Mounts[last].Bind {
		t.Errorf("%+v, want %+v", got, want)
	}
	// Without a user namespace the container does all this itself.
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool { return n.Type == "user" })
	s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
	if b, err = newBlueprint("x", "/x", s, false); err != nil || len(b.trees)+len(b.sysctls) > 0 ||
		len(b.stage.Sysctls) != 1 {
		t.Errorf("without: %+v, %v", b, err)
	}
}
