package modsign

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/katabuild/katabuild/internal/regular"
)

// maxKey bounds the file of a key for modules, in bytes: a key and a certificate have 5 KB.
const maxKey = 64 << 10

// Read reads a file that Parse takes at a time, and returns what is in it. A file that other users can read is refused:
// whoever has the key makes modules that the guest's kernel takes.
func Read(path string, at time.Time) ([]byte, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := read(path, f, at)
	return text, errors.Join(err, f.Close())
}

func read(path string, f *os.File, at time.Time) ([]byte, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := fi.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s holds a private key, and its mode %04o lets others at it: chmod 600 %[1]s", path,
			mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKey {
		return nil, &regular.SizeError{Name: path, Limit: maxKey}
	}
	if _, err := Parse(text, at); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}
