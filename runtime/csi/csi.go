// Package csi is a driver for volumes that guests mount by themselves, by the Container Storage Interface: the
// services Identity, Controller and Node, on one UNIX socket.
//
// In come calls of Kubernetes' programs or another orchestrator's; volumes are files that runtime/csi/images keeps on
// the node. A volume that is published is not mounted: its description is left for the path at which containers look
// for it (runtime/directvolume), and a pod's guest gets the file as a disk and mounts it. Who has which volume is told
// by these descriptions alone, so nothing has to be agreed after a crash or a restart of the node. The package knows no
// hypervisor, and needs no Kubernetes; Registrar tells a kubelet of the driver.
package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/runtime/csi/images"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/management"
	"github.com/katabuild/katabuild/runtime/record"
)

// DefaultName is the driver's name, as Kata Containers' driver has it.
const DefaultName = "directvolume.csi.katacontainers.io"

// topologyKey is the label of nodes that says where a volume is. Kata Containers 4.1, csi-kata-directvolume.
const topologyKey = "topology.directvolume.csi/node"

// Options are of a Driver.
type Options struct {
	Name     string // of the driver, DefaultName where empty
	Version  string
	Node     string // the node's name
	Images   *images.Store
	MaxSize  int64  // of a volume, in bytes, as Images has it
	Topology bool   // volumes are told to be of this node alone
	Volumes  string // where descriptions are, directvolume.Root where empty
	Dirs     record.Dirs
	Log      *slog.Logger
}

// Driver answers calls. Get one from New.
type Driver struct {
	spec.UnimplementedIdentityServer
	spec.UnimplementedControllerServer
	spec.UnimplementedNodeServer

	o    Options
	pods management.Volumes

	mu   sync.Mutex
	busy map[string]bool // ids of volumes that a call is about; guarded by mu
}

// validName is a driver's name. CSI 1.13, GetPluginInfo.
var validName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)

// maxNode is the longest name of a node, in bytes. CSI 1.13, NodeGetInfo: 256; a label of Kubernetes has 63.
const maxNode = 63

// New makes a driver.
func New(o Options) (*Driver, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.Volumes == "" {
		o.Volumes = directvolume.Root
	}
	if !validName.MatchString(o.Name) {
		return nil, fmt.Errorf("driver %q: want a name of at most 63 letters, digits, '-' and '.'", o.Name)
	}
	if o.Node == "" || len(o.Node) > maxNode {
		return nil, fmt.Errorf("node %q: want a name of 1 to %d bytes", o.Node, maxNode)
	}
	return &Driver{o: o, pods: management.Volumes{Dirs: o.Dirs, Root: o.Volumes}, busy: map[string]bool{}}, nil
}

// endTime is how long calls may take that are not over when the driver is to end.
const endTime = 10 * time.Second

// maxMessage bounds a call, in bytes. CSI 1.13, "Size Limits": fields are of 128 bytes or 4 KiB.
const maxMessage = 1 << 20

// Serve answers at a socket until ctx ends.
func (d *Driver) Serve(ctx context.Context, socket string) error {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.UnaryInterceptor(d.answer))
	spec.RegisterIdentityServer(s, d)
	spec.RegisterControllerServer(s, d)
	spec.RegisterNodeServer(s, d)
	return serve(ctx, s, socket)
}

// serve answers at a socket until ctx ends.
func serve(ctx context.Context, s *grpc.Server, socket string) error {
	l, err := listen(socket)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }() // ends with Stop
	select {
	case err := <-ended:
		return fmt.Errorf("socket %s: %w", socket, err)
	case <-ctx.Done():
	}
	t := time.AfterFunc(endTime, s.Stop)
	defer t.Stop()
	s.GracefulStop()
	return <-ended
}

// listen makes a socket for this user alone, in the place of one that nobody serves.
func listen(socket string) (*net.UnixListener, error) {
	if !filepath.IsAbs(socket) {
		return nil, fmt.Errorf("socket %q: want an absolute path", socket)
	}
	fi, err := os.Lstat(socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case fi.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("socket %s: there is another file", socket)
	default:
		if c, err := net.Dial("unix", socket); err == nil {
			return nil, errors.Join(fmt.Errorf("socket %s: another driver serves it", socket), c.Close())
		}
		if err := os.Remove(socket); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// answer logs calls, without what is in them, and gives their errors the codes of CSI.
func (d *Driver) answer(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	began := time.Now()
	resp, err := next(ctx, req)
	call, took := path.Base(info.FullMethod), time.Since(began).Round(time.Millisecond)
	if err == nil {
		d.o.Log.Debug("answered", "call", call, "took", took)
		return resp, nil
	}
	err = coded(err)
	d.o.Log.Warn("refused", "call", call, "took", took, "code", status.Code(err).String(), "err", err)
	return nil, err
}

// causes say which code an error has.
var causes = []struct {
	err  error
	code codes.Code
}{
	{images.ErrNone, codes.NotFound}, {images.ErrOther, codes.AlreadyExists}, {images.ErrSize, codes.OutOfRange},
	{images.ErrFull, codes.ResourceExhausted}, {unix.ENOSPC, codes.ResourceExhausted},
	{images.ErrFSType, codes.InvalidArgument}, {images.ErrName, codes.InvalidArgument},
	{images.ErrNoProgram, codes.FailedPrecondition}, {images.ErrNoGrowth, codes.FailedPrecondition},
	{context.Canceled, codes.Canceled}, {context.DeadlineExceeded, codes.DeadlineExceeded},
}

// coded is an error with its code: Internal where nobody has said another.
func coded(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, c := range causes {
		if errors.Is(err, c.err) {
			return status.Error(c.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}

// invalid refuses an argument.
func invalid(format string, a ...any) error {
	return status.Errorf(codes.InvalidArgument, format, a...)
}

// use keeps other calls about a volume away until leave is called. CSI 1.13, "Concurrency": Aborted has the caller try
// again.
func (d *Driver) use(id string) (leave func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[id] {
		return nil, status.Errorf(codes.Aborted, "volume %s: another call about it is not over", id)
	}
	d.busy[id] = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.busy, id)
	}, nil
}

// published are the paths that the volume with an image is published at.
func (d *Driver) published(image string) (map[string]*directvolume.Info, error) {
	paths, err := directvolume.Volumes(d.o.Volumes)
	if err != nil {
		return nil, err
	}
	out := map[string]*directvolume.Info{}
	for _, p := range paths {
		i, err := directvolume.Read(d.o.Volumes, p)
		if errors.Is(err, directvolume.ErrNone) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		if i.Device == image {
			out[p] = i
		}
	}
	return out, nil
}
