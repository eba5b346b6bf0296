package shim

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/share"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// socketDir is where shims have their sockets, as containerd's own.
const socketDir = "/run/containerd/s"

// socketFD is the descriptor by which the serving process inherits its socket.
const socketFD = 3

// StartOptions are what containerd says when it starts a shim.
type StartOptions struct {
	ID         string
	Namespace  string
	Address    string // of containerd's gRPC socket
	Bundle     string
	MaxVersion int      // of the task service that containerd knows; 0 is 2, and the answer is the address alone
	Self       string   // this program
	Args       []string // for the process that serves
	// Input is what containerd writes to a shim that it starts, which is read for a pod without a first container.
	Input io.Reader
	Env   []string // of the process that serves
}

// addressFile is where containerd looks for the address when it starts anew.
const addressFile = "address"

// Start makes sure that somebody serves the container ID, and returns what containerd wants to read: the address of the
// service. The containers of a pod are served by one process, which runs in a mount namespace of its own: its mounts
// end with it.
func Start(o StartOptions) (answer string, err error) {
	kind, group := kindSandbox, ""
	switch spec, err := readSpec(o.Bundle); {
	case isSandbox(err):
		if o.Args, err = sandboxArgs(o); err != nil {
			return "", err
		}
	case err != nil:
		return "", err
	default:
		if kind, group, err = kindOf(spec.Annotations); err != nil {
			return "", err
		}
	}
	if kind != kindContainer {
		group = o.ID
	}
	path := socketPath(o.Address, o.Namespace, group)
	address := "unix://" + path
	if kind == kindContainer {
		if !answers(path) {
			return "", fmt.Errorf("container %s belongs to the pod %s, which does not run", o.ID, group)
		}
	} else if err := serveBeside(o, path); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(o.Bundle, addressFile), []byte(address), 0o600); err != nil {
		return "", err
	}
	return startAnswer(address, o.MaxVersion)
}

// maxInput bounds what containerd writes to a shim that it starts, in bytes.
const maxInput = 1 << 20

// ConfigFlag hands the path of a sandbox's configuration to the process that serves: a sandbox's calls have none.
const ConfigFlag = "config"

// sandboxArgs are the arguments for the process that serves a pod without a first container.
func sandboxArgs(o StartOptions) ([]string, error) {
	if o.Input == nil {
		return o.Args, nil
	}
	input, err := io.ReadAll(io.LimitReader(o.Input, maxInput))
	if err != nil {
		return nil, fmt.Errorf("what containerd says of the runtime: %w", err)
	}
	path, err := configPathOf(input)
	if err != nil || path == "" {
		return o.Args, err
	}
	return append([]string{"-" + ConfigFlag, path}, o.Args...), nil
}

// startAnswer is what containerd reads of a start: the address alone, or a message for those who say which versions
// they know.
func startAnswer(address string, newest int) (string, error) {
	if newest < 2 {
		return address, nil
	}
	own, err := anypb.New(&types.MountCapabilities{Types: ownMounts, Transforms: share.Transforms})
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(bootstrap{Version: min(newest, 3), Address: address, Protocol: "ttrpc",
		Extensions: []bootstrapExtension{{own}}})
	return string(b), err
}

// bootstrap is the answer that containerd 2 wants: containerd, api/runtime/bootstrap/v1/bootstrap.proto, in JSON.
type bootstrap struct {
	Version    int                  `json:"version"`
	Address    string               `json:"address"`
	Protocol   string               `json:"protocol"`
	Extensions []bootstrapExtension `json:"extensions"` // since 2.4; others do not look
}

type bootstrapExtension struct {
	Value *anypb.Any `json:"value"`
}

// ownMounts are the types of mounts that containerd leaves to us, with share.Transforms: layers become disks of the
// guest. containerd, docs/shim-capabilities.md.
var ownMounts = []string{"erofs"}

// allowMounts is the annotation by which containerd 2.2 and 2.3 hear of them: types, and TRANSFORM/*, with commas
// between.
const allowMounts = "containerd.io/runtime-allow-mounts"

// socketPath is the socket of the shim that serves a group, the same for all its containers. Its length does not depend
// on that of the names.
func socketPath(address, namespace, group string) string {
	sum := sha256.Sum256([]byte(filepath.Join(address, namespace, group)))
	return filepath.Join(socketDir, fmt.Sprintf("%x", sum))
}

// answers says whether somebody serves at path.
func answers(path string) bool {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close() // nothing was said
	return true
}

// serveBeside starts the process that serves, with its socket.
func serveBeside(o StartOptions, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	if answers(path) {
		return fmt.Errorf("somebody serves container %s already, at %s", o.ID, path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("socket of the shim: %w", err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err := errors.Join(err, l.Close()); err != nil {
		return fmt.Errorf("socket of the shim: %w", err)
	}
	defer f.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	cmd := exec.Command(o.Self, o.Args...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = o.Bundle, o.Env, []*os.File{f}
	// A crash's last words go where containerd reads the log; it waits for standard output to be closed.
	if log, err := openLog(o.Bundle); err == nil {
		defer log.Close()
		cmd.Stderr = log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start the shim: %w", err), os.Remove(path))
	}
	return cmd.Process.Release()
}

// logFile is a FIFO that containerd makes in the bundle, and reads.
const logFile = "log"

// openLog opens it such that it never waits for a reader.
func openLog(bundle string) (*os.File, error) {
	return os.OpenFile(filepath.Join(bundle, logFile), os.O_RDWR|unix.O_NONBLOCK, 0)
}

// Log is where a shim's log goes: the bundle's FIFO. What does not fit, because nobody reads, is dropped: a log must
// not stop a pod.
type Log struct{ fd int }

// OpenLog opens the log of a bundle.
func OpenLog(bundle string) (*Log, error) {
	fd, err := unix.Open(filepath.Join(bundle, logFile), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(bundle, logFile), Err: err}
	}
	return &Log{fd}, nil
}

// Write writes a line, or drops it.
func (l *Log) Write(b []byte) (int, error) {
	_, err := unix.Write(l.fd, b)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return 0, err
	}
	return len(b), nil
}

// Inherited is the socket that Start left to the process that serves. It prepares the mount namespace too.
func Inherited() (*Socket, error) {
	// Mounts of the host are seen, ours are not seen there, and those who copy this namespace, as virtiofsd does, see
	// ours. Linux: Documentation/filesystems/sharedsubtree.rst.
	for _, flags := range []uintptr{unix.MS_SLAVE | unix.MS_REC, unix.MS_SHARED | unix.MS_REC} {
		if err := unix.Mount("", "/", "", flags, ""); err != nil {
			return nil, &os.PathError{Op: "set the propagation of", Path: "/", Err: err}
		}
	}
	f := os.NewFile(socketFD, "socket of the shim")
	l, err := net.FileListener(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("socket of the shim: %w", err)
	}
	return newSocket(l)
}

// Socket is where a shim serves: a file that outlives the listener, and may be replaced by a successor of the same
// name.
type Socket struct {
	net.Listener
	path string
	file fs.FileInfo
}

func newSocket(l net.Listener) (*Socket, error) {
	path := l.Addr().String()
	st, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket of the shim: %w", err), l.Close())
	}
	return &Socket{l, path, st}, nil
}

// Remove removes the file of a shim that ends. That of a successor stays. Whether containerd has removed the bundle
// meanwhile is no matter.
func (s *Socket) Remove() error {
	st, err := os.Lstat(s.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !(os.SameFile(st, s.file) && changed(st) == changed(s.file)) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// DeleteOptions are what containerd says when it cleans up after a shim that is gone.
type DeleteOptions struct {
	ID        string
	Namespace string
	Address   string
	Bundle    string
	Dirs      record.Dirs
}

// deleteCode is the exit code of a container that was cleaned up: as if killed.
const deleteCode = 128 + int(unix.SIGKILL)

// Delete removes what a shim that is gone has left, and returns what containerd wants to read. A container of a pod
// whose shim still serves is left alone.
func Delete(o DeleteOptions) ([]byte, error) {
	group := o.ID
	if spec, err := readSpec(o.Bundle); err == nil {
		if kind, id, err := kindOf(spec.Annotations); err == nil && kind == kindContainer {
			group = id
		}
	}
	path := socketPath(o.Address, o.Namespace, group)
	if !answers(path) {
		// Also for a container: its pod is dead, and containerd may ask for the pod's cleaning up later or never.
		if err := record.Clean(o.Dirs, group); err != nil {
			return nil, err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if o.Bundle != "" {
		// Mounts of a shim that had no namespace of its own.
		for unix.Unmount(filepath.Join(o.Bundle, "rootfs"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
	}
	return proto.Marshal(&taskapi.DeleteResponse{ExitStatus: uint32(deleteCode), ExitedAt: timestamppb.New(time.Now())})
}

// changed is when a file was last changed, which tells it from another one that got its inode number.
func changed(st fs.FileInfo) syscall.Timespec { return st.Sys().(*syscall.Stat_t).Ctim }

// Info is what containerd asks a runtime for with -info.
func Info(name, version string) ([]byte, error) {
	words := slices.Clone(ownMounts)
	for _, t := range share.Transforms {
		words = append(words, t+"/*")
	}
	own, err := packFeatures()
	if err != nil {
		return nil, err
	}
	return proto.Marshal(&types.RuntimeInfo{
		Name: name, Version: &types.RuntimeVersion{Version: version}, Features: own,
		Annotations: map[string]string{allowMounts: strings.Join(words, ",")},
	})
}
