// Package cobratest checks commands that are made with cobra.
package cobratest

import (
	"regexp"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// FlagsHaveNames fails t where the help of a flag, of c or a command below it, has more between back-quotes than one
// word, which is the name of the flag's value.
func FlagsHaveNames(t *testing.T, c *cobra.Command) {
	t.Helper()
	good := regexp.MustCompile(`^[A-Za-z0-9=:,/.\[\]-]*$`)
	check := func(f *pflag.Flag) {
		if name, _ := pflag.UnquoteUsage(f); !good.MatchString(name) {
			t.Errorf("%s --%s %s: want one word between back-quotes", c.CommandPath(), f.Name, name)
		}
	}
	c.LocalFlags().VisitAll(check)
	c.PersistentFlags().VisitAll(check)
	for _, sub := range c.Commands() {
		FlagsHaveNames(t, sub)
	}
}
