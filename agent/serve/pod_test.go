package serve

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/agent/osthread"
	"github.com/katabuild/katabuild/agent/policy"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/kmodule"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/katabuild/katabuild/internal/testenv"
)

// pinned are the files in a folder on which something is mounted, and what else is in it.
func pinned(t *testing.T, dir string) (mounts, files []string) {
	t.Helper()
	all, err := mountinfo.Self()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if filepath.Dir(m.Point) == dir {
			mounts = append(mounts, filepath.Base(m.Point))
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		files = append(files, e.Name())
	}
	slices.Sort(mounts)
	return mounts, files
}

// private makes what this test mounts its own.
func private(t *testing.T) {
	t.Helper()
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
}

// hostnameIn is the host name in a pinned namespace.
func hostnameIn(t *testing.T, file string) string {
	t.Helper()
	var u unix.Utsname
	err := osthread.Run(nil, func() error {
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return errors.Join(unix.Setns(fd, unix.CLONE_NEWUTS), unix.Uname(&u))
	})
	if err != nil {
		t.Fatal(err)
	}
	return unix.ByteSliceToString(u.Nodename[:])
}

func TestASandboxHasNamespacesThatItsContainersShare(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	private(t)
	s := newSandbox(t)
	s.s.NamespaceDir = filepath.Join(t.TempDir(), "ns")
	before, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	r := &katapb.CreateSandboxRequest{SandboxId: "pod", Hostname: "name-of-the-pod",
		Dns: []string{"nameserver 10.0.0.1"}, Storages: []*katapb.Storage{{}}}
	if _, err := s.CreateSandbox(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if mounts, _ := pinned(t, s.s.NamespaceDir); strings.Join(mounts, " ") != "ipc uts" {
		t.Errorf("pinned: %v", mounts)
	}
	if got := hostnameIn(t, s.s.NamespaceDir+"/uts"); got != "name-of-the-pod" {
		t.Errorf("the pod is called %q", got)
	}
	if after, err := os.Hostname(); err != nil || after != before {
		t.Errorf("the guest was %q and is %q, %v", before, after, err)
	}
	var own, pod unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/self/ns/ipc", &own), unix.Stat(s.s.NamespaceDir+"/ipc", &pod)); err != nil ||
		own.Ino == pod.Ino {
		t.Errorf("the pod's IPC is the guest's: %v", err)
	}
	if !slices.Equal(s.storage.owners, []string{sandboxOwner}) || !slices.Contains(s.calls, "dns 1") {
		t.Errorf("mounts of %v, calls %v", s.storage.owners, s.calls)
	}
	if _, err := s.CreateSandbox(t.Context(), r); status.Code(err) != codes.AlreadyExists {
		t.Errorf("a second one: %v", err)
	}
	c := s.create(t, "c")
	i := slices.IndexFunc(c.spec.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool { return n.Type == specs.UTSNamespace })
	if i < 0 || c.spec.Linux.Namespaces[i].Path != s.s.NamespaceDir+"/uts" {
		t.Errorf("namespaces of a container: %+v", c.spec.Linux.Namespaces)
	}
	if _, err := s.DestroySandbox(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if mounts, files := pinned(t, s.s.NamespaceDir); len(mounts)+len(files) != 0 {
		t.Errorf("left: %v, %v", mounts, files)
	}
}

func TestASandboxThatCannotBeMadeLeavesNothing(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	private(t)
	for name, c := range map[string]struct {
		call   string // that fails
		change func(*katapb.CreateSandboxRequest)
		want   string
	}{
		"its mounts": {call: "add sandbox", want: "so it is"},
		"its DNS":    {call: "dns 1", want: "so it is"},
		"a module that is not there": {change: func(r *katapb.CreateSandboxRequest) {
			r.KernelModules = []*katapb.KernelModule{{Name: "no_such_module"}}
		}, want: "no_such_module"},
		"a module that has no name": {change: func(r *katapb.CreateSandboxRequest) {
			// Nobody looks for the first one.
			r.KernelModules = []*katapb.KernelModule{{Name: "no_such_module"}, {Name: "../x"}}
		}, want: `InvalidArgument desc = kernel module "../x": want a name`},
		"a parameter of two lines": {change: func(r *katapb.CreateSandboxRequest) {
			r.KernelModules = []*katapb.KernelModule{{Name: "no_such_module", Parameters: []string{"a=\n"}}}
		}, want: "control characters"},
		"more modules than there are": {change: func(r *katapb.CreateSandboxRequest) {
			r.KernelModules = make([]*katapb.KernelModule, kmodule.Most+1)
		}, want: "257 kernel modules: want at most 256"},
		"a host name that is too long": {change: func(r *katapb.CreateSandboxRequest) {
			r.Hostname = strings.Repeat("x", 65) // __NEW_UTS_LEN is 64, <linux/utsname.h>
		}, want: "host name"},
	} {
		s := newSandbox(t)
		s.s.NamespaceDir = filepath.Join(t.TempDir(), "ns")
		s.fail(c.call, errors.New("so it is"))
		r := &katapb.CreateSandboxRequest{SandboxId: "pod", Hostname: "pod", Dns: []string{"x"}}
		if c.change != nil {
			c.change(r)
		}
		if _, err := s.CreateSandbox(t.Context(), r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		mounts, files := pinned(t, s.s.NamespaceDir)
		if len(mounts)+len(files)+len(s.storage.owners) != 0 {
			t.Errorf("%s left %v, %v, mounts of %v", name, mounts, files, s.storage.owners)
		}
		// What was missing may be there the next time.
		s.fail(c.call, nil)
		if _, err := s.CreateSandbox(t.Context(), &katapb.CreateSandboxRequest{}); err != nil {
			t.Errorf("%s, mended: %v", name, err)
		}
		if _, err := s.DestroySandbox(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	// A pin that somebody took away is told.
	if err := unpin(map[string]string{"ipc": filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("an unmount of nothing is no error")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pinNamespaces(file, ""); err == nil {
		t.Error("namespaces were pinned in a file")
	}
}

// serveSandbox serves the whole API on a socket, under a policy.
func serveSandbox(t *testing.T, s *sandbox, p *policy.Policy) katapb.AgentServiceService {
	t.Helper()
	path := t.TempDir() + "/agent"
	l, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	s.s.Policy = p
	server, err := New(Config{Guest: &guest{}, Sandbox: &s.s, Guard: func() {}})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(context.Background(), l) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), server.Shutdown(0), <-ended); err != nil {
			t.Error(err)
		}
	})
	return katapb.NewAgentServiceClient(c)
}

func TestAPolicyIsAskedBeforeEachCall(t *testing.T) {
	s := newSandbox(t)
	host := serveSandbox(t, s, &policy.Policy{Log: s.s.Log})
	create := func(id string) error {
		_, err := host.CreateContainer(t.Context(), request(t, id, nil))
		return err
	}
	if err := create("before"); err != nil {
		t.Errorf("without a policy: %v", err)
	}
	if _, err := host.SetPolicy(t.Context(), &katapb.SetPolicyRequest{Policy: "gibberish"}); status.Code(err) !=
		codes.InvalidArgument {
		t.Errorf("a policy that is none: %v", err)
	}
	text := "katabuild-policy 1\ndefault deny\nallow StartContainer container_id=\"before\"\n"
	if _, err := host.SetPolicy(t.Context(), &katapb.SetPolicyRequest{Policy: text}); err != nil {
		t.Fatal(err)
	}
	if err := create("after"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("what it denies: %v", err)
	}
	if _, err := host.StartContainer(t.Context(), &katapb.StartContainerRequest{ContainerId: "before"}); err != nil {
		t.Errorf("what it allows: %v", err)
	}
	if _, err := host.SetPolicy(t.Context(), &katapb.SetPolicyRequest{Policy: text}); status.Code(err) !=
		codes.PermissionDenied {
		t.Errorf("another one: %v", err)
	}
	if len(s.containers.list) != 1 || slices.Contains(s.calls, "create after") ||
		!slices.Contains(s.calls, "start before") {
		t.Errorf("calls %v", s.calls)
	}
}

func TestAPrivilegedContainerHasTheGuestsDevices(t *testing.T) {
	all := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false}, {Allow: true, Access: "rwm"}}}
	null := specs.LinuxDevice{Path: "/dev/null", Type: "c", Major: 9, Minor: 9}
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		nulls  []int64 // majors of /dev/null
	}{
		"a plain one":      {func(*specs.Spec) {}, nil},
		"a privileged one": {func(s *specs.Spec) { s.Linux.Resources = all }, []int64{1}},
		"one with a device of its own": {func(s *specs.Spec) {
			s.Linux.Resources, s.Linux.Devices = all, []specs.LinuxDevice{null}
		}, []int64{9}},
		"one with the guest's folder": {func(s *specs.Spec) {
			s.Linux.Resources = all
			s.Mounts = []specs.Mount{{Destination: "/dev/", Source: "/dev", Type: "bind"}}
		}, nil},
	} {
		s := newSandbox(t)
		if _, err := s.CreateContainer(t.Context(), request(t, "c", c.change)); err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, d := range s.containers.list[0].spec.Linux.Devices {
			if d.Path == "/dev/null" {
				got = append(got, d.Major)
			}
		}
		if !slices.Equal(got, c.nulls) {
			t.Errorf("%s: /dev/null of majors %v, want %v", name, got, c.nulls)
		}
	}
}

func TestOnlyTheLastRuleForAllDevicesCounts(t *testing.T) {
	n := int64(1)
	rule := func(allow bool, kind, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
	}
	one := specs.LinuxDeviceCgroup{Allow: true, Major: &n, Access: "rwm"}
	for name, c := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  bool
	}{
		"none": {nil, false}, "all": {[]specs.LinuxDeviceCgroup{rule(true, "a", "rwm")}, true},
		"all, in short":       {[]specs.LinuxDeviceCgroup{rule(false, "a", "rwm"), rule(true, "", "")}, true},
		"all, and then not":   {[]specs.LinuxDeviceCgroup{rule(true, "a", "rwm"), rule(false, "a", "rwm")}, false},
		"all, to be read":     {[]specs.LinuxDeviceCgroup{rule(true, "a", "r")}, false},
		"all of one kind":     {[]specs.LinuxDeviceCgroup{rule(true, "c", "rwm")}, false},
		"all of one major":    {[]specs.LinuxDeviceCgroup{one}, false},
		"all, and one denied": {[]specs.LinuxDeviceCgroup{rule(true, "a", "rwm"), {Major: &n}}, true},
	} {
		if got := usesAll(&specs.LinuxResources{Devices: c.rules}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if usesAll(nil) {
		t.Error("without rules all devices are used")
	}
}
