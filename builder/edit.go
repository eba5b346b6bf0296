package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel"
)

// What a person changes in the kernel's own editor.
type (
	EditedConfig = kernel.Edited
	NoCurses     = kernel.NoCurses
)

// ConfigEditors lists the kernel's own editors.
func ConfigEditors() []string { return kernel.Editors() }

// Edit is how a person edits a guest's kernel options.
type Edit struct {
	Editor   string // one of ConfigEditors
	Terminal func(run func(tty *os.File) error) error
	Term     string
	Terminfo []byte
	Fragment string // the file that the changes go into, as the recipe names it: relative to it
}

// editReason stands above the lines of an edit, for the person to fill in.
const editReason = "reason: "

// EditConfig lets a person edit the kernel's options, and leaves the fragment beside the recipe where anything changed.
func (g *Guest) EditConfig(ctx context.Context, e Edit) (out *EditedConfig, err error) {
	path := filepath.Join(g.of.Dir, filepath.FromSlash(e.Fragment))
	old, err := regular.ReadFile(path, maxConfig)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err = g.atWork(ctx, func(r kernel.Request) error {
		out, err = kernel.Edit(ctx, r, kernel.Editing{Editor: e.Editor, Terminal: e.Terminal, Term: e.Term,
			Terminfo: e.Terminfo, Fragment: kernel.Fragment{Name: e.Fragment, Data: old}, Reason: editReason})
		return err
	})
	if out == nil || len(out.Changes) == 0 {
		return out, err
	}
	if writeErr := os.WriteFile(path, out.Fragment, 0o644); writeErr != nil {
		return out, errors.Join(err, writeErr)
	}
	return out, err
}

// NameFragment writes into the recipe's text that its kernel has a fragment, and leaves all else as it is.
func (g *Guest) NameFragment(file string) (changed bool, err error) {
	data, err := regular.ReadFile(g.c.Recipe, recipe.MaxSize)
	if err != nil {
		return false, err
	}
	text, changed, err := recipe.AddFragment(data, file)
	if err != nil || !changed {
		return false, err
	}
	v, err := inputs.Vocabulary()
	if err != nil {
		return false, err
	}
	if _, err := recipe.Parse(g.c.Recipe, text, v); err != nil {
		return false, fmt.Errorf("name the fragment in the recipe: %w; write `fragments: [%s]` below kernel yourself",
			err,
			file)
	}
	fi, err := os.Stat(g.c.Recipe)
	if err != nil {
		return false, err
	}
	return true, os.WriteFile(g.c.Recipe, text, fi.Mode().Perm())
}
