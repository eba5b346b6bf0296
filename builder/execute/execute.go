// Package execute runs the steps of a plan that are not done yet, independent ones side by side, and keeps what they
// make in the store.
//
// A step runs only when somebody needs its outputs and the store lacks them; two processes never run the same key at
// once.
package execute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
)

// Task is a step and how to do it.
type Task struct {
	plan.Step
	// Run makes the outputs. Files it names must stay until the next call; Dir is emptied afterwards.
	Run func(ctx context.Context, job Job) ([]artifact.Output, error)
	// Unshared keeps what the step makes from the Others: it is as quickly had where it came from.
	Unshared bool
}

// Job is what a running task gets.
type Job struct {
	Dir    string        // empty, on the store's file system, removed afterwards
	Log    io.Writer     // a file kept for people: everything foreign programs say
	Report progress.Func // events of this step; Step is filled in
	// Cost is the step's to fill in.
	Cost *store.Cost
	// Last is what making it took the last time, zero when unknown.
	Last store.Cost
	// Need is the path of a needed step's output, verified. The file must not be changed.
	Need func(step, output string) (string, error)
}

// Blobs keeps bytes by their digest, on this machine or behind a network. *store.Store is one. Several goroutines use
// it.
type Blobs interface {
	// Has says whether Get would probably find it. It reads nothing.
	Has(d digest.Digest) bool
	// Get is the path of a file with these bytes, verified, which nobody may change.
	Get(d digest.Digest) (path string, err error)
	// PutFile adds the file at path, which may be moved away, and verifies it against want where that is not empty.
	PutFile(path string, want digest.Digest) (d digest.Digest, size int64, err error)
	// Held says whether path came from Get, and what it holds: such a file need not be put again.
	Held(path string) (d digest.Digest, size int64, ok bool)
}

// Actions keeps what steps made by their keys, on this machine or behind a network. *store.Store is one. Several
// goroutines use it.
type Actions interface {
	plan.Actions
	// PutAction records what a step made. Its outputs have been put into the Blobs before.
	PutAction(a *store.Action) error
	// SetLast remembers the key that a guest's step had last.
	SetLast(guest, step string, key digest.Digest) error
	// Touch says that an action was of use. It cannot fail: only what is kept for how long depends on it.
	Touch(key digest.Digest, now time.Time)
}

// Workshop is where steps run: always on this machine. *store.Store is one.
type Workshop interface {
	// Use keeps what there is from being swept away until done is called.
	Use(ctx context.Context) (done func(), err error)
	// Lock waits until nobody else makes key here. waiting is called once if there is a wait.
	Lock(key digest.Digest, waiting func()) (unlock func(), err error)
	// Temp makes an empty folder, from which Blobs can take files without copying; remove deletes it.
	Temp(step string) (dir string, remove func() error, err error)
	// Log makes a file for what foreign programs say.
	Log(name string) (*os.File, error)
}

// Others are machines with which what steps made is shared. Several goroutines use it.
type Others interface {
	// Bring looks for what a step made elsewhere, and puts its outputs into the Blobs and its record into the Actions,
	// all of it verified. It returns where it was; nil is that nobody has it, or nothing that is to be believed, and
	// the step runs here: an error there is none, as this is only the quicker way.
	Bring(ctx context.Context, step plan.Step, report progress.Func) (a *store.Action, where string)
	// Offer gives the others what a step made. An error ends the run.
	Offer(ctx context.Context, a *store.Action, report progress.Func) error
}

// Config says where and for whom.
type Config struct {
	Blobs    Blobs
	Actions  Actions
	Workshop Workshop
	Others   Others // nil for nobody

	Guest  string // remembers the keys under this name
	Report progress.Func
	Now    func() time.Time
	// Unread says of a wanted step's output that nobody will read it, because it lies where it is wanted already: it
	// need not be verified then. Nil is never.
	Unread func(step string, o store.Output) bool
}

// Failure is a step that failed.
type Failure struct {
	Step string
	Log  string // where everything it said can be read; empty when nothing was said
	Err  error
}

func (f *Failure) Error() string { return f.Step + ": " + f.Err.Error() }

func (f *Failure) Unwrap() error { return f.Err }

// Run does the wanted steps and everything they need, and returns what each wanted step made. The first failure stops
// the others.
func Run(ctx context.Context, c Config, tasks []Task, wanted []string) (map[string]*store.Action, error) {
	unused, err := c.Workshop.Use(ctx)
	if err != nil {
		return nil, err
	}
	defer unused()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{Config: c, ctx: ctx, cancel: cancel, once: map[string]*once{}}
	for _, t := range tasks {
		r.once[t.Name] = &once{task: t}
	}
	var wg sync.WaitGroup
	for _, w := range wanted {
		wg.Go(func() { _, _ = r.get(w) })
	}
	wg.Wait()
	r.offers.Wait() // begun by the steps, all of which have ended
	// A step that merely stopped because another failed is not the cause.
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	out := map[string]*store.Action{}
	for _, w := range wanted {
		a, err := r.get(w)
		if err != nil {
			return nil, err
		}
		out[w] = a
	}
	return out, nil
}

type once struct {
	sync.Once
	task   Task
	action *store.Action
	err    error
}

type run struct {
	Config
	ctx    context.Context // the run is one call of Run
	cancel context.CancelCauseFunc
	once   map[string]*once
	offers sync.WaitGroup
}

func (r *run) get(name string) (*store.Action, error) {
	o := r.once[name]
	if o == nil {
		return nil, fmt.Errorf("no step is called %q", name)
	}
	o.Do(func() {
		o.action, o.err = r.do(o.task)
		if o.err != nil {
			r.cancel(o.err)
			return
		}
		r.offer(o.task, o.action)
	})
	return o.action, o.err
}

// shares says whether a step is shared with others.
func (r *run) shares(t Task) bool { return r.Others != nil && !t.Unshared }

// offer gives others what a step made, while the run goes on.
func (r *run) offer(t Task, a *store.Action) {
	if !r.shares(t) {
		return
	}
	r.offers.Go(func() {
		name := offerName(t.Name)
		err := r.Others.Offer(r.ctx, a, func(e progress.Event) {
			e.Step = name
			r.Report.Send(e)
		})
		if err != nil {
			r.cancel(&Failure{Step: name, Err: err})
		}
	})
}

// offerName is what giving away the outputs of a step is called in its progress.
func offerName(step string) string { return "share-" + step }

// bring takes from others what a step made, if one of them has it.
func (r *run) bring(t Task, report progress.Func) (*store.Action, bool) {
	if !r.shares(t) {
		return nil, false
	}
	a, where := r.Others.Bring(r.ctx, t.Step, report)
	if a == nil {
		return nil, false
	}
	// Only a plan's explanations depend on it.
	_ = r.Actions.SetLast(r.Guest, t.Name, t.Key)
	report.Send(progress.Event{Kind: progress.Hit, Message: "from " + where})
	return a, true
}

func (r *run) do(t Task) (*store.Action, error) {
	report := progress.Func(func(e progress.Event) {
		e.Step = t.Name
		r.Report.Send(e)
	})
	if a, ok := r.hit(t, report); ok {
		return a, nil
	}
	unlock, err := r.Workshop.Lock(t.Key, func() {
		report.Send(progress.Event{Kind: progress.Log,
			Message: "another katabuild is building the same; waiting for it"})
	})
	if err != nil {
		return nil, &Failure{Step: t.Name, Err: err}
	}
	defer unlock()
	if a, ok := r.hit(t, report); ok {
		return a, nil
	}
	if a, ok := r.bring(t, report); ok {
		return a, nil
	}
	// What this step needs is made before its own clock starts.
	var wg sync.WaitGroup
	errs := make([]error, len(t.Needs))
	for i, n := range t.Needs {
		wg.Go(func() { _, errs[i] = r.get(n) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	began := r.Now()
	start := progress.Event{Kind: progress.Start}
	if last := r.Actions.Last(r.Guest, t.Name); last != nil {
		start.Expected = time.Duration(last.ElapsedMS) * time.Millisecond
	}
	report.Send(start)
	a, err := r.make(t, report)
	if err != nil {
		report.Send(progress.Event{Kind: progress.Fail, Message: err.Error()})
		return nil, err
	}
	a.ElapsedMS = r.Now().Sub(began).Milliseconds()
	if err := errors.Join(r.Actions.PutAction(a), r.Actions.SetLast(r.Guest, t.Name, a.Key)); err != nil {
		report.Send(progress.Event{Kind: progress.Fail, Message: err.Error()})
		return nil, &Failure{Step: t.Name, Err: err}
	}
	report.Send(progress.Event{Kind: progress.Done})
	return a, nil
}

func (r *run) hit(t Task, report progress.Func) (*store.Action, bool) {
	a, err := r.Actions.Complete(t.Key)
	if err != nil {
		return nil, false
	}
	// The bytes are verified now, not when somebody trips over them: a rotten output makes the step run again.
	for _, o := range a.Outputs {
		if r.Unread != nil && r.Unread(t.Name, o) && r.Blobs.Has(o.Digest) {
			continue
		}
		if _, err := r.Blobs.Get(o.Digest); err != nil {
			report.Send(progress.Event{Kind: progress.Log, Message: err.Error() + "; building it again"})
			return nil, false
		}
	}
	r.Actions.Touch(t.Key, r.Now())
	if last := r.Actions.Last(r.Guest, t.Name); last == nil || last.Key != t.Key {
		// Only a plan's explanations depend on it.
		_ = r.Actions.SetLast(r.Guest, t.Name, t.Key)
	}
	report.Send(progress.Event{Kind: progress.Hit})
	return a, true
}

// make runs t in a folder of its own and moves what it made into the store.
func (r *run) make(t Task, report progress.Func) (_ *store.Action, err error) {
	dir, remove, err := r.Workshop.Temp(t.Name)
	if err != nil {
		return nil, &Failure{Step: t.Name, Err: err}
	}
	defer func() { err = errors.Join(err, remove()) }()
	log := &logFile{open: func() (*os.File, error) { return r.Workshop.Log(LogName(r.Guest, t.Name)) }}
	defer log.close()
	failure := func(err error) error { return &Failure{Step: t.Name, Log: log.used(), Err: err} }

	job := Job{Dir: dir, Log: log, Report: report, Need: r.need, Cost: &store.Cost{}}
	if last := r.Actions.Last(r.Guest, t.Name); last != nil {
		job.Last = last.Cost
	}
	outputs, err := t.Run(r.ctx, job)
	if err != nil {
		return nil, failure(err)
	}
	a := &store.Action{Key: t.Key, Step: t.Name, Inputs: t.Inputs, Outputs: []store.Output{}, Cost: *job.Cost}
	for _, o := range outputs {
		d, n, held := r.Blobs.Held(o.Path)
		if !held {
			if d, n, err = r.Blobs.PutFile(o.Path, ""); err != nil {
				return nil, failure(err)
			}
		}
		a.Outputs = append(a.Outputs, store.Output{Name: o.Name, Digest: d, Size: n})
	}
	return a, nil
}

func (r *run) need(step, output string) (string, error) {
	a, err := r.get(step)
	if err != nil {
		return "", err
	}
	o, err := a.Output(output)
	if err != nil {
		return "", err
	}
	return r.Blobs.Get(o.Digest)
}

// LogName is what the Workshop calls the log of a guest's step.
func LogName(guest, step string) string { return guest + "-" + step }

// logFile is made at its first line, so that steps which say nothing leave none.
type logFile struct {
	open func() (*os.File, error)
	mu   sync.Mutex
	f    *os.File
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		f, err := l.open()
		if err != nil {
			return 0, err
		}
		l.f = f
	}
	return l.f.Write(p)
}

func (l *logFile) used() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return ""
	}
	return l.f.Name()
}

func (l *logFile) close() {
	if l.f != nil {
		_ = l.f.Close() // a log is a convenience
	}
}
