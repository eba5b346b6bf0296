// Package wake is how a guest that is saved as a template waits, and what it does before it serves anybody when it was
// restored from that.
//
// In comes one request of the host; out goes a program that has begun anew. Everything that the agent drew at its start
// (the seeds of Go's maps and of math/rand, addresses, ids, nonces) would be the same in all guests of a template, and
// cannot be drawn again in a running Go program. So what is saved is this small stage alone: it has opened one port and
// serves nothing, and once the guest has randomness, a clock and an identity of its own, it executes the agent's
// program in its own place. docs/decisions/templates-wait.md.
package wake

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/wake"
)

// name is by which name the program is executed that serves. The kernel gives its init another, whatever its command
// line says.
const name = "kata-agent-woken"

// receiveTime bounds the host's request, once it has connected.
const receiveTime = time.Minute

// Machine is what is set anew.
type Machine interface {
	ReseedRandomDev([]byte) error
	SetGuestDateTime(seconds, microseconds int64) error
}

// Guest is what a stage works on. Machine is needed.
type Guest struct {
	Machine Machine
	Root    string // where etc and run are found; empty is "/"
	// Environment is the program's.
	Environment []string
	// Before is what this program hands to it, as Woken returns it there.
	Before string
	// Now is the time since the guest's kernel started.
	Now func() time.Duration
	// Execute puts the program in the stage's place, with these arguments, and returns only when that fails; nil is
	// execve(2).
	Execute func(args []string) error
}

// Wait takes one request on l, does what it says and executes the program. waits is called once connections are
// accepted. It returns only with an error, which must end the guest: one that is woken by half must not go on.
func (g Guest) Wait(l net.Listener, waits func()) error {
	waits()
	c, err := l.Accept()
	if err != nil {
		return fmt.Errorf("wait to be woken: %w", err)
	}
	defer c.Close()
	if err := errors.Join(l.Close(), c.SetDeadline(time.Now().Add(receiveTime))); err != nil {
		return fmt.Errorf("wake: %w", err)
	}
	err = g.take(c)
	if err != nil {
		return errors.Join(fmt.Errorf("wake: %w", err), wake.Answer(c, err))
	}
	if err := wake.Answer(c, nil); err != nil {
		return fmt.Errorf("wake: answer: %w", err)
	}
	execute := g.Execute
	if execute == nil {
		execute = func(args []string) error { return unix.Exec("/proc/self/exe", args, g.Environment) }
	}
	return fmt.Errorf("wake: execute the agent: %w", execute([]string{name,
		strconv.FormatInt(int64(g.Now()), 10), g.Before}))
}

// take does what a request asks, in this order: randomness comes first, so that nothing else is drawn without it.
func (g Guest) take(c net.Conn) error {
	r, err := wake.Receive(c)
	if err != nil {
		return err
	}
	for _, deed := range []struct {
		name string
		do   func(*wake.Request) error
	}{
		{"randomness", func(r *wake.Request) error { return g.Machine.ReseedRandomDev(r.Random()) }},
		{"clock", func(r *wake.Request) error {
			return g.Machine.SetGuestDateTime(r.TimeNS/1e9, r.TimeNS%1e9/1e3)
		}},
		{"machine id", g.identify},
		{"host name", rename},
	} {
		if err := deed.do(r); err != nil {
			return fmt.Errorf("%s: %w", deed.name, err)
		}
	}
	return nil
}

// identify gives the guest the machine id, where it has a file for one: that lies on a root that is only read.
func (g Guest) identify(r *wake.Request) error {
	at := filepath.Join("/", g.Root, "etc/machine-id")
	if _, err := os.Stat(at); err != nil {
		return nil //nolint:nilerr // a guest without the file has no such id
	}
	file := filepath.Join("/", g.Root, "run/machine-id")
	if err := os.WriteFile(file, []byte(r.MachineID+"\n"), 0o444); err != nil {
		return err
	}
	if g.Root != "" { // a test's
		return nil
	}
	if err := unix.Mount(file, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", file, at, err)
	}
	return nil
}

func rename(r *wake.Request) error {
	if r.Hostname == "" {
		return nil
	}
	return unix.Sethostname([]byte(r.Hostname))
}

// Woken says whether a program with these arguments is one that Wait executed, when that was, since the guest's kernel
// started, and what it was handed.
func Woken(args []string) (at time.Duration, before string, ok bool) {
	if len(args) != 3 || args[0] != name {
		return 0, "", false
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	return time.Duration(n), args[2], err == nil && n > 0
}
