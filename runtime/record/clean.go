package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/runtime/cgroup"
	"github.com/katabuild/katabuild/runtime/network"
	"github.com/katabuild/katabuild/runtime/share"
	"golang.org/x/sys/unix"
)

// remains are what can outlive a killed pod. The fields have these names and meanings in every version of the record,
// so that a program can clean up after a newer one.
type remains struct {
	QEMU      HostProcess `json:"qemu"`
	VirtioFSD HostProcess `json:"virtiofsd"`
	Netns     string      `json:"netns"`
	Links     []string    `json:"links"`
	Cgroup    []string    `json:"cgroup"`
}

// remainsOf reads them of a record. With a *versionError of a newer version they may not be all.
func remainsOf(b []byte) (remains, error) {
	r, err := Decode(b)
	if err == nil {
		return remains{QEMU: r.QEMU, VirtioFSD: r.VirtioFSD, Netns: r.Netns, Links: r.Links, Cgroup: r.Cgroup}, nil
	}
	var out remains
	if v, is := errors.AsType[*versionError](err); is && v.Version > Version && json.Unmarshal(b, &out) != nil {
		out = remains{} // nothing of it can be trusted
	}
	return out, err
}

// RemoveMonitor removes a pod's management socket, and its folder where nothing else is in it.
func RemoveMonitor(d Dirs, id string) error {
	err := os.Remove(d.MonitorSocket(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("management socket: %w", err)
	}
	if err := os.Remove(d.MonitorFolder(id)); err != nil && !errors.Is(err, fs.ErrNotExist) &&
		!errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("management socket: %w", err)
	}
	return nil
}

// Clean removes everything that a pod whose process was killed has left on the host. Calling it again, or for a pod
// that never was, is a no-op. The caller makes sure that nobody runs the pod any more.
//
// Of a pod whose record a newer version wrote, what this one knows about is removed; the folder stays, and the error
// says which version it is.
func Clean(d Dirs, id string) error {
	d = d.WithDefaults()
	if err := CheckID(id); err != nil {
		return err
	}
	dir := d.Folder(id)
	var left remains // killed before it wrote a record: there is at most its folder
	var newer *versionError
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err == nil {
		left, err = remainsOf(b)
	}
	switch {
	case errors.As(err, &newer) && newer.Version > Version:
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("clean up the pod %s: %w; remove %s by hand", id, err, dir)
	}
	errs := []error{left.QEMU.kill(), left.VirtioFSD.kill()}
	if left.Netns != "" {
		errs = append(errs, network.Clean(left.Netns, left.Links))
	}
	errs = append(errs, share.Clean(d.Share, id), cgroup.Remove(left.Cgroup), RemoveMonitor(d, id))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up the pod %s: %w", id, err)
	}
	if newer != nil {
		return fmt.Errorf("clean up the pod %s: %w: what it has in common with this program's is removed; for the "+
			"rest use the newer program, or remove %s by hand", id, newer, dir)
	}
	return os.RemoveAll(dir)
}
