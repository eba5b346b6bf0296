package sandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/machine"
)

// Held is a guest that waits to be woken, in the hands of another process than that which started it.
type Held struct {
	machine.Held
	// Template is what the guest comes from, for its verdict. The zero value is that of one that booted.
	Template verdict.Template
	Ready    int64 // since when it waits, in seconds since the Epoch
}

// Hold starts a guest of a Template up to where it waits, and stops it there: one that boots, or with Saved one that is
// restored. The sandbox is this process's: its Done and Why say how the guest ends, and Stop ends it. Its console has
// ended. What comes back beside it leads to the machine, without a Keeper.
func Hold(ctx context.Context, cfg Config) (*Sandbox, *machine.Held, error) {
	cfg.Template, cfg.hold = true, true
	s, err := Start(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	vm, ok := s.vm.(machine.Holder)
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("hold the guest: %w", machine.ErrNoTemplate), s.Stop())
	}
	held, err := vm.Hold(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, s.Stop())
	}
	if err := s.console.Close(); err != nil {
		return nil, nil, errors.Join(err, held.Close(), s.Stop())
	}
	return s, held, nil
}

// adopt takes a guest over that another process has held. Whoever started it has compared what it was started from.
func (s *Sandbox) adopt(ctx context.Context) (err error) {
	a, ok := s.cfg.Hypervisor.(machine.Adopter)
	if !ok {
		return fmt.Errorf("adopt the guest: %w", machine.ErrNoTemplate)
	}
	s.compareFiles(nil)
	o := machine.Start{Hybrid: s.cfg.Hybrid, Log: s.log,
		Linked: func(l machine.Links) error { return s.linked(ctx, l) }}
	if s.vm, err = a.Adopt(ctx, s.plan.Machine, o, &s.cfg.Held.Held); err != nil {
		return err
	}
	s.runs(ctx)
	return nil
}
