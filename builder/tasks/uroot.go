package tasks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/initrd"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/rootfs"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// urootOutput is the program of u-root's commands, as their step's output.
const urootOutput = "bb"

// UsesURoot says whether the guest has commands of u-root.
func UsesURoot(r *recipe.Recipe) bool {
	if len(r.Initrd.URoot) > 0 {
		return true
	}
	if r.Rootfs == nil {
		return false
	}
	for _, l := range r.Rootfs.Layers {
		if l.URoot != nil {
			return true
		}
	}
	return false
}

// uroot is what a list of commands is built with.
func (g *maker) uroot(commands []string) initrd.URoot {
	return initrd.URoot{Arch: g.Arch, Commands: commands, Go: initrd.Go{Path: g.Go, Env: g.GoEnv}}
}

// fetchURoot brings the commands' modules from a network into Go's own cache; Go checks them against the digests that
// katabuild carries.
func (g *maker) fetchURoot(ctx context.Context, workDir string, report progress.Func) error {
	if g.Offline {
		return nil
	}
	report.Send(progress.Event{Kind: progress.Update, Message: "fetch u-root"})
	return initrd.FetchURoot(ctx, initrd.Go{Path: g.Go, Env: g.GoEnv}, workDir)
}

// urootTask builds the commands of a layer, in a step of its own, so that nothing else of the guest builds them again.
func (g *maker) urootTask(commands []string) (execute.Task, error) {
	u := g.uroot(commands)
	inputs, err := u.Inputs()
	if err != nil {
		return execute.Task{}, err
	}
	inputs = append(inputs, artifact.Input{Name: "architecture", Value: g.Arch.Name})
	// The name is of what is asked for, as with packages.
	name := "uroot-" + digest.Of(fmt.Appendf(nil, "%q", commands)).Short()
	return execute.Task{Step: plan.New(name, nil, inputs), Run: func(ctx context.Context,
		job execute.Job) ([]artifact.Output, error) {
		u := u
		u.WorkDir = filepath.Join(job.Dir, "work")
		if err := os.Mkdir(u.WorkDir, 0o755); err != nil {
			return nil, err
		}
		if err := g.fetchURoot(ctx, u.WorkDir, job.Report); err != nil {
			return nil, err
		}
		job.Report.Send(progress.Event{Kind: progress.Update, Message: "build u-root commands"})
		files, err := u.Build(ctx)
		if err != nil {
			return nil, err
		}
		return []artifact.Output{{Name: urootOutput, Path: files[0].Source}}, nil
	}}, nil
}

// urootLayer is the commands that a step of their own builds.
func urootLayer(commands []string, built plan.Step) (rootfs.Layer, func(context.Context, execute.Job) (rootfs.Layer,
	error), error) {
	key := rootfs.URoot{Key: []artifact.Input{{Name: "u-root", Value: string(built.Key)}},
		Version: initrd.URootVersion()}
	return key, func(_ context.Context, job execute.Job) (rootfs.Layer, error) {
		l := key
		bb, err := job.Need(built.Name, urootOutput)
		if err != nil {
			return nil, err
		}
		d, size, err := digest.File(bb)
		if err != nil {
			return nil, err
		}
		for _, f := range initrd.URootFiles(commands, bb, d) {
			file := rootfs.File{Path: f.Path, Kind: tree.Symlink, Target: f.Target, Origin: "u-root"}
			if f.Source != "" {
				file.Kind, file.Source, file.Digest, file.Size, file.Mode = tree.File, f.Source, d, size, 0o755
			}
			l.Files = append(l.Files, file)
		}
		return l, nil
	}, nil
}
