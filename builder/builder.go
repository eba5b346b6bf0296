// Package builder is what drives a build: it turns a recipe into a guest by way of lock, plan and execute, and is the
// only component that calls kernel, initrd and rootfs.
//
// In comes a Config, out go a lock, a plan, or a folder with the guest's files and its manifest. It does not boot
// anything.
package builder

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/builder/tasks"
	"github.com/katabuild/katabuild/initrd"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/recipetar"
)

// The steps and what a user may want.
const (
	SourceStep = tasks.SourceStep
	KernelStep = tasks.KernelStep
	InitrdStep = tasks.InitrdStep
	ImageStep  = tasks.ImageStep
	RootfsStep = tasks.RootfsStep
)

// all lists the steps whose outputs make the guest.
func (g *Guest) all() []string {
	if g.Recipe.Extension {
		return []string{ImageStep}
	}
	if g.Recipe.Image != nil {
		return []string{KernelStep, ImageStep}
	}
	return []string{KernelStep, InitrdStep}
}

// Guest is a recipe with its lock and its steps, ready to plan or build.
type Guest struct {
	Recipe *recipe.Recipe

	c            inputs.Config
	arch         arch.Arch
	lock         *lock.Lock
	recipeDigest digest.Digest
	lockDigest   digest.Digest
	of           tasks.Guest
	made         *tasks.Made
}

// Name is what the guest is called among others: the recipe's name, with the architecture where that is not the
// recipe's own.
func (g *Guest) Name() string {
	if g.Recipe.Other() {
		return g.Recipe.Name + "-" + g.arch.Name
	}
	return g.Recipe.Name
}

// offline is a network that is not reached.
type offline struct{}

func (offline) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, &tasks.Offline{What: "what " + r.URL.Host + " has"}
}

// Open reads the recipe and its lock, checks every local input against the lock, finds the tools, and makes the steps.
func Open(ctx context.Context, c inputs.Config) (*Guest, error) {
	r, rd, err := c.ReadRecipe()
	if err != nil {
		return nil, err
	}
	a, err := arch.Parse(r.Arch)
	if err != nil {
		return nil, err
	}
	l, err := inputs.ReadLock(c.LockPath(r))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &inputs.NoLock{Path: c.LockPath(r), Recipe: filepath.Dir(c.Recipe), Arch: c.Arch}
	}
	if err != nil {
		return nil, err
	}
	if err := inputs.Fits(l, r, c.LockPath(r), c); err != nil {
		return nil, err
	}
	data, err := l.Encode()
	if err != nil {
		return nil, err
	}
	g := &Guest{Recipe: r, c: c, arch: a, lock: l, recipeDigest: rd, lockDigest: digest.Of(data)}
	g.of = tasks.Guest{
		Recipe: r, Lock: l, Arch: a, Dir: filepath.Dir(c.Recipe), Store: c.Store, Offline: c.Offline, Jobs: c.Jobs,
		ToolFolders: c.ToolFolders, CC: c.CC, Go: c.Go, GoEnv: c.Env,
		Fetcher: sync.OnceValues(func() (*fetch.Fetcher, error) {
			f, err := c.Fetcher(r, l)
			if err == nil && c.Offline {
				f.Registry.Transport = offline{}
			}
			return f, err
		}),
	}
	if err := g.checkLocal(ctx); err != nil {
		return nil, err
	}
	if !r.Extension {
		if g.of.Agent, err = g.findAgent(); err != nil {
			return nil, err
		}
	}
	if g.made, err = tasks.Make(ctx, g.of); err != nil {
		return nil, err
	}
	return g, nil
}

// checkLocal refuses files beside the recipe that are no longer what the lock pinned.
func (g *Guest) checkLocal(ctx context.Context) error {
	for _, w := range inputs.Wishes(g.Recipe) {
		in := g.lock.Find(w.Name)
		if in.Kind != lock.Local {
			continue
		}
		got, _, err := inputs.FileDigest(ctx, g.of.Local(*in))
		if err == nil && got != in.Digest {
			err = &digest.Mismatch{Name: in.Where, Want: in.Digest, Got: got}
		}
		if err != nil {
			return g.Recipe.Blame(w.Field, g.of.Changed(*in, inputs.Problem(ctx, w, err)))
		}
	}
	return nil
}

// NoAgent says that the agent that comes with katabuild is not there, or cannot be read.
type NoAgent struct {
	Rego bool // it is the one that reads policies in Rego
	Err  error
}

func (e *NoAgent) Error() string {
	return fmt.Sprintf("the agent that comes with katabuild: %v", e.Err)
}

// Unwrap is the error of its file.
func (e *NoAgent) Unwrap() error { return e.Err }

func (g *Guest) findAgent() (tasks.Agent, error) {
	var f tasks.Agent
	asked := g.Recipe.Initrd.Agent
	if g.Recipe.Rootfs != nil {
		asked = g.Recipe.Rootfs.Agent
	}
	if !recipe.OwnAgent(asked) {
		in := g.of.Input(lock.AgentInput)
		f.Path, f.Digest = g.of.Local(in), in.Digest
	} else {
		rego := asked == recipe.AgentRego
		if f.Path = g.c.Agent(g.arch); rego {
			f.Path = g.c.RegoAgent(g.arch)
		}
		d, _, err := digest.File(f.Path)
		if err != nil {
			return f, &NoAgent{Rego: rego, Err: err}
		}
		f.Digest = d
	}
	bi, err := buildinfo.ReadFile(f.Path)
	if err != nil {
		return f, fmt.Errorf("agent %s: not a Go program: %w", f.Path, err)
	}
	f.Go = bi.GoVersion
	for _, s := range bi.Settings {
		if s.Key == "GOARCH" && s.Value != g.arch.Go {
			return f, fmt.Errorf("agent %s: built for %s, the guest is %s (%s)", f.Path, s.Value, g.arch.Name,
				g.arch.Go)
		}
	}
	return f, nil
}

// Plan asks the store which of the wanted steps are done. wanted are step names; nil means all.
func (g *Guest) Plan(wanted []string) []plan.Status {
	if wanted == nil {
		wanted = g.all()
	}
	steps := make([]plan.Step, len(g.made.Tasks))
	for i, t := range g.made.Tasks {
		steps[i] = t.Step
	}
	return plan.Check(g.c.Store, g.Name(), steps, wanted)
}

// Overrides says, one line each, which options the recipe decides against its kernel's features.
func (g *Guest) Overrides() []string {
	var out []string
	for _, o := range g.made.Overrides {
		out = append(out, o.String())
	}
	return out
}

// Fetch brings the recipe's inputs from the network into the store, and the modules of u-root's commands into Go's own
// cache.
func (g *Guest) Fetch(ctx context.Context) error {
	if in := g.lock.Find(lock.SourceInput); in != nil && in.Kind != lock.Tree {
		if _, err := execute.Run(ctx, g.execution(), g.made.Tasks, []string{SourceStep}); err != nil {
			return err
		}
	}
	if err := g.of.Fetch(ctx, func(e progress.Event) {
		e.Step = "fetch"
		g.c.Report.Send(e)
	}); err != nil {
		return err
	}
	if !tasks.UsesURoot(g.Recipe) {
		return nil
	}
	g.c.Report.Send(progress.Event{Step: "u-root", Kind: progress.Start})
	dir, remove, err := g.c.Store.Temp("u-root")
	if err != nil {
		return err
	}
	err = initrd.FetchURoot(ctx, initrd.Go{Path: g.c.Go, Env: g.c.Env}, dir)
	if err = errors.Join(err, remove()); err != nil {
		return err
	}
	g.c.Report.Send(progress.Event{Step: "u-root", Kind: progress.Done})
	return nil
}

func (g *Guest) execution() execute.Config {
	c := execute.Config{Blobs: g.c.Store, Actions: g.c.Store, Workshop: g.c.Store, Guest: g.Name(),
		Report: g.c.Report, Now: g.c.Now}
	if g.c.Others != nil {
		c.Others = g.c.Others
	}
	return c
}

// LockBeside is the lock's name beside the manifest of a guest, which has its digest.
const LockBeside = "guest.lock.json"

// Built is what Build made.
type Built struct {
	Dir      string
	Files    []manifest.File
	Manifest digest.Digest // empty unless a whole guest was built
}

// Build does the wanted steps (nil means all), puts their files into the folder out and, for a whole guest, the
// manifest last. An extension has no manifest.
func (g *Guest) Build(ctx context.Context, wanted []string, out string) (*Built, error) {
	whole := wanted == nil
	if whole {
		wanted = g.all()
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(g.made.Tasks, func(t execute.Task) bool { return t.Step.Name == w }) {
			return nil, &noStep{Step: w, Recipe: g.c.Recipe, Extension: g.Recipe.Extension}
		}
	}
	how := g.execution()
	how.Unread = func(step string, o store.Output) bool {
		return slices.Contains(wanted, step) && g.c.Store.IsPlaced(filepath.Join(out, o.Name), o.Digest)
	}
	if err := g.checkOut(out); err != nil {
		return nil, err
	}
	done, err := execute.Run(ctx, how, g.made.Tasks, wanted)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	b := &Built{Dir: out}
	for _, step := range wanted {
		for _, o := range done[step].Outputs {
			if o.Name == tasks.FactsOutput || o.Name == tasks.ImageFacts {
				continue
			}
			if err := g.place(o, filepath.Join(out, o.Name)); err != nil {
				return nil, err
			}
			b.Files = append(b.Files, manifest.File{Path: o.Name, Digest: o.Digest, Size: o.Size})
		}
	}
	if !whole || g.Recipe.Extension {
		return b, nil
	}
	m, err := g.manifest(done)
	if err != nil {
		return nil, err
	}
	data, err := m.Encode()
	if err != nil {
		return nil, err
	}
	b.Manifest = digest.Of(data)
	pinned, err := g.lock.Encode()
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(filepath.Join(out, LockBeside), pinned, 0o644); err != nil {
		return nil, err
	}
	if err := g.packRecipe(ctx, filepath.Join(out, recipetar.FileName)); err != nil {
		return nil, err
	}
	return b, manifest.Write(out, data)
}

// noStep says that a guest, or an extension, has no such part.
type noStep struct {
	Step, Recipe string
	Extension    bool
}

func (e *noStep) Error() string {
	if e.Extension {
		return fmt.Sprintf("%s makes an extension, which has no %s; build its image instead", e.Recipe, e.Step)
	}
	if e.Step == InitrdStep {
		return fmt.Sprintf("the guest of %s boots from a disk and has no initrd; build its image instead", e.Recipe)
	}
	return fmt.Sprintf("the guest of %s boots from an initrd and has no %s; give the recipe a rootfs", e.Recipe, e.Step)
}

// place puts an output at path unless it is there.
func (g *Guest) place(o store.Output, path string) error {
	if g.c.Store.IsPlaced(path, o.Digest) {
		return nil
	}
	blob, err := g.c.Store.Get(o.Digest)
	if err != nil {
		return err
	}
	if err := copyFile(blob, path); err != nil {
		return err
	}
	// That it cannot be noted costs time at the next build, nothing else.
	_ = g.c.Store.Placed(path, o.Digest)
	return nil
}
