package locking

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/rootfs/oci"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
)

// checkTar says of a locked tar what it is instead, where it is none.
func (m *locker) checkTar(in lock.Input) error {
	c, base := m.c, m.f.Base
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
func (m *locker) checkImages(ctx context.Context) error {
	c, r, base := m.c, m.r, m.f.Base
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
	for _, f := range []struct{ what, path string }{{"the recipe", c.Recipe}, {"the recipe's lock", c.LockPath(m.r)},
		{"the store", c.Store.Dir()}} {
		if inputs.Inside(dir, f.path) {
			return fmt.Errorf(
				"the folder %s holds %s itself, which would be part of the guest and change with every lock: put "+
					"the guest's files into a folder of their own",
				name, f.what)
		}
	}
	return nil
}
