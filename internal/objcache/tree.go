package objcache

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// tree remembers what files and folders hold, as long as nobody touches them. Several goroutines use it.
type tree struct {
	now func() time.Time

	mu      sync.Mutex
	files   map[string]*fileState
	folders map[string]*folderState
}

func newTree(now func() time.Time) *tree {
	return &tree{now: now, files: map[string]*fileState{}, folders: map[string]*folderState{}}
}

// stamp is what changes when anybody writes to a file: of its times, no program can set the change time back.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// settled is how old a change must be before a stamp can be trusted to show the next one. Linux stamps files with a
// clock that ticks every 10 ms at most.
const settled = 20 * time.Millisecond

func (s stamp) changed() time.Time { return time.Unix(s.ctime.Unix()) }

// fileState is what a file held when it had this stamp.
type fileState struct {
	stamp  stamp
	sum    sum
	text   *text
	config map[string]string // what parseAutoconf makes of it; nil where it takes none
}

// maxSource bounds a source file, in bytes: the largest header of Linux 6.12 has 15 MB.
const maxSource = 128 << 20

// statFile is the stamp of a regular file, behind links.
func statFile(path string) (stamp, bool) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return stamp{}, false
	}
	return stampOf(&st), true
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
}

// file reads a file, or remembers what it holds; nil if it cannot be read.
func (t *tree) file(path string) *fileState {
	st, ok := statFile(path)
	if !ok || st.size > maxSource {
		return nil
	}
	t.mu.Lock()
	known := t.files[path]
	t.mu.Unlock()
	if known != nil && known.stamp == st {
		return known
	}
	data, st, err := readFile(path, maxSource)
	if err != nil {
		return nil
	}
	f := &fileState{stamp: st, sum: sha256.Sum256(data), text: scan(data)}
	if strings.HasSuffix(path, autoconf) {
		f.config, _ = parseAutoconf(data)
	}
	if t.now().Sub(st.changed()) > settled {
		t.mu.Lock()
		t.files[path] = f
		t.mu.Unlock()
	}
	return f
}

var errNoFile = errors.New("no regular file, or too large")

// readFile reads a regular file of at most limit bytes. It never waits.
func readFile(path string, limit int64) ([]byte, stamp, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, stamp{}, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, stamp{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > limit {
		return nil, stamp{}, errNoFile
	}
	data := make([]byte, st.Size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, stamp{}, err
	}
	return data, stampOf(&st), nil
}

// folderState is what a folder held when it had this stamp.
type folderState struct {
	stamp stamp
	names map[string]bool
}

// view answers what exists, and asks about each folder once. One call of a compiler has its own.
type view struct {
	tree    *tree
	folders map[string]*folderState
}

func (t *tree) view() view { return view{t, map[string]*folderState{}} }

// exists says whether there is anything at path.
func (v view) exists(path string) bool {
	i := strings.LastIndexByte(path, '/') + 1
	dir, name := path[:i], path[i:]
	f, ok := v.folders[dir]
	if !ok {
		f = v.tree.folder(dir)
		v.folders[dir] = f
	}
	if f == nil { // nobody knows all of its names
		_, err := os.Lstat(path)
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR)
	}
	return f.names[name]
}

// folder reads a folder, or remembers what it holds; nil if it cannot be read. One that is not there holds nothing.
func (t *tree) folder(dir string) *folderState {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return &folderState{}
	} else if err != nil {
		return nil
	}
	now := stampOf(&st)
	t.mu.Lock()
	known := t.folders[dir]
	t.mu.Unlock()
	if known != nil && known.stamp == now {
		return known
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	f := &folderState{stamp: now, names: make(map[string]bool, len(entries))}
	for _, e := range entries {
		f.names[e.Name()] = true
	}
	if t.now().Sub(now.changed()) > settled {
		t.mu.Lock()
		t.folders[dir] = f
		t.mu.Unlock()
	}
	return f
}
