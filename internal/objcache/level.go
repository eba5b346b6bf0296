package objcache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// level is one folder of cached objects:
//
//	keys/ab/abcd…/<sum>   entries of the command with this key, each named by the SHA-256 of its bytes
//	blobs/ab/abcd…        objects, named likewise
//
// Whatever does not have the bytes of its name counts as missing.
type level struct {
	dir      string
	writable bool
}

func (l level) keyDir(key sum) string {
	h := hex.EncodeToString(key[:])
	return filepath.Join(l.dir, "keys", h[:2], h)
}

func (l level) blob(s sum) string {
	h := hex.EncodeToString(s[:])
	return filepath.Join(l.dir, "blobs", h[:2], h)
}

// candidate is an entry and where it lies.
type candidate struct {
	*entry
	path string
}

// maxCandidates is how many entries one command may have: one for each state of its files that is worth keeping.
const maxCandidates = 16

// candidates reads the entries of a key, those first that were of use last. What is damaged is removed, where this
// level may be written to.
func (l level) candidates(key sum) []candidate {
	dir := l.keyDir(key)
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	type file struct {
		path string
		used time.Time
		want sum
	}
	var files []file
	for _, n := range names {
		raw, err := hex.DecodeString(n.Name())
		if err != nil || len(raw) != sha256.Size {
			continue
		}
		fi, err := n.Info()
		if err != nil {
			continue
		}
		files = append(files, file{filepath.Join(dir, n.Name()), fi.ModTime(), sum(raw)})
		if len(files) > 4*maxCandidates {
			break
		}
	}
	slices.SortFunc(files, func(a, b file) int { return b.used.Compare(a.used) })
	var out []candidate
	for i, f := range files {
		data, _, err := readFile(f.path, maxEntry)
		if err != nil || sha256.Sum256(data) != f.want || i >= maxCandidates {
			l.remove(f.path)
			continue
		}
		if e, err := decodeEntry(data); err == nil && e.key == key {
			out = append(out, candidate{e, f.path})
		}
	}
	return out
}

// remove removes a file of a writable level.
func (l level) remove(path string) {
	if l.writable {
		_ = os.Remove(path) // what stays is found to be damaged again
	}
}

// object reads an object.
func (l level) object(e *entry) ([]byte, bool) {
	path := l.blob(e.object)
	data, _, err := readFile(path, e.size)
	if err != nil || sha256.Sum256(data) != e.object {
		if !errors.Is(err, os.ErrNotExist) {
			l.remove(path)
		}
		return nil, false
	}
	return data, true
}

// used notes that an entry was of use, for Trim.
func (l level) used(c candidate) {
	if l.writable {
		now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
		for _, p := range []string{c.path, l.blob(c.object)} {
			_ = unix.UtimesNanoAt(unix.AT_FDCWD, p, now, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
}

// put keeps an object and its entry.
func (l level) put(e *entry, object []byte) error {
	e.object, e.size = sha256.Sum256(object), int64(len(object))
	if _, ok := l.object(e); !ok {
		if err := write(l.blob(e.object), object); err != nil {
			return err
		}
	}
	data := e.encode()
	if len(data) > maxEntry {
		return errEntry
	}
	name := sha256.Sum256(data)
	return write(filepath.Join(l.keyDir(e.key), hex.EncodeToString(name[:])), data)
}

// tempPrefix begins the names of files that are being written.
const tempPrefix = ".writing-"

// write puts a file in place whole. It is not synced: what a crash leaves of it does not have the bytes of its name.
func write(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o444)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// isTemp says whether a file's name is that of one that is being written.
func isTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }
