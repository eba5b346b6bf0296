package tasks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/flow"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/rootfs"
	"github.com/katabuild/katabuild/rootfs/compression"
	"github.com/katabuild/katabuild/rootfs/debian"
	"github.com/katabuild/katabuild/rootfs/erofs"
	"github.com/katabuild/katabuild/rootfs/partition"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
)

// ImageFacts is the image step's output that is for the manifest, not for the user.
const ImageFacts = "image.json"

// unpackStep is the name of the step that unpacks the packages of a layer: of what it asks for, so that a layer in
// front of it changes nothing.
func unpackStep(d *recipe.DebianLayer) string {
	return "unpack-" + strings.TrimPrefix(lock.SetName(d.Asked()), "debian packages ")
}

// unpackFormat is part of every unpack step's key.
const unpackFormat = "1"

// tarOutput is the unpack step's output for a package.
func tarOutput(name string) string { return name + ".tar" }

// opener makes a layer ready to be applied, once a step runs: only then are bytes brought and read.
type opener func(ctx context.Context, job execute.Job) (rootfs.Layer, error)

// diskTasks are the steps of a guest that boots from a disk, but for the kernel's, and all steps of an extension.
func (g *maker) diskTasks() ([]execute.Task, error) {
	var tasks []execute.Task
	var needs []string
	var layers []opener
	keys := rootfs.Request{Arch: g.Arch, Name: g.Recipe.Name, Time: g.Lock.Time, Remove: g.Recipe.Rootfs.Remove,
		Keep: g.Recipe.Rootfs.Keep}
	for i, l := range g.Recipe.Rootfs.Layers {
		if l.Debian != nil && !slices.Contains(needs, unpackStep(l.Debian)) {
			t := g.unpackTask(l.Debian)
			tasks, needs = append(tasks, t), append(needs, t.Step.Name)
		}
		if l.Modules {
			needs = append(needs, KernelStep)
		}
		var key rootfs.Layer
		var open opener
		var err error
		if l.URoot != nil {
			var t execute.Task
			if t, err = g.urootTask(l.URoot); err != nil {
				return nil, err
			}
			if !slices.Contains(needs, t.Step.Name) {
				tasks, needs = append(tasks, t), append(needs, t.Step.Name)
			}
			key, open, err = urootLayer(l.URoot, t.Step)
		} else {
			key, open, err = g.layer(i, l)
		}
		if err != nil {
			return nil, err
		}
		keys.Layers, layers = append(keys.Layers, key), append(layers, open)
	}
	if !g.Recipe.Extension {
		fi, err := os.Stat(g.Agent.Path)
		if err != nil {
			return nil, err
		}
		keys.Agent = rootfs.Agent{Path: g.Agent.Path, Digest: g.Agent.Digest, Size: fi.Size(), Go: g.Agent.Go,
			Init: g.Recipe.Rootfs.Init}
	}
	request := func(ctx context.Context, job execute.Job) (rootfs.Request, error) {
		r := keys
		r.Progress, r.Layers = job.Report, nil
		for _, open := range layers {
			l, err := open(ctx, job)
			if err != nil {
				return r, err
			}
			r.Layers = append(r.Layers, l)
		}
		return r, nil
	}
	disk, err := g.disk()
	if err != nil {
		return nil, err
	}
	inputs := append(keys.Inputs(), disk.Inputs()...)
	var more []sbom.Component
	if !g.Recipe.Extension {
		bill := g.kernelComponent()
		more = append(more, bill)
		inputs = append(inputs, artifact.Input{Name: "kernel source", Value: string(bill.Digest)})
	}
	image := execute.Task{Step: plan.New(ImageStep, needs, inputs), Run: func(ctx context.Context,
		job execute.Job) ([]artifact.Output, error) {
		r, err := request(ctx, job)
		if err != nil {
			return nil, err
		}
		res, err := r.WriteImage(ctx, disk, job.Dir, more)
		if err != nil {
			return nil, g.blameLayer(err)
		}
		for _, w := range res.Warnings {
			job.Report.Send(progress.Event{Kind: progress.Log, Message: w})
		}
		data, err := document.Encode(res.Image)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(job.Dir, ImageFacts)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return nil, err
		}
		return append(res.Outputs, artifact.Output{Name: ImageFacts, Path: path}), nil
	}}
	tar := execute.Task{Step: plan.New(RootfsStep, needs, keys.Inputs()), Run: func(ctx context.Context,
		job execute.Job) ([]artifact.Output, error) {
		r, err := request(ctx, job)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(job.Dir, "rootfs.tar")
		leftOut, err := r.WriteTar(ctx, path)
		for _, p := range leftOut {
			job.Report.Send(progress.Event{Kind: progress.Log, Message: p + " is a socket, which a tar cannot hold"})
		}
		return []artifact.Output{{Name: "rootfs.tar", Path: path}}, g.blameLayer(err)
	}}
	return append(tasks, image, tar), nil
}

// blameLayer gives an error of a layer the layer's place in the recipe. Those of accounts and permissions name the line
// of the entry already.
func (g *maker) blameLayer(err error) error {
	e, ok := errors.AsType[*rootfs.LayerError](err)
	if !ok || e.Layer >= len(g.Recipe.Rootfs.Layers) {
		return err
	}
	if l := g.Recipe.Rootfs.Layers[e.Layer]; l.Accounts != nil || l.Permissions != nil {
		return err
	}
	return g.Recipe.Blame(fmt.Sprintf("rootfs.layers[%d]", e.Layer), err)
}

// layer makes a layer for keys, which reads nothing, and a way to open it once a step runs.
func (g *maker) layer(i int, l recipe.Layer) (rootfs.Layer, opener, error) {
	same := func(l rootfs.Layer) (rootfs.Layer, opener, error) {
		return l, func(context.Context, execute.Job) (rootfs.Layer, error) { return l, nil }, nil
	}
	switch {
	case l.Debian != nil:
		return g.debianLayer(l.Debian)
	case l.Folder != "":
		in := g.Input(lock.FolderInput(l.Folder))
		key := rootfs.Folder{Digest: in.Digest, Origin: "folder " + l.Folder}
		key.Changed = func(err error) error {
			return g.Recipe.Blame(fmt.Sprintf("rootfs.layers[%d].folder", i),
				g.Changed(in, fmt.Errorf("%s: %w", in.Name, err)))
		}
		return &key, func(ctx context.Context, job execute.Job) (rootfs.Layer, error) {
			l := key
			var err error
			if l.Entries, err = checkout.List(ctx, g.Local(in)); err != nil {
				return nil, key.Changed(err)
			}
			return &l, nil
		}, nil
	case l.Tar != "":
		in := g.Input(lock.TarInput(l.Tar))
		key := rootfs.Tar{Digest: in.Digest, Origin: "tar " + l.Tar}
		return key, func(ctx context.Context, job execute.Job) (rootfs.Layer, error) {
			l := key
			blob, err := g.bring(ctx, in, job)
			if err != nil {
				return nil, err
			}
			l.Path, err = plain(ctx, in.Where, blob, filepath.Join(job.Dir, fmt.Sprintf("layer-%d.tar", i)))
			return l, g.Recipe.Blame(fmt.Sprintf("rootfs.layers[%d].tar", i), err)
		}, nil
	case l.Files != nil:
		files, err := g.files(l.Files)
		if err != nil {
			return nil, nil, err
		}
		return files, func(ctx context.Context, job execute.Job) (rootfs.Layer, error) {
			opened := slices.Clone(files)
			for j, f := range l.Files {
				if f.From == "" {
					continue
				}
				// The store's copy, which nobody changes while the image is written.
				var err error
				if opened[j].Source, err = g.bring(ctx, g.Input(lock.FileInput(f.From)), job); err != nil {
					return nil, err
				}
			}
			return opened, nil
		}, nil
	case l.Accounts != nil:
		a := rootfs.Accounts{Origin: "accounts of the recipe"}
		for j, u := range l.Accounts.Users {
			at := g.Recipe.Place(fmt.Sprintf("rootfs.layers[%d].accounts.users[%d]", i, j))
			a.Users = append(a.Users, rootfs.User{
				Name: u.Name, UID: *u.UID, GID: u.GID, Group: u.Group, Home: u.Home, CreateHome: u.CreateHome,
				Shell: u.Shell, At: at,
			})
		}
		for j, gr := range l.Accounts.Groups {
			at := g.Recipe.Place(fmt.Sprintf("rootfs.layers[%d].accounts.groups[%d]", i, j))
			a.Groups = append(a.Groups, rootfs.Group{Name: gr.Name, GID: gr.GID, Members: gr.Members, At: at})
		}
		return same(a)
	case l.Permissions != nil:
		var list rootfs.Permissions
		for j, p := range l.Permissions {
			at := g.Recipe.Place(fmt.Sprintf("rootfs.layers[%d].permissions[%d]", i, j))
			list = append(list, rootfs.Permission{Path: p.Path, Mode: p.Bits(), UID: p.UID, GID: p.GID, At: at})
		}
		return same(list)
	case l.Modules:
		// The key of the kernel's step stands for its modules: equal keys, equal bytes.
		var key digest.Digest
		for _, t := range g.Tasks {
			if t.Step.Name == KernelStep {
				key = t.Step.Key
			}
		}
		of := rootfs.Tar{Digest: key, Origin: "kernel modules"}
		return of, func(ctx context.Context, job execute.Job) (rootfs.Layer, error) {
			l := of
			var err error
			l.Path, err = job.Need(KernelStep, kernel.OutputModules)
			return l, err
		}, nil
	}
	return g.ociLayer(i, l.OCI)
}

// ociLayer is a container image.
func (g *maker) ociLayer(i int, o *recipe.OCILayer) (rootfs.Layer, opener, error) {
	var in lock.Input
	key := rootfs.OCI{Arch: g.Arch.Go, Ref: o.Name, Manifest: digest.Digest(o.Digest), At: strings.TrimSuffix(o.At,
		"/")}
	switch {
	case o.Image != "":
		in, key.Name = g.Input(lock.ImageInput(o.Image)), o.Image
		key.Manifest = in.Digest
	case o.Layout != "":
		in, key.Name = g.Input(lock.FolderInput(o.Layout)), o.Layout
		key.Path = g.Local(in)
		key.Check = func(ctx context.Context) error {
			return g.checkFolder(ctx, in, fmt.Sprintf("rootfs.layers[%d].oci.layout", i))
		}
	default:
		in, key.Name = g.Input(lock.FileInput(o.Archive)), o.Archive
	}
	key.Digest = in.Digest
	return key, func(ctx context.Context, job execute.Job) (rootfs.Layer, error) {
		l := key
		if o.Archive != "" {
			var err error
			if l.Path, err = g.bring(ctx, in, job); err != nil {
				return nil, err
			}
		}
		l.Work = filepath.Join(job.Dir, fmt.Sprintf("layers-%d", i))
		if err := os.Mkdir(l.Work, 0o755); err != nil || l.Path != "" {
			return l, err
		}
		l.Path = filepath.Join(job.Dir, fmt.Sprintf("image-%d", i))
		if err := os.Mkdir(l.Path, 0o755); err != nil {
			return nil, err
		}
		f, err := g.Fetcher()
		if err != nil {
			return nil, err
		}
		if err := f.Bring(ctx, in, job.Report); err != nil {
			return nil, err
		}
		return l, f.ImageLayout(in, l.Path)
	}, nil
}

// checkFolder compares a folder beside the recipe with the lock.
func (g *maker) checkFolder(ctx context.Context, in lock.Input, field string) error {
	got, err := checkout.Digest(ctx, g.Local(in))
	if err == nil && got != in.Digest {
		err = &digest.Mismatch{Name: in.Where, Want: in.Digest, Got: got}
	}
	if err != nil {
		return g.Recipe.Blame(field, g.Changed(in, err))
	}
	return nil
}

// maxTar bounds what a tar unpacks to, in bytes.
const maxTar = 64 << 30

// plain is the path of a tar without compression: from itself, or to, where from is compressed. name is the tar's, for
// people.
func plain(ctx context.Context, name, from, to string) (string, error) {
	f, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := tarfile.Check(name, f); err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if packed, err := compression.Compressed(f); err != nil || !packed {
		return from, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	_, _, err = compression.Decompress(flow.Until(ctx, f), to, maxTar)
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%s ends too early (cut off?): %w", name, err)
	default:
		err = fmt.Errorf("unpack %s: %w", name, err)
	}
	return to, err
}

// files are the recipe's single files.
func (g *maker) files(list []recipe.File) (rootfs.Files, error) {
	var out rootfs.Files
	for _, f := range list {
		file := rootfs.File{Path: f.Path, Kind: tree.File, Mode: uint16(f.FileMode()), UID: f.UID, GID: f.GID,
			Origin: "file " + f.Path + " of the recipe"}
		switch {
		case f.From != "":
			in := g.Input(lock.FileInput(f.From))
			file.Digest, file.Size = in.Digest, in.Size
		case f.Link != "":
			file.Kind, file.Target = tree.Symlink, f.Link
		case f.Folder:
			file.Kind = tree.Dir
		default:
			file.Data = []byte(*f.Text)
		}
		out = append(out, file)
	}
	return out, nil
}

// unpackTask unpacks a layer's packages, each into a tar of its own, so that another list of files or options does not
// unpack them again.
func (g *maker) unpackTask(d *recipe.DebianLayer) execute.Task {
	set := g.Lock.FindSet(lock.SetName(d.Asked()))
	inputs := []artifact.Input{{Name: "unpack format", Value: unpackFormat}}
	for _, name := range set.Inputs {
		in := g.Input(name)
		inputs = append(inputs, artifact.Input{Name: "package " + in.Package.Name, Value: string(in.Digest)})
	}
	// Unpacking takes no longer than it would take to bring what is unpacked.
	return execute.Task{Step: plan.New(unpackStep(d), nil, inputs), Unshared: true, Run: func(ctx context.Context,
		job execute.Job) ([]artifact.Output, error) {
		debs, err := g.bringPackages(ctx, set.Inputs, job)
		if err != nil {
			return nil, err
		}
		outputs := make([]artifact.Output, len(debs))
		all, ctx := errgroup.WithContext(ctx)
		all.SetLimit(cmp.Or(g.Jobs, runtime.NumCPU()))
		var mu sync.Mutex // guards done, and keeps reports in order
		done := 0
		for j, file := range debs {
			all.Go(func() error {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				name := g.Input(set.Inputs[j]).Package.Name
				dir := filepath.Join(job.Dir, name)
				if err := os.Mkdir(dir, 0o755); err != nil {
					return err
				}
				deb, err := debian.Unpack(file, dir)
				if err != nil {
					return err
				}
				outputs[j] = artifact.Output{Name: tarOutput(name), Path: deb.Tar}
				mu.Lock()
				defer mu.Unlock()
				done++
				job.Report.Send(progress.Event{Kind: progress.Update, Message: "unpack", Current: int64(done),
					Total: int64(len(debs)), Unit: "packages"})
				return nil
			})
		}
		return outputs, all.Wait()
	}}
}

// bringPackages returns the verified packages of locked inputs, fetching in one go what the store lacks.
func (g *Guest) bringPackages(ctx context.Context, names []string, job execute.Job) ([]string, error) {
	var missing []lock.Input
	for _, name := range names {
		in := g.Input(name)
		if g.Store.Has(in.Digest) {
			continue
		}
		if in.Kind == lock.Local {
			if _, _, err := g.Store.PutFile(g.Local(in), in.Digest); err != nil {
				return nil, g.Changed(in, err)
			}
			continue
		}
		missing = append(missing, in)
	}
	if len(missing) > 0 {
		if g.Offline {
			return nil, &Offline{What: fmt.Sprintf("package %s (and %d others)", missing[0].Package.Name,
				len(missing)-1), Store: g.Store.Dir(), Recipe: g.Dir}
		}
		f, err := g.Fetcher()
		if err != nil {
			return nil, err
		}
		if err := f.BringPackages(ctx, missing, job.Report); err != nil {
			return nil, err
		}
	}
	var paths []string
	for _, name := range names {
		p, err := g.Store.Get(g.Input(name).Digest)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// debianLayer is the packages of a layer.
func (g *maker) debianLayer(d *recipe.DebianLayer) (rootfs.Layer, opener, error) {
	set := g.Lock.FindSet(lock.SetName(d.Asked()))
	key := rootfs.Debian{Rules: append(debian.Exclude(d.Paths.Exclude...), debian.Include(d.Paths.Include...)...)}
	for _, name := range set.Inputs {
		in := g.Input(name)
		key.Packages = append(key.Packages, rootfs.DebianPackage{
			Name: in.Package.Name, Version: in.Package.Version, Arch: in.Package.Arch, Digest: in.Digest,
			Foreign: in.Kind != lock.Debian || in.Package.Archive != "",
		})
	}
	return key, func(ctx context.Context, job execute.Job) (rootfs.Layer, error) {
		l := key
		l.Packages = slices.Clone(key.Packages)
		for j, name := range set.Inputs {
			p := &l.Packages[j]
			var err error
			if p.Path, err = g.Store.Get(g.Input(name).Digest); err != nil {
				return nil, err
			}
			if p.Tar, err = job.Need(unpackStep(d), tarOutput(p.Name)); err != nil {
				return nil, err
			}
		}
		return l, nil
	}, nil
}

// features are those the recipe asks for, and those without which the kernel could not boot from the recipe's disk.
func (g *maker) features() ([]string, error) {
	asked := slices.Clone(g.Recipe.Kernel.Features)
	i := g.Recipe.Image
	if i == nil {
		return asked, nil
	}
	needed := []string{i.FileSystem, "virtio-devices"}
	if i.WithVerity() {
		needed = append(needed, "dm-verity")
	}
	if i.Layout != partition.Bare.String() {
		needed = append(needed, "partitions")
	}
	if g.Recipe.Boot.Disk == manifest.NVDIMM {
		needed = append(needed, "pmem")
	}
	for _, name := range needed {
		have, err := features.Resolve(g.Arch, asked)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(have, func(f features.Feature) bool { return f.Name == name }) {
			asked = append(asked, name)
		}
	}
	return asked, nil
}

// disk is the recipe's image.
func (g *maker) disk() (rootfs.Disk, error) {
	i := g.Recipe.Image
	d := rootfs.Disk{FileSystem: i.FileSystem, Verity: i.WithVerity(), Label: i.Label, FreeSpace: i.FreeBytes(),
		Journal: i.Journal, Jobs: g.Jobs, CycloneDX: i.CycloneDX}
	var err1, err2 error
	d.Compression, err1 = erofs.ParseCompression(i.Compression)
	d.Layout, err2 = partition.ParseKind(i.Layout)
	return d, errors.Join(err1, err2)
}

// kernelComponent is the kernel in the bill of materials.
func (g *maker) kernelComponent() sbom.Component {
	src := g.Input(lock.SourceInput)
	c := sbom.Component{Name: "linux", Digest: src.Digest, License: "GPL-2.0-only", Homepage: "https://www.kernel.org/"}
	if p := src.Package; p != nil {
		c.Name, c.Version, c.Supplier = p.Name, p.Version, "Debian"
		c.PURL = "pkg:deb/debian/" + p.Name + "@" + strings.ReplaceAll(p.Version, "+", "%2B") + "?arch=" + p.Arch
	}
	return c
}

// Fetch brings what the layers of a rootfs are made of into the store.
func (g *Guest) Fetch(ctx context.Context, report progress.Func) error {
	job := execute.Job{Report: report}
	for _, s := range g.Lock.Sets {
		if _, err := g.bringPackages(ctx, s.Inputs, job); err != nil {
			return err
		}
	}
	f, err := g.Fetcher()
	if err != nil {
		return err
	}
	for _, in := range g.Lock.Inputs {
		if in.Kind == lock.URL || in.Kind == lock.OCI {
			if err := f.Bring(ctx, in, report); err != nil {
				return err
			}
		}
	}
	return nil
}
