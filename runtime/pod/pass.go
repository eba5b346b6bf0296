package pod

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/katabuild/katabuild/runtime/cdi"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/translate"
	"github.com/katabuild/katabuild/runtime/vfio"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// passing are the devices of the host that the pod's machine has. They stay until it ends, so that a container that is
// made anew finds them.
type passing struct {
	mu sync.Mutex // held while devices are passed, too
	// groups are what has been passed, by the files of groups: "HOST=PATH" of each device, as the agent wants it.
	// Guarded by mu.
	groups map[string][]string
	paths  map[string]string    // where the guest finds them, by their folders in sysfs; guarded by mu
	cold   []machine.HostDevice // from the start, until the machine says where they are
}

// passes says whether devices of the host can be passed at all.
func passes(c *config.VM) bool {
	return c.ColdPlugVFIO != config.PortNone || c.HotPlugVFIO != config.PortNone
}

// modeOf is who has such devices in the guest.
func modeOf(c *config.Config) translate.Mode {
	if !passes(&c.VM) {
		return ""
	}
	return translate.Mode(c.Runtime.VFIOMode)
}

// passFromStart finds the devices of the host that the pod's first container, and its annotations for CDI, want.
func (p *Pod) passFromStart(o Options, cfg *sandbox.Config) error {
	if p.cfg.VM.ColdPlugVFIO == config.PortNone || o.Spec == nil {
		return nil
	}
	s, err := p.inject(o.Spec)
	if err != nil {
		return err
	}
	groups, err := translate.Groups(translate.ThisHost{Root: o.Root}, s)
	if err != nil {
		return err
	}
	for _, g := range groups {
		list, err := p.group(g)
		if err != nil {
			return fmt.Errorf("cold_plug_vfio: %w", err)
		}
		cfg.Passed = append(cfg.Passed, list...)
	}
	p.passing.cold = cfg.Passed
	return nil
}

// passInterface has the machine get a device of the host that is an interface of the pod, with the group it is in.
func (p *Pod) passInterface(cfg *sandbox.Config, name string) error {
	if p.cfg.VM.ColdPlugVFIO == config.PortNone {
		return fmt.Errorf("%s is a device of the host, and the machine has no place for one: set cold_plug_vfio", name)
	}
	file, err := vfio.Of(filepath.Join("/", p.options.Root), name)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(cfg.Passed, func(d machine.HostDevice) bool { return d.Group == file }) {
		list, err := p.group(file)
		if err != nil {
			return err
		}
		cfg.Passed = append(cfg.Passed, list...)
		p.passing.cold = cfg.Passed
	}
	return nil
}

// passedPath is where the guest finds a device of the host that it has from the start; empty for none.
func (p *Pod) passedPath(name string) string {
	p.passing.mu.Lock()
	defer p.passing.mu.Unlock()
	for _, d := range p.passing.cold {
		if d.Name == name {
			return p.passing.paths[d.Path]
		}
	}
	return ""
}

// inject gives a specification what its annotations for CDI ask for, where devices can be passed.
func (p *Pod) inject(s *specs.Spec) (*specs.Spec, error) {
	if !passes(&p.cfg.VM) {
		return s, nil
	}
	var folders []string
	for _, f := range cdi.Folders() {
		folders = append(folders, filepath.Join("/", p.options.Root, f))
	}
	return cdi.Inject(s, folders)
}

// group are the devices of a group, as the machine gets them.
func (p *Pod) group(file string) ([]machine.HostDevice, error) {
	list, err := vfio.Group(filepath.Join("/", p.options.Root), file)
	if err != nil {
		return nil, err
	}
	var out []machine.HostDevice
	for _, d := range list {
		out = append(out, machine.HostDevice{Group: file, Name: d.Name, Path: d.Path, Mediated: d.Mediated})
	}
	return out, nil
}

// notePassed notes where the guest finds the devices that it has from the start.
func (p *Pod) notePassed() error {
	p.passing.mu.Lock()
	defer p.passing.mu.Unlock()
	p.passing.groups, p.passing.paths = map[string][]string{}, map[string]string{}
	if len(p.passing.cold) == 0 {
		return nil
	}
	paths := p.vm.Passed()
	if len(paths) != len(p.passing.cold) {
		return fmt.Errorf("the machine has %d devices of the host instead of %d", len(paths), len(p.passing.cold))
	}
	for i, d := range p.passing.cold {
		p.passing.groups[d.Group] = append(p.passing.groups[d.Group], optionOf(d, paths[i]))
		p.passing.paths[d.Path] = paths[i]
		p.log.Info("a device of the host is the guest's", "device", d.Name, "group", d.Group, "path", paths[i])
	}
	return nil
}

// optionOf is what the agent is told of a device. A mediated one is known by the address of that which it is a part of.
func optionOf(d machine.HostDevice, path string) string {
	name := d.Name
	if d.Mediated {
		name = filepath.Base(filepath.Dir(d.Path))
	}
	return name + "=" + path
}

// pass gives the machine a group of the plan, unless it has it already.
func (p *Pod) pass(ctx context.Context, plan *translate.Plan, x translate.Pass) error {
	p.passing.mu.Lock()
	defer p.passing.mu.Unlock()
	if have, ok := p.passing.groups[x.Group]; ok {
		plan.Passed(x, have)
		return nil
	}
	if p.cfg.VM.HotPlugVFIO == config.PortNone {
		return fmt.Errorf("%s was not there when the machine started, as no device of the pod's first container, nor "+
			"of the pod's annotations for CDI: cold_plug_vfio takes none later; set hot_plug_vfio", x.Group)
	}
	list, err := p.group(x.Group)
	if err != nil {
		return err
	}
	var options []string
	for _, d := range list {
		path, there := p.passing.paths[d.Path] // of a group that could not be passed as a whole
		if !there {
			if path, err = p.vm.Pass(ctx, d); err != nil {
				return err
			}
			p.passing.paths[d.Path] = path
			p.log.Info("a device of the host is the guest's", "device", d.Name, "group", d.Group, "path", path)
		}
		options = append(options, optionOf(d, path))
	}
	p.passing.groups[x.Group] = options
	plan.Passed(x, options)
	return nil
}
