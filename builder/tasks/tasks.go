// Package tasks makes the steps of a guest: what decides the bytes of each, and how to carry it out.
//
// A recipe comes in with the lock that fits it; tasks go out, for package plan to look up and package execute to run.
// It is the place where what a recipe asks for becomes a request to the component that makes it. It reads no recipe,
// resolves no name and writes no manifest.
package tasks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/initrd"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/flow"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/modsign"
	"github.com/katabuild/katabuild/kernel/modules"
	"github.com/katabuild/katabuild/kernel/source"
)

// The steps that a user may want.
const (
	SourceStep = "source"
	KernelStep = "kernel"
	InitrdStep = "initrd"
	ImageStep  = "image"
	RootfsStep = "rootfs" // the image's tree as a tar, for people
)

// Guest is what tasks are made of.
type Guest struct {
	Recipe *recipe.Recipe
	Lock   *lock.Lock // which fits the recipe
	Arch   arch.Arch
	Agent  Agent  // none for an extension
	Dir    string // the recipe's folder: inputs beside it are named from there
	Store  *store.Store
	// Fetcher brings what the store lacks. It is asked for when something has to be fetched.
	Fetcher     func() (*fetch.Fetcher, error)
	Offline     bool     // never reach a network: what the store lacks is an error
	Jobs        int      // processes a step may run at once; zero means one a CPU
	ToolFolders []string // where the tool-chain is looked for, first match first
	CC          string   // the program katabuild-cc, for a cache of compiled objects; empty keeps none
	Go          string   // the Go program, for u-root commands; empty where there is none
	GoEnv       []string // the environment to run it in
}

// Agent is the agent of a guest, a file on this machine.
type Agent struct {
	Path   string
	Digest digest.Digest
	Go     string // the version of Go that built it
}

// Made is what Make made.
type Made struct {
	Tasks     []execute.Task
	Tools     []manifest.Tool     // the tool-chain, for the manifest
	Overrides []kernel.Overridden // what the recipe decides against the kernel's features
	Kernel    kernel.Request      // without what a step gives it
}

// maker is a Guest whose tasks are being made.
type maker struct {
	Guest
	Made
}

// Make finds the tools and makes the tasks.
func Make(ctx context.Context, guest Guest) (*Made, error) {
	g := &maker{Guest: guest}
	if err := g.makeTasks(ctx); err != nil {
		return nil, err
	}
	return &g.Made, nil
}

// Local is where an input beside the recipe lies.
func (g *Guest) Local(in lock.Input) string {
	return filepath.Join(g.Dir, filepath.FromSlash(in.Where))
}

// ChangedInput says that an input beside the recipe is not what the lock pinned.
type ChangedInput struct {
	Name   string // of the input
	Recipe string // the recipe's folder
	Err    error
}

func (e *ChangedInput) Error() string {
	return fmt.Sprintf("%s is not what the lock pinned: %v", e.Name, e.Err)
}

// Unwrap is what differs.
func (e *ChangedInput) Unwrap() error { return e.Err }

// Offline says that a build, which may not use the network, needs what the store does not have.
type Offline struct {
	What   string
	Store  string // its folder; empty where that is not known
	Recipe string // the recipe's folder; empty where that is not known
}

func (e *Offline) Error() string {
	where := "the store"
	if e.Store != "" {
		where += " " + e.Store
	}
	return fmt.Sprintf("%s is not in %s, and nothing may be fetched", e.What, where)
}

// Changed wraps a mismatch of a local input: the user either wants the change or does not.
func (g *Guest) Changed(in lock.Input, err error) error {
	var m *digest.Mismatch
	if errors.As(err, &m) {
		return &ChangedInput{Name: in.Name, Recipe: g.Dir, Err: err}
	}
	return err
}

// Input is the locked input with this name, which the recipe asks for: a lock that fits has it.
func (g *Guest) Input(name string) lock.Input { return *g.Lock.Find(name) }

// FactsOutput is the kernel step's output that is for the manifest, not for the user.
const FactsOutput = "kernel.json"

// SourceOutput is the only output of the source step.
const SourceOutput = "source"

// Facts is what only the finished kernel can say.
type Facts struct {
	Release       string `json:"release"`
	Version       string `json:"version"`
	BuildID       string `json:"build_id"`
	SourceVersion string `json:"source_version"`
}

func (g *maker) makeTasks(ctx context.Context) error {
	if g.Recipe.Extension {
		tasks, err := g.diskTasks()
		g.Tasks = append(g.Tasks, tasks...)
		return err
	}
	src := g.Input(lock.SourceInput)
	var needs []string
	if src.Kind != lock.Tree {
		needs = []string{SourceStep}
		g.Tasks = append(g.Tasks, g.sourceTask(src))
	}
	k, err := g.kernelTask(ctx, src, needs)
	if err != nil {
		return err
	}
	g.Tasks = append(g.Tasks, k)
	if g.Recipe.Image != nil {
		tasks, err := g.diskTasks()
		g.Tasks = append(g.Tasks, tasks...)
		return err
	}
	i, err := g.initrdTask()
	if err != nil {
		return err
	}
	g.Tasks = append(g.Tasks, i)
	return nil
}

// sourceTask brings the kernel source into the store.
func (g *maker) sourceTask(src lock.Input) execute.Task {
	inputs := []artifact.Input{{Name: "digest", Value: string(src.Digest)}}
	signed := g.Recipe.Kernel.Source.Tarball != nil && g.Recipe.Kernel.Source.Tarball.Signature != ""
	if signed {
		inputs = append(inputs,
			artifact.Input{Name: "signature", Value: string(g.Input(lock.SignatureInput).Digest)},
			artifact.Input{Name: "keyring", Value: string(g.Input(lock.KeyringInput).Digest)})
	}
	step := plan.New(SourceStep, nil, inputs)
	// Its output is an input of the lock, which everybody fetches from where it comes from, and only to compile it.
	return execute.Task{Step: step, Unshared: true, Run: func(ctx context.Context,
		job execute.Job) ([]artifact.Output, error) {
		path, err := g.bring(ctx, src, job)
		if err != nil {
			return nil, err
		}
		if signed {
			sig, err1 := g.bring(ctx, g.Input(lock.SignatureInput), job)
			ring, err2 := g.bring(ctx, g.Input(lock.KeyringInput), job)
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			s, err := source.ReadSignature(sig, ring)
			if err != nil {
				return nil, err
			}
			s.Time = time.Unix(g.Lock.Time, 0)
			if err := source.VerifyTarball(path, *s); err != nil {
				return nil, err
			}
		}
		return []artifact.Output{{Name: SourceOutput, Path: path}}, nil
	}}
}

// bring returns a verified blob of a locked input, fetching it first where that is allowed.
func (g *maker) bring(ctx context.Context, in lock.Input, job execute.Job) (string, error) {
	path, err := g.Store.Get(in.Digest)
	if !errors.Is(err, store.ErrMissing) {
		return path, err
	}
	if g.Offline && in.Kind != lock.Local {
		return "", &Offline{What: fmt.Sprintf("%s (%s)", in.Name, in.Digest), Store: g.Store.Dir(), Recipe: g.Dir}
	}
	if in.Kind == lock.Local {
		// Read here, so that it ends with the context.
		file, err := regular.Open(g.Local(in))
		if err != nil {
			return "", err
		}
		_, _, err = g.Store.Put(in.Where, flow.Until(ctx, file), in.Digest)
		if err = errors.Join(err, file.Close()); err != nil {
			return "", g.Changed(in, fmt.Errorf("%s: %w", in.Name, err))
		}
		return g.Store.Get(in.Digest)
	}
	f, err := g.Fetcher()
	if err != nil {
		return "", err
	}
	if err := f.Bring(ctx, in, job.Report); err != nil {
		return "", fmt.Errorf("%s: %w", in.Name, err)
	}
	return g.Store.Get(in.Digest)
}

func (g *maker) kernelTask(ctx context.Context, src lock.Input, needs []string) (execute.Task, error) {
	tools, err := g.toolchain(ctx)
	if err != nil {
		return execute.Task{}, err
	}
	asked, err := g.features()
	if err != nil {
		return execute.Task{}, err
	}
	r := kernel.Request{
		Arch: g.Arch, SourceKind: SourceKind(src), SourceName: src.Where, SourceDigest: src.Digest,
		Features: asked, Modules: g.Recipe.Kernel.Modules,
		Time: time.Unix(g.Lock.Time, 0).UTC(), Jobs: cmp.Or(g.Jobs, runtime.NumCPU()), Toolchain: tools,
	}
	for _, p := range g.Recipe.Kernel.Fragments {
		data, err := g.kernelFile(lock.FragmentInput(p), maxFragment)
		if err != nil {
			return execute.Task{}, err
		}
		r.Fragments = append(r.Fragments, kernel.Fragment{Name: p, Data: data})
	}
	for _, p := range g.Recipe.Kernel.Patches {
		data, err := g.kernelFile(lock.PatchInput(p), maxPatch)
		if err != nil {
			return execute.Task{}, err
		}
		r.Patches = append(r.Patches, kernel.Patch{Name: p, Data: data})
	}
	r.Headers = g.Recipe.Kernel.Headers
	for _, p := range g.Recipe.Kernel.External {
		in := g.Input(lock.ExternalInput(p))
		r.External = append(r.External, modules.External{Name: recipe.ExternalName(p), Path: g.Local(in),
			Digest: in.Digest})
	}
	if g.Recipe.Kernel.ModuleKey != "" {
		if r.ModuleKey, err = modsign.Read(g.Local(g.Input(lock.ModuleKeyInput)), r.Time); err != nil {
			return execute.Task{}, g.Recipe.Blame("kernel.module_key", err)
		}
	}
	for i, o := range g.Recipe.Kernel.Override {
		file, line, source := g.Recipe.Line(fmt.Sprintf("kernel.override[%d].option", i))
		r.Overrides = append(r.Overrides, kernel.Override{Option: o.Option, Value: kconfig.Value(o.Value),
			Reason: o.Reason, File: file, Line: line, Source: source})
	}
	if g.Overrides, err = r.Overridden(); err != nil {
		return execute.Task{}, err
	}
	inputs, err := r.Inputs()
	if err != nil {
		return execute.Task{}, err
	}
	for _, t := range tools.Identity() {
		g.Tools = append(g.Tools, manifest.Tool{Name: t.Name, Version: t.Version, Digest: t.Digest})
	}
	g.Kernel = r
	step := plan.New(KernelStep, needs, inputs)
	return execute.Task{Step: step, Run: func(ctx context.Context, job execute.Job) ([]artifact.Output, error) {
		r := r
		r.WorkDir, r.OutDir = filepath.Join(job.Dir, "work"), filepath.Join(job.Dir, "out")
		r.Progress, r.Log, r.Objects = job.Report, job.Log, int(job.Last.Units)
		if r.ObjectCache, err = g.objectCache(src); err != nil {
			return nil, err
		}
		if err := errors.Join(os.Mkdir(r.WorkDir, 0o755), os.Mkdir(r.OutDir, 0o755)); err != nil {
			return nil, err
		}
		if src.Kind == lock.Tree {
			r.Source = g.Local(src)
		} else if r.Source, err = job.Need(SourceStep, SourceOutput); err != nil {
			return nil, err
		}
		done, err := g.OpenToolchain(ctx, &r.Toolchain, job)
		if err != nil {
			return nil, err
		}
		defer done()
		res, err := kernel.Build(ctx, r)
		if err != nil {
			return nil, g.Changed(src, err)
		}
		g.trimObjects(job.Report)
		*job.Cost = store.Cost{CPUMS: res.CPU.Milliseconds(), Units: int64(res.Objects),
			Cached: int64(res.Cached())}
		f := Facts{Release: res.Release, Version: res.Version, BuildID: res.BuildID, SourceVersion: res.SourceVersion}
		data, err := document.Encode(f)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(job.Dir, FactsOutput)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return nil, err
		}
		return append(res.Outputs, artifact.Output{Name: FactsOutput, Path: path}), nil
	}}, nil
}

// objectCache is where the kernel's compiled objects are kept.
func (g *maker) objectCache(src lock.Input) (kernel.ObjectCache, error) {
	if g.CC == "" {
		return kernel.ObjectCache{}, nil
	}
	c := kernel.ObjectCache{Dir: g.Store.Objects(), Program: g.CC}
	var err error
	if src.Kind == lock.Tree {
		c.Tree, err = filepath.Abs(g.Local(src))
	}
	return c, err
}

// trimObjects keeps the cache of objects within its bound.
func (g *maker) trimObjects(report progress.Func) {
	if g.CC == "" {
		return
	}
	if _, err := g.Store.TrimObjects(store.MaxObjects); err != nil {
		report.Send(progress.Event{Kind: progress.Log, Message: fmt.Sprintf("the cache of objects: %v", err)})
	}
}

// The most that is read of a fragment and of a patch, in bytes: a whole configuration has 0.3 MB, the difference of two
// releases 100 MB.
const (
	maxFragment = 4 << 20
	maxPatch    = 256 << 20
)

// kernelFile reads a locked file of the kernel.
func (g *maker) kernelFile(name string, limit int64) ([]byte, error) {
	data, err := regular.ReadFile(g.Local(g.Input(name)), limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// SourceKind is what package kernel calls the kind of a locked source.
func SourceKind(in lock.Input) string {
	switch in.Kind {
	case lock.Debian:
		return source.Debian
	case lock.Tree:
		return source.Tree
	}
	return source.Tarball
}

func (g *maker) initrdTask() (execute.Task, error) {
	r := initrd.Request{
		Arch: g.Arch, Agent: initrd.Agent{Path: g.Agent.Path, Digest: g.Agent.Digest}, URoot: g.Recipe.Initrd.URoot,
		Time: g.Lock.Time, Compression: initrd.Compression(g.Recipe.Initrd.Compression),
		Go: initrd.Go{Path: g.Go, Env: g.GoEnv},
	}
	for _, f := range g.Recipe.Initrd.Files {
		file := initrd.File{Path: f.Path, Mode: new(f.FileMode()), UID: f.UID, GID: f.GID}
		switch {
		case f.From != "":
			in := g.Input(lock.FileInput(f.From))
			file.Source, file.Digest = g.Local(in), in.Digest
		case f.Link != "":
			file.Kind, file.Target, file.Mode = initrd.Symlink, f.Link, nil
		case f.Folder:
			file.Kind = initrd.Dir
		default:
			file.Data = []byte(*f.Text)
		}
		r.Files = append(r.Files, file)
	}
	inputs, err := r.Inputs()
	if err != nil {
		return execute.Task{}, err
	}
	return execute.Task{Step: plan.New(InitrdStep, nil, inputs), Run: func(ctx context.Context,
		job execute.Job) ([]artifact.Output, error) {
		r := r
		r.OutDir, r.WorkDir, r.Progress = filepath.Join(job.Dir, "out"), filepath.Join(job.Dir, "work"), job.Report
		if err := errors.Join(os.Mkdir(r.WorkDir, 0o755), os.Mkdir(r.OutDir, 0o755)); err != nil {
			return nil, err
		}
		if len(r.URoot) > 0 {
			if err := g.fetchURoot(ctx, r.WorkDir, job.Report); err != nil {
				return nil, err
			}
		}
		res, err := r.Build(ctx)
		if err != nil {
			return nil, err
		}
		return []artifact.Output{{Name: initrd.Name, Path: res.Path}}, nil
	}}, nil
}
