// Package record is the document on disk about a running pod: what it is, and what could outlive it.
//
// In come a pod's name and what it makes on the host, before it is used; out come the record, for programs that ask
// about pods, and the cleaning up after a pod that was killed. It does not know how a pod is run.
//
// docs/formats/state.md owns the bytes.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/guest"
)

// Version is the version of the record that this package writes. It reads that and the one before, where there is one.
const Version = 1

// The files of a pod's folder. The sockets' paths have to fit into 107 bytes.
const (
	file        = "state.json"
	vsockSocket = "vsock.sock"
	shareSocket = "fs.sock"
	// MonitorSocketName is the name that Kata Containers' programs look for: GetSandboxesStoragePath and SocketPath of
	// its src/runtime/pkg/containerd-shim-v2.
	MonitorSocketName = "shim-monitor.sock"
)

// Dirs are the folders of the host that pods use. The zero value is the default of each.
type Dirs struct {
	State string // /run/katabuild: a folder for each pod, with its record and its sockets
	Share string // /run/kata-containers/shared/sandboxes, Kata's
	// Monitor has a folder for each pod with its management socket: /run/vc/sbs, Kata's, and where State is not the
	// default, beside that.
	Monitor string
}

// The defaults of Dirs.
const (
	DefaultState = "/run/katabuild"
	DefaultShare = "/run/kata-containers/shared/sandboxes"
	// defaultMonitor is where Kata Containers' runtime in Go has its sandboxes.
	defaultMonitor = "/run/vc/sbs"
)

// WithDefaults fills what is empty.
func (d Dirs) WithDefaults() Dirs {
	switch {
	case d.Monitor != "":
	case d.State == "", d.State == DefaultState:
		d.Monitor = defaultMonitor
	default:
		d.Monitor = d.State + ".monitor"
	}
	if d.State == "" {
		d.State = DefaultState
	}
	if d.Share == "" {
		d.Share = DefaultShare
	}
	return d
}

// Folder is that of a pod below State.
func (d Dirs) Folder(id string) string { return filepath.Join(d.WithDefaults().State, id) }

// VsockSocket is the UNIX socket through which other processes reach the ports of a pod's guest.
func (d Dirs) VsockSocket(id string) string { return filepath.Join(d.Folder(id), vsockSocket) }

// ShareSocket is the UNIX socket between a pod's QEMU and virtiofsd.
func (d Dirs) ShareSocket(id string) string { return filepath.Join(d.Folder(id), shareSocket) }

// MonitorFolder is that of a pod below Monitor.
func (d Dirs) MonitorFolder(id string) string { return filepath.Join(d.WithDefaults().Monitor, id) }

// MonitorSocket is the UNIX socket on which a pod's shim is managed.
func (d Dirs) MonitorSocket(id string) string {
	return filepath.Join(d.MonitorFolder(id), MonitorSocketName)
}

// State is what a pod is about.
type State string

// The states.
const (
	Starting State = "starting"
	Running  State = "running"
)

// Record is what is known of a pod. A field that names what can outlive a pod keeps its name and meaning in all
// versions: see remains.
type Record struct {
	Version    int              `json:"version"`
	ID         string           `json:"id"`
	State      State            `json:"state"`
	Created    string           `json:"created"` // RFC 3339, UTC
	Guest      string           `json:"guest"`   // the folder it was booted from; empty for a guest without a manifest
	Shim       HostProcess      `json:"shim"`
	QEMU       HostProcess      `json:"qemu"`
	VirtioFSD  HostProcess      `json:"virtiofsd"`
	Command    []string         `json:"command"` // QEMU's command line
	Netns      string           `json:"netns"`   // empty is none, or one that ends with the pod's processes
	Links      []string         `json:"links"`   // made in the network namespace
	Share      bool             `json:"share"`   // there is a shared folder
	Cgroup     []string         `json:"cgroup"`  // folders made for the pod
	Containers []string         `json:"containers"`
	Verdict    *verdict.Verdict `json:"verdict"` // null where the guest was not asked
	// Files are those that a guest without a manifest was booted from.
	Files       []guest.Booted    `json:"files,omitempty"`
	Annotations map[string]string `json:"annotations"`
}

// idPattern is what containerd and CRI-O make, and Kata Containers' agent takes.
var idPattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// maxID keeps the path of the longest socket within what a UNIX address holds.
const maxID = 76

// CheckID refuses an id that cannot be a file's name, or that the agent would not take.
func CheckID(id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("id %q: want letters, digits, and - _ . behind the first", id)
	}
	if len(id) > maxID {
		return fmt.Errorf("id %q has %d bytes, at most %d are possible", id, len(id), maxID)
	}
	return nil
}

// File is the record on disk of a pod that this process runs. Its methods may be called from several goroutines.
type File struct {
	dir string

	mu     sync.Mutex // guards what follows
	record Record
}

// Begin takes the name of the pod r.ID: its folder, and a record that this process works on it. Version, state, times
// and lists are filled in.
func Begin(d Dirs, r Record) (*File, error) {
	if err := CheckID(r.ID); err != nil {
		return nil, err
	}
	d = d.WithDefaults()
	if err := os.MkdirAll(d.State, 0o700); err != nil {
		return nil, err
	}
	f := &File{dir: d.Folder(r.ID), record: r}
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("a pod called %s exists already (%s)", r.ID, f.dir)
		}
		return nil, err
	}
	return f, f.Note(func(r *Record) {
		r.Version, r.State, r.Created = Version, Starting, time.Now().UTC().Format(time.RFC3339)
		r.Shim = ProcessOf(os.Getpid())
		r.Command, r.Links, r.Cgroup, r.Containers = []string{}, []string{}, []string{}, []string{}
		if r.Annotations == nil {
			r.Annotations = map[string]string{}
		}
	})
}

// Note changes the record, on disk before it returns.
func (f *File) Note(change func(*Record)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.record)
	b, err := document.Encode(&f.record)
	if err != nil {
		return fmt.Errorf("record of the pod: %w", err)
	}
	return atomicfile.Write(filepath.Join(f.dir, file), b, 0o600)
}

// End forgets the pod.
func (f *File) End() error {
	if err := os.RemoveAll(f.dir); err != nil {
		return fmt.Errorf("forget the pod: %w", err)
	}
	return nil
}

// versionError says that a record is of a version that this program does not read.
type versionError struct {
	Version int // the record's
}

func (e *versionError) Error() string {
	if e.Version > Version {
		return fmt.Sprintf("%s: version %d is of a newer program; this one reads %s", kind, e.Version, readable)
	}
	return fmt.Sprintf("%s: version %d, this program reads %s", kind, e.Version, readable)
}

// kind is what errors call the document.
const kind = "state of a pod"

// readable is which versions Decode reads, for people: those of readers.
const readable = "1"

// reader reads a record of one version, in its canonical form, and makes one of today's form of it.
type reader func([]byte) (*Record, error)

// readers has a reader for the version that is written, and one for that before it: an upgrade finds pods that run.
func readers() map[int]reader { return map[int]reader{1: read1} }

// read1 reads version 1.
func read1(b []byte) (*Record, error) {
	var r Record
	return &r, document.Decode(kind, b, &r)
}

// Decode reads a record in the canonical form of its version, and nothing else. Another version than those that are
// known is an error that says which one it is.
func Decode(b []byte) (*Record, error) { return decode(b, readers()) }

func decode(b []byte, readers map[int]reader) (*Record, error) {
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	read := readers[v.Version]
	if read == nil {
		return nil, &versionError{v.Version}
	}
	r, err := read(b)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Read reads the record of a pod. One that does not exist is fs.ErrNotExist.
func Read(d Dirs, id string) (*Record, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	path := filepath.Join(d.WithDefaults().Folder(id), file)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// List is the ids of the pods on this host, sorted.
func List(d Dirs) ([]string, error) {
	entries, err := os.ReadDir(d.WithDefaults().State)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && CheckID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return ids, nil
}
