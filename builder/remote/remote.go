// Package remote shares the outputs of whole steps between machines, by way of caches that nobody vouches for.
//
// A Cache keeps records and blobs, somewhere else; package reapi has those of the Remote Execution API, ocicache those
// in registries. A Team asks several of them for what a step made, and gives others what was made here. Nothing that a
// cache says is believed: a record counts by its writer's signature, as in a store, and a blob by its digest. A cache
// that lies, hangs or is away costs a warning and a little time.
package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
)

// Blob names some bytes.
type Blob struct {
	Digest digest.Digest
	Size   int64
}

var errNegative = errors.New("a digest with a negative size")

// File is a blob to be given away.
type File struct {
	Blob
	Name string // of the output; for people
	// Open begins to read it at an offset. It may be called again.
	Open func(offset int64) (io.ReadCloser, error)
}

// Bytes makes a file of bytes.
func Bytes(name string, b []byte) File {
	return File{Blob: BlobOf(b), Name: name, Open: func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}}
}

// ErrNone says that a cache does not have what was asked for.
var ErrNone = errors.New("the cache does not have it")

// Lie says that a cache sent something else than what was asked for. It is asked on for other things.
type Lie struct{ Err error }

func (e *Lie) Error() string { return e.Err.Error() }

// Unwrap is what is wrong.
func (e *Lie) Unwrap() error { return e.Err }

// Cache is a place elsewhere for records and blobs. Several goroutines use it. No method waits for ever when its
// context ends; callers bound each call and each read.
type Cache interface {
	// Name is what people call it.
	Name() string
	// Record reads the record at an address, of at most store.MaxRecord bytes, or returns ErrNone. It need not check
	// it.
	Record(ctx context.Context, a Address) ([]byte, error)
	// Open begins to read a blob at an offset, or returns ErrNone. It need not check the bytes. The caller closes it.
	Open(ctx context.Context, b Blob, offset int64) (io.ReadCloser, error)
	// Missing says which of some blobs the cache lacks.
	Missing(ctx context.Context, blobs []Blob) ([]Blob, error)
	// Put gives it files. moved is told now and then how many more bytes have moved, by any goroutine.
	Put(ctx context.Context, files []File, moved func(int64)) error
	// Publish has the record found at its address from now on. Its outputs have been Put before.
	Publish(ctx context.Context, a Address, r *store.Signed) error
	Close() error
}

// Limits bound how long a cache may keep a build waiting. Zero fields mean the defaults.
type Limits struct {
	// Answer is how long a question may take that moves no file; 20 s.
	Answer time.Duration
	// Stall is how long MinBytes of a file may take; 15 s.
	Stall time.Duration
	// MinBytes is how many bytes must move in Stall; 256 KiB: over a slower way, building is quicker.
	MinBytes int64
}

func (l Limits) orDefault() Limits {
	if l.Answer == 0 {
		l.Answer = 20 * time.Second
	}
	if l.Stall == 0 {
		l.Stall = 15 * time.Second
	}
	if l.MinBytes == 0 {
		l.MinBytes = 256 << 10
	}
	return l
}

// Team is some caches and the store of this machine. A nil one has none.
type Team struct {
	Store *store.Store
	From  []Cache // asked in this order
	To    []Cache // given what was made
	// Required makes it an error when something cannot be given away; otherwise it is a warning.
	Required bool
	Limits   Limits

	down sync.Map // by Cache: why it is not asked any more
}

// maxBlob bounds what is fetched, in bytes, whatever a record says.
const maxBlob = 64 << 30

// parallel is how many files of a step move at once.
const parallel = 4

// Close closes the caches.
func (t *Team) Close() error {
	if t == nil {
		return nil
	}
	var errs []error
	for _, c := range append(append([]Cache{}, t.From...), t.To...) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Bring takes a step's record and outputs from the first cache that has them, into the store. It returns that cache's
// name; nil is that none has it.
func (t *Team) Bring(ctx context.Context, step plan.Step, report progress.Func) (*store.Action, string) {
	for _, c := range t.From {
		if t.isDown(c) {
			continue
		}
		a, err := t.bring(ctx, c, step, report)
		if ctx.Err() != nil {
			return nil, ""
		}
		if err != nil {
			if !errors.Is(err, ErrNone) {
				t.warn(c, err, report)
			}
			continue
		}
		return a, c.Name()
	}
	return nil, ""
}

func (t *Team) isDown(c Cache) bool {
	_, down := t.down.Load(c)
	return down
}

// warn tells what is wrong with a cache. One that did not even lie is not used any more.
func (t *Team) warn(c Cache, err error, report progress.Func) {
	if _, lie := errors.AsType[*Lie](err); lie {
		report.Send(progress.Event{Kind: progress.Log, Message: fmt.Sprintf("cache %s: %v; not used", c.Name(), err)})
		return
	}
	// Steps that run side by side find it out together; it is said once.
	if _, said := t.down.LoadOrStore(c, err); !said {
		report.Send(progress.Event{Kind: progress.Log,
			Message: fmt.Sprintf("cache %s: %v; going on without it", c.Name(), err)})
	}
}

func (t *Team) bring(ctx context.Context, c Cache, step plan.Step, report progress.Func) (*store.Action, error) {
	a, data, err := t.record(ctx, c, step.Key)
	if err != nil {
		return nil, err
	}
	if a.Step != step.Name {
		return nil, &Lie{fmt.Errorf("the record of %s is of the step %q", step.Name, a.Step)}
	}
	var total int64
	var lacking []store.Output
	for _, o := range a.Outputs {
		if o.Size > maxBlob {
			return nil, &Lie{fmt.Errorf("output %s of %d bytes: want at most %d", o.Name, o.Size, int64(maxBlob))}
		}
		if o.Size == 0 { // no cache need keep it
			if _, _, err := t.Store.Put(o.Name, bytes.NewReader(nil), o.Digest); err != nil {
				return nil, &Lie{err}
			}
			continue
		}
		if _, err := t.Store.Get(o.Digest); err != nil {
			lacking = append(lacking, o)
			total += o.Size
		}
	}
	tell := counter(report, "fetch from "+c.Name(), total)
	tell(0)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, o := range lacking {
		g.Go(func() error {
			if err := t.fetch(ctx, c, Blob{o.Digest, o.Size}, tell); err != nil {
				return fmt.Errorf("%s of %s: %w", o.Name, step.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return t.Store.Accept(step.Key, data)
}

// counter reports how many bytes have moved.
func counter(report progress.Func, deed string, total int64) func(n int64) {
	var moved atomic.Int64
	return func(n int64) {
		report.Send(progress.Event{Kind: progress.Update, Message: deed, Current: moved.Add(n), Total: total,
			Unit: "bytes"})
	}
}

// record finds the record of a step that one of those whom the user trusts has written; the user's own comes first.
func (t *Team) record(ctx context.Context, c Cache, key digest.Digest) (*store.Action, []byte, error) {
	ctx, cancel := t.answer(ctx, c)
	defer cancel()
	writers := t.Store.Writers()
	if len(writers) == 0 {
		return nil, nil, store.ErrSignsNothing
	}
	type found struct {
		a    *store.Action
		data []byte
		err  error
	}
	all := make([]found, len(writers))
	var wg sync.WaitGroup
	for i, w := range writers {
		wg.Go(func() {
			f := &all[i]
			var at Address
			if at, f.err = AddressOf(key, w); f.err != nil {
				return
			}
			if f.data, f.err = c.Record(ctx, at); f.err != nil {
				return
			}
			if f.a, f.err = t.Store.Believe(key, f.data); f.err != nil {
				f.err = &Lie{f.err}
			}
		})
	}
	wg.Wait()
	err := error(ErrNone)
	for _, f := range all {
		switch {
		case f.err == nil:
			return f.a, f.data, nil
		case errors.Is(err, ErrNone) && !errors.Is(f.err, ErrNone):
			err = because(ctx, f.err)
		}
	}
	return nil, nil, err
}

// answer bounds a question that moves no file.
func (t *Team) answer(ctx context.Context, c Cache) (context.Context, context.CancelFunc) {
	wait := t.Limits.orDefault().Answer
	return context.WithTimeoutCause(ctx, wait, fmt.Errorf("%s gave no answer within %v", c.Name(), wait))
}

// because is why a context ended where that was our own doing, and err otherwise.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		if _, lie := errors.AsType[*Lie](err); !lie {
			return cause
		}
	}
	return err
}

// fetch brings a blob into the store.
func (t *Team) fetch(ctx context.Context, c Cache, b Blob, moved func(int64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &resumed{ctx: ctx, cache: c, blob: b, alarm: t.alarm(c, cancel), moved: moved}
	defer r.close()
	_, _, err := t.Store.Put(c.Name(), r, b.Digest)
	if wrong, ok := errors.AsType[*digest.Mismatch](err); ok {
		return &Lie{wrong}
	}
	if err != nil {
		return because(ctx, err)
	}
	return nil
}

// alarm watches whether enough bytes move, and ends a context if not. It is for one file at a time.
func (t *Team) alarm(c Cache, cancel context.CancelCauseFunc) *alarm {
	l := t.Limits.orDefault()
	return &alarm{limits: l, ring: func() {
		cancel(fmt.Errorf("%s is too slow: less than %d bytes in %v", c.Name(), l.MinBytes, l.Stall))
	}}
}

type alarm struct {
	limits Limits
	ring   func()

	mu    sync.Mutex
	timer *time.Timer   // while it is waited for bytes; guarded by mu
	since time.Time     // when timer was started
	spent time.Duration // waited since bytes was zero
	bytes int64
}

// wait says that bytes are waited for from now on.
func (a *alarm) wait() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.start()
}

// start is wait for those who hold mu.
func (a *alarm) start() {
	a.since = time.Now()
	a.timer = time.AfterFunc(a.limits.Stall-a.spent, a.ring)
}

// got says that n bytes have come, and that no more are waited for until the next call of wait.
func (a *alarm) got(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count(n)
}

// more says that n bytes have come, and that more are waited for.
func (a *alarm) more(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count(n)
	a.start()
}

// count is got for those who hold mu.
func (a *alarm) count(n int64) {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
		a.spent += time.Since(a.since)
	}
	if a.bytes += n; a.bytes >= a.limits.MinBytes {
		a.bytes, a.spent = 0, 0
	}
}

// attempts is how often a blob is begun again that breaks off, and allAttempts even where each brought more of it.
const (
	attempts    = 3
	allAttempts = 20
)

// resumed reads a blob, not one byte more than its size, and goes on where it was when the cache breaks off.
type resumed struct {
	ctx   context.Context // of the fetch that it is a part of
	cache Cache
	blob  Blob
	alarm *alarm
	moved func(int64)

	body       io.ReadCloser
	at         int64 // read so far
	tries, all int
	lastAt     int64 // of the last attempt
}

func (r *resumed) Read(p []byte) (int, error) {
	for {
		if r.at == r.blob.Size {
			return 0, io.EOF
		}
		n, err := r.read(p[:min(int64(len(p)), r.blob.Size-r.at)])
		if n > 0 {
			r.at += int64(n)
			r.moved(int64(n))
			return n, nil // an error comes again
		}
		if err == nil {
			continue
		}
		r.close()
		if err := r.again(err); err != nil {
			return 0, err
		}
	}
}

// again is nil where another attempt may help.
func (r *resumed) again(err error) error {
	if r.at > r.lastAt {
		r.lastAt, r.tries = r.at, 0
	}
	r.tries, r.all = r.tries+1, r.all+1
	switch {
	case r.ctx.Err() != nil, errors.Is(err, ErrNone):
		return err
	case r.tries < attempts && r.all < allAttempts:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Lie{fmt.Errorf("it ends after %d of %d bytes", r.at, r.blob.Size)}
	}
	return err
}

func (r *resumed) read(p []byte) (n int, err error) {
	r.alarm.wait()
	defer func() { r.alarm.got(int64(n)) }()
	if r.body == nil {
		if r.body, err = r.cache.Open(r.ctx, r.blob, r.at); err != nil {
			r.body = nil
			return 0, err
		}
	}
	return r.body.Read(p)
}

func (r *resumed) close() {
	if r.body != nil {
		_ = r.body.Close() // what counts was read
		r.body = nil
	}
}

// Offer gives the caches what a step made. It is an error only where that is Required.
func (t *Team) Offer(ctx context.Context, a *store.Action, report progress.Func) error {
	if len(t.To) == 0 {
		return nil
	}
	signed, err := t.Store.Signed(a.Key)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range t.To {
		if t.isDown(c) && !t.Required {
			continue
		}
		err := t.offer(ctx, c, signed, report)
		switch {
		case err == nil:
		case t.Required:
			errs = append(errs, fmt.Errorf("cache %s: %w", c.Name(), err))
		case ctx.Err() == nil:
			t.warn(c, err, report)
		}
	}
	return errors.Join(errs...)
}

func (t *Team) offer(ctx context.Context, c Cache, r *store.Signed, report progress.Func) error {
	if r.Action.Writer == "" {
		return store.ErrSignsNothing
	}
	at, err := AddressOf(r.Action.Key, r.Action.Writer)
	if err != nil {
		return err
	}
	if err := t.give(ctx, c, r.Action, report); err != nil {
		return err
	}
	ctx, cancel := t.answer(ctx, c)
	defer cancel()
	// Made again, a step has the same outputs and another time that it took. Who comes first is as good.
	if data, err := c.Record(ctx, at); err == nil {
		if b, err := t.Store.Believe(r.Action.Key, data); err == nil && sameOutputs(b, r.Action) {
			return nil
		}
	}
	return because(ctx, c.Publish(ctx, at, r))
}

func sameOutputs(a, b *store.Action) bool {
	if len(a.Outputs) != len(b.Outputs) {
		return false
	}
	for i, o := range a.Outputs {
		if o != b.Outputs[i] {
			return false
		}
	}
	return true
}

// give puts those outputs of a step into a cache that it lacks.
func (t *Team) give(ctx context.Context, c Cache, a *store.Action, report progress.Func) error {
	files := map[Blob]File{}
	var all []Blob
	for _, o := range a.Outputs {
		b := Blob{o.Digest, o.Size}
		if _, twice := files[b]; twice || b.Size == 0 {
			continue
		}
		all = append(all, b)
		files[b] = File{Blob: b, Name: o.Name, Open: func(offset int64) (io.ReadCloser, error) {
			return t.open(b, offset)
		}}
	}
	asked, cancel := t.answer(ctx, c)
	missing, err := c.Missing(asked, all)
	err = because(asked, err)
	cancel()
	if err != nil {
		return err
	}
	var give []File
	var total int64
	for _, b := range missing {
		if f, ok := files[b]; ok {
			give = append(give, f)
			total += b.Size
			delete(files, b)
		}
	}
	if len(give) == 0 {
		return nil
	}
	report.Send(progress.Event{Kind: progress.Start})
	tell := counter(report, "send to "+c.Name(), total)
	tell(0)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	watch := t.alarm(c, stop)
	watch.wait()
	defer watch.got(0)
	err = c.Put(ctx, give, func(n int64) {
		watch.more(n)
		tell(n)
	})
	if err != nil {
		err = because(ctx, err)
		report.Send(progress.Event{Kind: progress.Fail, Message: err.Error()})
		return err
	}
	report.Send(progress.Event{Kind: progress.Done})
	return nil
}

// open reads a blob of the store from an offset on.
func (t *Team) open(b Blob, offset int64) (io.ReadCloser, error) {
	path, err := t.Store.Get(b.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
