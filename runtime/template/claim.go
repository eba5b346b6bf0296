package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/filelock"
)

// claimPrefix begins the name of the file that whoever makes a template by itself has locked; the key's digest follows.
// The file stays. It is empty, or says why the last attempt failed.
const claimPrefix = ".claim-"

// ErrClaimed says that somebody else makes the template, or has failed to a short while ago.
var ErrClaimed = errors.New("the template is not to be made")

// maxReason bounds why an attempt failed, in bytes.
const maxReason = 1024

// Claim is the right to make the template for a key, which one process of the host has at a time. The kernel takes it
// back from whoever dies.
type Claim struct{ file *os.File }

// Claim claims the making of a template. It does not wait. The error is an ErrClaimed that says why where it is another
// one's, or where the last attempt failed less than rest ago.
func (f Folder) Claim(key Key, rest time.Duration) (*Claim, error) {
	name, err := key.name()
	if err != nil {
		return nil, err
	}
	if err := f.safe(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(string(f), claimPrefix+name)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	if err := filelock.Lock(now, file); err != nil {
		if errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: another process makes it", ErrClaimed)
		}
		return nil, errors.Join(err, file.Close())
	}
	st, err := file.Stat()
	if err == nil && st.Size() > 0 && time.Since(st.ModTime()) < rest {
		why := make([]byte, maxReason)
		n, _ := file.ReadAt(why, 0) // less than that is no error of interest
		err = fmt.Errorf("%w: the last attempt failed at %s: %s", ErrClaimed,
			st.ModTime().UTC().Format(time.RFC3339), why[:n])
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Claim{file}, nil
}

// End gives the right back. why is how making it failed, which the next Claim is told; nil where it did not.
func (c *Claim) End(why error) error {
	err := c.file.Truncate(0)
	if why != nil && err == nil {
		text := []byte(why.Error())
		_, err = c.file.WriteAt(text[:min(len(text), maxReason)], 0)
	}
	return errors.Join(err, c.file.Close())
}
