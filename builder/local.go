package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/flow"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/source"
	"github.com/katabuild/katabuild/rootfs/oci"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
)

// fileDigest is digest.File that ends with its context.
func fileDigest(ctx context.Context, path string) (digest.Digest, int64, error) {
	f, err := regular.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	return digest.Reader(flow.Until(ctx, f))
}

// treeDigest is the digest of a folder that a recipe names, which may be a link to it.
func treeDigest(ctx context.Context, name, path string) (digest.Digest, error) {
	dir, err := checkout.Folder(path)
	if err != nil {
		return "", err
	}
	if name == lock.SourceInput {
		return source.TreeDigest(ctx, dir)
	}
	return checkout.Digest(ctx, dir)
}

// inputError says what is wrong with an input beside the recipe, by the name that the recipe has for it.
func inputError(ctx context.Context, w wish, err error) error {
	switch {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, fs.ErrNotExist) && (w.kind == lock.Local || w.kind == lock.Tree):
		return fmt.Errorf("%s is not there: %w", w.where, err)
	}
	if k, ok := errors.AsType[*regular.KindError](err); ok && k.Kind == "a folder" {
		return fmt.Errorf("%s is a folder, and a file is wanted: %w", w.where, err)
	}
	return fmt.Errorf("%s: %w", w.name, err)
}

// checkTar says of a locked tar what it is instead, where it is none.
func (c Config) checkTar(in lock.Input, base string) error {
	path := filepath.Join(base, filepath.FromSlash(in.Where))
	if in.Kind == lock.URL {
		var err error
		if path, err = c.Store.Get(in.Digest); err != nil {
			return err
		}
	}
	f, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return tarfile.Check(in.Where, f)
}

// checkImages finds out, before anything is built, whether the layouts and archives of a recipe hold the images that
// are meant, and tells which one is taken where several are.
func (c Config) checkImages(ctx context.Context, r *recipe.Recipe, base string) error {
	if r.Rootfs == nil {
		return nil
	}
	a, err := arch.Parse(r.Arch)
	if err != nil {
		return err
	}
	for i, l := range r.Rootfs.Layers {
		if l.OCI == nil || l.OCI.Image != "" || recipe.IsURL(l.OCI.Archive) {
			continue
		}
		work, remove, err := c.Store.Temp("lock")
		if err != nil {
			return err
		}
		where := l.OCI.Layout + l.OCI.Archive // one of which is empty
		fitting, err := oci.Check(ctx, filepath.Join(base, filepath.FromSlash(where)), oci.Options{
			Arch: a.Go, Ref: l.OCI.Name, Digest: digest.Digest(l.OCI.Digest), Work: work,
		})
		if err = errors.Join(err, remove()); err != nil {
			return r.Blame(fmt.Sprintf("rootfs.layers[%d].oci", i), fmt.Errorf("image %s: %w", where, err))
		}
		if fitting != "" {
			c.Report.Send(progress.Event{Step: "lock", Kind: progress.Log, Message: fmt.Sprintf("%s: %s holds several "+
				"images for linux/%s, of which the first is taken: %s; name or digest chooses another one",
				r.Place(fmt.Sprintf("rootfs.layers[%d].oci", i)), where, a.Go, fitting)})
		}
	}
	return nil
}

// checkPlace refuses a folder that holds what a build itself writes: no lock could pin it.
func (m *locker) checkPlace(name, path string) error {
	c := m.c
	dir, err := checkout.Folder(path)
	if err != nil {
		return err
	}
	for _, f := range []struct{ what, path string }{{"the recipe", c.Recipe}, {"the recipe's lock", c.lockPath(m.r)},
		{"the store", c.Store.Dir()}} {
		if inside(dir, f.path) {
			return fmt.Errorf(
				"the folder %s holds %s itself, which would be part of the guest and change with every lock: put "+
					"the guest's files into a folder of their own",
				name, f.what)
		}
	}
	return nil
}

// checkOut refuses a folder for a build's output that is part of what is built.
func (g *Guest) checkOut(out string) error {
	for _, in := range g.lock.Inputs {
		if in.Kind != lock.Tree {
			continue
		}
		dir, err := checkout.Folder(g.of.Local(in))
		if err != nil {
			return err
		}
		if inside(dir, out) {
			return fmt.Errorf(
				"the output folder %s lies in the folder %s, which is an input of the guest: choose another one "+
					"with -o", out, in.Where)
		}
	}
	return nil
}

// inside says whether a path, which need not be there, lies in a folder without links in its own path, or is it.
func inside(dir, path string) bool {
	path, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	rest := ""
	for {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = filepath.Join(real, rest)
			break
		} else if !errors.Is(err, os.ErrNotExist) || path == "/" {
			path = filepath.Join(path, rest)
			break
		}
		path, rest = filepath.Dir(path), filepath.Join(filepath.Base(path), rest)
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
