package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/machine"
	hostnet "github.com/katabuild/katabuild/runtime/network"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/template"
)

// keeperFD is the keeper's descriptor of the connection to whoever the guest belongs to, behind that of its order.
const keeperFD = 4

// startTime bounds the start of a guest that nobody waits for.
const startTime = 15 * time.Minute

// lowest is the niceness of what nobody waits for.
const lowest = 19

// Keep is a keeper: it starts the guest that this process was told of, at the lowest priority, offers it, and ends it
// when nobody has the connection any more. It returns when the guest has ended.
func Keep(ctx context.Context) error {
	o, err := factory.ReadOrder()
	if err != nil {
		return err
	}
	f := os.NewFile(keeperFD, "owner")
	c, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("connection to the pool: %w", err)
	}
	defer c.Close()
	owner, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("the connection to the pool is no UNIX socket")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		_, err := owner.Read(make([]byte, 1)) // nobody writes to it
		cancel(fmt.Errorf("nobody wants the guest any more: %w", err))
	}()
	return keep(ctx, o, owner)
}

func keep(ctx context.Context, o factory.Order, owner *net.UnixConn) error {
	// The whole group: Go has threads, and each has a niceness of its own.
	usual, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return err
	}
	usual = 20 - usual // what the system call says; getpriority(2), "C library/kernel differences"
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, lowest); err != nil {
		return fmt.Errorf("lower the priority: %w", err)
	}
	cfg, key, err := waiting(o)
	if err != nil {
		return err
	}
	if cfg.Saved != nil {
		defer cfg.Saved.Close() //nolint:errcheck // the machine has its own
	}
	netns, err := hostnet.New() // QEMU needs no network, and is to see none
	if err == nil {
		defer netns.Close()
		cfg.Netns = netns
	} else if !errors.Is(err, unix.EPERM) {
		return err
	}
	began, end := context.WithTimeoutCause(ctx, startTime, fmt.Errorf("not ready within %v", startTime))
	s, held, err := sandbox.Hold(began, cfg)
	end()
	if err != nil {
		return err
	}
	defer held.Close()
	g := guest{Key: key, PID: held.PID, Keeper: os.Getpid(), Argv: held.Argv, Ready: time.Now().Unix()}
	if cfg.Saved != nil {
		g.Template = &cfg.Saved.Template
	}
	if err := offer(owner, &g, held, usual); err != nil {
		return errors.Join(err, s.Stop())
	}
	debug.FreeOSMemory() // it may wait for long
	select {
	case <-ctx.Done():
	case <-s.Done():
		var e child.Ended
		if why := s.Why(); why != nil && !errors.Is(why, machine.ErrGuestEnded) {
			e.Why = why.Error()
		}
		_ = send(owner, e) // who is gone need not hear it
	}
	return s.Stop()
}

// waiting is the guest to start: from a template where one is wanted and right.
func waiting(o factory.Order) (sandbox.Config, template.Key, error) {
	cfg, err := o.Machine()
	if err != nil {
		return cfg, template.Key{}, err
	}
	cfg.ID, cfg.Log, cfg.Timeout = "pool", slog.New(slog.DiscardHandler), startTime
	f := factory.Of(&o.Config, o.Version)
	fit, key, err := f.Fit(cfg, machine.Size{})
	if err != nil {
		return cfg, template.Key{}, err
	}
	if o.Config.Factory.EnableTemplate {
		restored, err := f.Restore(cfg, machine.Size{})
		if err == nil {
			return restored, key, nil
		}
		fmt.Fprintln(os.Stderr, "the guest boots:", err)
	}
	return fit, key, nil
}

// offer gives a guest that stands still its usual priority, and sends it to its owner.
func offer(owner *net.UnixConn, g *guest, held *machine.Held, nice int) error {
	for _, pid := range []int{g.PID, 0} {
		if err := unix.Setpriority(unix.PRIO_PGRP, pid, nice); err != nil && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("raise the priority: %w", err)
		}
	}
	if err := send(owner, &answer{Version: version, Guest: g}, held.Console, held.Control, held.Process); err != nil {
		return fmt.Errorf("offer the guest: %w", err)
	}
	// From here on it is the owner's alone.
	closeAll([]*os.File{held.Console, held.Control, held.Process})
	held.Console, held.Control, held.Process = nil, nil, nil
	return nil
}
