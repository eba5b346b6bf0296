// Package launch starts the stages that become containers' processes.
//
// In come plans and the namespaces and control groups that a stage is to be in; out go stages, each a process with a
// socket to it. A stage is started with its plan, or ahead of one and handed it later. What the plan says is decided
// elsewhere (package blueprint) and carried out by the stage itself (package stage); the mounts that a stage may not
// make are made here.
package launch

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/katabuild/katabuild/agent/container/cgroup"
	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/agent/reap"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Launcher starts stages. Its methods may be called at the same time.
type Launcher struct {
	Reaper *reap.Reaper
	Guard  func()                 // deferred in each goroutine
	Self   func() (string, error) // the program to execute as a stage, as from Sealed
}

// Request is how to start a stage.
type Request struct {
	Plan  *stage.Plan
	Clone int           // namespaces that are made, as CLONE_NEW flags
	Join  []stage.Join  // namespaces that have a name
	Group *cgroup.Group // nil leaves it where the caller is
	OOM   *int          // oom_score_adj of proc(5); nil is 0
	Trees []*os.File    // detached mounts of the plan
	More  []*os.File    // the socket of the plan's Listen, and the files of its Keep

	UIDs, GIDs []specs.LinuxIDMapping // of a new user namespace
	// NoGroups is for a caller without rights: setgroups(2) is forbidden in the new user namespace, which may then be
	// mapped. user_namespaces(7).
	NoGroups bool
	Owner    string // the path of a user namespace to join, which then owns all that is made

	Into *Container // for another process in a container; nil for a container's first one
}

// Container is the one that a process is started in.
type Container struct {
	PID   int // of its first process
	Pidfd int // likewise; stays the caller's
	// Enter are namespaces of that process that the stage is started in, as it cannot join them: CLONE_NEW flags. With
	// the user's these are all but the mounts.
	Enter int
}

// Stage is a stage that was started.
type Stage struct {
	Child   *reap.Child
	Control *Control
}

// End ends a stage that is not to be used.
func (s *Stage) End() {
	s.Control.Close()
	s.Child.Signal(unix.SIGKILL) // it may have ended already
}

// environment keeps the Go runtime small and quiet: the stage lives for milliseconds.
var environment = []string{"GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1"}

// Start starts a stage with its plan. streams are its three standard streams, which stay the caller's.
func (l *Launcher) Start(r *Request, streams []*os.File) (_ *Stage, err error) {
	self, err := l.Self()
	if err != nil {
		return nil, err
	}
	plan, err := memfd(r.Plan)
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	ours, theirs, err := sockets()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	defer func() {
		if err != nil {
			ours.Close()
		}
	}()
	group := -1
	if r.Group != nil {
		if group, err = r.Group.Open(); err != nil {
			return nil, err
		}
		defer unix.Close(group)
	}
	files := append(append([]*os.File{}, streams...), theirs, plan)
	if r.Into != nil {
		f, err := r.Into.file()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files = append(files, f)
	}
	files = append(append(files, r.Trees...), r.More...)
	how, err := starterOf(r)
	if err != nil {
		return nil, err
	}
	defer how.close()
	p := program{path: self, args: []string{stage.Name, stage.Word}, files: files, group: group}
	child, err := l.startFrom(r, func() (*reap.Child, error) { return how.start(l.Reaper, p) })
	if err != nil {
		return nil, err
	}
	setOOM(child.Pid, r.OOM)
	return &Stage{child, ours}, nil
}

// setOOM sets how likely the kernel kills a process for want of memory; without a value as likely as any other,
// whatever the agent's own is. A process that has ended, or a value below what is permitted, is no reason to fail.
func setOOM(pid int, value *int) {
	n := 0
	if value != nil {
		n = *value
	}
	os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(n)), 0)
}

// memfd holds the plan for the stage to read.
func memfd(p *stage.Plan) (*os.File, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	fd, err := unix.MemfdCreate("plan", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	f := os.NewFile(uintptr(fd), "plan")
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, fmt.Errorf("plan: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, fmt.Errorf("plan: %w", err)
	}
	return f, nil
}
