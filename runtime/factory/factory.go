// Package factory makes templates of the guests that a configuration names, and finds the one that a pod's guest can be
// restored from.
//
// In come a configuration and a guest; out come what the machine of a pod is like, a template that has been proved, or
// why there is none. It puts together what sandbox and template do, and knows neither containers nor a pod.
package factory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/template"
)

// Sandbox is the machine that a configuration wants for a guest, without what is one pod's own: its size for
// containers, its shares and its interfaces.
func Sandbox(c *config.Config, g *guest.Guest, h machine.Hypervisor) (sandbox.Config, error) {
	cfg := sandbox.Config{
		Guest: g, Hypervisor: h, Machine: string(c.VM.MachineType), Words: append(c.Words(), agentlink.StreamsWord()),
		Accel: c.VM.Acceleration, Timeout: c.Agent.DialTimeout,
		Program: c.VM.Path, RNG: true, Places: c.VM.PCIeRootPorts,
		Size: machine.Size{CPUs: c.VM.VCPUs(g.Boot.CPUs, runtime.NumCPU()),
			MemoryMiB: cmp.Or(c.VM.DefaultMemoryMiB, g.Boot.MemoryMiB)},
		Attest: c.Runtime.Attestation != config.Off, Passing: passing(&c.VM),
	}
	if !g.Described() {
		cfg.Serves = agentlink.Serves
	}
	maySize(c, &cfg)
	var err error
	cfg.Extensions, err = extensions(c.VM.Extensions)
	return cfg, err
}

// passing is how the machine gets devices of the host.
func passing(c *config.VM) machine.Passing {
	p := machine.Passing{IOMMU: c.EnableIOMMU, IOMMUPlatform: c.IOMMUPlatform}
	switch {
	case c.HotPlugVFIO != config.PortNone:
		p.Port, p.Later = machine.Port(c.HotPlugVFIO), true
	case c.ColdPlugVFIO != config.PortNone:
		p.Port = machine.Port(c.ColdPlugVFIO)
	}
	if p.Port == machine.SwitchPort {
		p.SwitchPorts = max(c.PCIeSwitchPorts, 1) // one that is empty, where the pod turns out to have no devices
	}
	return p
}

// maySize sets how large the machine may become: what the configuration says, and no more than the host has.
func maySize(c *config.Config, cfg *sandbox.Config) {
	q := &c.VM
	if c.Runtime.StaticSandboxResourceMgmt {
		return
	}
	cfg.Max = machine.Size{CPUs: runtime.NumCPU(), MemoryMiB: hostMemoryMiB()}
	if n := q.DefaultMaxVCPUs; n > 0 {
		cfg.Max.CPUs = min(n, cfg.Max.CPUs)
	}
	if n := q.DefaultMaxMemoryMiB; n > 0 {
		cfg.Max.MemoryMiB = min(n, cfg.Max.MemoryMiB)
	}
	cfg.MemorySlots = q.MemorySlots
}

// hostMemoryMiB is what the host has, 0 where it does not say.
func hostMemoryMiB() int {
	var i unix.Sysinfo_t
	if err := unix.Sysinfo(&i); err != nil {
		return 0
	}
	return int(uint64(i.Totalram) * uint64(i.Unit) >> 20)
}

func extensions(list []config.ExtensionDisk) ([]guest.Extension, error) {
	var out []guest.Extension
	for _, e := range list {
		if e.Params != nil {
			out = append(out, guest.Extension{Extension: extension.Extension{Name: e.Name, Params: *e.Params},
				Image: e.Path})
			continue
		}
		x, err := guest.ReadExtension(e.Name + "=" + e.Path)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// Factory makes and finds templates.
type Factory struct {
	Folder  template.Folder
	Version string // of katabuild
}

// Of is the Factory of a configuration.
func Of(c *config.Config, version string) Factory {
	return Factory{Folder: template.Folder(c.Factory.TemplatePath), Version: version}
}

// traits say what the machine of a template depends on. cfg is a Sandbox's, and comes back as one of a template.
func traits(cfg sandbox.Config) (sandbox.Config, *machine.Traits, error) {
	cfg.Template = true
	// what a template has does not depend on what is plugged in later
	cfg.Shares, cfg.NICs, cfg.Serves = nil, nil, nil
	plan, err := sandbox.NewPlan(cfg)
	if err != nil {
		return cfg, nil, err
	}
	h, ok := cfg.Hypervisor.(machine.Templates)
	if !ok {
		return cfg, nil, machine.ErrNoTemplate
	}
	t, err := h.Traits(plan.Machine)
	return cfg, t, err
}

func (f Factory) key(cfg sandbox.Config, t *machine.Traits) template.Key {
	return template.Key{Manifest: cfg.Guest.Digest, Machine: digest.Of(t.Machine), Program: t.Program,
		CPU: digest.Of(t.CPU), Katabuild: f.Version}
}

// LackError says that there is no template for a machine, or none that is right, and that there could be one.
type LackError struct{ Cause error }

func (e *LackError) Error() string { return e.Cause.Error() }

func (e *LackError) Unwrap() error { return e.Cause }

// Fit says what a guest that waits has to be for a Sandbox's Config, of a pod that wants the machine to be of a size,
// and what its Config is then. The error says why the guest has to boot.
func (f Factory) Fit(cfg sandbox.Config, want machine.Size) (sandbox.Config, template.Key, error) {
	shares, nics := cfg.Shares, cfg.NICs
	cfg, t, err := traits(cfg)
	if err != nil {
		return cfg, template.Key{}, err
	}
	for _, s := range shares {
		if s.Socket == "" {
			return cfg, template.Key{}, fmt.Errorf("%w: shared_fs is virtio-9p, which cannot be plugged in",
				machine.ErrNoTemplate)
		}
	}
	if want.CPUs > t.Most.CPUs || want.MemoryMiB > t.Most.MemoryMiB {
		return cfg, template.Key{}, fmt.Errorf("the pod wants %d processors and %d MiB of memory, and a restored "+
			"machine can have %d and %d", want.CPUs, want.MemoryMiB, t.Most.CPUs, t.Most.MemoryMiB)
	}
	cfg.Shares, cfg.NICs = shares, nics
	return cfg, f.key(cfg, t), nil
}

// Lacks says whether there is no template at all for a Sandbox's Config that could have one.
func (f Factory) Lacks(cfg sandbox.Config) bool {
	_, key, err := f.Fit(cfg, machine.Size{})
	if err != nil {
		return false
	}
	_, err = f.Folder.Find(key)
	return err != nil
}

// Restore says how to restore the guest of a Sandbox's Config from its template instead of booting it, for a pod that
// wants the machine to be of a size. Whoever has the answer closes Saved. The error says why the guest has to boot; it
// is a *LackError where Make would help.
func (f Factory) Restore(cfg sandbox.Config, want machine.Size) (sandbox.Config, error) {
	cfg, key, err := f.Fit(cfg, want)
	if err != nil {
		return cfg, err
	}
	found, err := f.Folder.Find(key)
	if err != nil {
		return cfg, &LackError{err}
	}
	if size := int64(cfg.Size.MemoryMiB) << 20; found.Memory.Size != size {
		return cfg, fmt.Errorf("template %s: %d bytes of memory, and the machine has %d", found.Dir(),
			found.Memory.Size, size)
	}
	copies, err := found.Copy()
	if err != nil {
		return cfg, &LackError{fmt.Errorf("template %s: %w", found.Dir(), err)}
	}
	cfg.Saved = &sandbox.Saved{Copies: *copies, Template: verdict.Template{Digest: found.Digest, Made: found.Made,
		Attested: found.Attested}}
	return cfg, nil
}

// Make makes the template of a Sandbox's Config: it boots the guest, saves it when it waits, restores one from that,
// and keeps the template when that one was woken and is what the manifest says. progress, which may be nil, is told
// what is done.
func (f Factory) Make(ctx context.Context, cfg sandbox.Config, progress func(string)) (*template.Template, error) {
	if progress == nil {
		progress = func(string) {}
	}
	cfg.Attest = true
	cfg, t, err := traits(cfg)
	if err != nil {
		return nil, err
	}
	progress("boot the guest " + cfg.Guest.Name)
	s, err := sandbox.Start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("boot the guest of a template: %w", err)
	}
	progress("save it")
	saved, err := s.Save(ctx)
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	defer saved.Close() //nolint:errcheck // only read from
	progress("restore and attest one")
	v, err := prove(ctx, cfg, saved)
	if err != nil {
		return nil, fmt.Errorf("restore a guest from the template: %w", err)
	}
	b, err := v.Encode()
	if err != nil {
		return nil, err
	}
	progress("keep it")
	return f.Folder.Put(ctx, template.Document{Guest: cfg.Guest.Name, Key: f.key(cfg, t), Made: time.Now().Unix(),
		Attested: digest.Of(b)}, *saved)
}

// prove restores a guest, and is its verdict.
func prove(ctx context.Context, cfg sandbox.Config, saved *template.Copies) (*verdict.Verdict, error) {
	one, err := saved.Duplicate()
	if err != nil {
		return nil, err
	}
	defer one.Close() //nolint:errcheck // nobody needs it any more
	cfg.Saved = &sandbox.Saved{Copies: *one}
	s, err := sandbox.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	a, err := s.Attest(ctx, s.Plan().Words)
	if err := errors.Join(err, s.Stop()); err != nil {
		return nil, err
	}
	if a.Verdict.Result != verdict.Attested {
		return nil, fmt.Errorf("it is not what its manifest says:\n%s", a.Verdict.Table())
	}
	return a.Verdict, nil
}
