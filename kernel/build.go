package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/kernel/patches"
	"github.com/katabuild/katabuild/kernel/source"
)

// step is what progress events call this step.
const step = "kernel"

// build is one run of Build.
type build struct {
	Request
	sourceVersion string
	release       string
	current       string // phase
	objects       int
	lastSeen      time.Time
	cpu           time.Duration
}

// phase tells whoever watches what happens now.
func (b *build) phase(name string) {
	if b.current == name {
		return
	}
	b.current = name
	b.Progress.Send(progress.Event{Step: step, Kind: progress.Update, Message: name})
}

// Build builds the kernel. It reports phases as updates of the step "kernel"; Start and Done are its caller's to send.
// A *digest.Mismatch is another source than promised, a *patches.Error a patch that does not fit, a *kconfig.Unmet and a *kconfig.Conflict
// (found with errors.As) a wish that cannot be had, a *MakeError a compiler that is unhappy.
func Build(ctx context.Context, r Request) (*Result, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var err error
	if r.WorkDir, err = filepath.Abs(r.WorkDir); err != nil {
		return nil, err
	}
	b := &build{Request: r}
	// What is wrong with the request alone is said before a minute is spent.
	if _, err := r.Wishes(); err != nil {
		return nil, err
	}
	for _, p := range r.Patches {
		if err := patches.Parse(p); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(r.WorkDir, 0o755); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.OutDir, 0o755); err != nil {
		return nil, err
	}
	res := &Result{}
	if err := b.unpack(ctx, res); err != nil {
		return nil, err
	}
	config, err := b.configure(ctx)
	if err != nil {
		return nil, err
	}
	res.Release, res.SourceVersion, res.ConfigDigest = b.release, b.sourceVersion, digest.Of(config)
	if err := b.leave(res, OutputConfig, config); err != nil {
		return nil, err
	}
	if !r.OnlyConfig {
		if err := b.compile(ctx, res); err != nil {
			return nil, err
		}
	}
	res.Objects, res.CPU = b.objects, b.cpu
	return res, nil
}

func (b *build) unpack(ctx context.Context, res *Result) error {
	b.phase("unpack")
	err := source.Unpack(ctx, source.Source{Kind: b.SourceKind, Path: b.Source, Digest: b.SourceDigest}, b.tree(), source.Options{
		Time: b.Time,
		Progress: func(done, total int64) {
			b.Progress.Send(progress.Event{Step: step, Kind: progress.Update, Message: "unpack", Current: done, Total: total, Unit: "bytes"})
		},
	})
	if err != nil {
		return err
	}
	if b.SourceKind == source.Tree {
		// Somebody may have built in it, and stale objects would end up in the kernel.
		if err := b.make(ctx, "mrproper"); err != nil {
			return err
		}
	}
	for _, p := range b.Patches {
		b.phase("patch")
		moved, err := patches.Apply(b.tree(), p)
		if err != nil {
			return err
		}
		for _, m := range moved {
			res.Moved = append(res.Moved, m.String())
			b.Progress.Send(progress.Event{Step: step, Kind: progress.Log, Message: m.String()})
		}
	}
	b.sourceVersion, err = readSourceVersion(b.tree())
	return err
}

// compile runs the long make and collects what it made.
func (b *build) compile(ctx context.Context, res *Result) error {
	b.phase("compile")
	targets := []string{b.Arch.KernelTarget}
	if b.Modules {
		targets = append(targets, "modules")
	}
	if err := b.make(ctx, targets...); err != nil {
		return err
	}
	b.phase("collect")
	release, err := os.ReadFile(filepath.Join(b.tree(), "include/config/kernel.release"))
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(release)); got != b.release {
		return fmt.Errorf("the kernel calls itself %s instead of %s", got, b.release)
	}
	image, err := os.ReadFile(filepath.Join(b.tree(), b.Arch.KernelImage))
	if err != nil {
		return err
	}
	if err := b.leave(res, filepath.Base(b.Arch.KernelImage), image); err != nil {
		return err
	}
	vmlinux, err := readVmlinux(filepath.Join(b.tree(), "vmlinux"))
	if err != nil {
		return fmt.Errorf("vmlinux: %w", err)
	}
	if vmlinux.release != b.release {
		return fmt.Errorf("vmlinux calls itself %s instead of %s", vmlinux.release, b.release)
	}
	res.Version, res.BuildID = vmlinux.version, vmlinux.buildID
	if err := b.leave(res, OutputVmlinux, vmlinux.packed); err != nil {
		return err
	}
	systemMap, err := os.ReadFile(filepath.Join(b.tree(), "System.map"))
	if err != nil {
		return err
	}
	if err := b.leave(res, OutputSystemMap, systemMap); err != nil {
		return err
	}
	if !b.Modules {
		return nil
	}
	b.phase("modules")
	const root = "modules"
	if err := b.make(ctx, "INSTALL_MOD_PATH="+guestDir+"/"+root, "INSTALL_MOD_STRIP=1", "modules_install"); err != nil {
		return err
	}
	path := filepath.Join(b.OutDir, OutputModules)
	if err := packModules(filepath.Join(b.WorkDir, root), path, b.Time); err != nil {
		return fmt.Errorf("pack the modules: %w", err)
	}
	res.Outputs = append(res.Outputs, artifact.Output{Name: OutputModules, Path: path})
	return nil
}

// leave writes an output.
func (b *build) leave(res *Result, name string, data []byte) error {
	path := filepath.Join(b.OutDir, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	res.Outputs = append(res.Outputs, artifact.Output{Name: name, Path: path})
	return nil
}
