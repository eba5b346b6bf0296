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
	"strings"
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

// Order is what a process is told that makes something of a configuration beside the one that wants it. Both are the
// same program.
type Order struct {
	Config  config.Config
	Version string
}

// orderFD is the descriptor by which the process has its Order.
const orderFD = 3

// maxOrder bounds an order, in bytes.
const maxOrder = 1 << 20

// File is the first file that the process inherits. It is the caller's.
func (o Order) File() (*os.File, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	file, _, err := sealed.From("order", bytes.NewReader(b))
	return file, err
}

// ReadOrder is what this process was told.
func ReadOrder() (Order, error) {
	var o Order
	f := os.NewFile(orderFD, "order")
	b, err := io.ReadAll(io.LimitReader(io.NewSectionReader(f, 0, maxOrder), maxOrder))
	if err = errors.Join(err, f.Close()); err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		return o, fmt.Errorf("order: %w", err)
	}
	return o, nil
}

// Machine is the machine of the configuration, without what is a pod's own.
func (o Order) Machine() (sandbox.Config, error) {
	g, err := o.Config.VM.ReadGuest()
	if err != nil {
		return sandbox.Config{}, err
	}
	h, err := hypervisor.Named(o.Config.Hypervisor)
	if err != nil {
		return sandbox.Config{}, err
	}
	return Sandbox(&o.Config, g, h)
}

// StartMaker starts a maker: argv, which calls Serve, as a process that ends with this one and makes a template in the
// background.
func StartMaker(argv []string, o Order) (*child.Process, error) {
	file, err := o.File()
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // the maker has its own
	return child.Start("maker of a template", argv, []*os.File{file})
}

// Await waits until a maker has ended, and tells the log what came of it. When ctx ends first, the maker is ended.
func Await(ctx context.Context, maker *child.Process, log *slog.Logger) {
	select {
	case <-maker.Done():
		if err := maker.ExitError(); err != nil {
			log.Warn("no template was made", "err", err)
			return
		}
		if said := strings.TrimSpace(maker.Stderr()); said != "" {
			log.Info("no template was made", "maker", said)
			return
		}
		log.Info("there is a template for the pods that come")
	case <-ctx.Done():
		if err := maker.Stop(context.Background(), nil); err != nil {
			log.Warn("maker of a template", "err", err)
		}
	}
}

// Serve is the maker. It makes the template that was ordered, unless it is there, or another process makes it, or has
// failed to within the last hour, which it tells on standard error.
func Serve(ctx context.Context) error {
	o, err := ReadOrder()
	if err != nil {
		return err
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

func background(ctx context.Context, o Order) error {
	cfg, err := o.Machine()
	if err != nil {
		return err
	}
	cfg.Log, cfg.Timeout = slog.New(slog.DiscardHandler), makeTime
	return Of(&o.Config, o.Version).makeOnce(ctx, cfg)
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
