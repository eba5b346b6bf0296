package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	runc "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/events"
	"github.com/katabuild/katabuild/runtime/pod"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/stdio"
	"github.com/katabuild/katabuild/runtime/thread"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestAnnotationsSayWhatAContainerIs(t *testing.T) {
	for _, c := range []struct {
		a    map[string]string
		kind Kind
		id   string
		err  string
	}{
		{nil, kindSingle, "", ""},
		{map[string]string{"io.kubernetes.cri.container-type": "sandbox"}, kindSandbox, "", ""},
		{map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "p1"},
			kindContainer, "p1", ""},
		{map[string]string{"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "p2"},
			kindContainer, "p2", ""},
		{map[string]string{"io.kubernetes.docker.type": "podsandbox"}, kindSandbox, "", ""},
		{map[string]string{"io.kubernetes.cri.container-type": "container"}, 0, "", "does not say of which pod"},
		{map[string]string{"io.kubernetes.cri.container-type": "pod"}, 0, "", `want sandbox or container, got "pod"`},
	} {
		kind, id, err := kindOf(c.a)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v: %v, want %s", c.a, err, c.err)
			}
			continue
		}
		if kind != c.kind || id != c.id || err != nil {
			t.Errorf("%v: %v %q %v", c.a, kind, id, err)
		}
	}
}

func TestAPodIsAsLargeAsItsContainersTogether(t *testing.T) {
	quota, period, limit := int64(150000), uint64(100000), int64(300<<20+1)
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period},
		Memory: &specs.LinuxMemory{Limit: &limit}}
	single := &specs.Spec{Linux: &specs.Linux{Resources: r}}
	if s := podSize(single, kindSingle); s != (pod.Size{MilliCPUs: 1500, MemoryMiB: 301}) {
		t.Errorf("%+v", s)
	}
	cri := &specs.Spec{Linux: &specs.Linux{Resources: r}, Annotations: map[string]string{
		annotationQuota: "200000", annotationPeriod: "100000", annotationMemory: "1073741824",
	}}
	if s := podSize(cri, kindSandbox); s != (pod.Size{MilliCPUs: 2000, MemoryMiB: 1024}) {
		t.Errorf("%+v", s)
	}
	if s := podSize(&specs.Spec{Annotations: map[string]string{annotationQuota: "-1", annotationMemory: "x"}},
		kindSandbox); s != (pod.Size{}) {
		t.Errorf("nothing said: %+v", s)
	}
}

func TestNamespacesOfTheHostAreKnown(t *testing.T) {
	with := func(list ...specs.LinuxNamespace) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: list}}
	}
	own := []specs.LinuxNamespace{{Type: "network", Path: "/run/netns/x"}, {Type: "pid"}, {Type: "ipc"}, {Type: "uts"}}
	if path, host := netnsOf(with(own...)); path != "/run/netns/x" || host {
		t.Error(path, host)
	}
	if path, host := netnsOf(with(specs.LinuxNamespace{Type: "network"})); path != "" || host {
		t.Error("a new one:", path, host)
	}
	if _, host := netnsOf(with(own[1:]...)); !host {
		t.Error("without an entry the network is not the host's")
	}
	if _, host := netnsOf(&specs.Spec{}); !host {
		t.Error("without any namespaces the network is not the host's")
	}
	if w := ofHost(with(own...)); len(w) > 0 {
		t.Error(w)
	}
	w := ofHost(with(own[0], specs.LinuxNamespace{Type: "pid", Path: "/proc/self/ns/pid"}, own[3]))
	if len(w) != 2 || !strings.Contains(w[0], "processes") || !strings.Contains(w[1], "System V IPC") {
		t.Error(w)
	}
}

func TestWhatAPodHasOfItsFirstContainer(t *testing.T) {
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("# a word\nnameserver 10.0.0.1\n\n search x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/proc"}, {Destination: "/dev/shm",
		Options: []string{"nosuid", "size=64m"}}, {Destination: "/etc/resolv.conf", Source: resolv}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"}}}}
	if n := shmSize(spec); n != 64<<20 {
		t.Errorf("/dev/shm has %d bytes", n)
	}
	if d := strings.Join(dnsOf(spec), ", "); d != "nameserver 10.0.0.1, search x" {
		t.Errorf("resolv.conf has %s", d)
	}
	if !sharesPID(spec) {
		t.Error("it does not join the processes that it names")
	}
	spec.Mounts[1].Options, spec.Mounts[2].Source, spec.Linux = nil, resolv+"x", nil
	if n, d := shmSize(spec), dnsOf(spec); n != 0 || d != nil || sharesPID(spec) {
		t.Errorf("of nothing: %d, %v", n, d)
	}
}

func TestSizesOfTmpfs(t *testing.T) {
	for s, want := range map[string]int64{"65536k": 64 << 20, "64m": 64 << 20, "1G": 1 << 30, "4096": 4096, "": 0,
		"50%": 0, "k": 0, "-1k": 0, "99999999999999999999g": 0} {
		if got := bytesOf(s); got != want {
			t.Errorf("%q: %d, want %d", s, got, want)
		}
	}
}

func TestTheConfigurationsPathComesWithTheCall(t *testing.T) {
	b, err := proto.Marshal(&runtimeoptions.Options{ConfigPath: "/etc/x.toml"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"runtimeoptions.v1.Options", "containerd.runtimeoptions.v1.Options"} {
		if p, err := configPath(&anypb.Any{TypeUrl: name, Value: b}); err != nil || p != "/etc/x.toml" {
			t.Errorf("%s: %q, %v", name, p, err)
		}
	}
	if p, err := configPath(nil); p != "" || err != nil {
		t.Error(p, err)
	}
	if _, err := configPath(&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: b}); err == nil ||
		!strings.Contains(err.Error(), "containerd.runc.v1.Options") {
		t.Error(err)
	}
	b, err = proto.Marshal(&runc.Options{IoUid: 65536, IoGid: 65536})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := configPath(&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: b}); p != "" || err != nil {
		t.Errorf("owners of pipes: %q, %v", p, err)
	}
	b, err = proto.Marshal(&runc.Options{SystemdCgroup: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := configPath(&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: b}); err == nil {
		t.Error("what is for runc is taken for nothing")
	}
	if _, err := configPath(&anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte{0xff}}); err == nil {
		t.Error("bytes that are no message are read")
	}
}

func TestOnePodHasOneSocket(t *testing.T) {
	a := socketPath("/run/containerd/containerd.sock", "k8s.io", "p1")
	if a != socketPath("/run/containerd/containerd.sock", "k8s.io", "p1") || len(a) > 107 {
		t.Error(a)
	}
	for _, b := range []string{socketPath("/other", "k8s.io", "p1"), socketPath("/run/containerd/containerd.sock",
		"moby", "p1"), socketPath("/run/containerd/containerd.sock", "k8s.io", "p2")} {
		if a == b {
			t.Error("two pods have one socket")
		}
	}
}

// fifo makes a FIFO.
func fifo(t *testing.T, name string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := unix.Mkfifo(p, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestHooksGetTheStateAndTheirErrorsAreNamed(t *testing.T) {
	testenv.Require(t, testenv.Tool("sh"))
	out := filepath.Join(t.TempDir(), "out")
	one := 1
	spec := &specs.Spec{Hooks: &specs.Hooks{
		//lint:ignore SA1019 prestart hooks are deprecated, and in use
		Prestart: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c",
			"cat >" + out + "; echo $A >>" + out}, Env: []string{"A=b"}}},
		CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo the reason >&2; exit 3"}}},
	}}
	err := runHooks(t.Context(), spec, "c1", "/b", 42)
	if err == nil || !strings.Contains(err.Error(), "hook /bin/sh: exit status 3: the reason") {
		t.Error(err)
	}
	if b, err := os.ReadFile(out); err != nil || !strings.Contains(string(b), `"pid":42`) ||
		!strings.HasSuffix(string(b), "b\n") {
		t.Errorf("%q, %v", b, err)
	}
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 60"},
		Timeout: &one}}}
	if err := runHooks(t.Context(), spec, "c1", "/b", 42); err == nil || !strings.Contains(err.Error(),
		"not done within 1s") {
		t.Error(err)
	}
}

func TestInputThatEndsBeforeTheProcessExistsEndsIt(t *testing.T) {
	p := newExecution("c1", "e1", stdio.Paths{Stdin: fifo(t, "in")})
	p.closeStdin() // a client whose own input is empty is that fast
	if err := p.open("ns", "c1"); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	p.run(&agentlink.Process{Stdin: w}, streams{stdin: w}, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { _, err := io.ReadAll(r); ended <- err }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the process waits for input that never comes")
	}
	p.close()
}

func TestAContainerOnTheHostsNetworkIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(documenttest.WriteGuest(dir+"/guest"), os.Mkdir(dir+"/bundle", 0o755),
		os.WriteFile(dir+"/configuration.toml",
			fmt.Appendf(nil, "[hypervisor.qemu]\nguest = %q\npath = %q\nacceleration = \"tcg\"\n", dir+"/guest",
				dir+"/no-qemu"), 0o644)); err != nil {
		t.Fatal(err)
	}
	options, err := proto.Marshal(&runtimeoptions.Options{ConfigPath: dir + "/configuration.toml"})
	if err != nil {
		t.Fatal(err)
	}
	for what, namespaces := range map[string]string{
		"no namespaces": "", "none of the network": `{"type": "pid"}`,
		"that of this process": `{"type": "network", "path": "/proc/self/ns/net"}`,
		"that of a thread": fmt.Sprintf(`{"type": "network", "path": "/proc/%d/task/%d/ns/net"}`, os.Getpid(),
			os.Getpid()),
	} {
		spec := `{"ociVersion": "1.2.0", "root": {"path": "/"}, "process": {"args": ["true"]}, "linux": {"namespaces": [` + namespaces + `]}}`
		if err := os.WriteFile(dir+"/bundle/config.json", []byte(spec), 0o644); err != nil {
			t.Fatal(err)
		}
		s := New(Options{Namespace: "test", Dirs: record.Dirs{State: dir + "/state", Share: dir + "/share"},
			Log:     slog.New(slog.DiscardHandler),
			Publish: events.Target{Command: []string{"true"}}}, func() {})
		_, err := s.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "h-1", Bundle: dir + "/bundle",
			Options: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: options}})
		if err == nil || !strings.Contains(err.Error(), "the host's network is asked for") {
			t.Errorf("%s: %v", what, err)
		}
		if list, err := os.ReadDir(dir + "/state"); len(list) > 0 {
			t.Errorf("%s: left %v, %v", what, list, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestATargetIsKnownByTheNumberItWasGiven(t *testing.T) {
	a, err := thread.Stand(nil)
	b, err2 := thread.Stand(nil)
	if err := errors.Join(err, err2); err != nil || a.TID == b.TID {
		t.Fatal("two containers have one number:", err)
	}
	defer a.End()
	defer b.End()
	s := &Service{tasks: map[string]*task{"pause": {id: "pause"}, "aa": {id: "aa", stand: a},
		"bb": {id: "bb", stand: b}}}
	with := func(path string) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "pid", Path: path}}}}
	}
	for path, want := range map[string]string{fmt.Sprintf("/proc/%d/ns/pid", b.TID): "bb",
		fmt.Sprintf("/proc/%d/ns/pid", a.TID): "aa", "/proc/1/ns/pid": "", "": ""} {
		if got := s.pidOwner(with(path)); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if s.pidOf(s.tasks["aa"]) != uint32(a.TID) {
		t.Error("its number is another")
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", a.TID)); err != nil {
		t.Error("the host does not know the number:", err)
	}
}

// hasProcess says whether there is a process with this command line, in which a zero byte ends each word. proc(5).
func hasProcess(t *testing.T, line string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && string(b) == line {
			return true
		}
	}
	return false
}

// TestAPodThatIsBeingMadeIsTakenDown has a QEMU that never answers. Whoever ends the shim then must wait for the end of
// what Create began.
func TestAPodThatIsBeingMadeIsTakenDown(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, s *Service){
		"by containerd": func(t *testing.T, s *Service) {
			if _, err := s.Shutdown(t.Context(), &taskapi.ShutdownRequest{Now: true}); err != nil {
				t.Error(err)
			}
		},
		"by a signal": func(*testing.T, *Service) {},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := documenttest.WriteGuest(dir + "/guest"); err != nil {
				t.Fatal(err)
			}
			// a QEMU that root starts can write no file
			runs := fmt.Sprintf("sleep\x00300.%d\x00", time.Now().UnixNano())
			lines := fmt.Sprintf(
				"[hypervisor.qemu]\nguest = %q\npath = %q\nshared_fs = \"none\"\nacceleration = \"tcg\"\n",
				dir+"/guest", dir+"/qemu")
			for p, text := range map[string]string{
				"qemu": "#!/bin/sh\nexec " + strings.TrimSpace(strings.ReplaceAll(runs, "\x00", " ")) +
					"\n",
				"configuration.toml": lines,
				"bundle/config.json": `{"ociVersion": "1.2.0", "process": {"args": ["true"]}, "linux": {"namespaces": [{"type": "network"}]}}`,
			} {
				if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755),
					os.WriteFile(filepath.Join(dir, p), []byte(text), 0o755)); err != nil {
					t.Fatal(err)
				}
			}
			dirs := record.Dirs{State: filepath.Join(dir, "state"), Share: filepath.Join(dir, "share")}
			s := New(Options{
				Namespace: "test", Dirs: dirs, Log: slog.New(slog.DiscardHandler),
				Publish: events.Target{Command: []string{"true"}},
			}, func() {})
			options, err := proto.Marshal(&runtimeoptions.Options{ConfigPath: dir + "/configuration.toml"})
			if err != nil {
				t.Fatal(err)
			}
			r := &taskapi.CreateTaskRequest{ID: "p-1", Bundle: dir + "/bundle",
				Options: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: options}}
			created := make(chan error, 1)
			go func() {
				_, err := s.Create(context.Background(), r)
				created <- err
			}()
			for {
				if hasProcess(t, runs) {
					break
				}
				select {
				case err := <-created:
					t.Fatal(err)
				case <-time.After(10 * time.Millisecond):
				}
			}
			if ids, err := record.List(dirs); err != nil || len(ids) != 1 {
				t.Fatal(ids, err)
			}
			end(t, s)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if ids, err := record.List(dirs); err != nil || len(ids) != 0 {
				t.Errorf("left behind: %q, %v", ids, err)
			}
			if err := <-created; err == nil {
				t.Error("create went well")
			}
			if _, err := s.Create(t.Context(), r); status.Code(err) != codes.Unavailable {
				t.Errorf("create after the end: %v", err)
			}
		})
	}
}

func TestWhatHasEndedHasNoStatistics(t *testing.T) {
	init := newExecution("c1", "", stdio.Paths{})
	init.exit(3)
	s := &Service{tasks: map[string]*task{"c1": {id: "c1", init: init}}}
	if _, err := s.Stats(t.Context(), &taskapi.StatsRequest{ID: "c1"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}
