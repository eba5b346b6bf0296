// Package checkout reads a folder as a checkout of it would be: names, kinds, whether a file may be executed, links'
// targets and contents. Nothing else of a folder counts: git brings no other modes, owners, times or attributes to the
// next machine.
//
// What its digest covers is what its copy holds, so that equal digests are equal copies. docs/formats/lock.md owns the
// rule.
package checkout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/regular"
)

// leftOut is the one name of a folder that does not count.
const leftOut = ".git"

// Kinds of entries.
const (
	Dir        = 'd'
	File       = 'f'
	Executable = 'x'
	Symlink    = 'l'
)

// Entry is one file, folder or link.
type Entry struct {
	Name   string // relative, with slashes; "." is the folder itself
	Kind   byte
	Target string        // of a link
	Size   int64         // of a file, in bytes
	Sum    digest.Digest // of a file
	Path   string        // of a file, where its bytes lie

	lost string // what of a file does not count although somebody may have meant it
}

// Folder follows links to a folder and returns its path. What is no folder is an error.
func Folder(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	fi, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	if !fi.IsDir() {
		return "", fmt.Errorf("%s is no folder", path)
	}
	return real, nil
}

// List lists what a folder holds, in lexical order and without the digests of files. Links in the folder are not
// followed; path may be one.
func List(ctx context.Context, path string) ([]Entry, error) { return list(ctx, path) }

// Sum is the digest of a folder whose entries are listed and whose files have their digests.
func Sum(list []Entry) digest.Digest { return sum(list) }

// Digest is the folder's digest. Links in the folder are not followed; path may be one.
func Digest(ctx context.Context, path string) (digest.Digest, error) {
	list, err := list(ctx, path)
	if err != nil {
		return "", err
	}
	err = each(ctx, list, func(_ int, e *Entry) error { return e.read(ctx, io.Discard) })
	return sum(list), err
}

// Copy copies the folder's files into the folder to, which is empty and is changed by nobody else, and returns what
// the folder holds and the digest over that very copy. lost lists, for people, what did not count although somebody
// may have meant it: set-id bits, capabilities, ACLs.
func Copy(ctx context.Context, path, to string) (entries []Entry, d digest.Digest, lost []string, err error) {
	if entries, err = list(ctx, path); err != nil {
		return nil, "", nil, err
	}
	err = each(ctx, entries, func(i int, e *Entry) error {
		f, err := os.OpenFile(filepath.Join(to, strconv.Itoa(i)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(e.read(ctx, f), f.Close()); err != nil {
			return err
		}
		e.Path = f.Name()
		return nil
	})
	if err != nil {
		return nil, "", nil, err
	}
	for _, e := range entries {
		if e.lost != "" {
			lost = append(lost, e.Name+" ("+e.lost+")")
		}
	}
	return entries, sum(entries), lost, nil
}

// list walks a folder in lexical order.
func list(ctx context.Context, path string) ([]Entry, error) {
	dir, err := Folder(path)
	if err != nil {
		return nil, err
	}
	var out []Entry
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		e := Entry{Name: filepath.ToSlash(rel), Path: p}
		if e.Name == leftOut {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil // the pointer file of a git worktree
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch m := fi.Mode(); {
		case m.IsDir():
			e.Kind = Dir
		case m.IsRegular():
			e.Kind, e.Size = File, fi.Size()
			if m&0o111 != 0 {
				e.Kind = Executable
			}
			e.lost = meant(p, m)
		case m&fs.ModeSymlink != 0:
			e.Kind = Symlink
			if e.Target, err = os.Readlink(p); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s in the folder %s is neither file, folder nor link", e.Name, path)
		}
		out = append(out, e)
		return nil
	})
	return out, err
}

// meant says what of a file's rights does not count, where no umask can have made it so.
func meant(p string, m fs.FileMode) string {
	if m&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		return "set-id bits"
	}
	for _, x := range []struct{ name, what string }{{"security.capability", "capabilities"},
		{"system.posix_acl_access", "an ACL"}} {
		if n, err := unix.Lgetxattr(p, x.name, nil); err == nil && n > 0 {
			return x.what
		}
	}
	return ""
}

// read digests a file, writes it to w, and notes its size.
func (e *Entry) read(ctx context.Context, w io.Writer) error {
	f, err := regular.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	d := digest.New()
	e.Size = 0
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		if _, werr := io.MultiWriter(d, w).Write(buf[:n]); werr != nil {
			return werr
		}
		e.Size += int64(n)
		if err == io.EOF {
			e.Sum = d.Digest()
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sum digests a list whose files have their digests.
func sum(list []Entry) digest.Digest {
	w := digest.New()
	for _, e := range list {
		fmt.Fprintf(w, "%c %q %q %s\n", e.Kind, e.Name, e.Target, e.Sum)
	}
	return w.Digest()
}

// each calls f for every file, on as many goroutines as there are processors, and returns the first error.
func each(ctx context.Context, list []Entry, f func(int, *Entry) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	work := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range work {
				if ctx.Err() != nil {
					continue
				}
				if err := f(i, &list[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range list {
		if list[i].Kind == File || list[i].Kind == Executable {
			work <- i
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}
