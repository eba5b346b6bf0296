package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/source"
	"github.com/katabuild/katabuild/rootfs/debian"
)

// Locked is what MakeLock made.
type Locked struct {
	Lock    *lock.Lock
	Old     *lock.Lock // the lock that was there; nil where there was none that could be read
	Changed bool       // whether they differ
}

// MakeLock resolves what the recipe names to digests and writes the lock. It is the only step that resolves names. What
// the old lock has an answer for stays pinned, unless Config.Update asks for it anew; files and folders beside the
// recipe are always looked at. The lock's time stays while the kernel's source does, so that another package in the
// root file system is not another kernel.
func MakeLock(ctx context.Context, c Config) (*Locked, error) {
	r, _, err := readRecipe(c.Recipe)
	if err != nil {
		return nil, err
	}
	path := c.lockPath()
	old, err := readLock(path)
	// A lock that cannot be read is replaced: that is what the user asks for.
	if err != nil {
		old = nil
	}
	f, err := c.fetcher(r)
	if err != nil {
		return nil, err
	}
	if err := c.Update.check(old); err != nil {
		return nil, err
	}
	l := &lock.Lock{Version: lock.Version, Name: r.Name, Inputs: []lock.Input{}}
	var date time.Time
	for _, w := range wishes(r) {
		report := progress.Func(func(e progress.Event) {
			e.Step = "lock"
			c.Report.Send(e)
		})
		in := lock.Input{Name: w.name, Kind: w.kind, Where: w.where}
		if pinned := pinned(old, w); pinned != nil && !c.Update.renews(pinned) {
			l.Inputs = append(l.Inputs, *pinned)
			continue
		}
		switch w.kind {
		case lock.Debian:
			report.Send(progress.Event{Kind: progress.Update, Message: "look up " + w.deb.Package + " in Debian " +
				strings.Join(w.deb.Suites, ", ")})
			found, err := newestOf(ctx, f, w.deb)
			if err != nil {
				return nil, r.Blame(w.field, err)
			}
			in.Package, in.Digest, in.Size = &found.Package, found.Digest, found.Size
			if found.Date.After(date) {
				date = found.Date
			}
		case lock.URL:
			var want digest.Digest
			if t := r.Kernel.Source.Tarball; t != nil && w.name == sourceInput && t.SHA256 != "" {
				want = digest.Digest("sha256:" + t.SHA256)
			}
			in.Digest, in.Size, err = f.Download(ctx, w.where, want, -1, report)
		case lock.Local:
			in.Digest, in.Size, err = fileDigest(ctx, filepath.Join(f.Base, filepath.FromSlash(w.where)))
			if t := r.Kernel.Source.Tarball; err == nil && t != nil && w.name == sourceInput && t.SHA256 != "" &&
				in.Digest.Hex() != t.SHA256 {
				err = &digest.Mismatch{Name: w.where, Want: digest.Digest("sha256:" + t.SHA256), Got: in.Digest}
			}
		case lock.OCI:
			report.Send(progress.Event{Kind: progress.Update, Message: "look up the image " + w.where})
			a, err := arch.Parse(r.Arch)
			if err != nil {
				return nil, err
			}
			found, err := f.Registry.Resolve(ctx, w.where, a.Go)
			if err != nil {
				return nil, r.Blame(w.field, err)
			}
			in.Digest, in.Size = found.Digest, found.Size
		case lock.Tree:
			report.Send(progress.Event{Kind: progress.Update, Message: "digest the folder " + w.where})
			if err = c.checkPlace(w.where, filepath.Join(f.Base, filepath.FromSlash(w.where))); err == nil {
				in.Digest, err = treeDigest(ctx, w.name, filepath.Join(f.Base, filepath.FromSlash(w.where)))
			}
		}
		if err == nil && w.tar {
			err = c.checkTar(in, f.Base)
		}
		if err != nil {
			return nil, r.Blame(w.field, inputError(ctx, w, err))
		}
		l.Inputs = append(l.Inputs, in)
	}
	if err := c.checkImages(ctx, r, f.Base); err != nil {
		return nil, err
	}
	sets := setMaker{c: c, r: r, f: f, old: old, lock: l}
	for _, w := range setWishes(r) {
		if sets.keep(w) {
			continue
		}
		found, err := sets.make(ctx, w)
		if err != nil {
			return nil, r.Blame(w.field, err)
		}
		if found.After(date) {
			date = found
		}
	}
	if err := c.verifySignature(ctx, r, l); err != nil {
		return nil, err
	}
	if date.IsZero() {
		date = c.Now()
	}
	l.Time = date.Unix()
	if old != nil && old.Name == l.Name && sameSource(old, l) {
		l.Time = old.Time
	}
	data, err := l.Encode() // sorts, so that what differs are contents
	if err != nil {
		return nil, err
	}
	if old != nil && old.Name == l.Name && reflect.DeepEqual(old.Inputs, l.Inputs) && reflect.DeepEqual(old.Sets,
		l.Sets) {
		return &Locked{Lock: l, Old: old}, nil // the old one was read strictly: equal contents are equal bytes
	}
	if c.Dry {
		return &Locked{l, old, true}, nil
	}
	return &Locked{l, old, true}, atomicfile.Write(path, data, 0o644)
}

// newestOf looks a package up in several suites: the newest version counts, of the first suite that has it.
func newestOf(ctx context.Context, f *fetch.Fetcher, d *recipe.Debian) (*fetch.Found, error) {
	var best *fetch.Found
	var none error
	var date time.Time
	for _, suite := range d.Suites {
		found, err := f.Apt.Resolve(ctx, suite, f.Arch, d.Package)
		var no *fetch.NoPackage
		if errors.As(err, &no) {
			none = errors.Join(none, err) // another suite may have it
			continue
		}
		if err != nil {
			return nil, err
		}
		if found.Date.After(date) {
			date = found.Date
		}
		if best == nil || debian.Version(found.Package.Version).Compare(debian.Version(best.Package.Version)) > 0 {
			best = found
		}
	}
	if best == nil {
		return nil, none
	}
	best.Date = date
	return best, nil
}

// pinned is the old lock's answer to a wish whose answer lies outside and stays what it is; nil where there is none.
func pinned(old *lock.Lock, w wish) *lock.Input {
	if old == nil || w.kind == lock.Local || w.kind == lock.Tree {
		return nil
	}
	if in := old.Find(w.name); w.answers(in) == "" {
		return in
	}
	return nil
}

// sameSource says whether two locks pin the same kernel source, or both none.
func sameSource(a, b *lock.Lock) bool {
	x, y := a.Find(sourceInput), b.Find(sourceInput)
	return x == nil && y == nil || x != nil && y != nil && x.Digest == y.Digest
}

// verifySignature checks a tarball's OpenPGP signature, so that a lock never pins source nobody signed.
func (c Config) verifySignature(ctx context.Context, r *recipe.Recipe, l *lock.Lock) error {
	t := r.Kernel.Source.Tarball
	if t == nil || t.Signature == "" {
		return nil
	}
	f, err := c.fetcher(r)
	if err != nil {
		return err
	}
	path := func(name string) (string, error) {
		in := l.Find(name)
		if in.Kind == lock.Local {
			return filepath.Join(f.Base, filepath.FromSlash(in.Where)), nil
		}
		if err := f.Bring(ctx, *in, c.Report); err != nil {
			return "", err
		}
		return c.Store.Get(in.Digest)
	}
	tarball, err1 := path(sourceInput)
	sig, err2 := path(signatureInput)
	ring, err3 := path(keyringInput)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	c.Report.Send(progress.Event{Step: "lock", Kind: progress.Update,
		Message: "verify the signature of " + filepath.Base(t.From)})
	s, err := readSignature(sig, ring)
	if err != nil {
		return err
	}
	return source.VerifyTarball(tarball, *s)
}

func readSignature(sig, ring string) (*source.Signature, error) {
	const most = 16 << 20 // bytes of a signature or a ring of keys; both have a few thousand
	s, err := regular.ReadFile(sig, most)
	if err != nil {
		return nil, err
	}
	k, err := regular.ReadFile(ring, most)
	if err != nil {
		return nil, err
	}
	return &source.Signature{Data: s, Keyring: k}, nil
}

// maxLock bounds a lock, in bytes: one with a thousand packages has less than one million.
const maxLock = 16 << 20

// readLock reads the lock at path; a missing one is fs.ErrNotExist.
func readLock(path string) (*lock.Lock, error) {
	data, err := regular.ReadFile(path, maxLock)
	if err != nil {
		return nil, err
	}
	l, err := lock.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// noLock says that a recipe has not been locked yet.
type noLock struct{ Path, Recipe string }

func (e *noLock) Error() string {
	return fmt.Sprintf("no lock at %s; run: katabuild lock %s", e.Path, filepath.Dir(e.Recipe))
}

// Is makes a noLock an fs.ErrNotExist.
func (e *noLock) Is(target error) bool { return target == fs.ErrNotExist }
