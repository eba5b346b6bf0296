package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
)

// BringPackages puts locked Debian packages into the store, with one run of apt-get for all of a section: reading the
// archive's lists takes longer than most downloads. What does not come that way is tried again alone, for the error's
// sake.
func (f *Fetcher) BringPackages(ctx context.Context, list []lock.Input, report progress.Func) error {
	type place struct {
		archive string
		section Section
		arch    string
	}
	list, err := f.mirrored(ctx, list, report)
	if err != nil {
		return err
	}
	at := map[place][]lock.Input{}
	var places []place
	for _, in := range list {
		if in.Kind != lock.Debian {
			if err := f.Bring(ctx, in, report); err != nil {
				return fmt.Errorf("%s: %w", in.Name, err)
			}
			continue
		}
		p := place{in.Package.Archive, sectionOf(*in.Package), in.Package.Arch}
		if p.arch == allArchs {
			p.arch = f.listOf(list, in)
		}
		if at[p] == nil {
			places = append(places, p)
		}
		at[p] = append(at[p], in)
	}
	for _, p := range places {
		if err := f.bringSection(ctx, p.archive, p.section, p.arch, at[p], report); err != nil {
			return err
		}
	}
	return nil
}

// allArchs is dpkg's name of the architecture of packages that fit every one.
const allArchs = "all"

// listOf is the architecture in whose list a package for all of them is looked up: the guest's where other packages
// need that list too, and else one that they need.
func (f *Fetcher) listOf(list []lock.Input, in lock.Input) string {
	other := ""
	for _, o := range list {
		if o.Kind != lock.Debian || o.Package.Arch == allArchs || o.Package.Suite != in.Package.Suite ||
			o.Package.Archive != in.Package.Archive {
			continue
		}
		if o.Package.Arch == f.Arch {
			return f.Arch
		}
		other = o.Package.Arch
	}
	return cmp.Or(other, f.Arch)
}

// archOf is the architecture in whose list a package is looked up when nothing else is.
func (f *Fetcher) archOf(p lock.Package) string {
	switch {
	case p.Arch != allArchs:
		return p.Arch
	case p.Archive == "":
		return cmp.Or(f.Host, f.Arch)
	}
	return f.Arch
}

func (f *Fetcher) bringSection(ctx context.Context, name string, s Section, arch string, list []lock.Input,
	report progress.Func) (err error) {
	a, err := f.archive(name)
	if err != nil {
		return err
	}
	dir, remove, err := f.Store.Temp("fetch")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	total := int64(0)
	byDigest := map[digest.Digest]bool{}
	var packages []lock.Package
	for _, in := range list {
		total += in.Size
		byDigest[in.Digest] = true
		packages = append(packages, *in.Package)
	}
	stop := watch(dir, total, report)
	err = a.FetchAll(ctx, s, packages, arch, dir)
	stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// What has arrived counts, whatever else went wrong: its digest says what it is.
	files, globErr := filepath.Glob(filepath.Join(dir, "*.deb"))
	if globErr != nil {
		return globErr
	}
	report.Send(progress.Event{Kind: progress.Update, Message: "verify"})
	for _, file := range files {
		d, _, err := digest.File(file)
		if err != nil {
			return err
		}
		if !byDigest[d] {
			continue // not what was locked: the loop below says which package that is
		}
		if _, _, err := f.Store.PutFile(file, d); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, in := range list {
		if err := f.Bring(ctx, in, report); err != nil {
			return fmt.Errorf("%s: %w", in.Name, err)
		}
	}
	return nil
}

// FetchAll downloads packages of a section into dir, as far as the archive has them. Their digests are the caller's to
// check.
func (a *Apt) FetchAll(ctx context.Context, s Section, list []lock.Package, arch, dir string) error {
	w, err := a.world(ctx, s, arch)
	if err != nil {
		return err
	}
	args := []string{"download"}
	for _, p := range list {
		args = append(args, p.Name+"="+p.Version)
	}
	get := func() error {
		cmd := w.command(ctx, "apt-get", args...)
		cmd.Dir = dir
		return w.finish(cmd)
	}
	err = get()
	if err != nil && ctx.Err() == nil {
		// The lists may be older than the lock, or not there at all.
		if err := w.update(ctx); err != nil {
			return err
		}
		err = get()
	}
	return err
}
