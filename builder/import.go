package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/tasks"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/foreign"
)

// Imported is what a foreign configuration is in the tree of a guest's kernel.
type Imported = kernel.Imported

// ConfigForms lists the forms that a foreign configuration can have.
func ConfigForms() []string {
	return []string{string(foreign.Whole), string(foreign.Saved), string(foreign.Fragments)}
}

// atWork calls do with a request for the guest's kernel that has its source and a folder to work in.
func (g *Guest) atWork(ctx context.Context, do func(kernel.Request) error) (err error) {
	if g.Recipe.Extension {
		return &noStep{Step: KernelStep, Recipe: g.c.Recipe, Extension: true}
	}
	r := g.made.Kernel
	src := g.of.Input(lock.SourceInput)
	if src.Kind == lock.Tree {
		r.Source = g.of.Local(src)
	} else {
		done, err := execute.Run(ctx, g.execution(), g.made.Tasks, []string{SourceStep})
		if err != nil {
			return err
		}
		blob, err := done[SourceStep].Output(tasks.SourceOutput)
		if err != nil {
			return err
		}
		if r.Source, err = g.c.Store.Get(blob.Digest); err != nil {
			return err
		}
	}
	unused, err := g.of.OpenToolchain(ctx, &r.Toolchain, execute.Job{Report: func(e progress.Event) {
		e.Step = KernelStep
		g.c.Report.Send(e)
	}})
	if err != nil {
		return err
	}
	defer unused()
	work, remove, err := g.c.Store.Temp("config")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	r.WorkDir, r.OutDir = filepath.Join(work, "work"), filepath.Join(work, "out")
	r.Progress = g.c.Report
	return g.of.Changed(src, do(r))
}

// ImportConfig completes a foreign configuration in the tree of the guest's kernel, and finds how to ask for it here.
// The form is one of ConfigForms; empty lets it be guessed. Beside an error that says what cannot be had there may be a
// result.
func (g *Guest) ImportConfig(ctx context.Context, files []string, form string) (out *Imported, err error) {
	in := kernel.Foreign{Form: foreign.Form(form)}
	names, err := g.configFiles(files)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		data, err := regular.ReadFile(name, maxConfig)
		if err != nil {
			return nil, err
		}
		if foreign.Elsewhere(data, g.arch.Name, g.arch.Linux) {
			continue
		}
		if linux, _ := foreign.Heading(data); linux != "" && linux != g.arch.Linux {
			return nil, fmt.Errorf(
				"%s is a configuration for %s, and the recipe's kernel is one for %s; name a recipe "+
					"of that architecture", name, linux, g.arch.Linux)
		}
		in.Files = append(in.Files, kernel.Fragment{Name: name, Data: data})
	}
	in.Name = filepath.Base(files[0])
	err = g.atWork(ctx, func(r kernel.Request) error {
		out, err = kernel.Import(ctx, r, in)
		return err
	})
	return out, err
}

// commonFolder is where a folder of fragments has those for all architectures, beside a folder for each.
const commonFolder = "common"

// configFiles lists the files that are named, and those of folders that end with .conf or .config, sorted: of a folder
// that has a folder common, those of that and of the architecture's.
func (g *Guest) configFiles(names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		fi, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if !fi.IsDir() {
			out = append(out, name)
			continue
		}
		folders := []string{name}
		if _, err := os.Stat(filepath.Join(name, commonFolder)); err == nil {
			folders = slices.Compact([]string{filepath.Join(name, commonFolder), filepath.Join(name, g.arch.Name),
				filepath.Join(name, g.arch.Linux)})
		}
		var found []string
		for _, dir := range folders {
			more, err := fragmentsIn(dir)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			found = append(found, more...)
		}
		if len(found) == 0 {
			return nil, fmt.Errorf(
				"%s holds no configuration: want files called *.conf or *.config, or a folder common "+
					"beside one called %s", name, g.arch.Name)
		}
		out = append(out, found...)
	}
	return out, nil
}

func fragmentsIn(dir string) ([]string, error) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range all {
		if n := e.Name(); !e.IsDir() && (strings.HasSuffix(n, ".conf") || strings.HasSuffix(n, ".config")) {
			out = append(out, filepath.Join(dir, n))
		}
	}
	return out, nil
}
