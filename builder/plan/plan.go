// Package plan says which steps make a guest, what decides the bytes of each, and which are done already.
//
// A plan is a pure function of recipe, lock and tools. A step's key is the digest of its name and inputs, so equal keys
// mean equal bytes.
package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
)

// Step is one step of a plan.
type Step struct {
	Name   string
	Needs  []string         // steps whose outputs it reads, if it runs at all
	Inputs []artifact.Input // sorted by name
	Key    digest.Digest
}

// New makes a step and its key. It sorts inputs; the same name twice is a bug of the caller and panics.
func New(name string, needs []string, inputs []artifact.Input) Step {
	inputs = slices.Clone(inputs)
	slices.SortFunc(inputs, func(a, b artifact.Input) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(inputs); i++ {
		if inputs[i].Name == inputs[i-1].Name {
			panic(fmt.Sprintf("step %s has two inputs %q", name, inputs[i].Name))
		}
	}
	// The canonical form is unambiguous where joined strings would not be.
	data, err := document.Encode(struct {
		Step   string           `json:"step"`
		Inputs []artifact.Input `json:"inputs"`
	}{name, inputs})
	if err != nil {
		panic(err) // strings always encode
	}
	return Step{Name: name, Needs: needs, Inputs: inputs, Key: digest.Of(data)}
}

// The states of a step.
const (
	hit    = "hit"    // the store holds its outputs
	miss   = "miss"   // it must run
	unused = "unused" // nobody needs its outputs: those who would are hits
)

// Status is what a store says of a step.
type Status struct {
	Step     Step
	State    string
	Why      []string      // for a miss: what changed since the guest's last build, or that there was none
	Expected time.Duration // for a miss: how long it took last time, zero when unknown
}

// Actions is what a plan asks of what steps have made, here or elsewhere. *store.Store is one.
type Actions interface {
	// Complete is the action with a key whose outputs are all there; an error is that there is none.
	Complete(key digest.Digest) (*store.Action, error)
	// Last is what a guest's step made last, nil where nobody knows.
	Last(guest, step string) *store.Action
}

// Check asks about the steps. wanted are the steps whose outputs the user wants; the others count only as needs
// of a miss.
func Check(made Actions, guest string, steps []Step, wanted []string) []Status {
	st := make([]Status, len(steps))
	index := map[string]int{}
	for i, step := range steps {
		st[i] = Status{Step: step, State: unused}
		index[step.Name] = i
	}
	var visit func(name string)
	visit = func(name string) {
		i, ok := index[name]
		if !ok || st[i].State != unused {
			return
		}
		step := steps[i]
		if _, err := made.Complete(step.Key); err == nil {
			st[i].State = hit
			return
		}
		last := made.Last(guest, step.Name)
		st[i].State, st[i].Why = miss, changes(last, step)
		if last != nil {
			st[i].Expected = time.Duration(last.ElapsedMS) * time.Millisecond
		}
		for _, n := range step.Needs {
			visit(n)
		}
	}
	for _, w := range wanted {
		visit(w)
	}
	return st
}

// changes compares a step with the one the guest had last.
func changes(last *store.Action, step Step) []string {
	if last == nil {
		return []string{"never built for this guest in this store"}
	}
	if last.Key == step.Key {
		return []string{"built before, but its outputs are no longer in the store"}
	}
	was := map[string]string{}
	for _, in := range last.Inputs {
		was[in.Name] = in.Value
	}
	var out []string
	for _, in := range step.Inputs {
		old, ok := was[in.Name]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("%s: new, %s", in.Name, show(in.Value)))
		case old != in.Value:
			out = append(out, fmt.Sprintf("%s: was %s, is %s", in.Name, show(old), show(in.Value)))
		}
		delete(was, in.Name)
	}
	for _, in := range last.Inputs {
		if _, ok := was[in.Name]; ok {
			out = append(out, fmt.Sprintf("%s: gone, was %s", in.Name, show(in.Value)))
		}
	}
	return out
}

// show shortens digests and long values.
func show(v string) string {
	if d, err := digest.Parse(v); err == nil {
		return "sha256:" + d.Short()
	}
	if len(v) > 60 {
		v = v[:57] + "..."
	}
	return fmt.Sprintf("%q", v)
}
