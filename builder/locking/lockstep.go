// Package locking makes locks: it resolves every name of a recipe to a digest, and is the only place that does.
//
// What an old lock has an answer for stays pinned, unless it is asked for anew.
package locking

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/kernel/modsign"
	"github.com/katabuild/katabuild/kernel/source"
	"github.com/katabuild/katabuild/rootfs/debian/control"
)

// Options says what a new lock is to be. The zero value keeps what is pinned, and writes the lock.
type Options struct {
	Update Update // what is looked up again although an old lock pins it
	Dry    bool   // the lock is made, and not written
}

// Locked is what MakeLock made.
type Locked struct {
	Lock    *lock.Lock
	Old     *lock.Lock // the lock that was there; nil where there was none that could be read
	Changed bool       // whether they differ
}

// MakeLock resolves what the recipe names to digests and writes the lock. It is the only step that resolves names. What
// the old lock has an answer for stays pinned, unless the options ask for it anew; files and folders beside the
// recipe are always looked at. The lock's time stays while the kernel's source does, so that another package in the
// root file system is not another kernel.
func MakeLock(ctx context.Context, c inputs.Config, o Options) (*Locked, error) {
	r, _, err := c.ReadRecipe()
	if err != nil {
		return nil, err
	}
	old, err := inputs.ReadLock(c.LockPath(r))
	if err != nil {
		old = nil // a lock that cannot be read is replaced: that is what the user asks for
	}
	f, err := c.Fetcher(r, old)
	if err != nil {
		return nil, err
	}
	if err := o.Update.check(old); err != nil {
		return nil, err
	}
	m := &locker{c: c, o: o, r: r, f: f, old: old, lock: &lock.Lock{Version: lock.Version, Name: r.Name,
		Inputs: []lock.Input{}}}
	for _, w := range inputs.Wishes(r) {
		if err := m.answer(ctx, w); err != nil {
			return nil, r.Blame(w.Field, err)
		}
	}
	if err := m.checkImages(ctx); err != nil {
		return nil, err
	}
	sets, err := inputs.Sets(r)
	if err != nil {
		return nil, err
	}
	for _, w := range sets {
		if m.keep(w) {
			continue
		}
		date, err := m.choose(ctx, w)
		if err != nil && w.Tools {
			err = &NoToolchain{Name: w.Name, Err: err}
		}
		if err != nil {
			return nil, r.Blame(w.Field, err)
		}
		if !w.Tools { // another compiler is no other time
			m.saw(date)
		}
	}
	others, err := inputs.OtherToolchains(r)
	if err != nil {
		return nil, err
	}
	for _, w := range others {
		m.keep(w)
	}
	if err := m.verifySignature(ctx); err != nil {
		return nil, err
	}
	return m.finish()
}

// locker makes a new lock, as near to an old one as it can.
type locker struct {
	c    inputs.Config
	o    Options
	r    *recipe.Recipe
	f    *fetch.Fetcher
	old  *lock.Lock // nil where there is none
	lock *lock.Lock // the new one
	date time.Time  // of the newest release file that was read
}

func (m *locker) saw(date time.Time) {
	if date.After(m.date) {
		m.date = date
	}
}

func (m *locker) say(e progress.Event) {
	e.Step = "lock"
	m.c.Report.Send(e)
}

// answer answers a wish, as the old lock did where it may, and adds the answer to the lock.
func (m *locker) answer(ctx context.Context, w inputs.Wish) error {
	if in := pinned(m.old, w); in != nil && !m.o.Update.renews(in) {
		m.lock.Inputs = append(m.lock.Inputs, *in)
		return nil
	}
	in := lock.Input{Name: w.Name, Kind: w.Kind, Where: w.Where}
	if w.Kind == lock.Debian || w.Kind == lock.OCI {
		if err := m.lookUp(ctx, w, &in); err != nil {
			return err
		}
	} else {
		err := m.look(ctx, w, &in)
		if err == nil && w.Tar {
			err = m.checkTar(in)
		}
		if err == nil && w.Name == lock.ModuleKeyInput {
			_, err = modsign.Read(filepath.Join(m.f.Base, filepath.FromSlash(w.Where)), m.c.Now())
		}
		if err != nil {
			return inputs.Problem(ctx, w, err)
		}
	}
	m.lock.Inputs = append(m.lock.Inputs, in)
	return nil
}

// lookUp asks an archive for a package, or a registry for an image.
func (m *locker) lookUp(ctx context.Context, w inputs.Wish, in *lock.Input) error {
	if w.Kind == lock.OCI {
		m.say(progress.Event{Kind: progress.Update, Message: "look up the image " + w.Where})
		a, err := arch.Parse(m.r.Arch)
		if err != nil {
			return err
		}
		found, err := m.f.Registry.Resolve(ctx, w.Where, a.Go)
		if err != nil {
			return err
		}
		in.Digest, in.Size = found.Digest, found.Size
		return nil
	}
	m.say(progress.Event{Kind: progress.Update, Message: "look up " + w.Deb.Package + " in Debian " +
		strings.Join(w.Deb.Suites, ", ")})
	found, err := newestOf(ctx, m.f, w.Deb)
	if err != nil {
		return err
	}
	in.Package, in.Digest, in.Size = &found.Package, found.Digest, found.Size
	m.saw(found.Date)
	return nil
}

// look finds out the digest of what lies at an address or beside the recipe.
func (m *locker) look(ctx context.Context, w inputs.Wish, in *lock.Input) (err error) {
	path := filepath.Join(m.f.Base, filepath.FromSlash(w.Where))
	var want digest.Digest // where the recipe says it
	if t := m.r.Kernel.Source.Tarball; t != nil && w.Name == lock.SourceInput && t.SHA256 != "" {
		want = digest.Digest("sha256:" + t.SHA256)
	}
	switch w.Kind {
	case lock.URL:
		in.Digest, in.Size, err = m.f.Download(ctx, w.Where, want, -1, m.say)
	case lock.Local:
		in.Digest, in.Size, err = inputs.FileDigest(ctx, path)
		if err == nil && want != "" && in.Digest != want {
			err = &digest.Mismatch{Name: w.Where, Want: want, Got: in.Digest}
		}
	case lock.Tree:
		m.say(progress.Event{Kind: progress.Update, Message: "digest the folder " + w.Where})
		if err = m.checkPlace(w.Where, path); err == nil {
			in.Digest, err = inputs.TreeDigest(ctx, w.Name, path)
		}
	}
	return err
}

// finish gives the lock its time, and writes it where it is another than the old one.
func (m *locker) finish() (*Locked, error) {
	if m.date.IsZero() {
		m.date = m.c.Now()
	}
	m.lock.Time = m.date.Unix()
	if m.old != nil && m.old.Name == m.lock.Name && sameSource(m.old, m.lock) {
		m.lock.Time = m.old.Time
	}
	data, err := m.lock.Encode()
	if err != nil {
		return nil, err
	}
	done := &Locked{Lock: m.lock, Old: m.old, Changed: true}
	if m.old != nil {
		was, err := m.old.Encode() // it was read strictly: these are the bytes of the file
		if err != nil {
			return nil, err
		}
		done.Changed = !bytes.Equal(was, data)
	}
	if !done.Changed || m.o.Dry {
		return done, nil
	}
	return done, atomicfile.Write(m.c.LockPath(m.r), data, 0o644)
}

// newestOf looks a kernel's source, which is a package for all architectures, up in several suites: the newest version
// counts, of the first suite that has it.
func newestOf(ctx context.Context, f *fetch.Fetcher, d *recipe.Debian) (*fetch.Found, error) {
	var best *fetch.Found
	var none error
	var date time.Time
	for _, suite := range d.Suites {
		found, err := f.Apt.Resolve(ctx, suite, f.Host, d.Package)
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
		if best == nil || control.Version(found.Package.Version).Compare(control.Version(best.Package.Version)) > 0 {
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
func pinned(old *lock.Lock, w inputs.Wish) *lock.Input {
	if old == nil || w.Kind == lock.Local || w.Kind == lock.Tree {
		return nil
	}
	if in := old.Find(w.Name); w.Answers(in) == "" {
		return in
	}
	return nil
}

// sameSource says whether two locks pin the same kernel source, or both none.
func sameSource(a, b *lock.Lock) bool {
	x, y := a.Find(lock.SourceInput), b.Find(lock.SourceInput)
	return x == nil && y == nil || x != nil && y != nil && x.Digest == y.Digest
}

// verifySignature checks a tarball's OpenPGP signature, so that a lock never pins source nobody signed.
func (m *locker) verifySignature(ctx context.Context) error {
	t := m.r.Kernel.Source.Tarball
	if t == nil || t.Signature == "" {
		return nil
	}
	path := func(name string) (string, error) {
		in := m.lock.Find(name)
		if in.Kind == lock.Local {
			return filepath.Join(m.f.Base, filepath.FromSlash(in.Where)), nil
		}
		if err := m.f.Bring(ctx, *in, m.c.Report); err != nil {
			return "", err
		}
		return m.c.Store.Get(in.Digest)
	}
	tarball, err1 := path(lock.SourceInput)
	sig, err2 := path(lock.SignatureInput)
	ring, err3 := path(lock.KeyringInput)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	m.say(progress.Event{Kind: progress.Update,
		Message: "verify the signature of " + filepath.Base(t.From)})
	s, err := source.ReadSignature(sig, ring)
	if err != nil {
		return err
	}
	return source.VerifyTarball(tarball, *s)
}

// NoToolchain says that a kernel's tool-chain could not be chosen from Debian's packages.
type NoToolchain struct {
	Name string // of the set in the lock
	Err  error
}

func (e *NoToolchain) Error() string { return fmt.Sprintf("%s: %v", e.Name, e.Err) }

// Unwrap is the cause.
func (e *NoToolchain) Unwrap() error { return e.Err }
