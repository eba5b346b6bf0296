// Package images keeps volumes as sparse files with a file system in them, for a CSI driver.
//
// In come names, sizes and the name of a file system; out come volumes, each a folder below one that the driver has to
// itself. It does not know who uses a volume, nor what CSI is. No loop device is used and nothing is mounted. What is
// made appears whole: a volume gets its name when it is complete, and loses it before it is taken apart, so that a
// driver that was killed has left a volume, or what Open clears away. docs/formats/csi-volume.md owns the bytes.
package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/filelock"
	"github.com/katabuild/katabuild/internal/owned"
)

// What callers tell apart.
var (
	ErrNone      = errors.New("there is no such volume")
	ErrOther     = errors.New("there is another volume of this name")
	ErrSize      = errors.New("a size that no volume can have")
	ErrFull      = errors.New("there is no room for it")
	ErrFSType    = errors.New("a file system that no volume has")
	ErrName      = errors.New("a name that no volume can have")
	ErrNoProgram = errors.New("the program is not installed")
	ErrNoGrowth  = errors.New("this file system does not grow")
)

// The files of a volume, and of the folder of all.
const (
	imageName = "disk.img"
	noteName  = "volume.json"
	lockName  = ".lock"
	newMark   = ".new-"  // before the id of a volume that is being made
	goneMark  = ".gone-" // before that of one that is being removed
)

// unit is what sizes are multiples of, in bytes.
const unit = 1 << 20

// defaultSize is the size of a volume for which none is asked, in bytes.
const defaultSize = 1 << 30

// lockTime is how long another driver may take to end that had the folder before.
const lockTime = 20 * time.Second

// Options are of a Store.
type Options struct {
	Dir      string // absolute; the store has it to itself
	Capacity int64  // of all volumes together, in bytes; 0 is what the file system has room for
	MaxSize  int64  // of one volume, in bytes; 0 is no bound
}

// Store keeps volumes. Its methods may be called side by side, but not for one volume.
type Store struct {
	o    Options
	lock *os.File

	mu      sync.Mutex
	pending int64 // bytes that volumes were promised which are being made or grown; guarded by mu
}

// Volume is one of a Store.
type Volume struct {
	ID     string
	Name   string // as whoever asked for it calls it
	FSType string
	Image  string // the path of its file
	Size   int64  // of its file, in bytes
	Used   int64  // bytes that its file takes
}

// Wanted describes a volume to be made.
type Wanted struct {
	Name     string
	FSType   string // empty is any, which is defaultFSType for a new one
	Required int64  // bytes it must have; 0 is any
	Limit    int64  // bytes it must not be larger than; 0 is none
}

// Open takes the folder for this process, and clears away what a killed one has left.
func Open(ctx context.Context, o Options) (*Store, error) {
	if !filepath.IsAbs(o.Dir) || filepath.Clean(o.Dir) != o.Dir {
		return nil, fmt.Errorf("folder of volumes %q: want an absolute path", o.Dir)
	}
	if o.Capacity < 0 || o.MaxSize < 0 {
		return nil, fmt.Errorf("folder of volumes %s: a capacity below 0", o.Dir)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := owned.Folder(o.Dir); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	lock, err := filelock.Exclusive(ctx, filepath.Join(o.Dir, lockName))
	if err != nil {
		return nil, err
	}
	s := &Store{o: o, lock: lock}
	if err := s.sweep(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close lets go of the folder.
func (s *Store) Close() error { return s.lock.Close() }

// sweep removes volumes that are not whole.
func (s *Store) sweep() error {
	list, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), newMark) || strings.HasPrefix(e.Name(), goneMark) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.o.Dir, e.Name())))
		}
	}
	return err
}

// idOf is the id of the volume of a name: the same one each time, so that whoever asks again gets what is there.
func idOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "vol-" + hex.EncodeToString(sum[:16])
}

var validID = regexp.MustCompile(`^vol-[0-9a-f]{32}$`)

// IsID says whether a text could be the id of a volume. No other text becomes a part of a path.
func IsID(id string) bool { return validID.MatchString(id) }

func (s *Store) folder(id string) string { return filepath.Join(s.o.Dir, id) }

// Image is the path of the file of the volume of an id, which IsID, whether there is one or not.
func (s *Store) Image(id string) string { return filepath.Join(s.folder(id), imageName) }

// Volume finds a volume.
func (s *Store) Volume(id string) (*Volume, error) {
	if !IsID(id) {
		return nil, fmt.Errorf("volume %q: %w", id, ErrNone)
	}
	data, err := owned.Read(filepath.Join(s.folder(id), noteName), 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("volume %s: %w", id, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	n, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	v := &Volume{ID: id, Name: n.Name, FSType: n.FSType, Image: s.Image(id)}
	var st unix.Stat_t
	if err := unix.Lstat(v.Image, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("volume %s: no image: %w", id, err)
	}
	v.Size, v.Used = st.Size, st.Blocks*512 // stat(2): in units of 512 bytes
	return v, nil
}

// List has all volumes, by their ids. One that cannot be read is an error, as it takes room.
func (s *Store) List() ([]*Volume, error) {
	list, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return nil, err
	}
	var out []*Volume
	for _, e := range list {
		if !IsID(e.Name()) {
			continue
		}
		v, err := s.Volume(e.Name())
		if errors.Is(err, ErrNone) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// Create makes a volume, or finds the one of this name, which must be as wanted: ErrOther says that it is not.
func (s *Store) Create(ctx context.Context, w Wanted) (*Volume, error) {
	if w.Name == "" || len(w.Name) > maxName || strings.ContainsFunc(w.Name, func(r rune) bool { return r < ' ' }) {
		return nil, fmt.Errorf("%w: want 1 to %d bytes, and no control characters", ErrName, maxName)
	}
	id := idOf(w.Name)
	v, err := s.Volume(id)
	if err == nil {
		return v, w.fits(v)
	}
	if !errors.Is(err, ErrNone) {
		return nil, err
	}
	if w.FSType == "" {
		w.FSType = defaultFSType
	}
	system, err := known(w.FSType)
	if err != nil {
		return nil, err
	}
	size, err := s.size(w, system)
	if err != nil {
		return nil, err
	}
	back, err := s.promise(size)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", w.Name, err)
	}
	defer back()
	if err := s.make(ctx, id, w.Name, size, system); err != nil {
		return nil, fmt.Errorf("volume %s: %w", w.Name, s.full(err))
	}
	return s.Volume(id)
}

// fits says whether a volume is as wanted.
func (w Wanted) fits(v *Volume) error {
	switch {
	case v.Name != w.Name, w.FSType != "" && v.FSType != w.FSType:
		return fmt.Errorf("volume %s: %w, with %s", w.Name, ErrOther, v.FSType)
	case v.Size < w.Required, w.Limit > 0 && v.Size > w.Limit:
		return fmt.Errorf("volume %s: %w, with %d bytes", w.Name, ErrOther, v.Size)
	}
	return nil
}

// size is that of a new volume.
func (s *Store) size(w Wanted, system *fileSystem) (int64, error) {
	size := max(w.Required, system.smallest)
	if w.Required == 0 {
		size = max(defaultSize, system.smallest)
		if w.Limit > 0 {
			size = max(min(size, w.Limit/unit*unit), system.smallest)
		}
	}
	return s.bounded(size, w.Limit)
}

// bounded rounds a size up, and refuses one beyond the bounds.
func (s *Store) bounded(size, limit int64) (int64, error) {
	if size < 0 || size > math.MaxInt64-unit {
		return 0, fmt.Errorf("%d bytes: %w", size, ErrSize)
	}
	size = (size + unit - 1) / unit * unit
	if limit > 0 && size > limit {
		return 0, fmt.Errorf("%d bytes: %w: the limit is %d, and sizes are multiples of %d", size, ErrSize, limit, unit)
	}
	if s.o.MaxSize > 0 && size > s.o.MaxSize {
		return 0, fmt.Errorf("%d bytes: %w: the largest is of %d", size, ErrSize, s.o.MaxSize)
	}
	return size, nil
}

// make makes a volume that is not there.
func (s *Store) make(ctx context.Context, id, name string, size int64, system *fileSystem) (err error) {
	dir := filepath.Join(s.o.Dir, newMark+id)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	image := filepath.Join(dir, imageName)
	if err := grow(image, os.O_CREATE|os.O_EXCL, size); err != nil {
		return err
	}
	if err := system.run(ctx, system.make, image); err != nil {
		return err
	}
	if err := syncFile(image); err != nil {
		return err
	}
	b, err := encode(&Note{Version: Version, Name: name, FSType: system.name})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, noteName), b, 0o600); err != nil {
		return err
	}
	if err := syncFile(dir); err != nil {
		return err
	}
	if err := os.Rename(dir, s.folder(id)); err != nil {
		return err
	}
	return syncFile(s.o.Dir)
}

// grow makes a file as large as size, sparse.
func grow(image string, flags int, size int64) (err error) {
	f, err := os.OpenFile(image, os.O_RDWR|unix.O_NOFOLLOW|flags, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// syncFile has a file or folder, and its name, survive a power failure.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Delete removes a volume. One that is not there is none to remove.
func (s *Store) Delete(id string) error {
	if !IsID(id) {
		return nil
	}
	gone := filepath.Join(s.o.Dir, goneMark+id)
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	err := os.Rename(s.folder(id), gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncFile(s.o.Dir)
	}
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	return nil
}

// GrowImage makes a volume's file at least as large as size, and not larger than limit, 0 for none. Its file system is
// what it was: whoever has it mounted makes it grow, or GrowFileSystem. A volume never shrinks.
func (s *Store) GrowImage(id string, size, limit int64) (*Volume, error) {
	v, err := s.Volume(id)
	if err != nil {
		return nil, err
	}
	if limit > 0 && v.Size > limit {
		return nil, fmt.Errorf("volume %s: %d bytes: %w: it has %d", id, limit, ErrSize, v.Size)
	}
	if size <= v.Size {
		return v, nil
	}
	if system, err := known(v.FSType); err != nil || system.grow == nil {
		return nil, errors.Join(fmt.Errorf("volume %s: %s: %w", id, v.FSType, ErrNoGrowth), err)
	}
	if size, err = s.bounded(size, limit); err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	back, err := s.promise(size - v.Size)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	defer back()
	if err := grow(v.Image, 0, size); err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, s.full(err))
	}
	return s.Volume(id)
}

// GrowFileSystem makes a volume's file system as large as its file. Nobody may have it mounted. Done again it changes
// nothing, and ends what a killed one has begun.
func (s *Store) GrowFileSystem(ctx context.Context, v *Volume) error {
	system, err := known(v.FSType)
	if err != nil {
		return err
	}
	if system.grow == nil {
		return nil // its file has not grown either
	}
	for _, argv := range system.grow {
		if err := system.run(ctx, argv, v.Image); err != nil {
			return fmt.Errorf("volume %s: %w", v.ID, s.full(err))
		}
	}
	return syncFile(v.Image)
}

// Room is how large a new volume can be, in bytes: what volumes that are there have been promised is not given twice.
func (s *Store) Room() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.room()
}

// room is Room. The caller holds mu.
func (s *Store) room() (int64, error) {
	free, err := s.free()
	if err != nil {
		return 0, err
	}
	all, err := s.List()
	if err != nil {
		return 0, err
	}
	var sizes int64
	for _, v := range all {
		sizes += v.Size
		free -= max(0, v.Size-v.Used)
	}
	if s.o.Capacity > 0 { // the user's word about the rest
		free = s.o.Capacity - sizes
	}
	return max(0, free-s.pending), nil
}

// free is what the folder's file system has free, in bytes.
func (s *Store) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.o.Dir, &st); err != nil {
		return 0, fmt.Errorf("folder of volumes %s: %w", s.o.Dir, err)
	}
	return int64(min(st.Bavail, math.MaxInt64/uint64(st.Frsize)) * uint64(st.Frsize)), nil
}

// promise keeps room until back is called, when what was promised is in the sizes of volumes.
func (s *Store) promise(size int64) (back func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	room, err := s.room()
	if err != nil {
		return nil, err
	}
	if size > room {
		return nil, fmt.Errorf("%d bytes: %w: %d are left", size, ErrFull, room)
	}
	s.pending += size
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pending -= size
	}, nil
}

// full makes an error one of ErrFull where the disk is full, which a program tells in words alone.
func (s *Store) full(err error) error {
	free, e := s.free()
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || e == nil && free < unit {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
