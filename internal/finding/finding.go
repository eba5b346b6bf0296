// Package finding is what the programs that look at a host say of it: `katabuild doctor` and `kata-runtime check`.
//
// Whoever looks makes a Finding for each thing; a List of them is printed the same way everywhere.
package finding

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// State is what a Finding comes to.
type State string

// The states.
const (
	Fine     State = "ok"
	Missing  State = "missing"  // what the program is for cannot be done
	Optional State = "optional" // not there, and it is done without, as Fact says
)

// Finding is what is known about one thing.
type Finding struct {
	Name     string   `json:"name"`
	State    State    `json:"state"`
	Fact     string   `json:"fact"`               // one line
	Without  string   `json:"without,omitempty"`  // what cannot be done without it; empty where State is Fine
	WayOut   string   `json:"way_out,omitempty"`  // what to do; empty where State is Fine
	Packages []string `json:"packages,omitempty"` // of Debian, which bring it; empty where State is Fine
	Details  []string `json:"details,omitempty"`  // what Fact sums up, a line each
}

// String is "state name: fact; without it: what; way out". It is one line.
func (f Finding) String() string {
	s := fmt.Sprintf("%s %s: %s", f.State, f.Name, f.Fact)
	if f.Without != "" {
		s += "; without it: no " + f.Without
	}
	if f.WayOut != "" {
		s += "; " + f.WayOut
	}
	return s
}

// OneLine keeps the errors of several things, and what a program printed, on a line of their own.
func OneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
}

// List is the findings of one look at a host, in the order of looking.
type List []Finding

// Missing are the names of what is missing, each once.
func (l List) Missing() []string {
	return l.of(Missing, func(f Finding) []string { return []string{f.Name} })
}

// Lacking are the names of what is optional and not there, each once.
func (l List) Lacking() []string {
	return l.of(Optional, func(f Finding) []string { return []string{f.Name} })
}

// Packages are those of Debian that bring what is missing, each once.
func (l List) Packages() []string {
	return l.of(Missing, func(f Finding) []string { return f.Packages })
}

func (l List) of(state State, what func(Finding) []string) []string {
	var out []string
	for _, f := range l {
		if f.State != state {
			continue
		}
		for _, s := range what(f) {
			if !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// Print writes a line for each, and with verbose the details below it.
func (l List) Print(w io.Writer, verbose bool) error {
	for _, f := range l {
		if _, err := fmt.Fprintln(w, f); err != nil {
			return err
		}
		if !verbose {
			continue
		}
		for _, d := range f.Details {
			if _, err := fmt.Fprintln(w, "    "+d); err != nil {
				return err
			}
		}
	}
	return nil
}
