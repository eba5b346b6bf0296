package place

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
)

// Options say what a copy does beside copying. The zero value copies.
type Options struct {
	// Roles is a set of metadata (package roles) that the copy brings in the place of what the release does.
	Roles []byte
	// Accept judges the index before anything else of the release is read.
	Accept func(h folder.Head) error
	// Check judges the release once all of it is there, before others see it.
	Check func(ctx context.Context, x *index.Index) error
	// Progress is told now and then, by any goroutine, how many bytes have moved of how many.
	Progress func(moved, of int64)
}

// Result is what a copy did.
type Result struct {
	Index       *index.Index
	Moved, Kept int   // files
	Bytes       int64 // of those that moved, as far as they did
}

// attempts is how often a file is begun whose source breaks off without having sent more of it.
const attempts = 4

// Copy copies a release. Only what is missing moves. What breaks off goes on where it was, and what is refused is a
// *refusal.Error; then others see nothing of it.
func Copy(ctx context.Context, from Source, to Sink, o Options) (*Result, error) {
	head, err := from.Index(ctx)
	if err != nil {
		return nil, err
	}
	if o.Roles != nil {
		head.Roles = o.Roles
	}
	if o.Accept != nil {
		if err := o.Accept(head); err != nil {
			return nil, err
		}
	}
	x, err := index.Decode(head.Index)
	if err != nil {
		return nil, err
	}
	if err := to.Begin(ctx, head); err != nil {
		return nil, err
	}
	r := &Result{Index: x}
	missing, total, err := missing(ctx, x, to)
	if err != nil {
		return nil, err
	}
	r.Moved, r.Kept = len(missing), len(x.Blobs())-len(missing)
	if r.Bytes, err = move(ctx, from, to, missing, total, o.Progress); err != nil {
		return nil, err
	}
	if o.Check != nil {
		if err := o.Check(ctx, x); err != nil {
			return nil, err
		}
	}
	return r, to.Finish(ctx, head)
}

// missing lists what a sink lacks, and how many bytes that is.
func missing(ctx context.Context, x *index.Index, to Sink) (list []index.Blob, total int64, err error) {
	all := x.Blobs()
	has := make([]bool, len(all))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(to.Parallel())
	for i, b := range all {
		g.Go(func() (err error) {
			has[i], err = to.Has(ctx, b)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, 0, err
	}
	for i, b := range all {
		if !has[i] {
			list = append(list, b)
			total += b.Size
		}
	}
	return list, total, nil
}

func move(ctx context.Context, from Source, to Sink, list []index.Blob, total int64,
	progress func(moved, of int64)) (int64, error) {
	var moved atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(to.Parallel())
	for _, b := range list {
		g.Go(func() error {
			var at int64
			open := func(offset int64) (io.ReadCloser, error) {
				at = offset
				r, err := from.Open(ctx, b, offset)
				if err != nil {
					return nil, err
				}
				return &counted{r, func(n int) {
					if now := moved.Add(int64(n)); progress != nil {
						progress(now, total)
					}
				}}, nil
			}
			return again(ctx, &at, func() error { return to.Put(ctx, b, open) })
		})
	}
	err := g.Wait()
	return moved.Load(), err
}

// pause is how much longer each attempt waits than the one before.
const pause = 200 * time.Millisecond

// again tries a few times, unless the answer is a refusal or nobody waits any more. An attempt that began further on
// than the one before, at the byte at, costs nothing.
func again(ctx context.Context, at *int64, try func() error) (err error) {
	for n, before := 0, int64(0); n < attempts; n++ {
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(time.Duration(n) * pause):
		}
		if err = try(); err == nil || ctx.Err() != nil {
			return err
		}
		if *at > before {
			n, before = 0, *at
		}
		if _, refused := errors.AsType[*refusal.Error](err); refused {
			return err
		}
		if _, once := errors.AsType[*final](err); once {
			return err
		}
	}
	return err
}

// final is an error that another attempt does not mend.
type final struct{ error }

func (f *final) Unwrap() error { return f.error }

// counted tells how many bytes are read.
type counted struct {
	io.ReadCloser
	told func(int)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 {
		c.told(n)
	}
	return n, err
}
