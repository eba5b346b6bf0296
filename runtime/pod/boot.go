package pod

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// boot starts the guest: from a template where the configuration wants that and there is one, and else by booting it.
func (p *Pod) boot(ctx context.Context, o Options, cfg sandbox.Config) (err error) {
	switch {
	case !p.cfg.Factory.EnableTemplate:
	case o.cold != nil:
		p.log.Warn("the guest boots, as one that was restored from a template is given up", "err", explain(o.cold))
	default:
		restored, err := p.restore(ctx, o, cfg)
		if restored {
			return err
		}
		p.log.Warn("the guest boots, as it is not restored from a template", "err", explain(err))
	}
	p.vm, err = sandbox.Start(ctx, cfg)
	return err
}

// restore starts the guest from a template. restored says whether it runs; an error is the pod's then. Otherwise
// nothing of it is left, and it can boot.
func (p *Pod) restore(ctx context.Context, o Options, cfg sandbox.Config) (restored bool, err error) {
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
	p.template = &from.Saved.Template
	p.log.Info("the guest was restored from a template", "template", p.template.Digest)
	for _, s := range from.Shares {
		if err := p.vm.PlugShare(ctx, s); err != nil {
			return true, p.plugging(err)
		}
	}
	for _, n := range from.NICs {
		path, err := p.vm.PlugNIC(ctx, n)
		if err != nil {
			return true, p.plugging(err)
		}
		p.nicPaths = append(p.nicPaths, path)
	}
	return true, nil
}

// orderTemplate has a template made for the pods that come, where this one found none. Whoever makes it is no part of
// the pod, and ends with it.
func (p *Pod) orderTemplate(ctx context.Context, o Options) {
	if !p.lacks || !p.cfg.Factory.AutomaticTemplate || len(o.Maker) == 0 {
		return
	}
	maker, err := factory.Order(o.Maker, p.cfg, o.Version)
	if err != nil {
		p.log.Warn("no template is made", "err", err)
		return
	}
	if err := p.cgroup.Release(maker.PID()); err != nil {
		p.log.Warn("a template is made within the pod's control group", "err", err)
	}
	p.log.Info("a template is made for the pods that come", "maker", maker.PID())
	p.wg.Go(func() {
		select {
		case <-maker.Done():
			if err := maker.ExitError(); err != nil {
				p.log.Warn("no template was made", "err", err)
				return
			}
			if said := strings.TrimSpace(maker.Stderr()); said != "" {
				p.log.Info("no template was made", "maker", said)
				return
			}
			p.log.Info("there is a template for the pods that come")
		case <-ctx.Done():
			if err := maker.Stop(context.Background(), nil); err != nil {
				p.log.Warn("maker of a template", "err", err)
			}
		}
	})
}

// plugError says that something could not be plugged into a restored guest, which one that boots may have.
type plugError struct{ error }

func (e *plugError) Unwrap() error { return e.error }

// plugging makes a plugError of what went wrong while something was plugged in, where the guest was restored.
func (p *Pod) plugging(err error) error {
	if p.template == nil {
		return err
	}
	return &plugError{err}
}

// givenUp says whether the guest is given up for an error, and the pod to be started again.
func (p *Pod) givenUp(err error) bool {
	_, is := errors.AsType[*plugError](err)
	return is
}

// Cold ends a pod whose start, or whose first container, failed. Where something could not be plugged into its guest,
// which was restored from a template, it starts again with a guest that boots, in the network namespace in which the
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
