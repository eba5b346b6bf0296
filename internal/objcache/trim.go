package objcache

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// kept is one file of a folder of levels.
type kept struct {
	name  string
	size  int64
	level time.Time // when its level was of use last
	used  time.Time // when it was of use last, as far as known
	temp  bool
}

// walk lists the files in a folder of levels. The trees' programs could write there, so nothing leads out of it.
func walk(root *os.Root) (all []kept, bytes int64, err error) {
	levels := map[string]time.Time{}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another process removed it
		}
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return nil
		}
		level, _, below := strings.Cut(name, "/")
		if !below {
			levels[level] = fi.ModTime()
		}
		if d.IsDir() {
			return nil
		}
		all = append(all, kept{name, fi.Size(), levels[level], fi.ModTime(), isTemp(path.Base(name))})
		bytes += fi.Size()
		return nil
	})
	return all, bytes, err
}

// Usage counts the files and bytes in a folder of levels. One that is not there holds nothing.
func Usage(dir string) (files int, bytes int64, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer root.Close()
	all, bytes, err := walk(root)
	return len(all), bytes, err
}

// Trimmed is what Trim removed.
type Trimmed struct {
	Files int
	Bytes int64
}

// staleTemp is the age from which a file that is being written is one that a killed build left.
const staleTemp = 24 * time.Hour

// Trim removes what was not of use for the longest time, whole trees first, until a folder of levels has at most nine
// tenths of limit bytes, if it has more than limit; and what killed builds left. Builds may run meanwhile: what they
// miss, they compile.
func Trim(dir string, limit int64, now time.Time) (t Trimmed, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, err
	}
	defer root.Close()
	all, bytes, err := walk(root)
	if err != nil {
		return t, err
	}
	slices.SortFunc(all, func(a, b kept) int {
		if c := a.level.Compare(b.level); c != 0 {
			return c
		}
		return a.used.Compare(b.used)
	})
	goal := bytes
	if bytes > limit {
		goal = limit / 10 * 9
	}
	for _, k := range all {
		if bytes <= goal && !(k.temp && now.Sub(k.used) > staleTemp) {
			continue
		}
		if err := root.Remove(k.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return t, err
		}
		bytes -= k.size
		t.Files++
		t.Bytes += k.size
		// The folders of a key and of a tree go with their last file.
		for up := path.Dir(k.name); up != "." && root.Remove(up) == nil; up = path.Dir(up) {
		}
	}
	return t, nil
}
