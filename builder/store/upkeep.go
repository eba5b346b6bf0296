package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/objcache"
	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/internal/removal"
)

// Usage is what a store holds.
type Usage struct {
	Blobs     int   // files kept by digest
	BlobBytes int64 //
	Actions   int   // steps remembered
	Temp      int64 // bytes of running or interrupted steps
	Tools     int64 // bytes of unpacked tool-chains
	Corrupt   int   // blobs set aside because their bytes changed
	// ObjectFiles and ObjectBytes are the cache of compiled objects.
	ObjectFiles int
	ObjectBytes int64
}

// Problem is one thing Verify found.
type Problem struct {
	Path string // relative to the store
	What string
	// Untrusted wrote a record that is whole, and is not among those whom this user trusts; empty where that is not it.
	Untrusted Writer
}

// eachBlob calls do for every file below blobs.
func (s *Store) eachBlob(do func(path string, size int64, mod time.Time) error) error {
	// WalkDir follows no links, and Open has seen that the folder is none.
	return filepath.WalkDir(filepath.Join(s.dir, "blobs/sha256"), func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another process's gc was faster
		}
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return do(p, fi.Size(), fi.ModTime())
	})
}

// actionKeys lists the keys of all recorded actions, sorted.
func (s *Store) actionKeys() ([]digest.Digest, []string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "actions"))
	if err != nil {
		return nil, nil, err
	}
	var keys []digest.Digest
	var alien []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // an atomic write under way
		}
		d, err := digest.Parse("sha256:" + e.Name())
		if err != nil {
			alien = append(alien, e.Name())
			continue
		}
		keys = append(keys, d)
	}
	return keys, alien, nil
}

// DU counts what the store holds.
func (s *Store) DU() (Usage, error) {
	var u Usage
	err := s.eachBlob(func(p string, size int64, _ time.Time) error {
		if strings.HasSuffix(p, ".corrupt") {
			u.Corrupt++
			return nil
		}
		u.Blobs++
		u.BlobBytes += size
		return nil
	})
	if err != nil {
		return u, s.wrap("measure", err)
	}
	keys, _, err := s.actionKeys()
	if err != nil {
		return u, s.wrap("measure", err)
	}
	u.Actions, u.Tools = len(keys), sizeOf(s.Private(ToolsFolder))
	err = filepath.WalkDir(filepath.Join(s.dir, "tmp"), func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		if fi, err := e.Info(); err == nil {
			u.Temp += fi.Size()
		}
		return nil
	})
	if err != nil {
		return u, s.wrap("measure", err)
	}
	u.ObjectFiles, u.ObjectBytes, err = objcache.Usage(s.Objects())
	return u, err
}

// MaxObjects bounds the cache of compiled objects, in bytes. The default kernel's take 0.2 GB.
const MaxObjects = 5 << 30

// Objects is the folder of the cache of compiled objects, which only this user's own programs may have written.
func (s *Store) Objects() string { return s.Private("objects") }

// TrimObjects keeps the cache of compiled objects below limit bytes.
func (s *Store) TrimObjects(limit int64) (objcache.Trimmed, error) {
	t, err := objcache.Trim(s.Objects(), limit, time.Now())
	if err != nil {
		return t, s.wrap("trim", err)
	}
	return t, nil
}

// Verify reads every blob and record. It changes nothing.
func (s *Store) Verify() ([]Problem, error) {
	var found []Problem
	add := func(p, what string) {
		if rel, err := filepath.Rel(s.dir, p); err == nil {
			p = rel
		}
		found = append(found, Problem{Path: p, What: what})
	}
	err := s.eachBlob(func(p string, _ int64, _ time.Time) error {
		name := filepath.Base(p)
		if strings.HasSuffix(name, ".corrupt") {
			add(p, "was set aside: its bytes are not those of its name")
			return nil
		}
		want, err := digest.Parse("sha256:" + name)
		if err != nil {
			add(p, "is not named by a digest")
			return nil
		}
		err = s.checkBlob(p, want)
		var wrong *digest.Mismatch
		var no *owned.Unsafe
		switch {
		case errors.As(err, &wrong):
			add(p, "has the digest "+string(wrong.Got))
			return nil
		case errors.As(err, &no):
			add(p, no.Why+"; it is copied when it is used")
			return nil
		case errors.Is(err, errNoBlob):
			add(p, "is no regular file")
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, s.wrap("verify", err)
	}
	keys, alien, err := s.actionKeys()
	if err != nil {
		return nil, s.wrap("verify", err)
	}
	for _, a := range alien {
		add(filepath.Join("actions", a), "is not named by a key")
	}
	for _, k := range keys {
		a, err := s.lookup(k)
		var no *distrusted
		switch {
		case errors.As(err, &no):
			add(s.action(k), no.Error()+"; the step will run again")
			if !no.Forged {
				found[len(found)-1].Untrusted = no.Writer
			}
			continue
		case err != nil:
			add(s.action(k), "cannot be read; the step will run again")
			continue
		}
		for _, o := range a.Outputs {
			if !s.Has(o.Digest) {
				add(s.action(k), "lacks its output "+o.Name+"; the step will run again")
			}
		}
	}
	return found, nil
}

// GCOptions says what may go. The zero value removes only what nothing refers to.
type GCOptions struct {
	// UnusedFor removes actions not used for this long; zero keeps all.
	UnusedFor time.Duration
	// MaxObjects is how many bytes of compiled objects may stay; zero keeps none.
	MaxObjects int64
	// Now is the present; it must be set.
	Now time.Time
	// Waiting, which may be nil, is called once if other processes use the store, for whose end GC waits.
	Waiting func()
}

// GCResult is what a gc removed.
type GCResult struct {
	Actions int
	Blobs   int
	Bytes   int64
	Objects objcache.Trimmed // of the cache of compiled objects
}

// blobGrace keeps young blobs that no action names yet: a running step has just put them there.
const blobGrace = 24 * time.Hour

// GC removes old actions, then blobs that nothing refers to, then what was set aside as corrupt. It waits until nobody
// uses the store.
func (s *Store) GC(ctx context.Context, o GCOptions) (GCResult, error) {
	var r GCResult
	done, err := s.alone(ctx, o.Waiting)
	if err != nil {
		return r, err
	}
	defer done()
	keys, _, err := s.actionKeys()
	if err != nil {
		return r, s.wrap("gc", err)
	}
	used := map[digest.Digest]bool{}
	made := map[digest.Digest]bool{}
	for _, k := range keys {
		a, err := s.lookup(k)
		fi, serr := os.Stat(s.action(k))
		old := serr == nil && o.UnusedFor > 0 && o.Now.Sub(fi.ModTime()) > o.UnusedFor
		if err != nil || old {
			if err := os.Remove(s.action(k)); err == nil {
				r.Actions++
			}
			if a != nil {
				for _, out := range a.Outputs {
					made[out.Digest] = true
				}
			}
			continue
		}
		for _, out := range a.Outputs {
			used[out.Digest] = true
		}
	}
	err = s.eachBlob(func(p string, size int64, mod time.Time) error {
		name := filepath.Base(p)
		d := digest.Digest("sha256:" + strings.TrimSuffix(name, ".corrupt"))
		corrupt := strings.HasSuffix(name, ".corrupt")
		switch {
		case corrupt, made[d] && !used[d]:
		case used[d], o.Now.Sub(mod) < blobGrace:
			return nil
		}
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		r.Blobs++
		r.Bytes += size
		return nil
	})
	if err != nil {
		return r, s.wrap("gc", err)
	}
	s.sweep()
	n, err := s.dropTools(o)
	r.Bytes += n
	if err != nil {
		return r, err
	}
	if r.Objects, err = objcache.Trim(s.Objects(), o.MaxObjects, o.Now); err != nil {
		return r, s.wrap("gc", err)
	}
	return r, nil
}

// ToolsFolder is what keeps unpacked tool-chains, below Private: each a folder, and beside it a file with its name and
// .json, whose time is that of the last use. What is lost of it is unpacked again.
const ToolsFolder = "toolchains"

// dropTools removes tool-chains that have not been used for as long as o says, and what is left of interrupted work on
// one. It returns how many bytes they had.
func (s *Store) dropTools(o GCOptions) (int64, error) {
	dir := s.Private(ToolsFolder)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, s.wrap("gc", err)
	}
	var bytes int64
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), ".")
		fi, err := os.Stat(filepath.Join(dir, name+".json"))
		whole := err == nil && !strings.HasSuffix(e.Name(), ".new") && !strings.HasSuffix(e.Name(), ".tars")
		if whole && (o.UnusedFor == 0 || o.Now.Sub(fi.ModTime()) <= o.UnusedFor) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		bytes += sizeOf(path)
		if err := removal.All(path); err != nil {
			return bytes, s.wrap("gc", err)
		}
	}
	return bytes, nil
}

// sizeOf is the size of all files below a path, in bytes. What cannot be read counts nothing.
func sizeOf(path string) (sum int64) {
	filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if fi, err := e.Info(); err == nil {
				sum += fi.Size()
			}
		}
		return nil
	})
	return sum
}
