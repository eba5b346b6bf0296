package pod

import (
	"context"

	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/template"
)

// boot starts the guest: from a template where the configuration wants that and there is one, and else by booting it.
func (p *Pod) boot(ctx context.Context, o Options, cfg sandbox.Config) (err error) {
	if p.cfg.Factory.EnableTemplate {
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
	f := factory.Factory{Folder: template.Folder(p.cfg.Factory.TemplatePath), Version: o.Version}
	want := cfg.Size
	cfg.Size = p.growth.base // it grows to what is wanted
	from, err := f.Restore(cfg, want)
	if err != nil {
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
			return true, err
		}
	}
	for _, n := range from.NICs {
		path, err := p.vm.PlugNIC(ctx, n)
		if err != nil {
			return true, err
		}
		p.nicPaths = append(p.nicPaths, path)
	}
	return true, nil
}
