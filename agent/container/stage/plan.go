// Package stage is what the agent becomes between fork and exec of a container's process.
//
// In comes a Plan, which the agent has checked and resolved as far as it could; out go messages about how far it got, and in the end the
// program of the container, which takes the stage's place. Decisions are made where the plan is; here it is only carried out. The stage
// runs on one locked thread, because namespaces, credentials and filters belong to a thread until exec makes it the whole process.
package stage

import (
	"time"

	"golang.org/x/sys/unix"
)

// Name is the stage's argv[0], and Word its argv[1].
const (
	Name = "kata-agent-stage"
	Word = "init"
)

// WordAhead is the argv[1] of a stage that is started before there is a plan. It has only ControlFD, and gets a message with files: the plan,
// the three standard streams, the namespaces of the plan's Join, and its trees.
const WordAhead = "ahead"

// MaxFiles is how many files such a message can hold. SCM_MAX_FD of <net/scm.h>; unix(7).
const MaxFiles = 253

// The files that a stage is started with.
const (
	ControlFD = 3 // a SEQPACKET socket
	PlanFD    = 4 // a memfd with the Plan as JSON
	PidFD     = 5 // for an exec: a pidfd of the container's first process, or its mount namespace when that is all there is to join

	FirstTreeFD = 5 // for a container: the first of the plan's trees
)

// Plan is what a stage has to do. The zero values of its parts mean "nothing to do".
type Plan struct {
	Exec     bool   // join namespaces by PidFD
	Flags    int    // which, as CLONE_NEW flags
	Join     []Join // namespaces whose files came with the plan
	Unshare  int    // CLONE_NEW flags of namespaces that clone(2) did not make
	Offsets  string // contents of timens_offsets(5), where a time namespace is new
	AskHooks bool   // say Hooks and wait for leave before anything is mounted

	Root       *Root
	Mounts     []Mount
	Trees      int // how many detached mounts come with the plan
	Devices    []Device
	Console    bool // bind the terminal to /dev/console
	Masked     []string
	Readonly   []string
	Sysctls    []Sysctl
	Hostname   string
	Domainname string

	CreateHooks []Hook // createContainer
	StartHooks  []Hook // startContainer
	State       State

	Process Process
}

// Join is a namespace to join.
type Join struct {
	Path string // what errors call it
	Flag int    // CLONE_NEW
}

// Root is the root file system.
type Root struct {
	Path        string
	Readonly    bool
	Propagation uint64 // MS_ bits for "/" afterwards; 0 leaves it a slave
	NoPivot     bool   // MS_MOVE and chroot(2) instead of pivot_root(2), which cannot replace an initramfs
}

// Mount is one mount in the container. Destination is resolved inside the root, following no link out of it.
type Mount struct {
	Name        string // what errors call it
	Destination string
	Source      string
	Type        string // empty for a bind
	Bind        bool
	Recursive   bool    // the bind takes what is mounted below along
	Flags       uintptr // MS_ bits for mount(2); none for a bind
	Data        string
	Set, Clear  uint64 // MOUNT_ATTR_ bits for a bind
	RSet, RClr  uint64 // likewise, for all that is below too
	Propagation []uint64
	Tree        int  // for a bind: the number of the tree that is mounted, from 1; else the tree is made from Source
	Exact       bool // refuse a destination that is reached through a link
}

// Device is a device node. Bind takes the guest's own node instead of making one, which a user namespace may not.
type Device struct {
	Path     string
	Type     uint32 // S_IFCHR, S_IFBLK or S_IFIFO
	Major    uint32
	Minor    uint32
	Mode     uint32
	UID, GID uint32
	Bind     bool
}

// Sysctl is a file below /proc/sys.
type Sysctl struct{ Name, Value string }

// Hook is a program to run with the state on its standard input.
type Hook struct {
	Kind    string // as in the specification: "createContainer"
	Path    string
	Args    []string // with argv[0]
	Env     []string
	Timeout time.Duration // zero: as long as it likes
}

// State is the state of a container, as the runtime specification lays it out: config.md, "State".
type State struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Status      string            `json:"status"`
	Pid         int               `json:"pid,omitempty"`
	Bundle      string            `json:"bundle"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Process is what the stage turns into.
type Process struct {
	Args     []string
	Env      []string
	Cwd      string
	Terminal bool
	Rows     uint16
	Columns  uint16
	UID      uint32
	GID      uint32
	Groups   []uint32
	Umask    *uint32
	Rlimits  []Rlimit
	Caps     *Caps // nil keeps none
	NoNew    bool
	Label    string // SELinux label for exec
	Filter   []unix.SockFilter
	FFlags   uint // flags for seccomp(2)
	// SetGroups is false in a user namespace that forbids setgroups(2).
	SetGroups   bool
	IOPrio      int // ioprio_set(2) value; 0 leaves it
	Scheduler   *unix.SchedAttr
	Personality *uint32
}

// Rlimit is a resource limit.
type Rlimit struct {
	Resource int
	Cur, Max uint64
}

// Caps are the five sets, one bit a capability.
type Caps struct{ Bounding, Effective, Permitted, Inheritable, Ambient uint64 }

// Kind is what a message is about.
type Kind string

// The messages a stage sends, in the order in which they can come. After Exec the socket closes when the program runs.
const (
	Hooks    Kind = "hooks"    // namespaces are there, nothing is mounted; an answer is waited for
	Terminal Kind = "terminal" // carries the master of the terminal
	Created  Kind = "created"  // all is ready; an answer is waited for
	Exec     Kind = "exec"     // the program is started next
	Failed   Kind = "failed"
)

// Message is what a stage tells the agent. The agent answers with any one byte.
type Message struct {
	Kind  Kind
	Text  string
	Errno int // the cause of Failed, where there is one
}

// MaxMessage bounds one message.
const MaxMessage = 8 << 10
