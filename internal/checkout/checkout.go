// Package checkout reads a folder as a checkout of it would be: names, kinds, whether a file may be executed, links'
// targets and contents. Nothing else of a folder counts: git brings no other modes, owners, times or attributes to the
// next machine.
//
// What its digest covers is what its list and the files in it hold, so that equal digests are equal copies.
// docs/formats/lock.md owns the rule.
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
	"strings"
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

	// Lost says of a file, for people, what does not count although somebody may have meant it: set-id bits,
	// capabilities, an ACL.
	Lost string
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

// Summer makes a folder's digest entry by entry, in the order of List. Digest tells it.
type Summer struct {
	*digest.Writer
	line []byte
}

// NewSummer starts with an empty list.
func NewSummer() *Summer { return &Summer{Writer: digest.New()} }

// Add adds an entry; sum is that of a file.
func (s *Summer) Add(e *Entry, sum digest.Digest) {
	b := append(s.line[:0], e.Kind, ' ')
	b = append(strconv.AppendQuote(b, e.Name), ' ')
	b = append(strconv.AppendQuote(b, e.Target), ' ')
	s.line = append(append(b, sum...), '\n')
	_, _ = s.Write(s.line) // which never fails
}

// Digest is the folder's digest. Links in the folder are not followed; path may be one.
func Digest(ctx context.Context, path string) (digest.Digest, error) {
	list, err := list(ctx, path)
	if err != nil {
		return "", err
	}
	err = each(ctx, list, func(_ int, e *Entry) error { return e.digest(ctx) })
	return sum(list), err
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
		e := Entry{Name: ".", Path: p}
		if p != dir {
			e.Name = strings.TrimPrefix(strings.TrimPrefix(p, dir), "/")
		}
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
			e.Lost = meant(p, m)
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
	if n, err := unix.Llistxattr(p, nil); err != nil || n == 0 {
		return "" // as nearly every file
	}
	for _, x := range []struct{ name, what string }{{"security.capability", "capabilities"},
		{"system.posix_acl_access", "an ACL"}} {
		if n, err := unix.Lgetxattr(p, x.name, nil); err == nil && n > 0 {
			return x.what
		}
	}
	return ""
}

// digest reads a file, and notes its digest and size.
func (e *Entry) digest(ctx context.Context) error {
	f, err := regular.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	d := digest.New()
	buf := make([]byte, min(e.Size+1, 256<<10))
	e.Size = 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		if _, werr := d.Write(buf[:n]); werr != nil {
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
	w := NewSummer()
	for i := range list {
		w.Add(&list[i], list[i].Sum)
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
