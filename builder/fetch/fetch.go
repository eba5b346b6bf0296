// Package fetch brings locked inputs into the store: from Debian's archive, from an address, or from beside the recipe.
//
// It is, with lock, the only place that reaches a network. Bytes with another digest than the lock's never enter the
// store.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/httpclient"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/registry"
)

// Fetcher knows where inputs come from.
type Fetcher struct {
	Store *store.Store
	Apt   Archive // Debian's own
	// Own are the recipe's archives by their names.
	Own  map[string]Archive
	Base string // the recipe's folder: local paths are relative to it
	Arch string // dpkg's name of the guest's architecture
	// Host is dpkg's name of this machine's. A package of Debian's for all architectures, such as the source of a
	// kernel, is looked up in its list, which is needed for the tool-chain anyway. Empty is Arch.
	Host string
	HTTP *http.Client
	// Registry is where container images come from; nil is the zero Client.
	Registry *registry.Client
	// Mirror is asked before all others for packages, addresses and images; nil is none.
	Mirror Mirror
	// Snapshot is the address of an archive of archives, such as Debian's snapshot service, for packages that Apt has
	// no longer; empty is none.
	Snapshot string
	// SnapshotTime is when such packages were there: the lock's time.
	SnapshotTime time.Time
}

// maxUnlocked bounds what Download accepts when no size is known yet: a kernel tarball is 150 MB.
const maxUnlocked = 4 << 30

// Bring puts a locked input into the store unless it is there.
func (f *Fetcher) Bring(ctx context.Context, in lock.Input, report progress.Func) error {
	if in.Kind == lock.OCI {
		return f.bringImage(ctx, in, report) // whose digest is that of a part
	}
	if f.Store.Has(in.Digest) {
		return nil
	}
	if in.Kind == lock.URL || in.Kind == lock.Debian {
		if has, err := f.fromMirror(ctx, in.Name, in.Digest, report); has || err != nil {
			return err
		}
	}
	switch in.Kind {
	case lock.Local:
		_, _, err := f.Store.PutFile(filepath.Join(f.Base, filepath.FromSlash(in.Where)), in.Digest)
		return err
	case lock.URL:
		_, _, err := f.Download(ctx, in.Where, in.Digest, in.Size, report)
		return err
	case lock.Debian:
		return f.bringDebian(ctx, in, report)
	}
	return fmt.Errorf("input %s: kind %s is not fetched", in.Name, in.Kind)
}

// archive is the archive of a name; "" is Debian's own.
func (f *Fetcher) archive(name string) (Archive, error) {
	if name == "" {
		return f.Apt, nil
	}
	if a := f.Own[name]; a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("the recipe names no archive %q", name)
}

func (f *Fetcher) bringDebian(ctx context.Context, in lock.Input, report progress.Func) error {
	dir, remove, err := f.Store.Temp("fetch")
	if err != nil {
		return err
	}
	defer remove() // what stays is swept by the next Open
	stop := watch(dir, in.Size, report)
	a, err := f.archive(in.Package.Archive)
	if err != nil {
		stop()
		return err
	}
	file, err := a.Fetch(ctx, *in.Package, f.archOf(*in.Package), dir)
	stop()
	if errors.Is(err, ErrGone) && f.Snapshot != "" && in.Package.Archive == "" {
		if serr := f.fromSnapshot(ctx, in, report); serr != nil {
			return errors.Join(err, serr)
		}
		return nil
	}
	if err != nil {
		return err
	}
	got, size, err := digest.File(file)
	if err != nil {
		return err
	}
	if got != in.Digest {
		return fmt.Errorf("package %s %s: %w", in.Package.Name, in.Package.Version,
			&digest.Mismatch{Name: filepath.Base(file), Want: in.Digest, Got: got})
	}
	report.Send(progress.Event{Kind: progress.Update, Message: "verify", Current: size, Total: in.Size, Unit: "bytes"})
	_, _, err = f.Store.PutFile(file, in.Digest)
	return err
}

// watch reports how much of a download has arrived in dir, until stop is called: apt-get tells only a terminal.
func watch(dir string, total int64, report progress.Func) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(500 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				var n int64
				for _, pattern := range []string{"*", "*/*"} {
					files, _ := filepath.Glob(filepath.Join(dir, pattern))
					for _, p := range files {
						if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() {
							n += fi.Size()
						}
					}
				}
				report.Send(progress.Event{Kind: progress.Update, Message: "download", Current: n, Total: total,
					Unit: "bytes"})
			}
		}
	}()
	return func() { close(done); <-ended }
}

// Download puts the bytes at an address into the store. An empty want or a negative size are unchecked: lock asks so
// for a first look.
func (f *Fetcher) Download(ctx context.Context, addr string, want digest.Digest, size int64,
	report progress.Func) (digest.Digest, int64, error) {
	u, err := url.Parse(addr)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return "", 0, fmt.Errorf("address %q: want http:// or https://", addr)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr, nil)
	if err != nil {
		return "", 0, err
	}
	resp, err := httpclient.New(f.HTTP).Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("%s: %s", addr, resp.Status)
	}
	limit := size
	if limit < 0 {
		limit = maxUnlocked
	}
	return f.Store.Put(addr, &counter{r: resp.Body, limit: limit, total: max(resp.ContentLength, size),
		report: report, name: addr}, want)
}

// counter reports reads, at most a few times a second, and ends them with an error past the limit.
type counter struct {
	name            string
	r               io.Reader
	n, total, limit int64
	last            time.Time
	report          progress.Func
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.n += int64(n); c.n > c.limit {
		return 0, fmt.Errorf("%s: more than %d bytes", c.name, c.limit)
	}
	if now := time.Now(); now.Sub(c.last) > 200*time.Millisecond {
		c.last = now
		c.report.Send(progress.Event{Kind: progress.Update, Message: "download", Current: c.n, Total: c.total,
			Unit: "bytes"})
	}
	return n, err
}
