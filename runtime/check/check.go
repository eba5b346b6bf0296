// Package check says whether this host can run pods, and what to do where it cannot.
//
// In come the effective configuration and a view of the host; out comes a Result, a Finding for everything that pods
// need or could use. It looks at everything, whatever is missing, and changes nothing: no module is loaded, and the
// only things made are a virtual machine of a few instructions and a piece of memory, which are gone when Run returns.
package check

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
)

// State is what a Finding comes to.
type State string

// The states.
const (
	fine     State = "ok"
	lacking  State = "missing"  // without it no pod runs
	optional State = "optional" // not there, and pods run without it, as Fact says
)

// Finding is what is known about one thing.
type Finding struct {
	Name    string   `json:"name"`
	State   State    `json:"state"`
	Fact    string   `json:"fact"`              // one line
	WayOut  string   `json:"way_out,omitempty"` // what to do; empty where State is fine
	Details []string `json:"details,omitempty"` // what Fact sums up, a line each
}

// String is "state name: fact; way out".
func (f Finding) String() string {
	s := fmt.Sprintf("%s %s: %s", f.State, f.Name, f.Fact)
	if f.WayOut != "" {
		s += "; " + f.WayOut
	}
	return s
}

// Result is the whole answer.
type Result struct {
	Pods bool `json:"pods"` // they can run
	// what would execute the guest; empty where nothing that is allowed can
	Acceleration accel.Accel `json:"acceleration"`
	Findings     []Finding   `json:"findings"` // in a fixed order
}

// lacking are the names of what no pod runs without, each once.
func (r *Result) Missing() []string {
	var out []string
	seen := map[string]bool{}
	for _, f := range r.Findings {
		if f.State == lacking && !seen[f.Name] {
			out = append(out, f.Name)
		}
		seen[f.Name] = seen[f.Name] || f.State == lacking
	}
	return out
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
	findings []Finding
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
	c := &checker{host: o.Host, cfg: config.Default(), loaded: o.Config, err: o.ConfigErr, systems: map[string]System{}}
	if c.host == nil {
		c.host = this{}
	}
	if o.Config != nil {
		c.cfg = o.Config.Config
	}
	for _, check := range []func(context.Context){
		c.user, c.configuration, c.guestFiles, c.extensions, c.qemu, c.acceleration, c.vsock, c.sharedFiles, c.tun,
		c.trafficControl, c.controlGroups, c.memfd, c.memory,
	} {
		if ctx.Err() != nil {
			break
		}
		check(ctx)
	}
	r := Result{Acceleration: c.accel, Findings: c.findings}
	r.Pods = len(r.Missing()) == 0 && ctx.Err() == nil
	return r
}

func (c *checker) say(state State, name, wayOut, format string, args ...any) *Finding {
	fact := oneLine(fmt.Sprintf(format, args...))
	c.findings = append(c.findings, Finding{Name: name, State: state, Fact: fact, WayOut: wayOut})
	return &c.findings[len(c.findings)-1]
}

// oneLine keeps the errors of several things, and what a program printed, on a line of their own.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
}

// hostArch is this host's architecture, or one by Go's name alone where the table has none.
func hostArch() arch.Arch {
	a, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return arch.Arch{Name: runtime.GOARCH, QEMU: "qemu-system-" + runtime.GOARCH}
	}
	return a
}
