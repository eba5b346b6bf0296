// Package usage makes all commands answer a wrong command line alike: with an error that can be told from others, and
// the way to help. Rules say which flags go together.
package usage

import (
	"fmt"

	"github.com/spf13/cobra"
)

// Error is a command line that makes no sense.
type Error struct{ Err error }

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Apply makes wrong words, flags and numbers of arguments an *Error, for root and every command below it. Call it when
// all are there.
func Apply(root *cobra.Command) {
	root.SilenceUsage, root.SilenceErrors = true, true
	root.CompletionOptions = cobra.CompletionOptions{HiddenDefaultCmd: true}
	root.SuggestionsMinimumDistance = 2
	root.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := ""
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf("; did you mean %q?", near[0])
		}
		return &Error{Err: fmt.Errorf("unknown command %q%s", args[0], hint)}
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &Error{Err: fmt.Errorf("%w; see: %s --help", err, c.CommandPath())}
	})
	for _, c := range root.Commands() {
		arguments(c)
	}
}

func arguments(c *cobra.Command) {
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, got []string) error {
			if err := args(c, got); err != nil {
				return &Error{Err: fmt.Errorf("%w; see: %s --help", err, c.CommandPath())}
			}
			return nil
		}
	}
	for _, s := range c.Commands() {
		arguments(s)
	}
}
