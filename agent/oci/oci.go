// Package oci runs containers on hosts as the OCI runtime specification's command lines want it: each deed is a process
// of its own, and what they agree on lies in a folder of states.
//
// In come bundles and ids; out go processes that outlive the program which made them. How a container is made is the
// agent's: package blueprint decides, package launch starts the stage that becomes the program, and the stage waits at
// a socket until another process starts it. Package hostgroup has the control groups, package record the states. The
// package knows neither flags nor how things are printed. Shape: a Runtime, whose methods are the deeds.
package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container/launch"
	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/agent/oci/hostgroup"
	"github.com/katabuild/katabuild/agent/oci/record"
	"github.com/katabuild/katabuild/agent/reap"
	"github.com/katabuild/katabuild/internal/atomicfile"
)

// Reasons why something cannot be done. Callers of OCI runtimes look for these very words.
var (
	ErrNotFound   = errors.New("container does not exist")
	errExists     = errors.New("container with given ID already exists")
	errNotRunning = errors.New("container not running")
)

// Runtime does what its methods say. Each program has one, and does one deed.
type Runtime struct {
	Root string       // the folder of states, which is made where it is missing
	Self string       // the program that calls Stage when IsStage says so; "/proc/self/exe" when empty
	Log  *slog.Logger // warnings; nil discards
}

// The files of a container's folder.
const (
	stateFile  = "state.json"
	configFile = "config.json" // the bundle's, as it was read
	socketFile = "start.sock"  // where the stage waits; gone once it is started
)

// IsStage says whether a program with these arguments was started as a stage, and so shall call Stage before anything
// else.
func IsStage(args []string) bool {
	return len(args) == 2 && args[0] == stage.Name &&
		(args[1] == stage.Word || args[1] == stage.WordSoon || args[1] == stage.WordAhead)
}

// Stage is the life of such a program. It never returns.
func Stage() { stage.Main() }

func (r *Runtime) log() *slog.Logger {
	if r.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return r.Log
}

// launcher is what starts stages.
func (r *Runtime) launcher() (*launch.Launcher, error) {
	reaper, err := reap.New()
	if err != nil {
		return nil, err
	}
	self := r.Self
	if self == "" {
		self = "/proc/self/exe"
	}
	program, err := launch.Mounted(self)
	if err != nil {
		return nil, err
	}
	return &launch.Launcher{Reaper: reaper, Self: func() (string, error) { return program, nil }}, nil
}

// maxID is the longest name a file can have. NAME_MAX of <linux/limits.h>.
const maxID = 255

// checkID says what is wrong with an id: it is the name of a folder.
func checkID(id string) error {
	if id == "" || len(id) > maxID || id == "." || id == ".." {
		return fmt.Errorf("invalid container ID %q: want 1 to %d letters, digits, '_', '+', '-' and '.'", id, maxID)
	}
	for _, c := range []byte(id) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_+-.", c) >= 0 {
			continue
		}
		return fmt.Errorf("invalid container ID %q: want letters, digits, '_', '+', '-' and '.'", id)
	}
	return nil
}

func (r *Runtime) dir(id string) string { return filepath.Join(r.Root, id) }

// Container is a container from Create to Delete, as its folder says.
type Container struct {
	*record.Record
	r      *Runtime
	groups *hostgroup.Groups
}

// Load finds a container.
func (r *Runtime) Load(id string) (*Container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(r.dir(id), stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("container %q: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("state of container %s: %w", id, err)
	}
	rec, err := record.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	if rec.ID != id {
		return nil, fmt.Errorf("container %s: its state is that of %q", id, rec.ID)
	}
	return &Container{rec, r, hostgroup.Open(rec.Groups)}, nil
}

// List are all containers, sorted by id. What cannot be read is told and left out.
func (r *Runtime) List() ([]*Container, error) {
	entries, err := os.ReadDir(r.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []*Container
	for _, e := range entries {
		c, err := r.Load(e.Name())
		if errors.Is(err, ErrNotFound) {
			continue // it is being made, or was deleted meanwhile
		}
		if err != nil {
			r.log().Warn(err.Error())
			continue
		}
		out = append(out, c)
	}
	return out, nil
}

// Spec is what the container was made from.
func (c *Container) Spec() (*specs.Spec, error) {
	b, err := os.ReadFile(filepath.Join(c.r.dir(c.ID), configFile))
	if err != nil {
		return nil, fmt.Errorf("specification of container %s: %w", c.ID, err)
	}
	return parse(b)
}

func parse(b []byte) (*specs.Spec, error) {
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", configFile, err)
	}
	return &s, nil
}

// Status is what a container does now.
type Status string

// The states of a container.
const (
	created Status = "created"
	running Status = "running"
	paused  Status = "paused"
	stopped Status = "stopped"
)

// status looks what the container does now.
func (c *Container) status() (Status, error) {
	if !c.alive() {
		return stopped, nil
	}
	frozen, err := c.groups.Frozen()
	switch {
	case err != nil:
		return "", fmt.Errorf("container %s: %w", c.ID, err)
	case frozen:
		return paused, nil
	}
	if _, err := os.Lstat(filepath.Join(c.r.dir(c.ID), socketFile)); err == nil {
		return created, nil
	}
	return running, nil
}

// alive says whether the container's first process has not ended.
func (c *Container) alive() bool {
	start, ended, err := stat(c.Process.Pid)
	return err == nil && !ended && start == c.Process.Start
}

// stat reads when a process was started, and whether it has ended and only waits for its parent. proc_pid_stat(5): the
// name, which may hold anything, ends with the last bracket; the state is field 3 and the start field 22.
func stat(pid int) (start uint64, ended bool, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false, err
	}
	_, rest, ok := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return 0, false, fmt.Errorf("process %d: its state is of another form", pid)
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	return start, f[0] == "Z" || f[0] == "X", err
}

// save writes the container's record.
func (c *Container) save() error {
	b, err := record.Encode(c.Record)
	if err == nil {
		err = atomicfile.Write(filepath.Join(c.r.dir(c.ID), stateFile), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("state of container %s: %w", c.ID, err)
	}
	return nil
}

// State is a container's state as programs ask for it: the specification's, with what runc adds.
type State struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      Status            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

// State looks what the container is and does. A container that has stopped has process 0.
func (c *Container) State() (State, error) {
	status, err := c.status()
	if err != nil {
		return State{}, err
	}
	made, err := time.Parse(time.RFC3339Nano, c.Created)
	if err != nil {
		return State{}, fmt.Errorf("state of container %s: %w", c.ID, err)
	}
	s := State{Version: c.OCI, ID: c.ID, Pid: c.Process.Pid, Status: status, Bundle: c.Bundle, Rootfs: c.Rootfs,
		Created: made, Annotations: c.Annotations}
	if status == stopped {
		s.Pid = 0
	}
	return s, nil
}

// hookState is the state that hooks read.
func (c *Container) hookState(status Status) stage.State {
	s := stage.State{Version: c.OCI, ID: c.ID, Status: string(status), Bundle: c.Bundle, Annotations: c.Annotations}
	if status != stopped {
		s.Pid = c.Process.Pid
	}
	return s
}

// want returns an error unless the container is in one of the states.
func (c *Container) want(deed string, states ...Status) error {
	now, err := c.status()
	if err != nil {
		return err
	}
	if slices.Contains(states, now) {
		return nil
	}
	if now == stopped {
		return fmt.Errorf("%s container %s, which is stopped: %w", deed, c.ID, errNotRunning)
	}
	return fmt.Errorf("%s container %s: it is %s", deed, c.ID, now)
}

// signal sends a signal to the container's first process, and to no other that has its number.
func (c *Container) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err == nil {
		defer unix.Close(fd)
		if c.alive() {
			err = unix.PidfdSendSignal(fd, sig, nil, 0)
		} else {
			err = unix.ESRCH
		}
	}
	if err == unix.ESRCH {
		return fmt.Errorf("container %s: %w", c.ID, errNotRunning)
	}
	if err != nil {
		return fmt.Errorf("signal container %s: %w", c.ID, err)
	}
	return nil
}
