package cost

import (
	_ "embed" // reasons.txt
	"fmt"
	"slices"
	"strings"
)

//go:embed reasons.txt
var reasonsText string

// Reason is what was decided about an option that costs much.
type Reason struct {
	Option  string // with CONFIG_
	Verdict string // kept, dropped or split
	Feature string // where it went, of one that was split off
	Why     string
}

// Reasons lists what was decided about the dearest options of the set default.
func Reasons() ([]Reason, error) { return parseReasons("kernel/cost/reasons.txt", reasonsText) }

// parseReasons reads lines of OPTION kept|dropped|split FEATURE, a colon and the reason; blank ones and those that
// begin with # do not count.
func parseReasons(name, text string) ([]Reason, error) {
	var out []Reason
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		head, why, ok := strings.Cut(line, ": ")
		w := strings.Fields(head)
		r := Reason{Why: strings.TrimSpace(why)}
		switch {
		case ok && len(w) == 2 && (w[1] == "kept" || w[1] == "dropped"):
		case ok && len(w) == 3 && w[1] == "split":
			r.Feature = w[2]
		default:
			return nil, fmt.Errorf("%s:%d: want OPTION kept, OPTION dropped or OPTION split FEATURE, \": \" and a "+
				"reason", name, n)
		}
		r.Option, r.Verdict = "CONFIG_"+w[0], w[1]
		if r.Why == "" || slices.ContainsFunc(out, func(o Reason) bool { return o.Option == r.Option }) {
			return nil, fmt.Errorf("%s:%d: %s has no reason, or a second line", name, n, r.Option)
		}
		out = append(out, r)
	}
	return out, nil
}
