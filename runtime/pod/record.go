package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/paper"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/cgroup"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/network"
	"github.com/katabuild/katabuild/runtime/share"
	"golang.org/x/sys/unix"
)

// RecordVersion is the only version of the record that this package reads and writes.
const RecordVersion = 1

// The files of a pod's folder. The sockets' paths have to fit into 107 bytes.
const (
	recordFile  = "state.json"
	vsockSocket = "vsock.sock" // reaches the guest's ports: CONNECT port
	fsSocket    = "fs.sock"    // between QEMU and virtiofsd
)

// State is what a pod is about.
type State string

// The states.
const (
	Starting State = "starting"
	Running  State = "running"
)

// Record is the paper on disk about a running pod: what it is, and what could outlive it. docs/formats/state.md owns
// the bytes.
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

// HostProcess is a process that cannot be mistaken for another one which got its number later.
type HostProcess struct {
	PID   int    `json:"pid"`   // 0 is none
	Start uint64 `json:"start"` // clock ticks since boot: field 22 of /proc/PID/stat, proc(5)
}

// startField is the index of the start time in /proc/PID/stat behind the name in parentheses.
const startField = 22 - 3

// processOf describes a running process; the zero value when it is gone.
func processOf(pid int) HostProcess {
	start, err := startTime(pid)
	if err != nil {
		return HostProcess{}
	}
	return HostProcess{PID: pid, Start: start}
}

func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ") // a name may hold anything, but the last parenthesis is the kernel's
	for ok && strings.Contains(rest, ") ") {
		_, rest, ok = strings.Cut(rest, ") ")
	}
	f := strings.Fields(rest)
	if len(f) <= startField {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	return strconv.ParseUint(f[startField], 10, 64)
}

// Alive says whether the very process still runs.
func (p HostProcess) Alive() bool {
	if p.PID == 0 {
		return false
	}
	start, err := startTime(p.PID)
	return err == nil && start == p.Start
}

// killTime is how long a killed process may take to be gone.
const killTime = 5 * time.Second

// kill ends the process and waits for it to be gone.
func (p HostProcess) kill() error {
	if !p.Alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.Alive() { // it ended in between, and the number may be another's
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(killTime); ; {
		n, err := unix.Poll(poll, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return fmt.Errorf("process %d is still there %v after SIGKILL", p.PID, killTime)
		}
		return nil
	}
}

// idPattern is what containerd and CRI-O make, and Kata Containers' agent takes.
var idPattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// maxID keeps the path of the longest socket within what a UNIX address holds.
const maxID = 76

// checkID refuses an id that cannot be a file's name, or that the agent would not take.
func checkID(id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("id %q: want letters, digits, and - _ . behind the first", id)
	}
	if len(id) > maxID {
		return fmt.Errorf("id %q has %d bytes, at most %d are possible", id, len(id), maxID)
	}
	return nil
}

func (p *Pod) dir() string { return filepath.Join(p.dirs.State, p.id) }

// begin takes the pod's name: its folder, and a record of who works on it.
func (p *Pod) begin(o Options) error {
	if err := os.MkdirAll(p.dirs.State, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(p.dir(), 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("a pod called %s exists already (%s)", p.id, p.dir())
		}
		return err
	}
	p.record = Record{
		Version: RecordVersion, ID: p.id, State: Starting, Created: time.Now().UTC().Format(time.RFC3339),
		Guest: o.Config.QEMU.Guest,
		Shim:  processOf(os.Getpid()), Command: []string{}, Links: []string{}, Cgroup: []string{},
		Containers: []string{}, Annotations: o.Annotations,
	}
	if p.record.Annotations == nil {
		p.record.Annotations = map[string]string{}
	}
	return p.note(func(*Record) {})
}

// note changes the record, on disk before it returns.
func (p *Pod) note(change func(*Record)) error {
	p.recordMu.Lock()
	defer p.recordMu.Unlock()
	change(&p.record)
	b, err := paper.Encode(&p.record)
	if err != nil {
		return fmt.Errorf("record of the pod: %w", err)
	}
	return atomicfile.Write(filepath.Join(p.dir(), recordFile), b, 0o600)
}

// end forgets the pod.
func (p *Pod) end() error {
	if err := os.RemoveAll(p.dir()); err != nil {
		return fmt.Errorf("forget the pod: %w", err)
	}
	return nil
}

// DecodeRecord reads the canonical form and nothing else.
func DecodeRecord(b []byte) (*Record, error) {
	var r Record
	if err := paper.Decode("state of a pod", b, &r); err != nil {
		return nil, err
	}
	if r.Version != RecordVersion {
		return nil, fmt.Errorf("state of a pod: version %d, this program reads %d", r.Version, RecordVersion)
	}
	return &r, nil
}

// ReadRecord reads the record of a pod. One that does not exist is fs.ErrNotExist.
func ReadRecord(d Dirs, id string) (*Record, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	path := filepath.Join(d.WithDefaults().State, id, recordFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r, err := DecodeRecord(b)
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
		if e.IsDir() && checkID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// VsockSocket is the UNIX socket through which other processes reach the guest's ports.
func VsockSocket(d Dirs, id string) string {
	return filepath.Join(d.WithDefaults().State, id, vsockSocket)
}

// Clean removes everything that a pod whose process was killed has left on the host. Calling it again, or for a pod
// that never was, is a no-op. The caller makes sure that nobody runs the pod any more.
func Clean(d Dirs, id string) error {
	d = d.WithDefaults()
	if err := checkID(id); err != nil {
		return err
	}
	r, err := ReadRecord(d, id)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clean up the pod %s: %w; remove it by hand", id, err)
		}
		r = &Record{} // killed before it wrote one: there is at most its folder
	}
	errs := []error{r.QEMU.kill(), r.VirtioFSD.kill()}
	if r.Netns != "" {
		errs = append(errs, network.Clean(r.Netns, r.Links))
	}
	errs = append(errs, share.Clean(d.Share, id), cgroup.Remove(r.Cgroup))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up the pod %s: %w", id, err)
	}
	return os.RemoveAll(filepath.Join(d.State, id))
}
