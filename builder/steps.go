package builder

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/builder/tasks"
	"github.com/katabuild/katabuild/initrd"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/bootwords"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/toolchain"
	"github.com/katabuild/katabuild/rootfs"
	"github.com/katabuild/katabuild/rootfs/sbom"
)

// Configured is a kernel's configuration without the kernel.
type Configured struct {
	Path    string
	Release string   // what uname -r would be; empty where the configuration is not what was asked for
	GaveWay []string // what the features prefer and did not get, a line each
}

// Configure makes the kernel's configuration and nothing else, and puts it into the folder out. Settings that came out
// otherwise are an error beside it.
func (g *Guest) Configure(ctx context.Context, out string) (_ *Configured, err error) {
	if g.Recipe.Extension {
		return nil, &noStep{Step: KernelStep, Recipe: g.c.Recipe, Extension: true}
	}
	if err := g.checkOut(out); err != nil {
		return nil, err
	}
	r := g.made.Kernel
	r.OnlyConfig, r.Progress = true, g.c.Report
	if src := g.of.Input(lock.SourceInput); src.Kind == lock.Tree {
		r.Source = g.of.Local(src)
	} else {
		done, err := execute.Run(ctx, g.execution(), g.made.Tasks, []string{SourceStep})
		if err != nil {
			return nil, err
		}
		blob, err := done[SourceStep].Output(tasks.SourceOutput)
		if err != nil {
			return nil, err
		}
		if r.Source, err = g.c.Store.Get(blob.Digest); err != nil {
			return nil, err
		}
	}
	unused, err := g.of.OpenToolchain(ctx, &r.Toolchain, execute.Job{Report: func(e progress.Event) {
		e.Step = KernelStep
		g.c.Report.Send(e)
	}})
	if err != nil {
		return nil, err
	}
	defer unused()
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
		return nil, g.of.Changed(g.of.Input(lock.SourceInput), unmet)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	c := &Configured{Path: filepath.Join(out, kernel.OutputConfig), Release: res.Release}
	for _, u := range res.GaveWay {
		c.GaveWay = append(c.GaveWay, u.Short())
	}
	return c, errors.Join(unmet, copyFile(res.Outputs[0].Path, c.Path))
}

// manifest says what the steps made.
func (g *Guest) manifest(done map[string]*store.Action) (*manifest.Manifest, error) {
	k := done[KernelStep]
	var f tasks.Facts
	blob, err := k.Output(tasks.FactsOutput)
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
	if err := document.Decode("kernel facts", data, &f); err != nil {
		return nil, err
	}
	var missing error
	file := func(a *store.Action, name string) manifest.File {
		o, err := a.Output(name)
		missing = errors.Join(missing, err)
		return manifest.File{Path: o.Name, Digest: o.Digest, Size: o.Size}
	}
	src := g.of.Input(lock.SourceInput)
	m := &manifest.Manifest{
		Version: manifest.Version, Name: g.Recipe.Name, Arch: g.arch.Name, Time: g.lock.Time, Recipe: g.recipeDigest,
		Lock: g.lockDigest,
		Kernel: manifest.Kernel{
			Release: f.Release, Version: f.Version, BuildID: f.BuildID, Toolchain: g.made.Tools,
			ToolchainKind: g.Recipe.Kernel.Toolchain,
			Source: manifest.Source{Kind: tasks.SourceKind(src), Name: filepath.Base(src.Where),
				Version: f.SourceVersion, Digest: src.Digest},
			Image: file(k, g.arch.ImageName()), Vmlinux: file(k, kernel.OutputVmlinux),
			Config: file(k, kernel.OutputConfig), SystemMap: file(k, kernel.OutputSystemMap),
		},
		Agent: manifest.Agent{Path: "/init", Digest: g.of.Agent.Digest, Go: g.of.Agent.Go, Init: "agent"},
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
	if m.Kernel.Probes, err = g.made.Kernel.Probes(f.SourceVersion); err != nil {
		return nil, err
	}
	for _, o := range k.Outputs { // those that not every kernel has
		f := file(k, o.Name)
		switch o.Name {
		case kernel.OutputModules:
			m.Kernel.Modules = &f
		case kernel.OutputModuleKey:
			m.Kernel.ModuleKey = &f
		case kernel.OutputHeaders:
			m.Kernel.Headers = &f
		}
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
	Elsewhere     bool // it asks for more on other architectures, or in other versions
}

// Symbol is one setting of a feature.
type Symbol struct {
	Setting, Reason string
	When            string // of which versions of Linux it is asked; empty for all
}

// Features lists what a recipe can ask of a kernel of an architecture, in a version of Linux such as 6.12.117; for an
// empty version, what applies to any.
func Features(a arch.Arch, version string) ([]Feature, error) {
	all, err := kernel.Features(a)
	if err != nil {
		return nil, err
	}
	var out []Feature
	for _, f := range all {
		o := Feature{Name: f.Name, Purpose: f.Purpose, Requires: f.Requires}
		settings := f.Fragment.Settings
		if version != "" {
			settings = f.Fragment.For(a.Name, version)
		}
		for _, w := range settings {
			o.Symbols = append(o.Symbols, Symbol{w.Text(), w.Reason,
				kconfig.When{Since: w.When.Since, Until: w.When.Until}.String()})
		}
		o.Elsewhere = f.Elsewhere || len(settings) < len(f.Fragment.Settings)
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

// describeImage puts into the manifest what the image step made.
func (g *Guest) describeImage(m *manifest.Manifest, a *store.Action, file func(*store.Action,
	string) manifest.File) error {
	o, err := a.Output(tasks.ImageFacts)
	if err != nil {
		return err
	}
	path, err := g.c.Store.Get(o.Digest)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	m.Image = &manifest.Image{}
	if err := document.Decode("image facts", data, &m.Image.ImageLayout); err != nil {
		return err
	}
	m.Image.File = file(a, rootfs.ImageName)
	m.SBOM = []manifest.SBOM{{File: file(a, rootfs.SBOMName), Format: sbom.Format}}
	if g.Recipe.Image.CycloneDX {
		m.SBOM = append(m.SBOM, manifest.SBOM{File: file(a, rootfs.CycloneDXName), Format: sbom.FormatCycloneDX})
	}
	m.Agent.Path, m.Agent.Init = rootfs.AgentPath, g.Recipe.Rootfs.Init
	m.Root = manifest.Root{Kind: manifest.RootDisk, FileSystem: m.Image.FileSystem}
	if v := m.Image.Verity; v != nil {
		m.Root.VerityRootHash = v.RootHash
	}
	m.Boot.Disk = g.Recipe.Boot.Disk
	root, err := rootfs.CommandLine(m.Image.ImageLayout, inputs.DiskName(m.Boot.Disk))
	if err != nil {
		return err
	}
	m.Boot.CommandLine += " " + root
	if m.Agent.Init == manifest.InitSystemd {
		m.Boot.CommandLine += " " + inputs.SystemdWord
	}
	return nil
}
