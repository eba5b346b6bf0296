package erofs

import (
	"context"
	"io"
	"sync"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// pipeline reads files ahead and compresses their segments, several at once. Segments come out in the order of the
// tree.
type pipeline struct {
	files  *tree.Opener
	cancel context.CancelFunc
	done   sync.WaitGroup
	queue  chan *segment // in order
	work   chan *segment // the same, for the compressing goroutines
	spare  sync.Pool     // buffers of segmentSize
	one    *squeezer     // of the caller's goroutine
	err    error         // of making encoders
}

// segment is a part of a file, first read and then compressed.
type segment struct {
	path  string
	data  []byte
	zero  bool // a hole of segmentSize; data is nil
	final bool // the last of its file
	err   error
	ready chan struct{} // closed when out is
	out   squeezed
}

// newPipeline starts the goroutines that an image with compression needs; stop ends them.
func newPipeline(ctx context.Context, i *image) *pipeline {
	ctx, cancel := context.WithCancel(ctx)
	p := &pipeline{files: i.o.Files, cancel: cancel}
	if i.o.Compression == None {
		return p
	}
	// What is read and not yet written is bounded by these: a segment each, and what it is compressed to.
	p.queue, p.work = make(chan *segment, 2*i.o.Jobs), make(chan *segment, 2*i.o.Jobs)
	if p.one, p.err = newSqueezer(i.o); p.err != nil {
		close(p.queue)
		return p
	}
	p.done.Go(func() {
		defer close(p.work)
		defer close(p.queue)
		i.tree.Walk(func(path string, n *tree.Node, first bool) error {
			if !first || n.Kind != tree.File || n.Size() == 0 || i.chunks(n) > 0 {
				return nil
			}
			return p.read(ctx, path, n)
		})
	})
	for range i.o.Jobs {
		p.done.Go(func() {
			s, err := newSqueezer(i.o)
			for g := range p.work {
				if g.err == nil {
					g.err = err
				}
				if g.err == nil {
					g.out = s.segment(g)
				}
				close(g.ready)
			}
		})
	}
	return p
}

// stop ends the goroutines and waits for them. Calling it again is a no-op.
func (p *pipeline) stop() {
	p.cancel()
	if p.queue != nil {
		for range p.queue {
		}
	}
	p.done.Wait()
}

// read sends a file's segments off. An error goes with them; what is returned only ends the walk.
func (p *pipeline) read(ctx context.Context, path string, n *tree.Node) error {
	send := func(g *segment) error {
		g.path, g.ready = path, make(chan struct{})
		failed := g.err // once sent off, g is the receivers'
		for _, c := range []chan *segment{p.queue, p.work} {
			select {
			case c <- g:
			case <-ctx.Done():
				if c == p.work { // it is in the queue, and nobody will work on it
					g.err = ctx.Err()
					close(g.ready)
				}
				return ctx.Err()
			}
		}
		return failed
	}
	r, err := p.files.Open(n)
	if err != nil {
		return send(&segment{err: err, final: true})
	}
	defer r.Close()
	size, data := n.Size(), n.Content.Data()
	for at := int64(0); at < size; at += segmentSize {
		length := min(segmentSize, size-at)
		g := &segment{final: at+length == size}
		for len(data) > 0 && data[0].End() <= at {
			data = data[1:]
		}
		if length == segmentSize && (len(data) == 0 || data[0].Offset >= at+length) {
			g.zero = true
		} else {
			g.data = p.buffer(int(length))
			if got, err := r.ReadAt(g.data, at); got < len(g.data) {
				if err == nil {
					err = io.ErrNoProgress
				}
				g.err = err
			}
		}
		if err := send(g); err != nil {
			return err
		}
	}
	return nil
}

func (p *pipeline) buffer(n int) []byte {
	if n <= segmentSize/8 {
		return make([]byte, n)
	}
	if b, ok := p.spare.Get().(*[segmentSize]byte); ok {
		return b[:n]
	}
	return make([]byte, n, segmentSize)
}

// next is the next segment, compressed. The caller calls recycle when it has used it.
func (p *pipeline) next() (*segment, error) {
	if p.err != nil {
		return nil, p.err
	}
	g, ok := <-p.queue
	if !ok {
		return nil, context.Canceled // only then does the walk end before the caller's
	}
	<-g.ready
	return g, g.err
}

func (p *pipeline) recycle(g *segment) {
	if cap(g.data) == segmentSize {
		p.spare.Put((*[segmentSize]byte)(g.data[:segmentSize]))
	}
}

// segment compresses one.
func (s *squeezer) segment(g *segment) squeezed {
	if !g.zero {
		return s.squeeze(g.data, g.final)
	}
	if s.zeros == nil {
		z := s.squeeze(make([]byte, segmentSize), false)
		s.zeros = &z
	}
	return *s.zeros
}
