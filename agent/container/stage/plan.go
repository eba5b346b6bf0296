// Package stage is what the agent becomes between fork and exec of a container's process.
//
// In comes a Plan, which the agent has checked and resolved as far as it could; out go messages about how far it got,
// and in the end the program of the container, which takes the stage's place. Decisions are made where the plan is;
// here it is only carried out. The stage runs on one locked thread, because namespaces, credentials and filters belong
// to a thread until exec makes it the whole process.
package stage

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Name is the stage's argv[0], and Word its argv[1].
const (
	Name = "kata-agent-stage"
	Word = "init"
)

// WordAhead is the argv[1] of a stage that is started before there is a plan. It has only controlFD, and gets a message
// with files: the plan, the three standard streams, the namespaces of the plan's Join, its trees, the socket of Listen,
// and the files of Keep.
const WordAhead = "ahead"

// WordSoon is WordAhead for a stage whose plan comes at once, so that it does nothing while it waits.
const WordSoon = "soon"

// MaxFiles is how many files such a message can hold. SCM_MAX_FD of <net/scm.h>; unix(7).
const MaxFiles = 253

// The files that a stage is started with.
const (
	controlFD = 3 // a SEQPACKET socket
	planFD    = 4 // a memfd with the Plan as JSON
	// for an exec: a pidfd of the container's first process, or its mount namespace when that is all there is to join
	pidFD = 5

	// the first of the plan's trees, for a container; behind those are the socket of Listen and the files of Keep,
	// which an exec has behind pidFD
	firstTreeFD = 5
)

// Plan is what a stage has to do. The zero values of its parts mean "nothing to do", and are not written: to read the
// plan is a good part of what a stage does.
type Plan struct {
	Exec     bool   `json:",omitzero"` // join namespaces by pidFD
	Flags    int    `json:",omitzero"` // which, as CLONE_NEW flags
	Join     []Join `json:",omitzero"` // namespaces whose files came with the plan
	Unshare  int    `json:",omitzero"` // CLONE_NEW flags of namespaces that clone(2) did not make
	Offsets  string `json:",omitzero"` // contents of timens_offsets(5), where a time namespace is new
	AskGroup bool   `json:",omitzero"` // say Group and wait for leave before namespaces are joined and made
	AskHooks bool   `json:",omitzero"` // say Hooks and wait for leave before anything is mounted
	// Listen has whoever starts the program connect to a socket that came with the plan: the connection takes the place
	// of the one that the plan came by, whose other end may be gone by then.
	Listen bool `json:",omitzero"`
	Keep   int  `json:",omitzero"` // how many files that came with the plan the program gets, from 3 on

	Root       *Root    `json:",omitzero"`
	Mounts     []Mount  `json:",omitzero"`
	Trees      int      `json:",omitzero"` // how many detached mounts come with the plan
	Devices    []Device `json:",omitzero"`
	Console    bool     `json:",omitzero"` // bind the terminal to /dev/console
	Masked     []string `json:",omitzero"`
	Readonly   []string `json:",omitzero"`
	Sysctls    []Sysctl `json:",omitzero"`
	Hostname   string   `json:",omitzero"`
	Domainname string   `json:",omitzero"`

	CreateHooks []Hook `json:",omitzero"` // createContainer
	StartHooks  []Hook `json:",omitzero"` // startContainer
	State       State  `json:",omitzero"`

	Process Process `json:",omitzero"`
}

// Join is a namespace to join.
type Join struct {
	Path string `json:",omitzero"` // what errors call it
	Flag int    `json:",omitzero"` // CLONE_NEW
}

// Root is the root file system.
type Root struct {
	Path        string `json:",omitzero"`
	Readonly    bool   `json:",omitzero"`
	Propagation uint64 `json:",omitzero"` // MS_ bits for "/" afterwards; 0 leaves it a slave
	// MS_MOVE and chroot(2) instead of pivot_root(2), which cannot replace an initramfs
	NoPivot bool `json:",omitzero"`
}

// Mount is one mount in the container. Destination is resolved inside the root, following no link out of it.
type Mount struct {
	Name        string   `json:",omitzero"` // what errors call it
	Destination string   `json:",omitzero"`
	Source      string   `json:",omitzero"`
	Type        string   `json:",omitzero"` // empty for a bind
	Bind        bool     `json:",omitzero"`
	Recursive   bool     `json:",omitzero"` // the bind takes what is mounted below along
	Flags       uintptr  `json:",omitzero"` // MS_ bits for mount(2); none for a bind
	Data        string   `json:",omitzero"`
	Set, Clear  uint64   `json:",omitzero"` // MOUNT_ATTR_ bits for a bind
	RSet, RClr  uint64   `json:",omitzero"` // likewise, for all that is below too
	Propagation []uint64 `json:",omitzero"`
	// for a bind: the number of the tree that is mounted, from 1; else the tree is made from Source
	Tree   int  `json:",omitzero"`
	Exact  bool `json:",omitzero"` // refuse a destination that is reached through a link
	CopyUp bool `json:",omitzero"` // what the folder below holds is copied into the new file system
	// the top of the new file system has the mode of the folder below, if that was there
	AsBelow bool `json:",omitzero"`
	// becomes read-only when all other mounts and the devices are there
	Late bool `json:",omitzero"`
}

// Device is a device node. Bind takes the guest's own node instead of making one, which a user namespace may not.
type Device struct {
	Path     string `json:",omitzero"`
	Type     uint32 `json:",omitzero"` // S_IFCHR, S_IFBLK or S_IFIFO
	Major    uint32 `json:",omitzero"`
	Minor    uint32 `json:",omitzero"`
	Mode     uint32 `json:",omitzero"`
	UID, GID uint32 `json:",omitzero"`
	Bind     bool   `json:",omitzero"`
}

// Sysctl is a file below /proc/sys.
type Sysctl struct{ Name, Value string }

// Path is the file. A name with slashes is the other spelling, for names of interfaces with dots in them.
func (s Sysctl) Path() string {
	if strings.Contains(s.Name, "/") {
		return "/proc/sys/" + s.Name
	}
	return "/proc/sys/" + strings.ReplaceAll(s.Name, ".", "/")
}

// Hook is a program to run with the state on its standard input.
type Hook struct {
	Kind    string        `json:",omitzero"` // as in the specification: "createContainer"
	Path    string        `json:",omitzero"`
	Args    []string      `json:",omitzero"` // with argv[0]
	Env     []string      `json:",omitzero"`
	Timeout time.Duration `json:",omitzero"` // zero: as long as it likes
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
	Args     []string `json:",omitzero"`
	Env      []string `json:",omitzero"`
	Cwd      string   `json:",omitzero"`
	Terminal bool     `json:",omitzero"`
	Rows     uint16   `json:",omitzero"`
	Columns  uint16   `json:",omitzero"`
	UID      uint32   `json:",omitzero"`
	GID      uint32   `json:",omitzero"`
	Groups   []uint32 `json:",omitzero"`
	Umask    *uint32  `json:",omitzero"`
	Rlimits  []Rlimit `json:",omitzero"`
	Caps     *Caps    `json:",omitzero"` // nil keeps none
	NoNew    bool     `json:",omitzero"`
	Label    string   `json:",omitzero"` // SELinux label for exec
	Profile  string   `json:",omitzero"` // AppArmor's, likewise
	Filter   Filter   `json:",omitzero"`
	FFlags   uint     `json:",omitzero"` // flags for seccomp(2)
	Locks    Filter   `json:",omitzero"` // whose listener is the agent, which answers about locks on files
	// SetGroups is false in a user namespace that forbids setgroups(2).
	SetGroups   bool            `json:",omitzero"`
	IOPrio      int             `json:",omitzero"` // ioprio_set(2) value; 0 leaves it
	Scheduler   *unix.SchedAttr `json:",omitzero"`
	Personality *uint32         `json:",omitzero"`
}

// Rlimit is a resource limit.
type Rlimit struct {
	Name     string `json:",omitzero"` // what errors call it
	Resource int    `json:",omitzero"`
	Cur, Max uint64 `json:",omitzero"`
}

// Caps are the five sets, one bit a capability.
type Caps struct{ Bounding, Effective, Permitted, Inheritable, Ambient uint64 }

// Kind is what a message is about.
type Kind string

// The messages a stage sends, in the order in which they can come. After Exec the socket closes when the program runs.
const (
	Group    Kind = "group"    // nothing was done; an answer is waited for
	Hooks    Kind = "hooks"    // namespaces are there, nothing is mounted; an answer is waited for
	Terminal Kind = "terminal" // carries the master of the terminal
	Created  Kind = "created"  // all is ready; an answer is waited for
	Locks    Kind = "locks"    // carries the listener of the plan's Locks
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
