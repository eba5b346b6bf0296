package rootfs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/gpt"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/rootfs/erofs"
	"github.com/katabuild/katabuild/rootfs/ext4"
	"github.com/katabuild/katabuild/rootfs/partition"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
	"github.com/katabuild/katabuild/rootfs/verity"
)

// File names of what WriteDisk and WriteImage leave.
const (
	ImageName     = extension.ImageName
	SBOMName      = "sbom.spdx.json"
	CycloneDXName = "sbom.cdx.json"    // where Disk.CycloneDX asks for it
	RootHashName  = extension.HashName // the line that Kata's tools read
)

// Disk is how the tree becomes an image.
type Disk struct {
	FileSystem  string            // manifest.EROFS or manifest.Ext4
	Compression erofs.Compression // of manifest.EROFS
	Layout      partition.Kind
	Verity      bool
	Label       string
	FreeSpace   int64 // bytes of manifest.Ext4 that stay free
	Journal     bool  // of manifest.Ext4
	CycloneDX   bool  // another bill of materials, in CycloneDX
	Jobs        int   // never changes the result
}

// Inputs is what decides the image beside the tree.
func (d Disk) Inputs() []artifact.Input {
	in := []artifact.Input{
		{Name: "file system", Value: d.FileSystem}, {Name: "compression", Value: d.Compression.String()},
		{Name: "layout", Value: d.Layout.String()},
		{Name: "verity", Value: fmt.Sprint(d.Verity)}, {Name: "label", Value: d.Label},
		{Name: "free space", Value: fmt.Sprint(d.FreeSpace)},
		{Name: "journal", Value: fmt.Sprint(d.Journal)},
	}
	if d.CycloneDX { // only then, so that the keys of guests without it stay what they were
		in = append(in, artifact.Input{Name: "cyclonedx", Value: "true"})
	}
	return in
}

// Result is what WriteDisk and WriteImage made.
type Result struct {
	Outputs  []artifact.Output
	Image    manifest.ImageLayout
	Warnings []string // what the file system could not say as it was in the tree
}

// WriteImage makes the tree, writes it as a disk into the folder dir, and its bills of materials beside it. more are
// components that are not in the tree, such as the kernel. Each file of a layer is read once.
func (r Request) WriteImage(ctx context.Context, d Disk, dir string, more []sbom.Component) (res *Result, err error) {
	files := &tree.Opener{WithSums: true}
	defer func() { err = errors.Join(err, files.Close()) }()
	err = r.verified(ctx, files, func(t *tree.Tree, parts []sbom.Component) error {
		res, err = r.writeImage(ctx, d, dir, t, append(parts, more...), files)
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

func (r Request) writeImage(ctx context.Context, d Disk, dir string, t *tree.Tree, parts []sbom.Component,
	files *tree.Opener) (*Result, error) {
	res := &Result{}
	var err error
	path := filepath.Join(dir, ImageName)
	if res.Image, res.Warnings, err = r.WriteDisk(ctx, d, t, files, path); err != nil {
		return nil, err
	}
	res.Outputs = append(res.Outputs, artifact.Output{Name: ImageName, Path: path})
	if v := res.Image.Verity; v != nil {
		path := filepath.Join(dir, RootHashName)
		if err := os.WriteFile(path, []byte(v.Params.String()+"\n"), 0o644); err != nil {
			return nil, err
		}
		res.Outputs = append(res.Outputs, artifact.Output{Name: RootHashName, Path: path})
	}
	r.say("bill of materials")
	doc := sbom.Document{
		Name: r.Name, Time: r.Time, Creator: "katabuild", Components: parts, Files: files,
	}
	// Another kernel source or package is another bill, although the files may be the same.
	whole, err := document.Encode(struct {
		Name, UUID string
		Components []sbom.Component
	}{r.Name, res.Image.UUID, doc.Components})
	if err != nil {
		return nil, err
	}
	doc.Digest = digest.Of(append([]byte("bill of materials\n"), whole...))
	bills := []bill{{SBOMName, doc.Write}}
	if d.CycloneDX {
		bills = append(bills, bill{CycloneDXName, doc.WriteCycloneDX})
	}
	for _, b := range bills {
		path := filepath.Join(dir, b.name)
		f, err := os.Create(path)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(b.write(ctx, f, t), f.Close()); err != nil {
			return nil, err
		}
		res.Outputs = append(res.Outputs, artifact.Output{Name: b.name, Path: path})
	}
	return res, nil
}

// WriteTar makes the tree and writes it as a tar. What a tar cannot hold is left out and returned.
func (r Request) WriteTar(ctx context.Context, path string) (leftOut []string, err error) {
	files := &tree.Opener{WithSums: true}
	defer func() { err = errors.Join(err, files.Close()) }()
	err = r.verified(ctx, files, func(t *tree.Tree, _ []sbom.Component) error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		leftOut, err = tarfile.Write(f, t, files)
		return errors.Join(err, f.Close())
	})
	return leftOut, err
}

// verified makes the tree and does something with it, and then compares what was read of each file that could have
// changed meanwhile with what was expected. Where something failed too, a change is the better explanation.
func (r Request) verified(ctx context.Context, files *tree.Opener, do func(*tree.Tree, []sbom.Component) error) error {
	t, parts, err := r.tree(ctx)
	if err == nil {
		err = do(t, parts)
	}
	if ctx.Err() != nil {
		return err
	}
	for _, l := range r.Layers {
		if f, ok := l.(*Folder); ok {
			if changed := f.verify(ctx, files); changed != nil {
				return changed
			}
		}
	}
	return errors.Join(files.Wrong(), err)
}

// bill is one form of the bill of materials.
type bill struct {
	name  string
	write func(context.Context, io.Writer, *tree.Tree) error
}

func (r Request) say(what string) {
	r.Progress.Send(progress.Event{Step: step, Kind: progress.Update, Message: what})
}

// WriteDisk is the part of WriteImage that makes the disk, for callers that have a tree: it uses no layer of the
// request, and opens each file with files, once. The file at path must not be there yet. The warnings are what the file
// system could not say as it was in the tree.
func (r Request) WriteDisk(ctx context.Context, d Disk, t *tree.Tree, files *tree.Opener,
	path string) (image manifest.ImageLayout, warnings []string, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return image, nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()

	options := partition.Options{DataSize: verity.BlockSize}
	if d.Layout == partition.GPT {
		options.Arch = r.Arch.Name
	}
	// Where the file system begins does not depend on how long it is.
	l, err := partition.Plan(d.Layout, options)
	if err != nil {
		return image, nil, err
	}
	r.say("file system")
	var uuid [16]byte
	at := io.NewOffsetWriter(f, l.Data.Offset)
	switch d.FileSystem {
	case manifest.EROFS:
		info, err := erofs.Write(ctx, at, t, erofs.Options{Compression: d.Compression, Label: d.Label, Time: r.Time,
			Jobs: d.Jobs, Files: files})
		if err != nil {
			return image, nil, err
		}
		options.DataSize, uuid = info.Size, info.UUID
	case manifest.Ext4:
		info, err := ext4.Write(ctx, at, t, ext4.Options{Label: d.Label, Time: r.Time, FreeSpace: d.FreeSpace,
			Journal: d.Journal, Files: files})
		if err != nil {
			return image, nil, err
		}
		options.DataSize, uuid, warnings = info.Size, info.UUID, info.Warnings
	default:
		return image, nil, fmt.Errorf("unknown file system %q", d.FileSystem)
	}
	id := partition.Identity(sha256.Sum256(uuid[:]))
	if d.Verity {
		if options.HashSize, err = verity.HashSize(options.DataSize, false); err != nil {
			return image, nil, err
		}
	}
	if l, err = partition.Plan(d.Layout, options); err != nil {
		return image, nil, err
	}
	image = manifest.ImageLayout{
		Layout: d.Layout.String(), FileSystem: d.FileSystem, UUID: gpt.GUID(uuid).String(),
		Offset: l.Data.Offset, Length: l.Data.Size,
	}
	if d.Verity {
		r.say("hash tree")
		salt, _ := verity.Derive(digest.Of(append([]byte("root file system "), uuid[:]...)))
		p, err := verity.Format(ctx, io.NewSectionReader(f, l.Data.Offset, l.Data.Size), l.Data.Size, f,
			l.Hash.Offset, verity.Options{Salt: salt, Jobs: d.Jobs})
		if err != nil {
			return image, nil, err
		}
		id = partition.Identity(p.Root)
		image.Verity = &manifest.Verity{Params: p.Params, Offset: l.Hash.Offset, Length: l.Hash.Size}
	}
	if err := l.Write(f, id); err != nil {
		return image, nil, err
	}
	return image, warnings, f.Truncate(l.Size)
}

// CommandLine is what the kernel must be told to mount the root of an image that the guest has as disk, such as
// /dev/vda.
func CommandLine(i manifest.ImageLayout, disk string) (string, error) {
	kind, err := partition.ParseKind(i.Layout)
	if err != nil {
		return "", err
	}
	l := partition.Layout{Kind: kind, Data: partition.Extent{Offset: i.Offset, Size: i.Length}}
	if v := i.Verity; v != nil {
		l.Hash = partition.Extent{Offset: v.Offset, Size: v.Length}
	}
	data, hash, at := l.Devices(disk)
	flags := "ro"
	if v := i.Verity; v != nil {
		if err := v.Check(); err != nil {
			return "", fmt.Errorf("hash tree: %w", err)
		}
		if at%v.HashBlockSize != 0 {
			return "", fmt.Errorf("hash tree at %d: want a multiple of %d", at, v.HashBlockSize)
		}
		create, err := v.Table(at/v.HashBlockSize).CreateWord(data, hash)
		if err != nil {
			return "", err
		}
		return create + " root=" + dmverity.CreatedDevice + " rootfstype=" + i.FileSystem + " " + flags, nil
	}
	if strings.HasPrefix(disk, "/dev/pmem") {
		// files are mapped where they lie; dm-verity, which must look at them first, knows no DAX
		flags = "rootflags=dax " + flags
	}
	return "root=" + data + " rootfstype=" + i.FileSystem + " " + flags, nil
}
