package main

import (
	"regexp"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A back-quoted word in a flag's help is the name of its value.
func TestTheValueOfEveryFlagHasAName(t *testing.T) {
	good := regexp.MustCompile(`^[A-Za-z0-9=:,/.\[\]-]*$`)
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		check := func(f *pflag.Flag) {
			if name, _ := pflag.UnquoteUsage(f); !good.MatchString(name) {
				t.Errorf("%s --%s %s: want one word between back-quotes", c.CommandPath(), f.Name, name)
			}
		}
		c.LocalFlags().VisitAll(check)
		c.PersistentFlags().VisitAll(check)
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit((&app{}).root())
}
