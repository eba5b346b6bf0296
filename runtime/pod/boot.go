package pod

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/pool"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// boot starts the guest: one that waits in the pool, or one from a template, where the configuration wants that and
// there is one, and else by booting it.
func (p *Pod) boot(ctx context.Context, o Options, cfg sandbox.Config) (err error) {
	f := &p.cfg.Factory
	if len(cfg.Passed) > 0 {
		p.log.Debug("the guest boots, as it has devices of the host from its start")
	} else if o.cold != nil {
		p.log.Warn("the guest boots, as one that did not boot for this pod is given up", "err", explain(o.cold))
	} else {
		if f.VMCacheNumber > 0 {
			runs, err := p.adopt(ctx, o, cfg)
			if runs {
				return err
			}
			p.log.Warn("the guest is started for this pod, as none of the pool is had", "err", explain(err))
		}
		if f.EnableTemplate {
			runs, err := p.restore(ctx, o, cfg)
			if runs {
				return err
			}
			p.log.Warn("the guest boots, as it is not restored from a template", "err", explain(err))
		}
	}
	p.vm, err = sandbox.Start(ctx, cfg)
	return err
}

// adopt has a guest that waited in the pool become the pod's. runs says whether it does; an error is the pod's then.
// Otherwise nothing of it is left, and the pod can have another.
func (p *Pod) adopt(ctx context.Context, o Options, cfg sandbox.Config) (runs bool, err error) {
	want := cfg.Size
	cfg.Size = p.growth.base // it grows to what is wanted
	from, key, err := factory.Of(p.cfg, o.Version).Fit(cfg, want)
	if err != nil {
		return false, err
	}
	taken, err := pool.Take(ctx, p.cfg.Factory.VMCacheEndpoint, key)
	if err != nil {
		return false, err
	}
	defer taken.Close() //nolint:errcheck // the machine has its own
	for _, pid := range []int{taken.PID, taken.Keeper} {
		if err := p.cgroup.Take(pid); err != nil {
			p.log.Warn("a process of the guest is not in the pod's control group", "process", pid, "err", err)
		}
	}
	// So that it is cleaned up where this process is killed before it has adopted it.
	if err := p.record.Note(func(r *record.Record) { r.QEMU = record.ProcessOf(taken.PID) }); err != nil {
		return false, err
	}
	from.Held = taken.Held
	if p.vm, err = sandbox.Start(ctx, from); err != nil {
		p.vm = nil
		return false, err
	}
	p.adopted = true
	p.log.Info("the guest waited in the pool", "qemu", taken.PID, "template", taken.Template.Digest)
	return true, p.plugIn(ctx, from)
}

// restore starts the guest from a template. runs says whether it does; an error is the pod's then. Otherwise nothing of
// it is left, and it can boot.
func (p *Pod) restore(ctx context.Context, o Options, cfg sandbox.Config) (runs bool, err error) {
	want := cfg.Size
	cfg.Size = p.growth.base // it grows to what is wanted
	from, err := factory.Of(p.cfg, o.Version).Restore(cfg, want)
	if err != nil {
		_, p.lacks = errors.AsType[*factory.LackError](err)
		return false, err
	}
	defer from.Saved.Close() //nolint:errcheck // the machine has its own
	if p.vm, err = sandbox.Start(ctx, from); err != nil {
		p.vm = nil
		return false, err
	}
	p.log.Info("the guest was restored from a template", "template", from.Saved.Template.Digest)
	return true, p.plugIn(ctx, from)
}

// plugIn gives a guest that waited what one that boots has from the start.
func (p *Pod) plugIn(ctx context.Context, cfg sandbox.Config) error {
	p.waited = true
	for _, s := range cfg.Shares {
		if err := p.vm.PlugShare(ctx, s); err != nil {
			return p.plugging(err)
		}
	}
	for _, n := range cfg.NICs {
		path, err := p.vm.PlugNIC(ctx, n)
		if err != nil {
			return p.plugging(err)
		}
		p.nicPaths = append(p.nicPaths, path)
	}
	return nil
}

// orderTemplate has a template made for the pods that come, where this one found none. Whoever makes it is no part of
// the pod, and ends with it.
func (p *Pod) orderTemplate(ctx context.Context, o Options) {
	if !p.lacks || !p.cfg.Factory.AutomaticTemplate || len(o.Maker) == 0 {
		return
	}
	maker, err := factory.StartMaker(o.Maker, factory.Order{Config: *p.cfg, Version: o.Version})
	if err != nil {
		p.log.Warn("no template is made", "err", err)
		return
	}
	if err := p.cgroup.Release(maker.PID()); err != nil {
		p.log.Warn("a template is made within the pod's control group", "err", err)
	}
	p.log.Info("a template is made for the pods that come", "maker", maker.PID())
	p.wg.Go(func() { factory.Await(ctx, maker, p.log) })
}

// plugError says that something could not be plugged into a guest that waited, which one that boots may have.
type plugError struct{ error }

func (e *plugError) Unwrap() error { return e.error }

// plugging makes a plugError of what went wrong while something was plugged in, where the guest waited.
func (p *Pod) plugging(err error) error {
	if !p.waited {
		return err
	}
	return &plugError{err}
}

// givenUp says whether the guest is given up for an error, and the pod to be started again. For want of memory it is
// not: a guest that boots wants as much.
func (p *Pod) givenUp(err error) bool {
	_, is := errors.AsType[*plugError](err)
	return is && !errors.Is(err, ErrOutOfMemory)
}

// Cold ends a pod whose start, or whose first container, failed. Where something could not be plugged into its guest,
// which did not boot for it, it starts again with a guest that boots, in the network namespace in which the
// Hooks have been; otherwise why comes back.
func (p *Pod) Cold(ctx context.Context, why error) (_ *Pod, err error) {
	if !p.givenUp(why) || ctx.Err() != nil {
		return nil, errors.Join(why, p.stop())
	}
	o := p.options
	o.cold = why
	if p.netns != nil {
		if o.entered, err = duplicate(p.netns); err != nil {
			return nil, errors.Join(why, err, p.stop())
		}
		defer o.entered.Close() //nolint:errcheck // nothing was written to it
	}
	if err := p.stop(); err != nil {
		return nil, errors.Join(why, err)
	}
	return Start(ctx, o)
}

// duplicate is the same open file once more.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "duplicate", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
