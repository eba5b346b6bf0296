// Package toolroot makes a root folder of Debian packages for programs that run in a jail, such as the tool-chain of a
// kernel, and keeps it for the next time.
//
// Packages come in as files that somebody has checked, a folder with a /usr goes out. Nothing of the packages is run.
// A folder that is there already is compared with what was written: files that have not been touched since are
// believed, all others are read again, and where one is not what it was, the whole folder is made anew.
package toolroot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/removal"
	"github.com/katabuild/katabuild/rootfs/debian"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
)

// Request is one root.
type Request struct {
	Dir string        // folder that keeps roots; made when missing
	Key digest.Digest // over what decides the root: the packages
	// Packages brings the files of the packages, in the order in which they are unpacked. It is called where the root
	// is not there yet.
	Packages func(ctx context.Context) ([]string, error)
	// Links are symbolic links that maintainer scripts would have made, by their paths below the root.
	Links map[string]string
	// Report, which may be nil, is told how many packages of how many are unpacked.
	Report func(done, total int)
}

// format is part of the folder's name: another one makes other folders of the same packages.
const format = "1"

// without lists what no program needs to run.
func without(p string) bool {
	for _, dir := range []string{"/usr/share/doc/", "/usr/share/man/", "/usr/share/info/", "/usr/share/locale/",
		"/usr/share/lintian/", "/usr/share/bug/", "/etc/", "/var/"} {
		if strings.HasPrefix(p+"/", dir) {
			return true
		}
	}
	return false
}

// fact is what is known of a file or link of a root.
type fact struct {
	Mode   uint32 `json:"mode"` // st_mode
	Size   int64  `json:"size,omitempty"`
	Digest string `json:"digest,omitempty"` // of a file
	Target string `json:"target,omitempty"` // of a link
	Inode  uint64 `json:"inode,omitempty"`
	// Changed is st_ctim in nanoseconds, which the kernel alone sets.
	Changed int64 `json:"changed,omitempty"`
}

// index is what a root was when it was made: each file, folder and link by its path.
type index map[string]fact

// Open returns the folder of a root, and makes it where it is missing or not what it was. The caller calls done when no
// program uses it any more.
func Open(ctx context.Context, r Request) (dir string, done func(), err error) {
	name := r.Key.Short() + "-" + format
	dir = filepath.Join(r.Dir, name)
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return "", nil, err
	}
	// One lock a root: made alone, used together.
	lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	// Those who use it do not keep others from looking at it: only whoever makes it must be alone.
	whole := false
	for range attempts {
		if err := flock(ctx, lock, syscall.LOCK_SH); err != nil {
			return "", nil, err
		}
		if whole, err = check(dir); err != nil {
			return "", nil, fmt.Errorf("compare %s with what it was: %w", dir, err)
		}
		if whole {
			break
		}
		// Between the two locks there is none: somebody else may have made it meanwhile, and may do so below.
		if err := flock(ctx, lock, syscall.LOCK_EX); err != nil {
			return "", nil, err
		}
		made, err := check(dir)
		if err == nil && !made {
			err = r.make(ctx, dir)
		}
		if err != nil {
			return "", nil, err
		}
	}
	if !whole {
		return "", nil, fmt.Errorf("%s changes each time that it was made: somebody else writes to it", dir)
	}
	now := time.Now()
	// When it was last used, for whoever tidies up. That it cannot be noted does no harm.
	_ = os.Chtimes(indexPath(dir), now, now)
	return dir, func() { lock.Close() }, nil
}

// attempts is how often a root is made that is not what it was right after.
const attempts = 3

// poll is how often a lock that another process holds is tried again.
const poll = 50 * time.Millisecond

func flock(ctx context.Context, f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(poll):
		}
	}
}

func indexPath(dir string) string { return dir + ".json" }

// check says whether a folder is what its index says. The index is brought up to date where files were touched and are
// what they were.
func check(dir string) (bool, error) {
	data, err := os.ReadFile(indexPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var want index
	if json.Unmarshal(data, &want) != nil || len(want) == 0 {
		return false, nil // cut off, or somebody else's
	}
	seen, touched := 0, false
	err = walk(dir, func(p string, got fact) error {
		w, ok := want[p]
		if !ok || w.Mode != got.Mode || w.Target != got.Target || w.Size != got.Size {
			return errOther
		}
		seen++
		if w.Digest != "" && (w.Inode != got.Inode || w.Changed != got.Changed) {
			sum, _, err := digest.File(filepath.Join(dir, p))
			if err != nil {
				return err
			}
			if string(sum) != w.Digest {
				return errOther
			}
			w.Inode, w.Changed, touched = got.Inode, got.Changed, true
			want[p] = w
		}
		return nil
	})
	switch {
	case errors.Is(err, errOther) || errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case seen != len(want):
		return false, nil
	case touched:
		return true, writeIndex(dir, want)
	}
	return true, nil
}

// errOther ends the comparison with a folder that is not what it was.
var errOther = errors.New("the root is not what was made")

// walk calls see for everything in a root but its top. Digests are not read.
func walk(dir string, see func(p string, f fact) error) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t) // always, on Linux
		f := fact{Mode: st.Mode}
		switch {
		case fi.Mode().IsRegular():
			f.Size, f.Inode, f.Changed = st.Size, st.Ino, st.Ctim.Nano()
		case fi.Mode()&fs.ModeSymlink != 0:
			if f.Target, err = os.Readlink(p); err != nil {
				return err
			}
		}
		return see(strings.TrimPrefix(p, dir+"/"), f)
	})
}

func writeIndex(dir string, x index) error {
	data, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return atomicfile.Write(indexPath(dir), data, 0o644)
}

// make makes the folder anew. What a killed process left of it goes first.
func (r Request) make(ctx context.Context, dir string) error {
	for _, p := range []string{dir, indexPath(dir), dir + ".new", dir + ".tars"} {
		if err := removal.All(p); err != nil {
			return err
		}
	}
	files, err := r.Packages(ctx)
	if err != nil {
		return err
	}
	tars := dir + ".tars"
	if err := os.Mkdir(tars, 0o755); err != nil {
		return err
	}
	t, err := r.unpack(ctx, files, tars)
	var x index
	if err == nil {
		x, err = write(ctx, t, dir+".new")
	}
	err = errors.Join(err, removal.All(tars))
	if err == nil {
		err = os.Rename(dir+".new", dir)
	}
	if err == nil {
		err = writeIndex(dir, x)
	}
	if err != nil {
		return errors.Join(err, removal.All(dir+".new"))
	}
	return nil
}

// unpack puts all packages into one tree, whose contents lie below tars.
func (r Request) unpack(ctx context.Context, files []string, tars string) (*tree.Tree, error) {
	t := tree.New()
	t.Implied = tree.Node{Mode: 0o755}
	// Debian's programs name what lies below /usr by either path. In Debian the package base-files brings these links.
	for _, name := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := t.Put("/"+name, &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: "usr/" + name}); err != nil {
			return nil, err
		}
	}
	debs, err := r.decompress(ctx, files, tars)
	if err != nil {
		return nil, err
	}
	for _, deb := range debs {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if err := tarfile.Apply(t, deb.Tar, tarfile.Options{Origin: deb.String(),
			Keep: func(p string, _ *tree.Node) (bool, error) { return !without(p), nil },
			Skip: without,
		}); err != nil {
			return nil, err
		}
	}
	for p, target := range r.Links {
		if _, err := t.Lookup(p); err == nil {
			continue
		}
		if err := t.Put(p, &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: target}); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// decompress leaves what the packages install in tars below dir, several at once.
func (r Request) decompress(ctx context.Context, files []string, dir string) ([]*debian.Deb, error) {
	debs := make([]*debian.Deb, len(files))
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(runtime.NumCPU())
	var mu sync.Mutex // guards done, and keeps reports in order
	done := 0
	for i, file := range files {
		all.Go(func() (err error) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if debs[i], err = debian.Unpack(file, dir); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if done++; r.Report != nil {
				r.Report(done, len(files))
			}
			return nil
		})
	}
	return debs, all.Wait()
}

// write makes a folder of the host of a tree: folders, files and links. Owners, devices and attributes are nobody's
// business in a jail, whose programs are one user.
func write(ctx context.Context, t *tree.Tree, dir string) (index, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	sums := map[string]string{}
	first := map[*tree.Node]string{}
	var files tree.Opener
	defer files.Close()
	err := t.Walk(func(p string, n *tree.Node, _ bool) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if p == "/" {
			return nil
		}
		to := dir + p
		switch n.Kind {
		case tree.Dir:
			return os.Mkdir(to, 0o755)
		case tree.Symlink:
			return os.Symlink(n.Target, to)
		case tree.File:
			if there, ok := first[n]; ok {
				sums[p[1:]] = sums[there[1:]]
				return os.Link(dir+there, to)
			}
			first[n] = p
			sum, err := writeFile(&files, n, to)
			sums[p[1:]] = string(sum)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	x := index{}
	err = walk(dir, func(p string, f fact) error {
		f.Digest = sums[p]
		x[p] = f
		return nil
	})
	return x, err
}

func writeFile(files *tree.Opener, n *tree.Node, to string) (digest.Digest, error) {
	mode := os.FileMode(0o444)
	if n.Mode&0o111 != 0 {
		mode = 0o555
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return "", err
	}
	sum := digest.New()
	if n.Content != nil {
		in, err := files.Open(n)
		if err != nil {
			return "", errors.Join(err, out.Close())
		}
		_, err = io.Copy(io.MultiWriter(out, sum), in)
		if err = errors.Join(err, in.Close()); err != nil {
			return "", errors.Join(err, out.Close())
		}
	}
	// The umask is the user's, the root's modes are not.
	return sum.Digest(), errors.Join(out.Chmod(mode), out.Close())
}
