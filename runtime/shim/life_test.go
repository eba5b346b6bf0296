package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/runtime/events"
	"github.com/katabuild/katabuild/runtime/machine/machinetest"
	"github.com/katabuild/katabuild/runtime/pod"
	"github.com/katabuild/katabuild/runtime/record"
)

// These tests run tasks in machinetest's machines, with an agent that keeps containers in memory: all of the runtime
// but the hypervisor and the guest is real.

// host is a service with what its pods run in.
type host struct {
	*Service
	agent   *agenttest.Agent
	machine *machinetest.Hypervisor
	dir     string
	ended   bool
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{agent: &agenttest.Agent{}, machine: &machinetest.Hypervisor{}, dir: t.TempDir()}
	h.machine.Guest = machinetest.WithAgent(h.agent)
	text := fmt.Sprintf("[hypervisor.qemu]\nguest = %q\nshared_fs = \"none\"\nacceleration = \"tcg\"\n"+
		"pcie_root_port = 4\n[runtime]\ninternetworking_model = \"none\"\n", h.dir+"/guest")
	if err := errors.Join(documenttest.WriteGuest(h.dir+"/guest"),
		os.WriteFile(h.dir+"/configuration.toml", []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	h.Service = New(Options{Namespace: "test", Dirs: record.Dirs{State: h.dir + "/state", Share: h.dir + "/share"},
		Hypervisor: h.machine, Version: "v",
		Log:     slog.New(slog.DiscardHandler),
		Publish: events.Target{Command: []string{"true"}}}, func() { h.ended = true })
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if ids, err := record.List(h.o.Dirs); err != nil || len(ids) > 0 {
			t.Errorf("left over: %v, %v", ids, err)
		}
	})
	return h
}

// request asks for a container whose root is a disk; kind is CRI's annotation, of the pod "p".
func (h *host) request(t *testing.T, id, kind string) *taskapi.CreateTaskRequest {
	t.Helper()
	bundle := filepath.Join(h.dir, "bundle-"+id)
	spec := &specs.Spec{Version: "1.2.0", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}}}
	if kind != "" {
		spec.Annotations = map[string]string{"io.kubernetes.cri.container-type": kind,
			"io.kubernetes.cri.sandbox-id": "p"}
	}
	b, err := json.Marshal(spec)
	if err := errors.Join(err, os.Mkdir(bundle, 0o755), os.WriteFile(bundle+"/config.json", b, 0o644),
		os.WriteFile(bundle+"/disk", make([]byte, 4096), 0o644)); err != nil {
		t.Fatal(err)
	}
	options, err := proto.Marshal(&runtimeoptions.Options{ConfigPath: h.dir + "/configuration.toml"})
	if err != nil {
		t.Fatal(err)
	}
	return &taskapi.CreateTaskRequest{ID: id, Bundle: bundle,
		Options: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: options},
		Rootfs:  []*types.Mount{{Type: "ext4", Source: bundle + "/disk", Options: []string{"loop"}}}}
}

// wait is the end of a task, as containerd waits for it.
func (h *host) wait(t *testing.T, id, exec string) uint32 {
	t.Helper()
	r, err := h.Wait(t.Context(), &taskapi.WaitRequest{ID: id, ExecID: exec})
	if err != nil {
		t.Fatal(err)
	}
	return r.ExitStatus
}

// TestWhichCallMayComeInWhichState is the table of a task's states.
func TestWhichCallMayComeInWhichState(t *testing.T) {
	steps := map[string]func(t *testing.T, h *host){
		"created": func(*testing.T, *host) {},
		"running": func(t *testing.T, h *host) {
			if _, err := h.Start(t.Context(), &taskapi.StartRequest{ID: "c"}); err != nil {
				t.Fatal(err)
			}
		},
		"paused": func(t *testing.T, h *host) {
			if _, err := h.Pause(t.Context(), &taskapi.PauseRequest{ID: "c"}); err != nil {
				t.Fatal(err)
			}
		},
		"stopped": func(t *testing.T, h *host) {
			if err := h.agent.Exit("c", "", 7); err != nil {
				t.Fatal(err)
			}
			if code := h.wait(t, "c", ""); code != 7 {
				t.Fatalf("code %d", code)
			}
		},
		"deleted": func(t *testing.T, h *host) {
			if _, err := h.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c"}); err != nil {
				t.Fatal(err)
			}
		},
	}
	ok, none, wrong := codes.OK, codes.NotFound, codes.FailedPrecondition
	for _, tc := range []struct {
		state  string
		after  []string
		status tasktypes.Status
		start, kill, remove, pause, stats, update,
		resize, exec codes.Code
	}{
		{"created", []string{"created"}, tasktypes.Status_CREATED, ok, ok, ok, ok, ok, ok, ok, ok},
		{"running", []string{"running"}, tasktypes.Status_RUNNING, wrong, ok, wrong, ok, ok, ok, ok, ok},
		{"paused", []string{"running", "paused"}, tasktypes.Status_PAUSED, wrong, ok, wrong, ok, ok, ok, ok, ok},
		{"stopped", []string{"running", "stopped"}, tasktypes.Status_STOPPED, wrong, none, ok, ok, none, ok, ok, ok},
		{"deleted", []string{"running", "stopped", "deleted"}, 0, none, none, none, none, none, none, none, none},
	} {
		calls := map[string]struct {
			want codes.Code
			call func(h *host) error
		}{
			"Start": {tc.start, func(h *host) error {
				_, err := h.Start(t.Context(), &taskapi.StartRequest{ID: "c"})
				return err
			}},
			"Kill": {tc.kill, func(h *host) error {
				_, err := h.Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: uint32(unix.SIGTERM)})
				return err
			}},
			"Delete": {tc.remove, func(h *host) error {
				_, err := h.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c"})
				return err
			}},
			"Pause": {tc.pause, func(h *host) error {
				_, err := h.Pause(t.Context(), &taskapi.PauseRequest{ID: "c"})
				return err
			}},
			"Stats": {tc.stats, func(h *host) error {
				_, err := h.Stats(t.Context(), &taskapi.StatsRequest{ID: "c"})
				return err
			}},
			"Update": {tc.update, func(h *host) error {
				_, err := h.Update(t.Context(), &taskapi.UpdateTaskRequest{ID: "c",
					Resources: &anypb.Any{Value: []byte(`{"cpu": {"shares": 7}}`)}})
				return err
			}},
			"ResizePty": {tc.resize, func(h *host) error {
				_, err := h.ResizePty(t.Context(), &taskapi.ResizePtyRequest{ID: "c", Height: 24, Width: 80})
				return err
			}},
			"Exec": {tc.exec, func(h *host) error {
				_, err := h.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: "c", ExecID: "e",
					Spec: &anypb.Any{Value: []byte(`{"args": ["sh"], "cwd": "/"}`)}})
				return err
			}},
		}
		for name, call := range calls {
			t.Run(name+" when it is "+tc.state, func(t *testing.T) {
				h := newHost(t)
				if _, err := h.Create(t.Context(), h.request(t, "c", "")); err != nil {
					t.Fatal(err)
				}
				for _, s := range tc.after {
					steps[s](t, h)
				}
				st, err := h.State(t.Context(), &taskapi.StateRequest{ID: "c"})
				if (err == nil) != (tc.state != "deleted") || st.GetStatus() != tc.status {
					t.Errorf("state %s, %v", st.GetStatus(), err)
				}
				if err := call.call(h); status.Code(err) != call.want {
					t.Errorf("%v; want %s", err, call.want)
				}
			})
		}
	}
}

func TestAPodOfSeveralContainersLivesAndEnds(t *testing.T) {
	h := newHost(t)
	if _, err := h.Create(t.Context(), h.request(t, "early", "container")); status.Code(err) !=
		codes.FailedPrecondition {
		t.Errorf("a container without its pod: %v", err)
	}
	for id, kind := range map[string]string{"p": "sandbox"} {
		if _, err := h.Create(t.Context(), h.request(t, id, kind)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Create(t.Context(), h.request(t, "q", "sandbox")); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("another pod in one shim: %v", err)
	}
	c := h.request(t, "c", "container")
	if _, err := h.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Create(t.Context(), c); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same container twice: %v", err)
	}
	for _, id := range []string{"p", "c"} {
		if _, err := h.Start(t.Context(), &taskapi.StartRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	if pids, err := h.Pids(t.Context(), &taskapi.PidsRequest{ID: "c"}); err != nil || len(pids.Processes) != 1 ||
		pids.Processes[0].Pid == h.pid() {
		t.Errorf("its number is %v, %v", pids, err)
	}
	exec := &taskapi.ExecProcessRequest{ID: "c", ExecID: "e", Spec: &anypb.Any{Value: []byte(
		`{"args": ["sh"], "cwd": "/"}`)}}
	if _, err := h.Exec(t.Context(), exec); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Exec(t.Context(), exec); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same process twice: %v", err)
	}
	if _, err := h.Start(t.Context(), &taskapi.StartRequest{ID: "c", ExecID: "e"}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Resume(t.Context(), &taskapi.ResumeRequest{ID: "c"}); err != nil {
		t.Error(err)
	}
	if _, err := h.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: "c", ExecID: "e", Stdin: true}); err != nil {
		t.Error(err)
	}
	if _, err := h.Kill(t.Context(), &taskapi.KillRequest{ID: "c", ExecID: "e", Signal: 9}); err != nil {
		t.Error(err)
	}
	if code := h.wait(t, "c", "e"); code != 137 {
		t.Errorf("code %d", code)
	}
	if _, err := h.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c", ExecID: "e"}); err != nil {
		t.Error(err)
	}
	if r, err := h.Connect(t.Context(), &taskapi.ConnectRequest{}); err != nil || r.Version != "v" ||
		r.TaskPid != h.pid() {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := h.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil || h.ended {
		t.Errorf("a shim with containers ends: %v", err)
	}
	for _, id := range []string{"c", "p"} {
		if _, err := h.Kill(t.Context(), &taskapi.KillRequest{ID: id, Signal: 9}); err != nil {
			t.Error(err)
		}
		if code := h.wait(t, id, ""); code != 137 {
			t.Errorf("code %d", code)
		}
		if _, err := h.Delete(t.Context(), &taskapi.DeleteRequest{ID: id}); err != nil {
			t.Error(err)
		}
	}
	<-h.machine.VMs()[0].Done() // the pod goes with its first container
	if _, err := h.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil || !h.ended {
		t.Errorf("an idle shim goes on: %v", err)
	}
	if _, err := h.Create(t.Context(), h.request(t, "late", "")); status.Code(err) != codes.Unavailable {
		t.Errorf("a container for a shim that ends: %v", err)
	}
}

func TestWhatFailsIsTakenDown(t *testing.T) {
	t.Run("the first container cannot be made", func(t *testing.T) {
		h := newHost(t)
		h.agent.Fail("CreateContainer", errors.New("no"))
		if _, err := h.Create(t.Context(), h.request(t, "c", "")); err == nil {
			t.Error("it is made")
		}
		<-h.machine.VMs()[0].Done()
		h.agent.Fail("CreateContainer", nil)
		r := h.request(t, "d", "")
		if _, err := h.Create(t.Context(), r); err != nil {
			t.Error("the next is not made:", err)
		}
	})
	t.Run("the first container cannot be made, and can be in a guest that boots", func(t *testing.T) {
		h := newHost(t)
		first := newFake(t)
		first.cold = newFake(t)
		first.fails["Create"] = errors.New("no hot-plug")
		h.Service.start = func(context.Context, pod.Options) (guest, error) { return first, nil }
		if _, err := h.Create(t.Context(), h.request(t, "c", "")); err != nil {
			t.Fatal(err)
		}
		if !first.was("Stop") || !first.cold.was("Create c") || h.guest() != first.cold {
			t.Errorf("calls: %v, then %v", first.calls, first.cold.calls)
		}
		first.cold.containers["c"].end(0)
		if code := h.wait(t, "c", ""); code != 0 {
			t.Errorf("code %d", code)
		}
	})
	t.Run("the first container cannot be started", func(t *testing.T) {
		h := newHost(t)
		if _, err := h.Create(t.Context(), h.request(t, "c", "")); err != nil {
			t.Fatal(err)
		}
		h.agent.Fail("StartContainer", errors.New("no"))
		go func() {
			for !slices.Contains(h.agent.Calls(), "StartContainer") {
				time.Sleep(time.Millisecond)
			}
			_ = h.agent.Exit("c", "", 1)
		}()
		if _, err := h.Start(t.Context(), &taskapi.StartRequest{ID: "c"}); err == nil {
			t.Error("it is started")
		}
		<-h.machine.VMs()[0].Done()
	})
	t.Run("a process cannot be added", func(t *testing.T) {
		h := newHost(t)
		if _, err := h.Create(t.Context(), h.request(t, "c", "")); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: "c", ExecID: "e",
			Spec: &anypb.Any{Value: []byte(`{"args": ["sh"], "cwd": "/"}`)}}); err != nil {
			t.Fatal(err)
		}
		h.agent.Fail("ExecProcess", errors.New("no"))
		for range 2 { // it may be tried again
			if _, err := h.Start(t.Context(), &taskapi.StartRequest{ID: "c", ExecID: "e"}); err == nil ||
				status.Code(err) == codes.FailedPrecondition {
				t.Errorf("%v", err)
			}
		}
	})
	t.Run("the guest ends by itself", func(t *testing.T) {
		h := newHost(t)
		if _, err := h.Create(t.Context(), h.request(t, "c", "")); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Start(t.Context(), &taskapi.StartRequest{ID: "c"}); err != nil {
			t.Fatal(err)
		}
		if err := h.machine.VMs()[0].Stop(); err != nil {
			t.Fatal(err)
		}
		if code := h.wait(t, "c", ""); code != lostCode {
			t.Errorf("code %d, want that of a process that is lost", code)
		}
		if _, err := h.Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: 9}); status.Code(err) != codes.NotFound {
			t.Errorf("%v", err)
		}
	})
	t.Run("calls that a machine cannot have", func(t *testing.T) {
		h := newHost(t)
		r := h.request(t, "c", "")
		r.Checkpoint = "/x"
		if _, err := h.Create(t.Context(), r); status.Code(err) != codes.Unimplemented {
			t.Error(err)
		}
		if _, err := h.Checkpoint(t.Context(), &taskapi.CheckpointTaskRequest{ID: "c"}); status.Code(err) !=
			codes.Unimplemented {
			t.Error(err)
		}
		if _, err := h.Update(t.Context(), &taskapi.UpdateTaskRequest{ID: "c"}); status.Code(err) != codes.NotFound ||
			!strings.Contains(err.Error(), "no container c") {
			t.Error(err)
		}
	})
}
