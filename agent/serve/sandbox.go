package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/agent/modules"
	"github.com/katabuild/katabuild/agent/osthread"
	"github.com/katabuild/katabuild/agent/policy"
	"github.com/katabuild/katabuild/agent/storage"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/kmodule"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Sandbox is what the API makes of a guest: containers with their files and network.
type Sandbox struct {
	Containers Containers
	Storage    Storage
	Network    Network
	Machine    Machine
	Metrics    Metrics
	Policy     *policy.Policy
	Streams    *Streams // nil: standard streams go by calls
	Forwards   bool     // Forward runs
	Log        *slog.Logger
	// End is called once the host has destroyed the sandbox and the answer is on its way.
	End func()
	// NamespaceDir is where the pod's shared namespaces are pinned; empty is namespaceDir.
	NamespaceDir string
}

// namespaceDir is where Kata's agent pins the pod's namespaces too.
const namespaceDir = "/run/sandbox-ns"

// sandboxOwner is the owner of the storages of the whole sandbox.
const sandboxOwner = "sandbox"

// full is the whole API.
type full struct {
	*api
	s Sandbox

	mu       sync.Mutex // guards what follows
	created  bool
	id       string
	sharedNS map[string]string // namespace by type, where it is pinned
	hookDir  string
	first    string // id of the first container, whose PID namespace is the pod's
	ended    chan struct{}
	endOnce  sync.Once
}

// codeOf is the gRPC code for an error of another package.
func codeOf(err error) codes.Code {
	switch {
	case errors.Is(err, container.ErrNotFound), errors.Is(err, storage.ErrNotFound):
		return codes.NotFound
	case errors.Is(err, container.ErrExists):
		return codes.AlreadyExists
	case errors.Is(err, container.ErrState):
		return codes.FailedPrecondition
	case errors.Is(err, container.ErrNoTerminal):
		return codes.Unavailable
	case errors.Is(err, storage.ErrOutside):
		return codes.InvalidArgument
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, storage.ErrTimeout):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codes.Internal
}

// answer is nothing, or the error with its code.
func answer(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, coded(err)
	}
	return &emptypb.Empty{}, nil
}

func coded(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.Error(codeOf(err), err.Error())
}

func (f *full) CreateSandbox(ctx context.Context, r *katapb.CreateSandboxRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.created {
		return nil, status.Errorf(codes.AlreadyExists, "the sandbox %s exists already; a guest has one", f.id)
	}
	asked, err := kernelModules(r.KernelModules)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	for _, m := range asked {
		if err := modules.Load(m); err != nil {
			return nil, coded(err)
		}
	}
	ns, err := pinNamespaces(f.namespaceDir(), r.Hostname)
	if err != nil {
		return nil, coded(err)
	}
	if err := f.s.Storage.Add(ctx, sandboxOwner, r.Storages); err != nil {
		return nil, coded(errors.Join(err, unpin(ns)))
	}
	if len(r.Dns) > 0 {
		if err := f.s.Network.DNS(r.Dns); err != nil {
			return nil, coded(errors.Join(err, f.s.Storage.Release(sandboxOwner), unpin(ns)))
		}
	}
	f.created, f.id, f.sharedNS, f.hookDir = true, r.SandboxId, ns, r.GuestHookPath
	return &emptypb.Empty{}, nil
}

// kernelModules reads what a host asks for. All of it is right, or none is loaded.
func kernelModules(list []*katapb.KernelModule) ([]kmodule.Module, error) {
	if len(list) > kmodule.Most {
		return nil, fmt.Errorf("%d kernel modules: want at most %d", len(list), kmodule.Most)
	}
	var out []kmodule.Module
	for _, k := range list {
		m, err := kmodule.New(k.GetName(), k.GetParameters())
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func (f *full) namespaceDir() string {
	if f.s.NamespaceDir != "" {
		return f.s.NamespaceDir
	}
	return namespaceDir
}

// DestroySandbox removes every container, and ends the guest once it has answered.
func (f *full) DestroySandbox(ctx context.Context, _ *katapb.DestroySandboxRequest) (*emptypb.Empty, error) {
	var errs []error
	for _, c := range f.s.Containers.Containers() {
		errs = append(errs, c.Remove(ctx))
		errs = append(errs, f.s.Storage.Release(c.ID()))
	}
	f.mu.Lock()
	errs = append(errs, f.s.Storage.Close(), unpin(f.sharedNS))
	f.created, f.sharedNS, f.first = false, nil, ""
	f.mu.Unlock()
	f.endOnce.Do(func() {
		close(f.ended)
		if f.s.End != nil {
			f.s.End()
		}
	})
	return answer(errors.Join(errs...))
}

// GetOOMEvent waits for a container that met its memory limit.
func (f *full) GetOOMEvent(ctx context.Context, _ *katapb.GetOOMEventRequest) (*katapb.OOMEvent, error) {
	select {
	case id := <-f.s.Containers.OOM():
		return &katapb.OOMEvent{ContainerId: id}, nil
	case <-f.ended:
		return nil, status.Error(codes.Unavailable, "the sandbox has ended")
	case <-ctx.Done():
		return nil, coded(ctx.Err())
	}
}

// SetPolicy replaces the policy, if the one in force lets it.
func (f *full) SetPolicy(_ context.Context, r *katapb.SetPolicyRequest) (*emptypb.Empty, error) {
	if err := f.s.Policy.Set(r.Policy); err != nil {
		if _, ok := status.FromError(err); ok {
			return nil, err
		}
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &emptypb.Empty{}, nil
}

// GetMetrics is for a scraper on the host.
func (f *full) GetMetrics(context.Context, *katapb.GetMetricsRequest) (*katapb.Metrics, error) {
	text, err := f.s.Metrics.Collect()
	if err != nil {
		f.s.Log.Debug("metrics", "err", err)
	}
	return &katapb.Metrics{Metrics: text}, nil
}

// maxTermination is what is read of a termination log, in bytes, as the kubelet's own limit.
const maxTermination = 4096

// terminationAnnotation names the file in the container that the kubelet wants to see after its end.
const terminationAnnotation = "io.kubernetes.container.terminationMessagePath"

// GetDiagnosticData hands out what a container left as its last words, for hosts that share no files with the guest.
func (f *full) GetDiagnosticData(_ context.Context, r *katapb.GetDiagnosticDataRequest) (
	*katapb.GetDiagnosticDataResponse, error) {
	if r.LogType != "termination_log" {
		return nil, status.Errorf(codes.InvalidArgument, "diagnostic data %q: want termination_log", r.LogType)
	}
	c, err := f.s.Containers.Container(r.ContainerId)
	if err != nil {
		return nil, coded(err)
	}
	spec := c.Spec()
	path := spec.Annotations[terminationAnnotation]
	if path == "" {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s has no annotation %s", r.ContainerId,
			terminationAnnotation)
	}
	file, err := openTermination(spec, path)
	if err != nil {
		return nil, coded(fmt.Errorf("termination log: %w", err))
	}
	defer file.Close()
	text, err := lastWords(file)
	if err != nil {
		return nil, coded(fmt.Errorf("termination log: %w", err))
	}
	return &katapb.GetDiagnosticDataResponse{Data: text}, nil
}

// openTermination opens path as the container has it. Without O_NONBLOCK a pipe that the container put there would hold
// the call for good.
func openTermination(spec *specs.Spec, path string) (*os.File, error) {
	const flags = os.O_RDONLY | unix.O_NONBLOCK
	for _, m := range spec.Mounts {
		if m.Destination == path {
			return os.OpenFile(m.Source, flags, 0)
		}
	}
	root, err := os.OpenRoot(spec.Root.Path) // nothing in the container leads out of it
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenFile(filepath.Join(".", path), flags, 0)
}

// lastWords reads the head of a regular file, which may be empty.
func lastWords(file *os.File) (string, error) {
	st, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", file.Name())
	}
	b, err := io.ReadAll(io.LimitReader(file, maxTermination))
	return string(b), err
}

// pinNamespaces makes the IPC and UTS namespaces that the pod's containers share, and gives each a file by which it is
// joined.
func pinNamespaces(dir, hostname string) (map[string]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	pinned := map[string]string{}
	err := osthread.Run(nil, func() error {
		if err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
			return fmt.Errorf("new namespaces: %w", err)
		}
		if hostname != "" {
			if err := unix.Sethostname([]byte(hostname)); err != nil {
				return fmt.Errorf("host name %q: %w", hostname, err)
			}
		}
		for _, n := range []string{"ipc", "uts"} {
			path := filepath.Join(dir, n)
			if err := os.WriteFile(path, nil, 0o444); err != nil {
				return err
			}
			if err := unix.Mount("/proc/thread-self/ns/"+n, path, "", unix.MS_BIND, ""); err != nil {
				return errors.Join(fmt.Errorf("pin the namespace %s: %w", path, err), os.Remove(path))
			}
			pinned[n] = path
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, unpin(pinned))
	}
	return pinned, nil
}

func unpin(pinned map[string]string) error {
	var errs []error
	for _, path := range pinned {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: path, Err: err})
			continue
		}
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}
