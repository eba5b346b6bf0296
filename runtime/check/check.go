// Package check says whether this host can run pods, and what to do where it cannot.
//
// In come the effective configuration and a view of the host; out comes a Result, a finding for everything that pods
// need or could use. It looks at everything, whatever is missing, and changes nothing: no module is loaded, and the
// only things made are a virtual machine of a few instructions and a piece of memory, which are gone when Run returns.
package check

import (
	"context"
	"fmt"
	"runtime"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/finding"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
)

// Result is the whole answer.
type Result struct {
	Pods bool `json:"pods"` // they can run
	// what would execute the guest; empty where nothing that is allowed can
	Acceleration accel.Accel  `json:"acceleration"`
	Findings     finding.List `json:"findings"` // in a fixed order
}

// Options are what to check.
type Options struct {
	Config    *config.Loaded // nil where it could not be loaded: then the defaults are checked
	ConfigErr error          // why not
	Host      Host           // nil: This
}

// checker is what the checks share. guestFiles sets guest and arch, which come before all that asks for them.
type checker struct {
	host     Host
	cfg      config.Config
	loaded   *config.Loaded
	err      error
	guest    *guest.Guest // nil where it cannot be read, or there is none
	arch     arch.Arch    // of the guest; else of the host
	accel    accel.Accel
	systems  map[string]System // by architecture: the trial of KVM takes its time
	findings finding.List
	// machineOnly says that nobody asked about pods or a configuration, so that no way out may name its keys.
	machineOnly bool
}

// system is what the host's kernel says, for guests of the architecture as far as it is known.
func (c *checker) system() System {
	a := c.arch
	if a.Name == "" {
		a = hostArch()
	}
	s, ok := c.systems[a.Name]
	if !ok {
		s = c.host.System(a)
		c.systems[a.Name] = s
	}
	return s
}

// Run checks everything. It returns early, with what it found so far, only when ctx ends.
func Run(ctx context.Context, o Options) Result {
	c := newChecker(o)
	c.run(ctx, c.user, c.configuration, c.guestFiles, c.extensions, c.hypervisor, c.processor, c.acceleration,
		c.kernelModules, c.vsock, c.sharedFiles, c.tun, c.trafficControl, c.controlGroups, c.memfd, c.memory)
	r := Result{Acceleration: c.accel, Findings: c.findings}
	r.Pods = len(r.Findings.Missing()) == 0 && ctx.Err() == nil
	return r
}

// Machine checks only what a virtual machine of the architecture needs, without a configuration and without pods.
func Machine(ctx context.Context, a arch.Arch) finding.List {
	c := newChecker(Options{})
	c.arch, c.machineOnly = a, true
	c.run(ctx, c.qemu, c.acceleration, c.vsock, c.memfd)
	return c.findings
}

func newChecker(o Options) *checker {
	c := &checker{host: o.Host, cfg: config.Default(), loaded: o.Config, err: o.ConfigErr, systems: map[string]System{}}
	if c.host == nil {
		c.host = this{}
	}
	if o.Config != nil {
		c.cfg = o.Config.Config
	}
	return c
}

func (c *checker) run(ctx context.Context, checks ...func(context.Context)) {
	for _, check := range checks {
		if ctx.Err() != nil {
			return
		}
		check(ctx)
	}
}

func (c *checker) say(state finding.State, name, wayOut, format string, args ...any) *finding.Finding {
	fact := finding.OneLine(fmt.Sprintf(format, args...))
	c.findings = append(c.findings, finding.Finding{Name: name, State: state, Fact: fact, WayOut: wayOut})
	return &c.findings[len(c.findings)-1]
}

// hostArch is this host's architecture, or one by Go's name alone where the table has none.
func hostArch() arch.Arch {
	a, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return arch.Arch{Name: runtime.GOARCH, QEMU: "qemu-system-" + runtime.GOARCH}
	}
	return a
}
