package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/tasks"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/menu"
)

// configureStep makes the kernel's configuration for whoever asks about it. No guest needs it.
const configureStep = "configuration"

// The most that is read of a configuration and of packed Kconfig files, in bytes; of Linux 6.12 they have 0.2 and 1.5
// million.
const (
	maxConfig  = 16 << 20
	maxKconfig = 64 << 20
)

// Options is what a kernel's options can be asked about.
type Options struct {
	Menu   *menu.Kernel
	Config []byte // the final configuration
	kbuild []byte // the Makefiles, packed
	// Wrong says which settings came out otherwise, where any did.
	Wrong error
}

// What is said of one option of a kernel.
type (
	Account          = menu.Account
	AskedLine        = menu.Asked
	OptionDefinition = menu.Definition
	OptionCondition  = menu.Condition
	OptionBy         = menu.By
)

// Options makes the kernel's configuration, or takes it from the store, for questions about it.
func (g *Guest) Options(ctx context.Context) (*Options, error) {
	if g.Recipe.Extension {
		return nil, &noStep{Step: KernelStep, Recipe: g.c.Recipe, Extension: true}
	}
	r := g.made.Kernel
	r.OnlyConfig, r.Kconfig = true, true
	inputs, err := r.Inputs()
	if err != nil {
		return nil, err
	}
	var needs []string
	src := g.of.Input(lock.SourceInput)
	if src.Kind != lock.Tree {
		needs = []string{SourceStep}
	}
	// A configuration that is not what was asked for is no outcome to keep, and yet one to ask about.
	var read optionFiles
	var wrong error
	task := execute.Task{Step: plan.New(configureStep, needs, inputs), Run: func(ctx context.Context,
		job execute.Job) ([]artifact.Output, error) {
		r := r
		r.WorkDir, r.OutDir = filepath.Join(job.Dir, "work"), filepath.Join(job.Dir, "out")
		r.Progress, r.Log = job.Report, job.Log
		if err := errors.Join(os.Mkdir(r.WorkDir, 0o755), os.Mkdir(r.OutDir, 0o755)); err != nil {
			return nil, err
		}
		if src.Kind == lock.Tree {
			r.Source = g.of.Local(src)
		} else if r.Source, err = job.Need(SourceStep, tasks.SourceOutput); err != nil {
			return nil, err
		}
		unused, err := g.of.OpenToolchain(ctx, &r.Toolchain, job)
		if err != nil {
			return nil, err
		}
		defer unused()
		res, err := kernel.Build(ctx, r)
		if res == nil || len(res.Outputs) != len(read) {
			return nil, g.of.Changed(src, err)
		}
		if err != nil {
			wrong = err
			return nil, errors.Join(err, read.read(func(i int) (string, error) { return res.Outputs[i].Path, nil }))
		}
		return res.Outputs, nil
	}}
	done, err := execute.Run(ctx, g.execution(), append(g.made.Tasks[:len(g.made.Tasks):len(g.made.Tasks)], task),
		[]string{configureStep})
	switch {
	case err != nil && read[0] != nil:
	case err != nil:
		return nil, err
	default:
		if err := read.read(func(i int) (string, error) {
			o, err := done[configureStep].Output([]string{kernel.OutputConfig, kernel.OutputKconfig,
				kernel.OutputKbuild}[i])
			if err != nil {
				return "", err
			}
			return g.c.Store.Get(o.Digest)
		}); err != nil {
			return nil, err
		}
	}
	k, err := r.Menu(read[0], read[1])
	if err != nil {
		return nil, fmt.Errorf("the kernel's options: %w", err)
	}
	return &Options{Menu: k, Config: read[0], Wrong: wrong, kbuild: read[2]}, nil
}

// optionFiles are what the step leaves: the configuration, the Kconfig files and the Makefiles.
type optionFiles [3][]byte

// read reads them; path is where each lies.
func (f *optionFiles) read(path func(i int) (string, error)) error {
	for i, most := range []int64{maxConfig, maxKconfig, maxKconfig} {
		p, err := path(i)
		if err != nil {
			return err
		}
		if f[i], err = regular.ReadFile(p, most); err != nil {
			return err
		}
	}
	return nil
}
