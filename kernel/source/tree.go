package source

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/regular"
)

// leftOut is the one folder of a tree that neither its digest nor its copy contains.
const leftOut = ".git"

// node is one file, folder or link of a tree.
type node struct {
	name   string // relative, slashes; "." is the tree itself
	kind   byte   // 'd' folder, 'f' file, 'x' executable file, 'l' symbolic link
	target string // of a link
	size   int64
	sum    digest.Digest // of a file
}

// list walks a tree in lexical order.
func list(dir string) ([]node, error) {
	var nodes []node
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if rel == leftOut {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil // the pointer file of a git worktree
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		n := node{name: rel, size: fi.Size()}
		switch m := fi.Mode(); {
		case m.IsDir():
			n.kind = 'd'
		case m.IsRegular() && m&0o111 != 0:
			n.kind = 'x'
		case m.IsRegular():
			n.kind = 'f'
		case m&fs.ModeSymlink != 0:
			n.kind = 'l'
			if n.target, err = os.Readlink(p); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is neither file, folder nor link", p)
		}
		nodes = append(nodes, n)
		return nil
	})
	return nodes, err
}

// sum digests a list whose files have their digests.
func sum(nodes []node) digest.Digest {
	w := digest.New()
	for _, n := range nodes {
		fmt.Fprintf(w, "%c %q %q %s\n", n.kind, n.name, n.target, n.sum)
	}
	return w.Digest()
}

// TreeDigest names a folder by the names, kinds, execute bits, link targets and contents of all it holds but .git. It does not depend on
// owners, times or the umask.
func TreeDigest(ctx context.Context, dir string) (digest.Digest, error) {
	nodes, err := list(dir)
	if err != nil {
		return "", err
	}
	err = each(ctx, nodes, func(n *node) error {
		var err error
		n.sum, _, err = digest.File(filepath.Join(dir, filepath.FromSlash(n.name)))
		return err
	})
	if err != nil {
		return "", err
	}
	return sum(nodes), nil
}

// each calls f for every regular file, on as many goroutines as there are processors, and returns the first error.
func each(ctx context.Context, nodes []node, f func(*node) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	work := make(chan *node)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for n := range work {
				if ctx.Err() != nil {
					continue
				}
				if err := f(n); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range nodes {
		if nodes[i].kind == 'f' || nodes[i].kind == 'x' {
			work <- &nodes[i]
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// copyTree copies a tree and digests what it copied.
func copyTree(ctx context.Context, s Source, dir string, o Options) error {
	nodes, err := list(s.Path)
	if err != nil {
		return err
	}
	w := newWriter(dir, o)
	var total, done int64
	for _, n := range nodes {
		switch n.kind {
		case 'd':
			err = w.mkdir(n.name)
		case 'l':
			err = w.symlink(n.name, n.target)
		default:
			total += n.size
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", n.name, err)
		}
	}
	for i := range nodes {
		n := &nodes[i]
		if n.kind != 'f' && n.kind != 'x' {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		in, err := regular.Open(filepath.Join(s.Path, filepath.FromSlash(n.name)))
		if err != nil {
			return err
		}
		h := digest.New()
		err = w.file(entry{name: n.name, executable: n.kind == 'x'}, io.TeeReader(in, h))
		in.Close()
		if err != nil {
			return fmt.Errorf("copy %s: %w", n.name, err)
		}
		n.sum = h.Digest()
		if done += n.size; o.Progress != nil && i%256 == 0 {
			o.Progress(done, total)
		}
	}
	if got := sum(nodes); got != s.Digest {
		return &digest.Mismatch{Name: s.Path, Want: s.Digest, Got: got}
	}
	return w.finish()
}
