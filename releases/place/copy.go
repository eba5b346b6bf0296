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
	// Seeds are files of this host. What a big file of the release shares with one of them does not move, where the
	// source can send parts of files and the sink is a folder.
	Seeds []string
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
	if r.Bytes, err = move(ctx, x, from, to, missing, total, o); err != nil {
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

// move moves files. Those of which there are chunk lists come last where the host may have parts of them.
func move(ctx context.Context, x *index.Index, from Source, to Sink, list []index.Blob, total int64,
	o Options) (_ int64, err error) {
	m := &mover{from: from, to: to, total: total, progress: o.Progress}
	in, isFolder := to.(*folder.Folder)
	if !isFolder || len(o.Seeds) == 0 {
		err := m.all(ctx, list)
		return m.moved.Load(), err
	}
	others, big, lists := apart(x, list)
	if err := m.all(ctx, others); err != nil {
		return m.moved.Load(), err
	}
	if m.made, err = newRebuilder(ctx, x, big, from, o.Seeds, m.told); err != nil {
		return m.moved.Load(), err
	}
	defer func() { err = errors.Join(err, m.made.close()) }()
	if err := m.all(ctx, big); err != nil {
		return m.moved.Load(), err
	}
	if m.made == nil {
		err := m.all(ctx, lists)
		return m.moved.Load(), err
	}
	// Lists of what is here need not move.
	if err := m.made.keep(ctx, in); err != nil {
		return m.moved.Load(), err
	}
	return m.moved.Load(), m.all(ctx, m.lacks(ctx, lists))
}

// lacks are those files that the sink does not have.
func (m *mover) lacks(ctx context.Context, list []index.Blob) (out []index.Blob) {
	for _, b := range list {
		if has, err := m.to.Has(ctx, b); err != nil || !has {
			out = append(out, b)
		}
	}
	return out
}

// apart tells files of which there are chunk lists, and those lists, from others.
func apart(x *index.Index, list []index.Blob) (others, big, lists []index.Blob) {
	kind := map[index.Blob]int{}
	for _, g := range x.Guests {
		for _, a := range g.Artefacts {
			if a.Chunks != nil {
				kind[a.Blob], kind[*a.Chunks] = 1, 2
			}
		}
	}
	to := [3]*[]index.Blob{&others, &big, &lists}
	for _, b := range list {
		*to[kind[b]] = append(*to[kind[b]], b)
	}
	return others, big, lists
}

// mover moves files from one place to another.
type mover struct {
	from     Source
	to       Sink
	made     *rebuilder // nil makes nothing of what is here
	total    int64
	progress func(moved, of int64)
	moved    atomic.Int64
}

func (m *mover) all(ctx context.Context, list []index.Blob) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(m.to.Parallel())
	for _, b := range list {
		g.Go(func() error {
			var at int64
			open := func(offset int64) (io.ReadCloser, error) {
				at = offset
				if f, ok := m.made.open(ctx, b, offset); ok {
					return f, nil
				}
				r, err := m.from.Open(ctx, b, offset)
				if err != nil {
					return nil, err
				}
				return &counted{r, m.told}, nil
			}
			err := again(ctx, &at, func() error { return m.to.Put(ctx, b, open) })
			if at == 0 {
				err = m.made.blame(b, err)
			}
			return err
		})
	}
	return g.Wait()
}

func (m *mover) told(n int) {
	if now := m.moved.Add(int64(n)); m.progress != nil {
		m.progress(now, m.total)
	}
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
		if _, full := errors.AsType[*folder.Full](err); full {
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
