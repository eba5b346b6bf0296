// Package pool keeps guests that wait to be woken, and hands them to pods.
//
// A daemon (Serve) has processes beside it, keepers (Keep), each of which starts one guest up to where it waits, stops
// it there, and is its hypervisor's parent from then on. A guest belongs to whoever has the connection to its keeper:
// the daemon at first, and by one message with open files the shim that asks for a guest (Take). When the last who has
// the connection closes it, or dies, the keeper ends the guest; when the keeper dies, the kernel ends it. So there is
// no moment at which a guest is nobody's, whoever is killed.
//
// docs/formats/pool.md owns the messages.
package pool

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/template"
)

// version is the only version this package reads and writes.
const version = 1

// What can be asked for.
const (
	wantGuest  = "guest"
	wantStatus = "status"
)

// request is what is asked of the daemon.
type request struct {
	Version int          `json:"version"`
	Want    string       `json:"want"`
	Key     template.Key `json:"key"` // of the guest that is wanted; empty texts with "status"
}

func (r *request) check() error {
	switch {
	case r.Version != version:
		return fmt.Errorf("version %d, this katabuild reads version %d", r.Version, version)
	case r.Want != wantGuest && r.Want != wantStatus:
		return fmt.Errorf("%q is wanted, want %s or %s", r.Want, wantGuest, wantStatus)
	}
	return nil
}

// answer has one of three.
type answer struct {
	Version int     `json:"version"`
	Refusal string  `json:"refusal,omitempty"`
	Guest   *guest  `json:"guest,omitempty"`
	Status  *Status `json:"status,omitempty"`
}

func (a *answer) check() error {
	if a.Version != version {
		return fmt.Errorf("version %d, this katabuild reads version %d", a.Version, version)
	}
	n := 0
	for _, has := range []bool{a.Refusal != "", a.Guest != nil, a.Status != nil} {
		if has {
			n++
		}
	}
	if n != 1 {
		return errors.New("want one of a refusal, a guest and a status")
	}
	if g := a.Guest; g != nil && (g.PID <= 0 || g.Keeper <= 0 || g.Ready <= 0) {
		return errors.New("a guest without a process or a time")
	}
	return nil
}

// guest is one that waits. Its files go along.
type guest struct {
	Key      template.Key      `json:"key"`
	PID      int               `json:"pid"`    // of the hypervisor
	Keeper   int               `json:"keeper"` // process
	Argv     []string          `json:"argv"`
	Ready    int64             `json:"ready"` // since when it waits, in seconds since the Epoch
	Template *verdict.Template `json:"template,omitempty"`
}

// Status is what a pool has.
type Status struct {
	Wanted  int       `json:"wanted"`  // guests that are to wait
	Making  bool      `json:"making"`  // one is being started
	Started int       `json:"started"` // since the daemon began
	Handed  int       `json:"handed"`  // to pods
	Dropped int       `json:"dropped"` // as the configuration changed, or by their own end
	Failed  int       `json:"failed"`  // to start
	Why     string    `json:"why"`     // no more guests are started now; empty is no reason
	Waiting []Waiting `json:"waiting"`
}

// Waiting is one guest of a Status.
type Waiting struct {
	PID      int    `json:"pid"`
	Ready    int64  `json:"ready"`    // since when, in seconds since the Epoch
	Template string `json:"template"` // digest; empty: it booted
}

// maxMessage bounds a message, in bytes.
const maxMessage = 64 << 10

// The files of a guest, in the order in which they go along. A keeper sends all but the last.
const (
	fileConsole = iota
	fileControl
	fileProcess
	fileKeeper
	numFiles
)

// send writes one message.
func send(c *net.UnixConn, v any, files ...*os.File) error {
	b, err := document.Encode(v)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("a message of %d bytes, at most %d are sent", len(b), maxMessage)
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, rights, nil)
	return err
}

// receive reads one message. The files are the caller's.
func receive(c *net.UnixConn) (_ []byte, files []*os.File, err error) {
	b, oob := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(numFiles*4))
	n, m, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	if m > 0 {
		messages, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil {
			return nil, nil, fmt.Errorf("files of a message: %w", err)
		}
		for _, message := range messages {
			fds, err := unix.ParseUnixRights(&message)
			if err != nil {
				continue // it has no files
			}
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				files = append(files, os.NewFile(uintptr(fd), "file of a message"))
			}
		}
	}
	switch {
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || n > maxMessage:
		return nil, files, errors.New("a message is too long")
	case n == 0:
		return nil, files, errors.New("the other end has closed the connection")
	}
	return b[:n], files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // nobody wants it
	}
}

func decodeRequest(b []byte) (*request, error) {
	var r request
	if err := document.Decode("request to the pool", b, &r); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("request to the pool: %w", err)
	}
	return &r, nil
}

func decodeAnswer(b []byte) (*answer, error) {
	var a answer
	if err := document.Decode("answer of the pool", b, &a); err != nil {
		return nil, err
	}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("answer of the pool: %w", err)
	}
	return &a, nil
}

// held is a guest with its files, which it takes over.
func (g *guest) held(files []*os.File) (*sandbox.Held, error) {
	if len(files) != numFiles {
		closeAll(files)
		return nil, fmt.Errorf("a guest with %d files, want %d", len(files), numFiles)
	}
	h := &sandbox.Held{Ready: g.Ready, Held: machine.Held{PID: g.PID, Argv: g.Argv, Console: files[fileConsole],
		Control: files[fileControl], Process: files[fileProcess], Keeper: files[fileKeeper]}}
	if g.Template != nil {
		h.Template = *g.Template
	}
	return h, nil
}

// peer refuses a connection with a process of another user than this one's and root.
func peer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var e error
	if err := raw.Control(func(fd uintptr) {
		cred, e = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if e != nil {
		return e
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("process %d is of user %d", cred.Pid, cred.Uid)
	}
	return nil
}
