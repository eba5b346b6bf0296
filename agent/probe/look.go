package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// all wants each of what is tried, tries all, and says all that is missing.
func all(tries ...func() error) func() error {
	return func() error {
		var errs []string
		for _, try := range tries {
			if err := try(); err != nil {
				errs = append(errs, err.Error())
			}
		}
		return told(errs)
	}
}

// told is one error of one line.
func told(missing []string) error {
	if len(missing) == 0 {
		return nil
	}
	return errors.New(strings.Join(missing, "; "))
}

// onlyOn tries something on some architectures, which have Go's names.
func onlyOn(try func() error, architectures ...string) func() error {
	if slices.Contains(architectures, runtime.GOARCH) {
		return try
	}
	return func() error { return nil }
}

func onX86(try func() error) func() error { return onlyOn(try, "amd64") }

// there wants files, each of which may be a pattern.
func there(paths ...string) func() error {
	return func() error {
		var missing []string
		for _, p := range paths {
			if found, err := filepath.Glob(p); err != nil || len(found) == 0 {
				missing = append(missing, "there is no "+p)
			}
		}
		return told(missing)
	}
}

// either wants one of the files.
func either(paths ...string) func() error {
	return func() error {
		for _, p := range paths {
			if found, err := filepath.Glob(p); err == nil && len(found) > 0 {
				return nil
			}
		}
		return fmt.Errorf("there is none of %s", strings.Join(paths, ", "))
	}
}

// absent wants files not to be there.
func absent(paths ...string) func() error {
	return func() error {
		var found []string
		for _, p := range paths {
			if _, err := os.Lstat(p); err == nil {
				found = append(found, "there is "+p)
			}
		}
		return told(found)
	}
}

// opens wants files that can be read.
func opens(paths ...string) func() error {
	return func() error {
		var missing []string
		for _, p := range paths {
			f, err := os.Open(p)
			if err != nil {
				missing = append(missing, err.Error())
				continue
			}
			_ = f.Close() // it was only opened
		}
		return told(missing)
	}
}

// says wants a file to hold one value.
func says(path, value string) func() error {
	return func() error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if got := strings.TrimSpace(string(b)); got != value {
			return fmt.Errorf("%s says %q, want %q", path, got, value)
		}
		return nil
	}
}

// fields are the words of a file, without the commas behind them.
func fields(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	return strings.FieldsFunc(string(b), func(r rune) bool { return strings.ContainsRune(" \t\n,", r) }), err
}

// lists wants a file to have words.
func lists(path string, want ...string) func() error {
	return func() error {
		have, err := fields(path)
		if err != nil {
			return err
		}
		var missing []string
		for _, w := range want {
			if !slices.Contains(have, w) {
				missing = append(missing, w)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%s does not list %s", path, strings.Join(missing, ", "))
		}
		return nil
	}
}

// listsNone wants a file not to have a word.
func listsNone(path, word string) func() error {
	return func() error {
		have, err := fields(path)
		if err == nil && slices.Contains(have, word) {
			err = fmt.Errorf("%s lists %s", path, word)
		}
		return err
	}
}

// fileSystems wants the kernel to know file systems.
func fileSystems(names ...string) func() error { return lists("/proc/filesystems", names...) }

// virtioDrivers wants drivers of virtio devices, which are there whether or not a device is.
func virtioDrivers(names ...string) func() error {
	var paths []string
	for _, n := range names {
		paths = append(paths, "/sys/bus/virtio/drivers/"+n)
	}
	return there(paths...)
}
