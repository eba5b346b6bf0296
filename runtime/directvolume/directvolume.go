// Package directvolume reads and writes what says that a volume is assigned to pods directly.
//
// A CSI driver that knows Kata Containers does not mount such a volume on the host: it leaves a description of the disk
// for the path at which the kubelet would find the mount, and the pod's guest mounts the disk. In come that path and
// the description, mountInfo.json as Kata Containers writes it; out come files below Root. The package does not know
// how a disk gets into a guest. Kata Containers 4.1, docs/design/direct-blk-device-assignment.md.
package directvolume

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/owned"
)

// Root is where the descriptions are, a folder for each volume.
const Root = "/run/kata-containers/shared/direct-volumes"

// infoName is the description in a volume's folder. All other files there are named after the pods that have it.
const infoName = "mountInfo.json"

// maxInfo bounds a description, in bytes.
const maxInfo = 64 << 10

// maxName is the longest name of a file, in bytes. Linux, NAME_MAX of <linux/limits.h>.
const maxName = 255

// The types of volumes.
const (
	Block = "block"    // a block device, or a file with a file system in it
	VFIO  = "vfio-blk" // a disk that is passed through
	SPDK  = "spdkvol"  // a disk that SPDK serves by vhost-user
)

// alsoKnown are other words for a type: Kata Containers' runtimes and drivers do not agree on them.
var alsoKnown = map[string]string{"blk": Block, "directvol": Block, "vfiovol": VFIO}

// Names in the metadata, which are Kubernetes'.
const (
	FSGroup       = "fsGroup"
	FSGroupPolicy = "fsGroupChangePolicy" // Always or OnRootMismatch
)

// ErrNone says that a path is not that of a volume that is assigned directly.
var ErrNone = errors.New("no volume is assigned directly at this path")

// Info is the description of a volume.
type Info struct {
	Type     string            `json:"volume-type"`
	Device   string            `json:"device"` // a path on the host
	FSType   string            `json:"fstype"` // of the file system in it
	Metadata map[string]string `json:"metadata,omitempty"`
	Options  []string          `json:"options,omitempty"` // of the mount in the guest
}

// Kind is the type of a volume: Block, VFIO or SPDK; any other word as it is.
func (i *Info) Kind() string {
	if t, ok := alsoKnown[i.Type]; ok {
		return t
	}
	return i.Type
}

// Group is whose a volume's files become: Kubernetes' fsGroup.
type Group struct {
	ID         uint32
	OnMismatch bool // only where its top is not the group's already
}

// Parse reads a description, and nothing else: fields that Kata Containers does not know are an error, names in its
// metadata are not, as drivers write more of them than a runtime reads.
func Parse(data []byte) (*Info, error) {
	var i Info
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&i); err != nil {
		return nil, fmt.Errorf("%s: %w", infoName, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: there is something behind the description", infoName)
	}
	if err := unique(data); err != nil {
		return nil, fmt.Errorf("%s: %w", infoName, err)
	}
	return &i, i.check()
}

// unique refuses a key that stands twice in an object, or in another spelling.
func unique(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	known := map[string]bool{"volume-type": true, "device": true, "fstype": true, "metadata": true, "options": true}
	var seen []map[string]bool
	var objects, keys []bool // of each open bracket: is it an object, and is a key next
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		last := len(objects) - 1
		if delim, is := t.(json.Delim); is {
			if delim == '{' || delim == '[' {
				if last >= 0 && objects[last] {
					keys[last] = true // behind this value
				}
				objects, keys = append(objects, delim == '{'), append(keys, delim == '{')
				seen = append(seen, map[string]bool{})
				continue
			}
			objects, keys, seen = objects[:last], keys[:last], seen[:last]
			continue
		}
		if last < 0 || !objects[last] {
			continue
		}
		if keys[last] {
			k := t.(string) // keys of JSON are
			if seen[last][k] {
				return fmt.Errorf("%q stands twice", k)
			}
			if last == 0 && !known[k] {
				return fmt.Errorf("unknown field %q", k)
			}
			seen[last][k] = true
		}
		keys[last] = !keys[last]
	}
}

func (i *Info) check() error {
	switch {
	case i.Type == "":
		return fmt.Errorf("%s: no volume-type, want %s", infoName, Block)
	case !filepath.IsAbs(i.Device) || filepath.Clean(i.Device) != i.Device:
		return fmt.Errorf("%s: device %q: want an absolute path", infoName, i.Device)
	case i.FSType == "" && i.Kind() == Block:
		return fmt.Errorf("%s: no fstype: the guest mounts nothing that it would have to guess", infoName)
	}
	_, err := i.Group()
	return err
}

// ReadOnly says that nobody writes to the volume.
func (i *Info) ReadOnly() bool { return slices.Contains(i.Options, "ro") }

// Group is whose the files become; nil leaves them as they are.
func (i *Info) Group() (*Group, error) {
	text, ok := i.Metadata[FSGroup]
	if !ok {
		return nil, nil
	}
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%s: fsGroup %q: want the number of a group", infoName, text)
	}
	switch p := i.Metadata[FSGroupPolicy]; p {
	case "", "Always":
		return &Group{ID: uint32(id)}, nil
	case "OnRootMismatch":
		return &Group{ID: uint32(id), OnMismatch: true}, nil
	default:
		return nil, fmt.Errorf("%s: fsGroupChangePolicy %q: want Always or OnRootMismatch", infoName, p)
	}
}

// Name is what a volume's path is called in a name of a file.
func Name(path string) string { return base64.URLEncoding.EncodeToString([]byte(path)) }

// CheckPath refuses a path that no volume can have: its name in base64 is that of a folder.
func CheckPath(path string) error {
	if !filepath.IsAbs(path) || len(Name(path)) > maxName {
		return fmt.Errorf("volume %s: want an absolute path of at most %d bytes, as its name in base64 is that of a "+
			"folder", path, maxName/4*3)
	}
	return nil
}

// folder is that of a volume below root.
func folder(root, path string) (string, error) {
	return filepath.Join(root, Name(path)), CheckPath(path)
}

// Read is the description of a volume, ErrNone where there is none. Others than root could not have written it.
func Read(root, path string) (*Info, error) {
	dir, err := folder(root, path)
	if err != nil {
		return nil, ErrNone // nobody could have added it
	}
	data, err := owned.Read(filepath.Join(dir, infoName), maxInfo+1)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNone
	case err != nil:
		return nil, fmt.Errorf("volume %s: %w", path, err)
	case len(data) > maxInfo:
		return nil, fmt.Errorf("volume %s: %s has more than %d bytes", path, infoName, maxInfo)
	}
	i, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", path, err)
	}
	return i, nil
}

// Add writes the description of a volume, or another one for it.
func Add(root, path string, i *Info) error {
	if err := i.check(); err != nil {
		return err
	}
	dir, err := folder(root, path)
	if err != nil {
		return err
	}
	data, err := json.Marshal(i)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = owned.Folder(dir)
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", path, err)
	}
	return atomicfile.Write(filepath.Join(dir, infoName), data, 0o600)
}

// Remove removes the description of a volume. One that is not there is ErrNone.
func Remove(root, path string) error {
	dir, err := folder(root, path)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, infoName)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("volume %s: %w", path, ErrNone)
	}
	return os.RemoveAll(dir)
}

// Volumes are the paths of all volumes that are assigned directly.
func Volumes(root string) ([]string, error) {
	list, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range list {
		b, err := base64.URLEncoding.DecodeString(e.Name())
		if err != nil || !e.IsDir() { // nobody added it
			continue
		}
		if _, err := os.Lstat(filepath.Join(root, e.Name(), infoName)); err == nil {
			paths = append(paths, string(b))
		}
	}
	return paths, nil
}

// Record notes that a pod has a volume.
func Record(root, path, pod string) error {
	dir, err := folder(root, path)
	if err != nil {
		return err
	}
	if pod == infoName || filepath.Base(pod) != pod {
		return fmt.Errorf("pod %q: want the ID of one", pod)
	}
	return atomicfile.Write(filepath.Join(dir, pod), nil, 0o600)
}

// Forget takes back what Record has noted.
func Forget(root, path, pod string) error {
	dir, err := folder(root, path)
	if err != nil {
		return err
	}
	return os.Remove(filepath.Join(dir, filepath.Base(pod)))
}

// Pods are those that have, or had, a volume. ErrNone says that there is no such volume.
func Pods(root, path string) ([]string, error) {
	dir, err := folder(root, path)
	if err != nil {
		return nil, err
	}
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("volume %s: %w", path, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	var pods []string
	for _, e := range list {
		if e.Type().IsRegular() && e.Name() != infoName {
			pods = append(pods, e.Name())
		}
	}
	return pods, nil
}
