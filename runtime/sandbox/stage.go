package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/report"
)

// Stage is how far a guest has come.
type Stage int

// The stages in their order. A guest that lacks one did not come up because of it, whatever else it did: the transport,
// for one, may be there before init.
const (
	stageVMM       Stage = iota // the hypervisor runs and answers
	stageKernel                 // the guest's kernel shows life: on the console, or by its vsock driver
	stageInit                   // the agent's first console line, as PID 1
	stageTransport              // the guest's vsock driver runs
	stageAgent                  // the agent has said that it serves
	numStages
)

func (s Stage) String() string {
	names := [numStages]string{"vmm", "kernel", "init", "transport", "agent"}
	if s < 0 || s >= numStages {
		return fmt.Sprintf("stage %d", int(s))
	}
	return names[s]
}

// missing says what it means that a guest did not reach the stage.
func (s Stage) missing() string {
	return [numStages]string{
		"the hypervisor did not start",
		"the kernel gave no sign of life",
		"the agent did not start as PID 1",
		"the guest's vsock driver did not start",
		"the agent did not say that it serves",
	}[s]
}

// Moment is when something happened, since Start was called.
type Moment struct {
	Name  string
	After time.Duration
	Guest bool // by the guest's clock, moved so that its "ready" is the host's "agent"
}

// StageError says at which stage a guest failed to come up.
type StageError struct {
	Stage   Stage
	Cause   error
	Console []string // the console's last lines, cleaned
	Command string   // the hypervisor's command line to try by hand, ready to paste; see Plan
	Argv    []string // as it was started
}

func (e *StageError) Error() string {
	return fmt.Sprintf("boot, stage %s: %s: %v", e.Stage, e.Stage.missing(), e.Cause)
}

func (e *StageError) Unwrap() error { return e.Cause }

// panicError is a panic of the guest's kernel.
type panicError struct{ Text string }

func (e *panicError) Error() string { return "kernel panic: " + e.Text }

// progress notes the stages as they are reached.
type progress struct {
	start   time.Time
	onStage func(Moment)
	foreign bool // the agent may be one that says nothing on the console

	mu      sync.Mutex // guards what follows
	reached [numStages]bool
	moments []Moment
}

// reach notes a stage, the first time.
func (p *progress) reach(s Stage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s == stageTransport || s == stageAgent { // the kernel did that
		p.note(stageKernel)
	}
	if s == stageAgent { // whose guest serves, runs, even if its answer to that is still on its way
		p.note(stageVMM)
		p.note(stageTransport)
	}
	p.note(s)
}

func (p *progress) note(s Stage) {
	if !p.reached[s] {
		p.reached[s] = true
		p.mark(s.String())
	}
}

func (p *progress) mark(name string) {
	m := Moment{Name: name, After: time.Since(p.start)}
	p.moments = append(p.moments, m)
	if p.onStage != nil {
		p.onStage(m)
	}
}

// event notes something that is no stage.
func (p *progress) event(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mark(name)
}

// failed is the first stage that was not reached; the last one when all were.
func (p *progress) failed() Stage {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := stageVMM; s < numStages; s++ {
		if !p.reached[s] && !(s == stageInit && p.foreign && p.reached[stageTransport]) {
			return s
		}
	}
	return stageAgent
}

func (p *progress) timeline() []Moment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.moments)
}

// Merge puts the guest's own moments among the host's. The two clocks meet at the guest's "ready", which is the host's
// "agent" but for the time the message takes. Without either, only the host's moments come back.
func Merge(host []Moment, guest []report.Moment) []Moment {
	all := slices.Clone(host)
	h := slices.IndexFunc(host, func(m Moment) bool { return m.Name == stageAgent.String() })
	g := slices.IndexFunc(guest, func(m report.Moment) bool { return m.Name == "ready" })
	if h < 0 || g < 0 {
		return all
	}
	for _, m := range guest {
		all = append(all, Moment{Name: m.Name, Guest: true, After: host[h].After + time.Duration(m.AtNS-guest[g].AtNS)})
	}
	slices.SortStableFunc(all, func(a, b Moment) int { return int(a.After - b.After) })
	return all
}

// panicReason finds out, line by line of the console, why a kernel panics.
type panicReason struct {
	oops string // what went wrong in the kernel
}

// read returns the reason when line is that of a panic, and else nothing. A panic for an oops does not say which
// ("Fatal exception"; Linux: oops_end in arch/x86/kernel/dumpstack.c, die of other architectures). That has been
// printed before, with the number of the oops, and some say more before that.
func (r *panicReason) read(line string) string {
	message := line
	if strings.HasPrefix(line, "[") { // the time
		_, message, _ = strings.Cut(line, "] ")
	}
	if r.oops == "" && (strings.HasPrefix(message, "BUG: ") || strings.Contains(message, " [#1]")) {
		r.oops = message
	}
	_, text, _ := strings.Cut(line, "Kernel panic - not syncing: ")
	if strings.HasPrefix(text, "Fatal exception") && r.oops != "" {
		text += ": " + r.oops
	}
	return text
}
