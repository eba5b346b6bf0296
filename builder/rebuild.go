package builder

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/recipetar"
	"github.com/katabuild/katabuild/internal/regular"
)

// Rebuild builds the wanted steps (nil means the whole guest) again in the folder dir, with a store of its own that has
// the locked inputs and nothing that was made of them. keep are steps that are not made again but taken from the first
// store, such as a kernel that takes minutes.
func (g *Guest) Rebuild(ctx context.Context, wanted, keep []string, dir string) (*Built, error) {
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		return nil, err
	}
	for _, in := range g.lock.Inputs {
		if in.Kind == lock.Tree || in.Kind == lock.Local || !g.c.Store.Has(in.Digest) {
			continue // beside the recipe, or to be fetched again
		}
		path, err := g.c.Store.Get(in.Digest)
		if err != nil {
			return nil, err
		}
		if _, _, err := s.PutFile(path, in.Digest); err != nil {
			return nil, err
		}
	}
	for _, t := range g.made.Tasks {
		for _, k := range keep {
			if t.Step.Name != k {
				continue
			}
			if err := copyStep(g.c.Store, s, t.Step.Name, g.Recipe.Name); err != nil {
				return nil, err
			}
		}
	}
	c := g.c
	// What is compared with is made anew, and nothing of it is worth keeping.
	c.Store, c.CC, c.Others = s, "", nil
	again, err := Open(ctx, c)
	if err != nil {
		return nil, err
	}
	return again.Build(ctx, wanted, filepath.Join(dir, "guest"))
}

// copyStep brings what a step made last into another store. A step that was never made is made there.
func copyStep(from, to *store.Store, step, guest string) error {
	a := from.Last(guest, step)
	if a == nil {
		return nil
	}
	for _, o := range a.Outputs {
		path, err := from.Get(o.Digest)
		if err != nil {
			return err
		}
		if _, _, err := to.PutFile(path, o.Digest); err != nil {
			return err
		}
	}
	return to.PutAction(a)
}

// packRecipe leaves the recipe and what it names beside it in one file, so that a release of the guest can be built
// once more from itself. There is none where a secret key lies beside the recipe, or more than the file may hold.
func (g *Guest) packRecipe(ctx context.Context, to string) error {
	if g.Recipe.Kernel.ModuleKey != "" {
		return absent(to)
	}
	var parts []recipetar.Part
	for _, in := range g.lock.Inputs {
		if in.Kind == lock.Local || in.Kind == lock.Tree {
			parts = append(parts, recipetar.Part{Where: in.Where, Folder: in.Kind == lock.Tree})
		}
	}
	data, err := regular.ReadFile(g.c.Recipe, recipe.MaxSize)
	if err != nil {
		return err
	}
	packed, err := recipetar.Pack(ctx, data, g.of.Dir, parts)
	if ctx.Err() != nil {
		return err
	}
	if err != nil || digest.Of(data) != g.recipeDigest {
		return absent(to)
	}
	return atomicfile.Write(to, packed, 0o644)
}

// absent takes away a file that may be there.
func absent(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RebuildDir makes the folder for a rebuild, in the store's file system, which has room for builds. remove takes it
// away; what a killed process leaves there goes when the store is opened next.
func RebuildDir(s *store.Store) (dir string, remove func() error, err error) {
	return s.Temp("rebuild")
}
