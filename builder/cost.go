package builder

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/tasks"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/cost"
	"github.com/katabuild/katabuild/kernel/kbuild"
	"github.com/katabuild/katabuild/kernel/makelog"
)

// What a kernel costs.
type (
	KernelCost = cost.Report
	CostSum    = cost.Sum
	CostReason = cost.Reason
	CostOption = cost.Option

	CostFeature = cost.Feature
)

// BootConsole is what a guest said while it booted with initcall_debug in virtual time.
type BootConsole struct {
	Release string // of its kernel, by its manifest
	Said    []byte
}

// CostReasons lists what was decided about the dearest options of the set default.
func CostReasons() ([]CostReason, error) { return cost.Reasons() }

// NoTimes says that nobody has recorded what a recipe's kernel cost: it is not built, or its last build left no times.
type NoTimes struct {
	Recipe string
	Built  bool // the kernel is in the store
	Err    error
}

func (e *NoTimes) Error() string {
	if !e.Built {
		return fmt.Sprintf("the kernel of %s, as the recipe and its lock are now, is not built", e.Recipe)
	}
	return fmt.Sprintf("the kernel of %s is built, but what its objects took is not known: %v", e.Recipe, e.Err)
}

// Unwrap is what is wrong with the log.
func (e *NoTimes) Unwrap() error { return e.Err }

// maxLog bounds a log that is read, in bytes: that of a build of all of Linux has 5 million.
const maxLog = 256 << 20

// maxSystemMap bounds a System.map that is read, in bytes.
const maxSystemMap = 256 << 20

// KernelCost says what the recipe's kernel costs, by feature and by option, as its last build recorded it; and the
// times of its initcalls if it was booted, which may be nil.
func (g *Guest) KernelCost(ctx context.Context, booted *BootConsole) (*KernelCost, error) {
	if g.Recipe.Extension {
		return nil, &noStep{Step: KernelStep, Recipe: g.c.Recipe, Extension: true}
	}
	release, systemMap, err := g.builtKernel()
	if err != nil {
		return nil, err
	}
	if booted != nil && booted.Release != release {
		return nil, fmt.Errorf("the guest that was booted has the kernel %s, and that of the recipe is %s",
			booted.Release, release)
	}
	objects, err := g.compiled(release)
	if err != nil {
		return nil, &NoTimes{Recipe: g.c.Recipe, Built: true, Err: err}
	}
	o, err := g.Options(ctx)
	if err != nil {
		return nil, err
	}
	z, err := zip.NewReader(bytes.NewReader(o.kbuild), int64(len(o.kbuild)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kernel.OutputKbuild, err)
	}
	makefiles, err := kbuild.Read(z, g.arch.Linux, o.Menu.Final.On)
	if err != nil {
		return nil, err
	}
	k := cost.Kernel{Menu: o.Menu, Makefiles: makefiles, Objects: objects}
	if booted != nil {
		data, err := regular.ReadFile(systemMap, maxSystemMap)
		if err != nil {
			return nil, err
		}
		k.Boot = &cost.Boot{Console: booted.Said, SystemMap: data}
	}
	r, err := cost.Of(k)
	if err != nil {
		return nil, err
	}
	r.Release = release
	r.Toolchain = strings.Trim(string(o.Menu.Final.Get("CC_VERSION_TEXT")), `"`)
	return r, nil
}

// builtKernel finds the recipe's kernel in the store: what it calls itself, and where its System.map lies.
func (g *Guest) builtKernel() (release, systemMap string, err error) {
	i := slices.IndexFunc(g.made.Tasks, func(t execute.Task) bool { return t.Step.Name == KernelStep })
	a, err := g.c.Store.Complete(g.made.Tasks[i].Step.Key)
	if err != nil {
		return "", "", &NoTimes{Recipe: g.c.Recipe, Err: err}
	}
	var paths [2]string
	for i, name := range []string{tasks.FactsOutput, kernel.OutputSystemMap} {
		o, err := a.Output(name)
		if err != nil {
			return "", "", err
		}
		if paths[i], err = g.c.Store.Get(o.Digest); err != nil {
			return "", "", err
		}
	}
	data, err := regular.ReadFile(paths[0], maxConfig)
	if err != nil {
		return "", "", err
	}
	var f tasks.Facts
	err = document.Decode("kernel facts", data, &f)
	return f.Release, paths[1], err
}

// compiled reads what the last build of the guest's kernel compiled; it must be this kernel.
func (g *Guest) compiled(release string) ([]makelog.Compiled, error) {
	f, err := g.c.Store.ReadLog(execute.LogName(g.Name(), KernelStep))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	of, all, err := makelog.ReadCompiled(io.LimitReader(f, maxLog))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	case of != "" && of != release:
		return nil, fmt.Errorf("%s is of %s, which was built later than %s", f.Name(), of, release)
	case len(all) == 0:
		return nil, fmt.Errorf("%s has no times of objects: the cache of objects was off", f.Name())
	}
	return all, nil
}
