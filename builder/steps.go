package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/initrd"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/bootwords"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/paper"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/source"
	"github.com/katabuild/katabuild/kernel/toolchain"
	"github.com/katabuild/katabuild/rootfs/erofs"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// factsOutput is the kernel step's output that is for the manifest, not for the user.
const factsOutput = "kernel.json"

// sourceOutput is the only output of the source step.
const sourceOutput = "source"

// facts is what only the finished kernel can say.
type facts struct {
	Release       string `json:"release"`
	Version       string `json:"version"`
	BuildID       string `json:"build_id"`
	SourceVersion string `json:"source_version"`
}

// vocabulary is what the crafts can do, for the recipe's reader.
func vocabulary() (recipe.Vocabulary, error) {
	var v recipe.Vocabulary
	for _, a := range arch.Buildable() {
		all, err := features.All(a)
		if err != nil {
			return v, err
		}
		for _, f := range all {
			v.Features = append(v.Features, f.Name)
		}
	}
	v.URoot, v.ImageCompressions = initrd.Commands(), erofs.Compressions()
	return v, nil
}

func (g *Guest) makeTasks(ctx context.Context) error {
	if g.Recipe.Extension {
		tasks, err := g.diskTasks()
		g.tasks = append(g.tasks, tasks...)
		return err
	}
	src := g.input(sourceInput)
	var needs []string
	if src.Kind != lock.Tree {
		needs = []string{SourceStep}
		g.tasks = append(g.tasks, g.sourceTask(src))
	}
	k, err := g.kernelTask(ctx, src, needs)
	if err != nil {
		return err
	}
	g.tasks = append(g.tasks, k)
	if g.Recipe.Image != nil {
		tasks, err := g.diskTasks()
		g.tasks = append(g.tasks, tasks...)
		return err
	}
	i, err := g.initrdTask()
	if err != nil {
		return err
	}
	g.tasks = append(g.tasks, i)
	return nil
}

// sourceTask brings the kernel source into the store.
func (g *Guest) sourceTask(src lock.Input) execute.Task {
	inputs := []artifact.Input{{Name: "digest", Value: string(src.Digest)}}
	signed := g.Recipe.Kernel.Source.Tarball != nil && g.Recipe.Kernel.Source.Tarball.Signature != ""
	if signed {
		inputs = append(inputs,
			artifact.Input{Name: "signature", Value: string(g.input(signatureInput).Digest)},
			artifact.Input{Name: "keyring", Value: string(g.input(keyringInput).Digest)})
	}
	step := plan.New(SourceStep, nil, inputs)
	return execute.Task{Step: step, Run: func(ctx context.Context, job execute.Job) ([]artifact.Output, error) {
		path, err := g.bring(ctx, src, job)
		if err != nil {
			return nil, err
		}
		if signed {
			sig, err1 := g.bring(ctx, g.input(signatureInput), job)
			ring, err2 := g.bring(ctx, g.input(keyringInput), job)
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			s, err := readSignature(sig, ring)
			if err != nil {
				return nil, err
			}
			s.Time = time.Unix(g.lock.Time, 0)
			if err := source.VerifyTarball(path, *s); err != nil {
				return nil, err
			}
		}
		return []artifact.Output{{Name: sourceOutput, Path: path}}, nil
	}}
}

// bring returns a verified blob of a locked input, fetching it first where that is allowed.
func (g *Guest) bring(ctx context.Context, in lock.Input, job execute.Job) (string, error) {
	path, err := g.c.Store.Get(in.Digest)
	if !errors.Is(err, store.ErrMissing) {
		return path, err
	}
	if g.c.Offline && in.Kind != lock.Local {
		return "", fmt.Errorf(
			"%s (%s) is not in the store %s, and --offline forbids fetching it; run once without --offline, or: "+
				"katabuild fetch %s",
			in.Name, in.Digest, g.c.Store.Dir(), filepath.Dir(g.c.Recipe))
	}
	if in.Kind == lock.Local {
		// Read here, so that it ends with the context.
		file, err := regular.Open(g.local(in))
		if err != nil {
			return "", err
		}
		_, _, err = g.c.Store.Put(in.Where, tree.WithContext(ctx, file), in.Digest)
		if err = errors.Join(err, file.Close()); err != nil {
			return "", g.changed(in, fmt.Errorf("%s: %w", in.Name, err))
		}
		return g.c.Store.Get(in.Digest)
	}
	f, err := g.fetcher()
	if err != nil {
		return "", err
	}
	if err := f.Bring(ctx, in, job.Report); err != nil {
		return "", fmt.Errorf("%s: %w", in.Name, err)
	}
	return g.c.Store.Get(in.Digest)
}

func (g *Guest) kernelTask(ctx context.Context, src lock.Input, needs []string) (execute.Task, error) {
	host, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return execute.Task{}, err
	}
	tools, err := toolchain.Find(ctx, toolchain.Options{Arch: g.arch, Host: host, Dirs: g.c.ToolFolders,
		Cache: g.c.Store.Private("tools")})
	if err != nil {
		return execute.Task{}, err
	}
	asked, err := g.features()
	if err != nil {
		return execute.Task{}, err
	}
	r := kernel.Request{
		Arch: g.arch, SourceKind: sourceKind(src), SourceName: src.Where, SourceDigest: src.Digest,
		Features: asked, Modules: g.Recipe.Kernel.Modules,
		Time: time.Unix(g.lock.Time, 0).UTC(), Jobs: cmp.Or(g.c.Jobs, runtime.NumCPU()), Toolchain: tools,
	}
	for _, p := range g.Recipe.Kernel.Fragments {
		data, err := g.kernelFile(fragmentInput(p), maxFragment)
		if err != nil {
			return execute.Task{}, err
		}
		r.Fragments = append(r.Fragments, kernel.Fragment{Name: p, Data: data})
	}
	for _, p := range g.Recipe.Kernel.Patches {
		data, err := g.kernelFile(patchInput(p), maxPatch)
		if err != nil {
			return execute.Task{}, err
		}
		r.Patches = append(r.Patches, kernel.Patch{Name: p, Data: data})
	}
	defer func() { g.kernel = r }()
	for i, o := range g.Recipe.Kernel.Override {
		file, line := g.Recipe.Line(fmt.Sprintf("kernel.override[%d].option", i))
		r.Overrides = append(r.Overrides, kernel.Override{Option: o.Option, Value: kconfig.Value(o.Value),
			Reason: o.Reason, File: file, Line: line})
	}
	if g.overrides, err = r.Overridden(); err != nil {
		return execute.Task{}, err
	}
	inputs, err := r.Inputs()
	if err != nil {
		return execute.Task{}, err
	}
	for _, t := range tools.Identity() {
		g.tools = append(g.tools, manifest.Tool{Name: t.Name, Version: t.Version, Digest: t.Digest})
	}
	step := plan.New(KernelStep, needs, inputs)
	return execute.Task{Step: step, Run: func(ctx context.Context, job execute.Job) ([]artifact.Output, error) {
		r := r
		r.WorkDir, r.OutDir = filepath.Join(job.Dir, "work"), filepath.Join(job.Dir, "out")
		r.Progress, r.Log, r.Objects = job.Report, job.Log, int(job.Last.Units)
		if err := errors.Join(os.Mkdir(r.WorkDir, 0o755), os.Mkdir(r.OutDir, 0o755)); err != nil {
			return nil, err
		}
		if src.Kind == lock.Tree {
			r.Source = g.local(src)
		} else if r.Source, err = job.Need(SourceStep, sourceOutput); err != nil {
			return nil, err
		}
		res, err := kernel.Build(ctx, r)
		if err != nil {
			return nil, g.changed(src, err)
		}
		*job.Cost = store.Cost{CPUMS: res.CPU.Milliseconds(), Units: int64(res.Objects)}
		f := facts{Release: res.Release, Version: res.Version, BuildID: res.BuildID, SourceVersion: res.SourceVersion}
		data, err := paper.Encode(f)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(job.Dir, factsOutput)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return nil, err
		}
		return append(res.Outputs, artifact.Output{Name: factsOutput, Path: path}), nil
	}}, nil
}

// Configured is a kernel's configuration without the kernel.
type Configured struct {
	Path    string
	Release string   // what uname -r would be; empty where the configuration is not what was asked for
	GaveWay []string // what the features prefer and did not get, a line each
}

// Configure makes the kernel's configuration and nothing else, and puts it into the folder out. Wishes that did not
// come true are an error beside it.
func (g *Guest) Configure(ctx context.Context, out string) (_ *Configured, err error) {
	if g.Recipe.Extension {
		return nil, &noStep{Step: KernelStep, Recipe: g.c.Recipe, Extension: true}
	}
	if err := g.checkOut(out); err != nil {
		return nil, err
	}
	r := g.kernel
	r.OnlyConfig, r.Progress = true, g.c.Report
	if src := g.input(sourceInput); src.Kind == lock.Tree {
		r.Source = g.local(src)
	} else {
		done, err := execute.Run(ctx, g.execution(), g.tasks, []string{SourceStep})
		if err != nil {
			return nil, err
		}
		blob, err := done[SourceStep].Output(sourceOutput)
		if err != nil {
			return nil, err
		}
		if r.Source, err = g.c.Store.Get(blob.Digest); err != nil {
			return nil, err
		}
	}
	work, remove, err := g.c.Store.Temp("config")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	r.WorkDir, r.OutDir = filepath.Join(work, "work"), filepath.Join(work, "out")
	if err := os.Mkdir(r.OutDir, 0o755); err != nil {
		return nil, err
	}
	res, unmet := kernel.Build(ctx, r)
	if res == nil {
		return nil, g.changed(g.input(sourceInput), unmet)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	c := &Configured{Path: filepath.Join(out, kernel.OutputConfig), Release: res.Release}
	for _, u := range res.GaveWay {
		c.GaveWay = append(c.GaveWay, u.Error())
	}
	return c, errors.Join(unmet, copyFile(res.Outputs[0].Path, c.Path))
}

// The most that is read of a fragment and of a patch, in bytes: a whole configuration has 0.3 MB, the difference of two
// releases 100 MB.
const (
	maxFragment = 4 << 20
	maxPatch    = 256 << 20
)

// kernelFile reads a locked file of the kernel.
func (g *Guest) kernelFile(name string, limit int64) ([]byte, error) {
	data, err := regular.ReadFile(g.local(g.input(name)), limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

func sourceKind(in lock.Input) string {
	switch in.Kind {
	case lock.Debian:
		return source.Debian
	case lock.Tree:
		return source.Tree
	}
	return source.Tarball
}

func (g *Guest) initrdTask() (execute.Task, error) {
	r := initrd.Request{
		Arch: g.arch, Agent: initrd.Agent{Path: g.agent.path, Digest: g.agent.digest}, URoot: g.Recipe.Initrd.URoot,
		Time: g.lock.Time, Compression: initrd.Compression(g.Recipe.Initrd.Compression),
		Go: initrd.Go{Path: g.c.Go, Env: g.c.GoEnv},
	}
	for _, f := range g.Recipe.Initrd.Files {
		file := initrd.File{Path: f.Path, Mode: new(f.FileMode()), UID: f.UID, GID: f.GID}
		switch {
		case f.From != "":
			in := g.input(fileInput(f.From))
			file.Source, file.Digest = g.local(in), in.Digest
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

// manifest says what the steps made.
func (g *Guest) manifest(done map[string]*store.Action) (*manifest.Manifest, error) {
	k := done[KernelStep]
	var f facts
	blob, err := k.Output(factsOutput)
	if err != nil {
		return nil, err
	}
	path, err := g.c.Store.Get(blob.Digest)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := paper.Decode("kernel facts", data, &f); err != nil {
		return nil, err
	}
	var missing error
	file := func(a *store.Action, name string) manifest.File {
		o, err := a.Output(name)
		missing = errors.Join(missing, err)
		return manifest.File{Path: o.Name, Digest: o.Digest, Size: o.Size}
	}
	src := g.input(sourceInput)
	m := &manifest.Manifest{
		Version: manifest.Version, Name: g.Recipe.Name, Arch: g.arch.Name, Time: g.lock.Time, Recipe: g.recipeDigest,
		Lock: g.lockDigest,
		Kernel: manifest.Kernel{
			Release: f.Release, Version: f.Version, BuildID: f.BuildID, Toolchain: g.tools,
			Source: manifest.Source{Kind: sourceKind(src), Name: filepath.Base(src.Where), Version: f.SourceVersion,
				Digest: src.Digest},
			Image: file(k, g.arch.ImageName()), Vmlinux: file(k, kernel.OutputVmlinux),
			Config: file(k, kernel.OutputConfig), SystemMap: file(k, kernel.OutputSystemMap),
		},
		Agent: manifest.Agent{Path: "/init", Digest: g.agent.digest, Go: g.agent.goVer, Init: "agent"},
		Root:  manifest.Root{Kind: manifest.RootInitrd},
		Boot:  g.boot(),
	}
	if i := done[InitrdStep]; i != nil {
		m.Initrd = &manifest.Initrd{File: file(i, initrd.Name), Compression: g.Recipe.Initrd.Compression}
	}
	if i := done[ImageStep]; i != nil {
		if err := g.describeImage(m, i, file); err != nil {
			return nil, err
		}
	}
	if src.Package != nil {
		m.Kernel.Source.Name, m.Kernel.Source.Version = src.Package.Name, src.Package.Version
	}
	if g.Recipe.Kernel.Modules {
		mods := file(k, kernel.OutputModules)
		m.Kernel.Modules = &mods
	}
	return m, missing
}

func (g *Guest) boot() manifest.Boot {
	b := g.Recipe.Boot
	line, tcg := bootwords.Built(g.arch, b.Machine)
	for _, w := range b.CommandLine {
		line += " " + w
	}
	return manifest.Boot{Machine: b.Machine, CPUs: b.CPUs, MemoryMiB: b.MemoryMiB(), CommandLine: line,
		TCGCommandLine: tcg}
}

func copyFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return atomicfile.With(to, 0o644, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// Feature is a kernel feature for people to read.
type Feature struct {
	Name, Purpose string
	Requires      []string
	Symbols       []Symbol
}

// Symbol is one wish of a feature.
type Symbol struct{ Wish, Reason string }

// Features lists what a recipe can ask of a kernel of an architecture.
func Features(a arch.Arch) ([]Feature, error) {
	all, err := kernel.Features(a)
	if err != nil {
		return nil, err
	}
	var out []Feature
	for _, f := range all {
		o := Feature{Name: f.Name, Purpose: f.Purpose, Requires: f.Requires}
		for _, w := range f.Fragment.Wishes {
			o.Symbols = append(o.Symbols, Symbol{w.Setting(), w.Reason})
		}
		out = append(out, o)
	}
	return out, nil
}

// MissingTool is a program or file that building a kernel needs and this host lacks.
type MissingTool struct{ Name, Package string }

// MissingTools looks for everything a kernel of an architecture is built with, in folders.
func MissingTools(ctx context.Context, a arch.Arch, folders []string) ([]MissingTool, error) {
	host, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	_, err = toolchain.Find(ctx, toolchain.Options{Arch: a, Host: host, Dirs: folders})
	var m *toolchain.Missing
	if !errors.As(err, &m) {
		return nil, err
	}
	var out []MissingTool
	for _, n := range m.Needs {
		out = append(out, MissingTool{n.Name, n.Debian})
	}
	return out, nil
}
