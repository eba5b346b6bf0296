package blueprint

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

// spec is a specification as containerd has them.
func spec(args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "/rootfs"}, Hostname: "pod",
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime",
				"mode=755", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec",
				"nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"},
				{Type: "cgroup"}},
			MaskedPaths:   []string{"/proc/kcore"},
			ReadonlyPaths: []string{"/proc/sys"},
		},
	}
}

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
	with := func(m specs.Mount, namespaces ...specs.LinuxNamespace) (*Blueprint, error) {
		s := spec("true")
		s.Linux.Namespaces = append(s.Linux.Namespaces, namespaces...)
		s.Linux.UIDMappings, s.Linux.GIDMappings = own, own
		m.Destination, m.Source = "/d", "/s"
		s.Mounts = append(s.Mounts, m)
		return New("x", "/x", s, Place{})
	}
	last := len(spec("true").Mounts)
	for name, tc := range map[string]struct {
		in   specs.Mount
		ns   []specs.LinuxNamespace
		want Tree
	}{
		"mappings": {specs.Mount{Type: "bind", UIDMappings: some, GIDMappings: some}, nil,
			Tree{UIDs: some, GIDs: some}},
		"mappings and an option": {specs.Mount{Type: "bind", Options: []string{"ridmap"}, UIDMappings: some,
			GIDMappings: some}, nil, Tree{Recursive: true, UIDs: some, GIDs: some}},
		"those of the container": {specs.Mount{Type: "bind", Options: []string{"idmap"}},
			[]specs.LinuxNamespace{{Type: "user"}}, Tree{UIDs: own, GIDs: own}},
		"those of its namespace": {specs.Mount{Type: "bind", Options: []string{"idmap"}},
			[]specs.LinuxNamespace{{Type: "user", Path: "/u"}}, Tree{}},
		"others than its own are": {specs.Mount{Type: "bind", UIDMappings: some, GIDMappings: some},
			[]specs.LinuxNamespace{{Type: "user"}}, Tree{UIDs: some, GIDs: some}},
	} {
		tc.want.Mount = last
		b, err := with(tc.in, tc.ns...)
		if err != nil || len(b.Trees) < 1 || !reflect.DeepEqual(b.Trees[0], tc.want) ||
			b.Stage.Trees != len(b.Trees) || b.Stage.Mounts[last].Tree != 1 || b.Stage.Mounts[0].Tree != 0 {
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
		if _, err := New("x", "/x", s, Place{}); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New("x", "/x", spec("true"), Place{}); err != nil {
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
		if err := sysctl(name, true, own); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	none := func(int) bool { return false }
	if err := sysctl("kernel.sem", false, none); err == nil {
		t.Error("without an IPC namespace")
	}
	if err := sysctl("net.ipv4.ip_forward", false, none); err != nil {
		t.Errorf("the network of a guest is its pod's: %v", err)
	}
	if err := sysctl("net.ipv4.ip_forward", true, none); err == nil {
		t.Error("a sysctl of the host's network is set")
	}
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
			New("x", "/x", &s, Place{})
		}
	})
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
	b, err := New("x", "/x", s, Place{})
	if err != nil {
		t.Fatal(err)
	}
	tree := b.Stage.Mounts[last].Tree
	if tree == 0 || len(b.Stage.Sysctls) > 0 || len(b.Sysctls) != 1 {
		t.Fatalf("%+v", b)
	}
	want := Tree{Mount: last, FS: "sysfs", Attr: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID,
		In: stage.Join{Flag: unix.CLONE_NEWNET, Path: "/n"}}
	if got := b.Trees[tree-1]; !reflect.DeepEqual(got, want) || !b.Stage.Mounts[last].Bind {
		t.Errorf("%+v, want %+v", got, want)
	}
	// Without a user namespace the container does all this itself.
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool { return n.Type == "user" })
	s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
	if b, err = New("x", "/x", s, Place{}); err != nil || len(b.Trees)+len(b.Sysctls) > 0 ||
		len(b.Stage.Sysctls) != 1 {
		t.Errorf("without: %+v, %v", b, err)
	}
}
