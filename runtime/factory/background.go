package factory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/sealed"
	"github.com/katabuild/katabuild/runtime/template"
)

// Bounds of making a template that nobody waits for.
const (
	makeTime    = 15 * time.Minute
	makeCPUTime = 600 // seconds of a processor, of each process
	makeRest    = time.Hour
	lowest      = 19 // niceness
)

// order is what a maker is told, by the program that it is one of.
type order struct {
	Config  config.Config
	Version string
}

// orderFD is the maker's descriptor of the order.
const orderFD = 3

// maxOrder bounds an order, in bytes.
const maxOrder = 1 << 20

// Order starts a maker: argv, which calls Serve, as a process that ends with this one and makes the template of a
// configuration in the background.
func Order(argv []string, c *config.Config, version string) (*child.Process, error) {
	b, err := json.Marshal(order{*c, version})
	if err != nil {
		return nil, fmt.Errorf("order a template: %w", err)
	}
	file, _, err := sealed.From("order", bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // the maker has its own
	return child.Start("maker of a template", argv, []*os.File{file})
}

// Serve is the maker. It makes the template that was ordered, unless it is there, or another process makes it, or has
// failed to within the last hour, which it tells on standard error.
func Serve(ctx context.Context) error {
	f := os.NewFile(orderFD, "order")
	b, err := io.ReadAll(io.LimitReader(io.NewSectionReader(f, 0, maxOrder), maxOrder))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("order of a template: %w", err)
	}
	var o order
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("order of a template: %w", err)
	}
	// The whole group: Go has threads, and each has a niceness of its own.
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, lowest); err != nil {
		return fmt.Errorf("lower the priority: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CPU, &unix.Rlimit{Cur: makeCPUTime, Max: makeCPUTime}); err != nil {
		return fmt.Errorf("limit the processor's time: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, makeTime, fmt.Errorf("not made within %v", makeTime))
	defer cancel()
	err = background(ctx, o)
	if errors.Is(err, template.ErrClaimed) {
		fmt.Fprintln(os.Stderr, err)
		return nil
	}
	return err
}

func background(ctx context.Context, o order) error {
	c := &o.Config
	g, err := c.VM.ReadGuest()
	if err != nil {
		return err
	}
	h, err := hypervisor.Named(c.Hypervisor)
	if err != nil {
		return err
	}
	cfg, err := Sandbox(c, g, h)
	if err != nil {
		return err
	}
	cfg.Log, cfg.Timeout = slog.New(slog.DiscardHandler), makeTime
	return Of(c, o.Version).makeOnce(ctx, cfg)
}

// makeOnce makes a template that nobody else makes, and that is not there.
func (f Factory) makeOnce(ctx context.Context, cfg sandbox.Config) error {
	of, t, err := traits(cfg)
	if err != nil {
		return err
	}
	key := f.key(of, t)
	claim, err := f.Folder.Claim(key, makeRest)
	if err != nil {
		return err
	}
	if found, err := f.Folder.Find(key); err == nil { // since it was ordered
		copies, err := found.Copy()
		if err == nil {
			return errors.Join(copies.Close(), claim.End(nil))
		}
	}
	_, err = f.Make(ctx, cfg, nil)
	return errors.Join(err, claim.End(err))
}
