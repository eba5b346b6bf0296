package share

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/mountinfo"
)

// Claims say which of a host's pods has a folder or file of the host for itself, as far as the advisory locks of
// programs go: a guest keeps its locks to itself, so those of two guests do not exclude each other. The first pod that
// may write to something has its locks, until it ends; in the others they are to be refused.
//
// A claim is on a path within a file system, whatever the paths by which pods reach it, and covers what is below and
// what is mounted there. It is a lock on one byte of a file that all runtimes of the host have open: shared for each
// folder above, exclusive for the path itself. The kernel ends it with the process that has it.
type Claims struct {
	file *os.File

	mu   sync.Mutex
	have map[int64]int16 // what is locked, and how; guarded by mu
}

// NewClaims opens the file of the host's claims.
func NewClaims(file string) (*Claims, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("claims of volumes: %w", err)
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claims of volumes: %w", err)
	}
	return &Claims{file: f, have: map[int64]int16{}}, nil
}

// Close ends all claims.
func (c *Claims) Close() error { return c.file.Close() }

// lockedByte is a byte of the file, and how it is to be locked: unix.F_RDLCK or unix.F_WRLCK.
type lockedByte struct {
	at  int64
	how int16
}

// Claim claims source, a file or folder of the host, for whoever may write to it, and says whether it is another's.
// Whoever only reads claims nothing. What was claimed already is no one else's.
func (c *Claims) Claim(source string, access Access) (foreign bool, err error) {
	mounts, err := mountinfo.Self()
	if err != nil {
		return false, err
	}
	if source, err = filepath.EvalSymlinks(source); err != nil {
		return false, err
	}
	list := bytesOf(mounts, source)
	c.mu.Lock()
	defer c.mu.Unlock()
	var taken []lockedByte
	for _, b := range list {
		had, ok := c.have[b.at]
		if ok && (had == unix.F_WRLCK || had == b.how) {
			continue
		}
		l := unix.Flock_t{Type: b.how, Start: b.at, Len: 1}
		if access != Writable {
			if err := unix.FcntlFlock(c.file.Fd(), unix.F_OFD_GETLK, &l); err != nil {
				return false, &os.PathError{Op: "look at the claims in", Path: c.file.Name(), Err: err}
			}
			if l.Type != unix.F_UNLCK {
				return true, nil
			}
			continue
		}
		err := unix.FcntlFlock(c.file.Fd(), unix.F_OFD_SETLK, &l)
		if err == nil {
			taken = append(taken, lockedByte{b.at, had})
			if !ok {
				taken[len(taken)-1].how = unix.F_UNLCK
			}
			c.have[b.at] = b.how
			continue
		}
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			foreign, err = true, nil
		} else {
			err = &os.PathError{Op: "claim a volume in", Path: c.file.Name(), Err: err}
		}
		return foreign, errors.Join(err, c.giveBack(taken))
	}
	return false, nil
}

// giveBack makes what was taken as it was before.
func (c *Claims) giveBack(taken []lockedByte) error {
	for _, b := range taken {
		if b.how == unix.F_UNLCK {
			delete(c.have, b.at)
		} else {
			c.have[b.at] = b.how
		}
		if err := unix.FcntlFlock(c.file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: b.how, Start: b.at,
			Len: 1}); err != nil {
			return &os.PathError{Op: "give a claim back in", Path: c.file.Name(), Err: err}
		}
	}
	return nil
}

// bytesOf are the bytes for a path without links: for each file system that is seen at it or below, the exclusive one,
// and a shared one for each folder above.
func bytesOf(mounts []mountinfo.Mount, source string) []lockedByte {
	var list []lockedByte
	seen := map[int64]int{}
	add := func(device, path string, how int16) {
		at := byteOf(device, path)
		if i, ok := seen[at]; !ok {
			seen[at] = len(list)
			list = append(list, lockedByte{at, how})
		} else if how == unix.F_WRLCK {
			list[i].how = how
		}
	}
	claim := func(device, p string) {
		add(device, p, unix.F_WRLCK)
		for p != "/" && p != "." {
			p = path.Dir(p)
			add(device, p, unix.F_RDLCK)
		}
	}
	over := -1
	for i, m := range mounts {
		// what comes later lies on top
		if within(source, m.Point) && (over < 0 || len(m.Point) >= len(mounts[over].Point)) {
			over = i
		}
	}
	if over >= 0 {
		m := mounts[over]
		claim(m.Device, path.Join("/", m.Root, strings.TrimPrefix(source, m.Point)))
	}
	for _, m := range mounts {
		if m.Point != source && within(m.Point, source) {
			claim(m.Device, path.Join("/", m.Root))
		}
	}
	return list
}

// within says whether a path is dir or below.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// byteOf is the place of the byte for a path within a file system: 62 bits of a digest, so that no two have the same.
func byteOf(device, path string) int64 {
	sum := sha256.Sum256([]byte(device + "\x00" + path))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 2)
}
