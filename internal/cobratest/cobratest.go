// Package cobratest checks commands that are made with cobra.
package cobratest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
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

// Code is the word "code N COMMAND..." of scripts: it runs a command that must end with that exit code.
func Code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// row is a row of a table of tools: theirs, what it is here, ours, and why.
var row = regexp.MustCompile(`^\|([^|]*)\| *(same|other|not) *\|([^|]*)\|([^|]*)\|$`)

// code is what a page shows as code.
var code = regexp.MustCompile("`([^`]+)`")

// HasTools fails t where a page, docs/tools.md, says of a program that it has a command or a flag, and the command c,
// which is the program, has it not; or where the page has no row for the program at all.
func HasTools(t *testing.T, page string, c *cobra.Command) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for l := range strings.Lines(string(text)) {
		l = strings.TrimSpace(l)
		m := row.FindStringSubmatch(l)
		switch {
		case m == nil:
			if strings.HasPrefix(l, "| `") {
				t.Errorf("%s: %s: want same, other or not in the second place, and four places", page, l)
			}
			continue
		case m[2] == "not" && strings.TrimSpace(m[4]) == "":
			t.Errorf("%s: %s: why not?", page, l)
		case m[2] != "not" && !code.MatchString(m[3]):
			t.Errorf("%s: %s: what is it here?", page, l)
		}
		for _, ours := range code.FindAllStringSubmatch(m[3], -1) {
			words := strings.Fields(ours[1])
			if words[0] != c.Name() {
				continue
			}
			rows++
			if err := has(c, words[1:]); err != nil {
				t.Errorf("%s: %q: %v", page, ours[1], err)
			}
		}
	}
	if rows == 0 {
		t.Errorf("%s says nothing of %s", page, c.Name())
	}
}

// has says whether the words, of which the last may be a flag, are a command of c's.
func has(c *cobra.Command, words []string) error {
	for _, w := range words {
		if name, ok := strings.CutPrefix(w, "--"); ok {
			c.InitDefaultHelpFlag()
			c.InitDefaultVersionFlag()
			if c.Flags().Lookup(name) == nil && c.InheritedFlags().Lookup(name) == nil {
				return fmt.Errorf("%s has no flag --%s", c.CommandPath(), name)
			}
			continue
		}
		i := slices.IndexFunc(c.Commands(), func(sub *cobra.Command) bool { return sub.Name() == w })
		if i < 0 {
			return fmt.Errorf("%s has no command %s", c.CommandPath(), w)
		}
		c = c.Commands()[i]
	}
	return nil
}
