package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
)

// Mirror has files by their digests, such as a release that has the sources of its guests. What it gives is checked.
type Mirror interface {
	// Open begins to read a file, which the caller closes, and says how many bytes it has. What it does not have is
	// fs.ErrNotExist.
	Open(ctx context.Context, d digest.Digest) (io.ReadCloser, int64, error)
}

// fromMirror brings a file from the mirror, and says whether the mirror has it.
func (f *Fetcher) fromMirror(ctx context.Context, name string, d digest.Digest, report progress.Func) (bool, error) {
	if f.Mirror == nil {
		return false, nil
	}
	r, size, err := f.Mirror.Open(ctx, d)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("sources: %s: %w", name, err)
	}
	_, _, err = f.Store.Put(name, &counter{r: r, limit: size, total: size, report: report, name: name}, d)
	if err = errors.Join(err, r.Close()); err != nil {
		return false, fmt.Errorf("sources: %s: %w", name, err)
	}
	return true, nil
}

// mirrored brings what the mirror has of a list of inputs, and returns the others.
func (f *Fetcher) mirrored(ctx context.Context, list []lock.Input, report progress.Func) ([]lock.Input, error) {
	if f.Mirror == nil {
		return list, nil
	}
	var rest []lock.Input
	for _, in := range list {
		if f.Store.Has(in.Digest) {
			continue
		}
		has, err := f.fromMirror(ctx, in.Name, in.Digest, report)
		if err != nil {
			return nil, err
		}
		if !has {
			rest = append(rest, in)
		}
	}
	return rest, nil
}
