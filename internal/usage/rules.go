package usage

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Rule says with which other flags a flag makes sense. One that is not named on the command line breaks no rule.
type Rule struct {
	Flag string
	// Needs is a flag without which Flag has no effect; empty for none.
	Needs string
	// Excludes are flags that say something else than Flag, or something that would be ignored.
	Excludes []string
	// Why is the reason, which follows the flag's name after a comma; empty where none is needed.
	Why string
}

// Rules has a command refuse command lines that break one, before it does anything. Call it once a command, when its
// flags are there: a flag that is not there is a mistake of the caller, and panics.
func Rules(c *cobra.Command, rules ...Rule) {
	for _, r := range rules {
		for _, name := range append([]string{r.Flag, r.Needs}, r.Excludes...) {
			if name != "" && c.Flags().Lookup(name) == nil {
				panic(fmt.Sprintf("%s has no flag --%s", c.Name(), name))
			}
		}
	}
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		for _, r := range rules {
			if err := r.check(c.Flags()); err != nil {
				return &Error{Err: fmt.Errorf("%w; see: %s --help", err, c.CommandPath())}
			}
		}
		return nil
	}
}

func (r Rule) check(f *pflag.FlagSet) error {
	if !f.Changed(r.Flag) {
		return nil
	}
	why := ""
	if r.Why != "" {
		why = ", " + r.Why
	}
	if r.Needs != "" && !f.Changed(r.Needs) {
		return fmt.Errorf("--%s goes with --%s%s", r.Flag, r.Needs, why)
	}
	if i := slices.IndexFunc(r.Excludes, f.Changed); i >= 0 {
		return fmt.Errorf("--%s does not go with --%s%s", r.Excludes[i], r.Flag, why)
	}
	return nil
}

// Need makes a rule for each of flags: it needs the flag needed.
func Need(needed string, flags ...string) []Rule {
	var rules []Rule
	for _, f := range flags {
		rules = append(rules, Rule{Flag: f, Needs: needed})
	}
	return rules
}
