package place

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/releases/chunks"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
)

// ranged is a source that can send a part of a file.
type ranged interface {
	// OpenRange begins to read n bytes of a file from an offset on. Where that cannot be had it is errNoRanges. The
	// caller closes it.
	OpenRange(ctx context.Context, b index.Blob, offset, n int64) (io.ReadCloser, error)
}

// errNoRanges is that a server sends whole files and nothing else.
var errNoRanges = errors.New("the server sends no parts of files")

// local is where a chunk lies on this host.
type local struct {
	file   *os.File
	offset int64
}

// seeds are files of this host, of whose chunks others can be made.
type seeds struct {
	files  []*os.File
	at     map[chunks.ID]local
	groups map[chunks.Group][]chunks.Chunk
}

func (s *seeds) close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// find splits files. One that cannot be read is none.
func find(ctx context.Context, files []string) (*seeds, error) {
	s := &seeds{at: map[chunks.ID]local{}, groups: map[chunks.Group][]chunks.Chunk{}}
	for _, name := range files {
		f, err := regular.Open(name)
		if err != nil {
			continue
		}
		s.files = append(s.files, f)
		var list []chunks.Chunk
		split := chunks.NewSplitter(func(offset int64, c chunks.Chunk) error {
			if _, has := s.at[c.ID]; !has {
				s.at[c.ID] = local{f, offset}
			}
			list = append(list, c)
			return ctx.Err()
		})
		if _, err = io.Copy(split, f); err == nil {
			err = split.Close()
		}
		if ctx.Err() != nil {
			return nil, errors.Join(err, s.close())
		}
		at := 0
		for _, g := range chunks.Groups(list) {
			s.groups[g] = list[at : at+g.N]
			at += g.N
		}
	}
	return s, nil
}

// read reads a chunk. What is no longer what it was is not there.
func (s *seeds) read(c chunks.Chunk, buf []byte) bool {
	at, has := s.at[c.ID]
	if !has {
		return false
	}
	_, err := at.file.ReadAt(buf, at.offset)
	return err == nil && chunks.Of(buf) == c.ID
}

func (s *seeds) has(c chunks.Chunk) bool {
	_, has := s.at[c.ID]
	return has
}

// listed is a file that can be made of chunks.
type listed struct {
	list   index.Blob // which names them
	chunks []chunks.Chunk
}

// rebuilder makes files of what this host has, and fetches the rest.
type rebuilder struct {
	ask   ranged
	told  func(int) // hears of bytes that come from elsewhere
	lists map[index.Blob]*listed
	seeds *seeds
	whole atomic.Bool // the server sends no parts
	lied  atomic.Bool // it sent other bytes than the list promises
}

// newRebuilder reads what the lists of those files of an index say that are missing. It is nil where that is of no use.
// told hears of bytes from elsewhere.
func newRebuilder(ctx context.Context, x *index.Index, missing []index.Blob, from Source, files []string,
	told func(int)) (*rebuilder, error) {
	ask, ok := from.(ranged)
	if !ok || len(files) == 0 || len(missing) == 0 {
		return nil, nil
	}
	seeds, err := find(ctx, files)
	if err != nil {
		return nil, err
	}
	r := &rebuilder{ask: ask, told: told, lists: map[index.Blob]*listed{}, seeds: seeds}
	lacks := map[index.Blob]bool{}
	for _, b := range missing {
		lacks[b] = true
	}
	for _, g := range x.Guests {
		for _, a := range g.Artefacts {
			if a.Chunks == nil || !lacks[a.Blob] || r.lists[a.Blob] != nil {
				continue
			}
			l, err := r.read(ctx, g.Label()+" "+a.Name, a)
			if errors.Is(err, errNoRanges) {
				return nil, r.close()
			}
			if err != nil {
				return nil, errors.Join(err, r.close())
			}
			r.lists[a.Blob] = &listed{*a.Chunks, l}
		}
	}
	return r, nil
}

// part reads a part of a list.
func (r *rebuilder) part(ctx context.Context, b index.Blob, offset, n int) ([]byte, error) {
	buf := make([]byte, n)
	if n == 0 {
		return buf, nil
	}
	src, err := r.ask.OpenRange(ctx, b, int64(offset), int64(n))
	if err != nil {
		return nil, err
	}
	got, err := io.ReadFull(src, buf)
	r.told(got)
	return buf, errors.Join(err, src.Close())
}

// gap is how many entries of groups that are here are read along with those of others around them.
const gap = 100

// read reads of an artefact's list its groups, and the chunks of those that are not here.
func (r *rebuilder) read(ctx context.Context, what string, a index.Artefact) ([]chunks.Chunk, error) {
	wrong := func(err error) error { return refusal.New(refusal.Chunks, what, "%v", err) }
	data, err := r.part(ctx, *a.Chunks, 0, int(min(a.Chunks.Size, int64(chunks.HeadSize))))
	if err != nil {
		return nil, err
	}
	h, err := chunks.DecodeHead(data, a.Chunks.Size)
	if err != nil {
		return nil, wrong(err)
	}
	if h.Digest != a.Digest || h.Size != a.Size {
		return nil, refusal.New(refusal.Chunks, what, "its chunk list is of %s with %d bytes", h.Digest, h.Size)
	}
	if data, err = r.part(ctx, *a.Chunks, chunks.HeadSize, h.Groups*chunks.EntrySize); err != nil {
		return nil, err
	}
	groups, err := chunks.DecodeGroups(data, h)
	if err != nil {
		return nil, wrong(err)
	}
	first := chunks.HeadSize + h.Groups*chunks.EntrySize
	out := make([]chunks.Chunk, 0, h.Chunks)
	for len(groups) > 0 {
		if list, here := r.seeds.groups[groups[0]]; here {
			out, groups = append(out, list...), groups[1:]
			continue
		}
		n, entries := r.lacking(groups)
		data, err := r.part(ctx, *a.Chunks, first+len(out)*chunks.EntrySize, entries*chunks.EntrySize)
		if err != nil {
			return nil, err
		}
		for _, g := range groups[:n] {
			list, err := chunks.DecodeChunks(data[:g.N*chunks.EntrySize], g)
			if err != nil {
				return nil, wrong(err)
			}
			out, data = append(out, list...), data[g.N*chunks.EntrySize:]
		}
		groups = groups[n:]
	}
	total := int64(0)
	for _, c := range out {
		total += int64(c.Size)
	}
	if total != a.Size {
		return nil, refusal.New(refusal.Chunks, what, "its chunks have %d bytes, it has %d", total, a.Size)
	}
	return out, nil
}

// lacking says how many groups to read at once, the first of which is not here, and how many entries those have.
func (r *rebuilder) lacking(groups []chunks.Group) (n, entries int) {
	between, of := 0, 0
	for i, g := range groups {
		of += g.N
		if _, here := r.seeds.groups[g]; here {
			between += g.N
		} else {
			between, n, entries = 0, i+1, of
		}
		if between > gap {
			break
		}
	}
	return n, entries
}

// open begins to make a file from an offset on, and says whether it can.
func (r *rebuilder) open(ctx context.Context, b index.Blob, offset int64) (io.ReadCloser, bool) {
	if r == nil || r.lists[b] == nil || r.whole.Load() {
		return nil, false
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &made{r: r, b: b, cancel: cancel, parts: make(chan chan part, ahead)}
	f.wait.Go(func() { f.plan(ctx, r.lists[b].chunks, offset) })
	return f, true
}

// ahead is how many parts of a file are fetched at once, and partSize how big one may be, in bytes.
const (
	ahead    = 8
	partSize = 1 << 20
)

// part is some of a file's bytes, in order.
type part struct {
	data []byte
	err  error
}

// made is a file that is being made.
type made struct {
	r      *rebuilder
	b      index.Blob
	cancel context.CancelFunc
	wait   sync.WaitGroup
	parts  chan chan part // in the order of the file
	have   []byte
	err    error
}

// plan walks over the chunks, and has those that are not here fetched, neighbours together.
func (f *made) plan(ctx context.Context, list []chunks.Chunk, offset int64) {
	defer close(f.parts)
	at := int64(0)
	for len(list) > 0 {
		n, size, here := 0, 0, f.r.seeds.has(list[0])
		for n < len(list) && (n == 0 || size+list[n].Size <= partSize && f.r.seeds.has(list[n]) == here) {
			size += list[n].Size
			n++
		}
		run, begin := list[:n], at
		list, at = list[n:], at+int64(size)
		if at <= offset {
			continue
		}
		c := make(chan part, 1)
		select {
		case f.parts <- c:
		case <-ctx.Done():
			return
		}
		f.wait.Go(func() {
			data, err := f.bring(ctx, run, begin, size, here)
			c <- part{data[min(max(offset-begin, 0), int64(len(data))):], err}
		})
	}
}

// bring makes a run of chunks.
func (f *made) bring(ctx context.Context, run []chunks.Chunk, begin int64, size int, here bool) ([]byte, error) {
	buf := make([]byte, size)
	if !here {
		return buf, f.fetch(ctx, run, begin, buf)
	}
	at := 0
	for i, c := range run {
		to := buf[at : at+c.Size]
		if !f.r.seeds.read(c, to) {
			// What was here has changed since.
			if err := f.fetch(ctx, run[i:i+1], begin+int64(at), to); err != nil {
				return nil, err
			}
		}
		at += c.Size
	}
	return buf, ctx.Err()
}

// fetch brings a run of chunks from elsewhere, and checks each.
func (f *made) fetch(ctx context.Context, run []chunks.Chunk, begin int64, buf []byte) error {
	src, err := f.r.ask.OpenRange(ctx, f.b, begin, int64(len(buf)))
	if err != nil {
		if errors.Is(err, errNoRanges) {
			f.r.whole.Store(true)
		}
		return err
	}
	n, err := io.ReadFull(src, buf)
	f.r.told(n)
	if err = errors.Join(err, src.Close()); err != nil {
		return err
	}
	at := 0
	for _, c := range run {
		if chunks.Of(buf[at:at+c.Size]) != c.ID {
			f.r.lied.Store(true)
			return refusal.New(refusal.Digest, string(f.b.Digest), "the %d bytes from byte %d on are not those of its "+
				"chunk list", c.Size, begin+int64(at))
		}
		at += c.Size
	}
	return nil
}

func (f *made) Read(p []byte) (int, error) {
	for len(f.have) == 0 && f.err == nil {
		c, more := <-f.parts
		if !more {
			f.err = io.EOF
			break
		}
		next := <-c
		f.have, f.err = next.data, next.err
	}
	if len(f.have) == 0 || f.err != nil && f.err != io.EOF {
		return 0, f.err
	}
	n := copy(p, f.have)
	f.have = f.have[n:]
	return n, nil
}

// Close ends what still runs.
func (f *made) Close() error {
	f.cancel()
	for range f.parts { // so that nobody waits to be read
	}
	f.wait.Wait()
	return nil
}

// blame says of a file that was made of chunks from its beginning on, each the right one, and is another file: that its
// list is wrong.
func (r *rebuilder) blame(b index.Blob, err error) error {
	d, refused := errors.AsType[*refusal.Error](err)
	if r == nil || r.lists[b] == nil || r.whole.Load() || r.lied.Load() || !refused || d.Reason != refusal.Digest {
		return err
	}
	return refusal.New(refusal.Chunks, string(b.Digest), "its chunk list makes other bytes: %s", d.Detail)
}

// keep makes the lists of files that were made, each of which must be the one that the release names, in a folder.
func (r *rebuilder) keep(ctx context.Context, in *folder.Folder) error {
	for b, l := range r.lists {
		if has, err := in.Has(ctx, l.list); has || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		src, err := in.Open(ctx, b, 0)
		if err != nil {
			return err
		}
		made, err := chunks.Make(src)
		if err = errors.Join(err, src.Close()); err != nil {
			return err
		}
		data, err := made.Encode()
		if err != nil {
			return err
		}
		if digest.Of(data) != l.list.Digest {
			return refusal.New(refusal.Chunks, string(b.Digest), "its chunk list is %s, and its bytes make %s",
				l.list.Digest, digest.Of(data))
		}
		if err := in.Put(ctx, l.list, func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset:])), nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// close lets go of the files that are here.
func (r *rebuilder) close() error {
	if r == nil {
		return nil
	}
	return r.seeds.close()
}
