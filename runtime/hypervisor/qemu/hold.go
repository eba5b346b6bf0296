package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu/qmp"
	"github.com/katabuild/katabuild/runtime/machine"
)

// How a machine changes hands: it stands still and has neither channel nor shares nor interfaces, so that nothing is on
// its way but what goes through its console and a monitor. The monitor is a second one, which nobody has spoken to:
// what another client would have read of a first one is nowhere else.

var (
	_ machine.Holder  = (*VM)(nil)
	_ machine.Adopter = Hypervisor{}
)

// prepareHold makes what Hold lends.
func (v *VM) prepareHold(q *Config, with *child.Inheritance, serial *net.UnixConn) (err error) {
	if v.console, err = serial.File(); err != nil {
		return err
	}
	conn, inner, err := child.SocketPair("second monitor")
	if err != nil {
		return err
	}
	q.Second = inherited(with.Add(inner))
	v.second, err = conn.File()
	return errors.Join(err, conn.Close())
}

// Hold stops the guest, and lends what leads to the machine.
func (v *VM) Hold(ctx context.Context) (_ *machine.Held, err error) {
	wrap := func(err error) error { return fmt.Errorf("hold the machine: %w", err) }
	if v.second == nil {
		return nil, wrap(machine.ErrNoTemplate)
	}
	if err := v.qmp(ctx, "stop", nil); err != nil {
		return nil, wrap(err)
	}
	fd, err := unix.PidfdOpen(v.process.PID(), 0)
	if err != nil {
		return nil, wrap(err)
	}
	h := &machine.Held{Process: os.NewFile(uintptr(fd), "process"), Console: v.console, Control: v.second,
		PID: v.process.PID(), Argv: v.argv}
	v.console, v.second = nil, nil // they are no longer ours
	return h, nil
}

// Adopt takes a machine over.
func (h Hypervisor) Adopt(ctx context.Context, plan machine.Plan, o machine.Start, held *machine.Held) (machine.VM,
	error) {
	p, ok := plan.(*Plan)
	if !ok || !p.Config.Template {
		return nil, fmt.Errorf("adopt a machine: %w: it was not planned so (%T)", machine.ErrNoTemplate, plan)
	}
	v := &VM{plan: p, log: o.Log, monitor: make(chan *qmp.Client, 1), answers: make(chan struct{}), argv: held.Argv}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.stop = sync.OnceValue(v.stopOnce)
	if err := v.adopt(ctx, o, held); err != nil {
		return nil, errors.Join(err, v.stop())
	}
	return v, nil
}

func (v *VM) adopt(ctx context.Context, o machine.Start, held *machine.Held) error {
	serial, err := net.FileConn(held.Console)
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	monitor, err := net.FileConn(held.Control)
	if err != nil {
		return errors.Join(fmt.Errorf("monitor: %w", err), serial.Close())
	}
	with := &child.Inheritance{}
	defer with.Close()
	links := machine.Links{Console: serial}
	q := v.plan.Config
	if err := v.link(&q, o, with, &links); err != nil {
		return errors.Join(err, serial.Close(), monitor.Close())
	}
	if err := o.Linked(links); err != nil { // which owns the console
		return errors.Join(err, monitor.Close())
	}
	process, err := child.Adopt("QEMU", held.PID, held.Process, held.Keeper)
	if err != nil {
		return errors.Join(err, monitor.Close())
	}
	v.process = process
	return v.restore(ctx, monitor, func() error { return v.goOn(ctx) })
}
