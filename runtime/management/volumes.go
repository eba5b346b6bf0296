package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/record"
)

// ErrNotRunning says that no pod that runs has a volume.
var ErrNotRunning = errors.New("no pod that runs has it")

// Volumes asks pods about volumes that are assigned directly, by their paths on the host.
type Volumes struct {
	Dirs record.Dirs
	Root string // of the descriptions, directvolume.Root
}

// Stats is how full a volume is, in JSON, as the guest says that has it.
func (v Volumes) Stats(ctx context.Context, path string) ([]byte, error) {
	id, err := v.Pod(path)
	if err != nil {
		return nil, err
	}
	return Client{Dirs: v.Dirs, ID: id}.Get(ctx, "/direct-volume/stats?path="+url.QueryEscape(path))
}

// Pod is the pod that runs with a volume; ErrNotRunning says that there is none.
func (v Volumes) Pod(path string) (string, error) {
	pods, err := directvolume.Pods(v.Root, path)
	if err != nil {
		return "", err
	}
	for _, id := range pods {
		if record.CheckID(id) == nil && v.runs(id) {
			return id, nil
		}
	}
	return "", fmt.Errorf("volume %s: %w", path, ErrNotRunning)
}

// runs says whether a pod runs. One whose processes are not seen answers at its socket.
func (v Volumes) runs(id string) bool {
	r, err := record.Read(v.Dirs, id)
	if err != nil {
		return false
	}
	if r.Shim.Alive() || r.QEMU.Alive() {
		return true
	}
	c, err := net.Dial("unix", v.Dirs.MonitorSocket(id))
	if err != nil {
		return false
	}
	_ = c.Close() // nothing was asked
	return true
}

// Resize has the guest that has a volume make its file system as large as the disk, whose file or device has size
// bytes.
func (v Volumes) Resize(ctx context.Context, path string, size int64) error {
	id, err := v.Pod(path)
	if err != nil {
		return err
	}
	body, err := json.Marshal(resizeRequest{VolumePath: path, Size: size})
	if err != nil {
		return err
	}
	_, err = Client{Dirs: v.Dirs, ID: id}.do(ctx, http.MethodPost, "/direct-volume/resize", body)
	return err
}

// resizeRequest is what /direct-volume/resize takes, with Kata Containers' names.
type resizeRequest struct {
	VolumePath string
	Size       int64 // bytes
}
