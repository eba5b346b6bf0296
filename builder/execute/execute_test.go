package execute

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
)

func config(t *testing.T) Config {
	t.Helper()
	s := open(t)
	return Config{Blobs: s, Actions: s, Workshop: s, Guest: "guest", Now: time.Now}
}

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// du is how full the store of a configuration is.
func du(t *testing.T, c Config) store.Usage {
	t.Helper()
	u, err := c.Workshop.(*store.Store).DU()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// writes makes a task that writes text, with what it needs behind it.
func writes(name, text string, runs *atomic.Int32, needs ...string) Task {
	return Task{Step: plan.New(name, needs, []artifact.Input{{Name: "text", Value: text}}),
		Run: func(_ context.Context, j Job) ([]artifact.Output, error) {
			runs.Add(1)
			for _, n := range needs {
				p, err := j.Need(n, "out")
				if err != nil {
					return nil, err
				}
				data, err := os.ReadFile(p)
				if err != nil {
					return nil, err
				}
				text += string(data)
			}
			p := filepath.Join(j.Dir, "file")
			return []artifact.Output{{Name: "out", Path: p}}, os.WriteFile(p, []byte(text), 0o600)
		}}
}

func TestStepsRunOnceAndOnlyWhenNeeded(t *testing.T) {
	c := config(t)
	var source, kernel, initrd atomic.Int32
	tasks := func(k string) []Task {
		return []Task{writes("source", "s", &source), writes("kernel", k, &kernel, "source"),
			writes("initrd", "i", &initrd)}
	}
	counts := func() string { return fmt.Sprint(source.Load(), kernel.Load(), initrd.Load()) }
	do := func(k string) map[string]*store.Action {
		t.Helper()
		a, err := Run(context.Background(), c, tasks(k), []string{"kernel", "initrd"})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := do("k")
	p, err := c.Blobs.Get(a["kernel"].Outputs[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(p); string(data) != "ks" {
		t.Errorf("kernel made %q", data)
	}
	do("k")
	if counts() != "1 1 1" {
		t.Errorf("the second run ran something: %s", counts())
	}
	do("k2")
	if counts() != "1 2 1" {
		t.Errorf("a change ran more or less than its step: %s", counts())
	}
	// A rotten output makes its step run again, and only it.
	if err := os.Chmod(p, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("kS"), 0o600); err != nil {
		t.Fatal(err)
	}
	do("k")
	if counts() != "1 3 1" {
		t.Errorf("after rot: %s", counts())
	}
	if u := du(t, c); u.Temp != 0 {
		t.Errorf("temporary files stayed: %+v", u)
	}
}

func TestTheFirstFailureStopsTheOthersAndIsTheError(t *testing.T) {
	c := config(t)
	running, stopped := make(chan struct{}), make(chan struct{})
	slow := Task{Step: plan.New("slow", nil, nil), Run: func(ctx context.Context, _ Job) ([]artifact.Output, error) {
		close(running)
		<-ctx.Done()
		close(stopped)
		return nil, ctx.Err()
	}}
	bad := Task{Step: plan.New("bad", nil, nil), Run: func(_ context.Context, j Job) ([]artifact.Output, error) {
		<-running // else the other would not even begin
		fmt.Fprintln(j.Log, "cc: no")
		return nil, errors.New("compile failed")
	}}
	_, err := Run(context.Background(), c, []Task{slow, bad}, []string{"slow", "bad"})
	var f *Failure
	if !errors.As(err, &f) || f.Step != "bad" {
		t.Fatalf("got %v", err)
	}
	<-stopped
	if data, _ := os.ReadFile(f.Log); !strings.Contains(string(data), "cc: no") {
		t.Errorf("the log %q holds %q", f.Log, data)
	}
	if u := du(t, c); u.Temp != 0 || u.Actions != 0 {
		t.Errorf("a failure left something: %+v", u)
	}
}

// behind is a store with another one behind it, as a cache that many machines share would be.
type behind struct {
	*store.Store
	far *store.Store
}

// Complete implements Actions: what is only far away is brought here.
func (b behind) Complete(key digest.Digest) (*store.Action, error) {
	if a, err := b.Store.Complete(key); err == nil {
		return a, nil
	}
	a, err := b.far.Complete(key)
	if err != nil {
		return nil, err
	}
	for _, o := range a.Outputs {
		path, err := b.far.Get(o.Digest)
		if err != nil {
			return nil, err
		}
		if _, _, err := b.Store.PutFile(path, o.Digest); err != nil {
			return nil, err
		}
	}
	return a, b.Store.PutAction(a)
}

// PutAction implements Actions: what is made here is there for others.
func (b behind) PutAction(a *store.Action) error {
	for _, o := range a.Outputs {
		path, err := b.Store.Get(o.Digest)
		if err != nil {
			return err
		}
		if _, _, err := b.far.PutFile(path, o.Digest); err != nil {
			return err
		}
	}
	return errors.Join(b.Store.PutAction(a), b.far.PutAction(a))
}

func TestAnotherStoreMayStandBehind(t *testing.T) {
	far := open(t)
	var runs atomic.Int32
	for range 2 { // two machines
		here := behind{open(t), far}
		c := Config{Blobs: here, Actions: here, Workshop: here, Guest: "guest", Now: time.Now}
		task := writes("step", "x", &runs)
		done, err := Run(t.Context(), c, []Task{task}, []string{"step"})
		if err != nil {
			t.Fatal(err)
		}
		path, err := here.Get(done["step"].Outputs[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(path); string(data) != "x" || err != nil {
			t.Errorf("%q, %v", data, err)
		}
		if st := plan.Check(here, "guest", []plan.Step{task.Step}, []string{"step"}); st[0].State != "hit" {
			t.Errorf("the plan says %s", st[0].State)
		}
	}
	if runs.Load() != 1 {
		t.Errorf("ran %d times", runs.Load())
	}
}

func TestTwoRunsShareTheWork(t *testing.T) {
	c := config(t)
	var runs atomic.Int32
	task := writes("step", "x", &runs)
	inner := task.Run
	const others = 3
	waiting := make(chan struct{}, others+1)
	c.Report = func(e progress.Event) {
		if e.Kind == progress.Log && strings.Contains(e.Message, "waiting for it") {
			waiting <- struct{}{}
		}
	}
	task.Run = func(ctx context.Context, j Job) ([]artifact.Output, error) {
		for range others {
			select {
			case <-waiting:
			case <-time.After(10 * time.Second):
				t.Error("somebody does not wait for the one that runs")
			}
		}
		return inner(ctx, j)
	}
	errs := make(chan error)
	for range others + 1 {
		go func() {
			_, err := Run(context.Background(), c, []Task{task}, []string{"step"})
			errs <- err
		}()
	}
	for range others + 1 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if runs.Load() != 1 {
		t.Errorf("ran %d times", runs.Load())
	}
}

// others has what some steps made, and remembers what it was given.
type others struct {
	t       *testing.T
	store   *store.Store
	has     map[string]string // what steps made, by their names
	refuses error             // what Offer returns
	given   sync.Map          // by names of steps
}

func (o *others) Bring(_ context.Context, s plan.Step, _ progress.Func) (*store.Action, string) {
	text, ok := o.has[s.Name]
	if !ok {
		return nil, ""
	}
	d, n, err := o.store.Put(s.Name, strings.NewReader(text), "")
	if err != nil {
		o.t.Error(err)
		return nil, ""
	}
	a := &store.Action{Key: s.Key, Step: s.Name, Inputs: s.Inputs, Outputs: []store.Output{{Name: "out", Digest: d,
		Size: n}}}
	if err := o.store.PutAction(a); err != nil {
		o.t.Error(err)
	}
	return a, "elsewhere"
}

func (o *others) Offer(_ context.Context, a *store.Action, _ progress.Func) error {
	o.given.Store(a.Step, true)
	return o.refuses
}

func TestWhatOthersHaveIsNotMadeAndNeedsNothing(t *testing.T) {
	c := config(t)
	away := &others{t: t, store: c.Blobs.(*store.Store), has: map[string]string{"kernel": "from elsewhere",
		"source": "never asked for"}}
	c.Others = away
	var hits sync.Map
	c.Report = func(e progress.Event) {
		if e.Kind == progress.Hit {
			hits.Store(e.Step, e.Message)
		}
	}
	var source, kernel, initrd atomic.Int32
	tasks := []Task{writes("source", "s", &source), writes("kernel", "k", &kernel, "source"),
		writes("initrd", "i", &initrd)}
	tasks[0].Unshared = true
	a, err := Run(context.Background(), c, tasks, []string{"kernel", "initrd"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Blobs.Get(a["kernel"].Outputs[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(p); string(data) != "from elsewhere" {
		t.Errorf("the kernel is %q", data)
	}
	if source.Load() != 0 || kernel.Load() != 0 || initrd.Load() != 1 {
		t.Errorf("ran source %d, kernel %d, initrd %d", source.Load(), kernel.Load(), initrd.Load())
	}
	if said, _ := hits.Load("kernel"); said != "from elsewhere" {
		t.Errorf("said %v", said)
	}
	if last := c.Actions.Last("guest", "kernel"); last == nil || last.Key != tasks[1].Key {
		t.Errorf("remembered %v", last)
	}
	for step, want := range map[string]bool{"kernel": true, "initrd": true, "source": false} {
		if _, got := away.given.Load(step); got != want {
			t.Errorf("%s was given away: %v", step, got)
		}
	}
	// A step that is not shared is made even where others have it.
	if _, err := Run(context.Background(), c, tasks, []string{"source"}); err != nil || source.Load() != 1 {
		t.Errorf("%v, source ran %d times", err, source.Load())
	}
	// What cannot be given away ends the run, where the others say so.
	away.refuses = errors.New("full")
	var f *Failure
	if _, err := Run(context.Background(), c, tasks, []string{"initrd"}); !errors.As(err, &f) ||
		f.Step != "share-initrd" {
		t.Errorf("got %v", err)
	}
}
