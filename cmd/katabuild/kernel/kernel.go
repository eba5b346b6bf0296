// Package kernel has katabuild's commands that look at a kernel's options and change them: the words below "katabuild
// kernel".
package kernel

import (
	"context"
	"encoding/json"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katabuild/katabuild/builder"
)

// Host is what the commands need of the program that they are a part of.
type Host struct {
	In       *os.File
	Out, Err io.Writer
	Getenv   func(string) string
	Differs  error // what a command ends with that has found what it looks for
	// Flags adds the flags of commands that read recipes, and returns what opens one: its lock must be there. close
	// ends the view of its progress.
	Flags func(*pflag.FlagSet) func(ctx context.Context, recipe string) (g *builder.Guest, close func(), err error)
}

// Commands makes them.
func (h *Host) Commands() []*cobra.Command {
	all := []*cobra.Command{h.explainCmd(), h.diffCmd(), h.importCmd(), h.hardeningCmd(), h.costCmd()}
	for _, editor := range builder.ConfigEditors() {
		all = append(all, h.editCmd(editor))
	}
	return all
}

// json prints a value.
func (h *Host) json(v any) error {
	e := json.NewEncoder(h.Out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
