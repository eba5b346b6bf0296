package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/modsign"
	"github.com/katabuild/katabuild/kernel/modules"
	"github.com/katabuild/katabuild/kernel/patches"
	"github.com/katabuild/katabuild/kernel/source"
	"github.com/katabuild/katabuild/kernel/vmlinux"
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
	gaveWay       []*kconfig.Unmet
	binds         []jail.Bind     // what the jail sees of WorkDir
	cacheArgs     []string        // stands before make's command line while the cache is in use
	cacheBinds    []jail.Bind     // what the jail sees besides meanwhile
	key           *modsign.Key    // which signs the modules; nil signs none
	left          *regular.Folder // the tree, once foreign programs may have written to it
}

// show lets the jail see a file or folder of WorkDir, below guestDir.
func (b *build) show(name string, writable bool) {
	b.binds = append(b.binds, jail.Bind{Host: filepath.Join(b.WorkDir, name), Jail: guestDir + "/" + name,
		Writable: writable})
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
// A *digest.Mismatch is another source than promised, a *patches.Error a patch that does not fit, a *kconfig.Unmet and
// a *kconfig.Conflict (found with errors.As) a setting that cannot be had, a *makeError a compiler that is unhappy.
// With OnlyConfig a setting that came out otherwise is an error beside the result, so that whoever asked can look at
// the configuration.
func Build(ctx context.Context, r Request) (*Result, error) {
	res := &Result{}
	b, err := r.workbench(ctx, res)
	if err != nil {
		return nil, err
	}
	defer b.left.Close()
	config, err := b.configure(ctx)
	res.GaveWay = b.gaveWay
	if b.OnlyConfig && config != nil {
		res.Release, res.SourceVersion, res.ConfigDigest = b.release, b.sourceVersion, digest.Of(config)
		err = errors.Join(err, b.leave(res, OutputConfig, config))
		if b.Kconfig {
			err = errors.Join(err, b.leaveKconfig(res, config))
		}
		return res, err
	}
	if err != nil {
		return nil, err
	}
	res.Release, res.SourceVersion, res.ConfigDigest = b.release, b.sourceVersion, digest.Of(config)
	if err := b.leave(res, OutputConfig, config); err != nil {
		return nil, err
	}
	if err := b.compile(ctx, res); err != nil {
		return nil, err
	}
	res.Objects, res.CPU = b.objects, b.cpu
	return res, nil
}

// workbench makes the tree of a request ready: unpacked, patched, for its own make to run in. Close its left.
func (r Request) workbench(ctx context.Context, res *Result) (*build, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var err error
	if r.WorkDir, err = filepath.Abs(r.WorkDir); err != nil {
		return nil, err
	}
	// What is wrong with the request alone is said before a minute is spent.
	if _, _, err := r.settle(""); err != nil {
		return nil, err
	}
	for _, p := range r.Patches {
		if err := patches.Parse(p); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{r.WorkDir, r.OutDir} {
		if dir == "" { // nobody wants outputs
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	b := &build{Request: r}
	if err := b.unpack(ctx, res); err != nil {
		if b.left != nil {
			err = errors.Join(err, b.left.Close())
		}
		return nil, err
	}
	return b, nil
}

func (b *build) unpack(ctx context.Context, res *Result) error {
	b.phase("unpack")
	skip, err := b.skip()
	if err != nil {
		return err
	}
	err = source.Unpack(ctx, source.Source{Kind: b.SourceKind, Path: b.Source, Name: b.SourceName,
		Digest: b.SourceDigest}, b.tree(), source.Options{
		Time: b.Time, Skip: skip,
		Progress: func(done, total int64) {
			b.Progress.Send(progress.Event{Step: step, Kind: progress.Update, Message: "unpack", Current: done,
				Total: total, Unit: "bytes"})
		},
	})
	if err != nil {
		return err
	}
	if err := b.open(); err != nil {
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
	b.sourceVersion, err = source.Version(b.left)
	return err
}

// skip is what need not be written of a tree to configure it: sources that no configurator reads and no patch changes.
func (b *build) skip() (func(name string) bool, error) {
	if !b.OnlyConfig {
		return nil, nil
	}
	changed, err := touched(b.Patches)
	if err != nil {
		return nil, err
	}
	return func(name string) bool {
		if changed[name] {
			return false
		}
		top, _, _ := strings.Cut(name, "/")
		switch top {
		case "Documentation", "drivers", "sound", "fs", "net", "samples", "lib", "mm", "crypto", "kernel", "arch":
		default:
			return false
		}
		switch filepath.Ext(name) {
		case ".c", ".rst", ".dts", ".dtsi", ".yaml", ".json", ".txt":
			return true
		case ".h", ".S":
			return top != "arch"
		}
		return false
	}, nil
}

// open takes hold of the tree that lies in WorkDir. From here on foreign programs may write to it, so that it is read
// through this handle alone.
func (b *build) open() (err error) {
	b.left, err = regular.OpenFolder(b.tree())
	b.show(treeName, true)
	return err
}

// The most that is read of what a build leaves, in bytes. Of Linux 6.12, a configuration has 0.2 MB, the largest
// Kconfig file 0.1 MB; with everything built in and all debugging information, vmlinux has 1.5 GB, the image 0.2 GB,
// and System.map 20 MB.
const (
	maxText      = 4 << 20
	maxImage     = 1 << 30
	maxSystemMap = 256 << 20
)

// compile runs the long make and collects what it made.
func (b *build) compile(ctx context.Context, res *Result) error {
	if err := b.trust(); err != nil {
		return err
	}
	b.phase("compile")
	targets := []string{b.Arch.KernelTarget}
	if b.Modules {
		targets = append(targets, "modules")
	}
	if err := b.makeCached(ctx, res, targets...); err != nil {
		return err
	}
	b.phase("collect")
	release, err := b.left.ReadFile("include/config/kernel.release", maxRelease)
	if err != nil {
		return collect(err)
	}
	if got := strings.TrimSpace(string(release)); got != b.release {
		return fmt.Errorf("the kernel calls itself %q instead of %s", got, b.release)
	}
	if err := b.leaveFile(res, b.Arch.ImageName(), b.Arch.KernelImage, maxImage); err != nil {
		return collect(err)
	}
	f, err := b.left.Open("vmlinux")
	if err != nil {
		return collect(err)
	}
	defer f.Close()
	elf, err := vmlinux.Read(f)
	if err != nil {
		return fmt.Errorf("the kernel's vmlinux: %w", err)
	}
	if elf.Release != b.release {
		return fmt.Errorf("vmlinux calls itself %q instead of %s", elf.Release, b.release)
	}
	res.Version, res.BuildID = elf.Version, elf.BuildID
	if err := b.leave(res, OutputVmlinux, elf.Packed); err != nil {
		return err
	}
	if err := b.leaveFile(res, OutputSystemMap, "System.map", maxSystemMap); err != nil {
		return collect(err)
	}
	if b.key != nil {
		if err := b.leave(res, OutputModuleKey, b.key.Certificate()); err != nil {
			return err
		}
	}
	if b.Modules {
		if err := b.modules(ctx, res); err != nil {
			return err
		}
	}
	if b.Headers {
		b.phase("headers")
		path := filepath.Join(b.OutDir, OutputHeaders)
		res.Outputs = append(res.Outputs, artifact.Output{Name: OutputHeaders, Path: path})
		return modules.Headers{Tree: b.tree(), Left: b.left, Arch: b.Arch.Linux, Release: b.release,
			Time: b.Time}.Pack(ctx, path)
	}
	return nil
}

// modules installs the modules, those outside of the tree too, and packs them.
func (b *build) modules(ctx context.Context, res *Result) error {
	b.phase("modules")
	if err := os.Mkdir(filepath.Join(b.WorkDir, modulesName), 0o755); err != nil {
		return err
	}
	b.show(modulesName, true)
	install := []string{"INSTALL_MOD_PATH=" + guestDir + "/" + modulesName, "INSTALL_MOD_STRIP=1"}
	if err := b.make(ctx, append([]string{"modules_install"}, install...)...); err != nil {
		return err
	}
	if err := b.external(ctx, install...); err != nil {
		return err
	}
	path := filepath.Join(b.OutDir, OutputModules)
	if err := modules.Pack(ctx, filepath.Join(b.WorkDir, modulesName), path, b.Time, b.key); err != nil {
		return fmt.Errorf("pack the modules: %w", err)
	}
	res.Outputs = append(res.Outputs, artifact.Output{Name: OutputModules, Path: path})
	return nil
}

// uname -r has at most 64 bytes (Linux: include/uapi/linux/utsname.h, __NEW_UTS_LEN); maxRelease bounds the files it is
// made of.
const (
	maxReleaseName = 64
	maxRelease     = 4096
)

// collect says what could not be read of what a make left.
func collect(err error) error { return fmt.Errorf("collect what the kernel's make left: %w", err) }

// leaveFile copies an output of at most limit bytes out of the tree.
func (b *build) leaveFile(res *Result, name, from string, limit int64) error {
	in, err := b.left.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	path := filepath.Join(b.OutDir, name)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, limit+1))
	if err == nil && n > limit {
		err = &regular.SizeError{Name: from, Limit: limit}
	}
	if err == nil {
		err = out.Chmod(0o644)
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	res.Outputs = append(res.Outputs, artifact.Output{Name: name, Path: path})
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
