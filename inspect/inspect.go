// Package inspect looks into what katabuild and others build, without mounting, unpacking or booting it: disk images,
// initrds and kernels.
//
// A path comes in; out come facts and, where there are files, a tree whose contents are read from the image. Nothing is
// changed. The bytes may be anybody's: the readers below it check them.
package inspect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/gpt"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/internal/superblock"
	"github.com/katabuild/katabuild/rootfs/erofs"
	"github.com/katabuild/katabuild/rootfs/partition"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// The kinds of things there are.
const (
	kindImage  = "image"
	kindInitrd = "initrd"
	kindKernel = "kernel"
)

// Artifact is what a file turned out to be.
type Artifact struct {
	Path   string        `json:"path"`
	Kind   string        `json:"kind"`
	Size   int64         `json:"size"`
	Digest digest.Digest `json:"digest"`
	Image  *Image        `json:"image,omitempty"`
	Initrd *Initrd       `json:"initrd,omitempty"`
	Kernel *Kernel       `json:"kernel,omitempty"`

	// Tree is what an image's first readable file system or an initrd holds; nil for a kernel.
	Tree *tree.Tree `json:"-"`

	close []func() error
}

// Image is a disk.
type Image struct {
	Layout     string      `json:"layout"`
	ID         string      `json:"id,omitempty"` // of the partition table
	Partitions []Partition `json:"partitions"`
}

// Partition is a part of a disk; of a bare one, all of it.
type Partition struct {
	Number     int         `json:"number"` // 0 where there is no table
	Offset     int64       `json:"offset"` // bytes
	Size       int64       `json:"size"`   // bytes
	Type       string      `json:"type,omitempty"`
	UUID       string      `json:"uuid,omitempty"`
	Name       string      `json:"name,omitempty"`
	FileSystem *FileSystem `json:"file_system,omitempty"`
	// Holds says what else the partition is: "hash tree" when the manifest beside the image says so.
	Holds string `json:"holds,omitempty"`
}

// FileSystem is what a superblock says.
type FileSystem struct {
	Kind     string   `json:"kind"`
	UUID     string   `json:"uuid"`
	Label    string   `json:"label,omitempty"`
	Size     int64    `json:"size"` // bytes
	Features []string `json:"features,omitempty"`
}

// errUnknown says that a file is nothing that this package reads.
var errUnknown = errors.New("neither a disk image with erofs or ext4, nor an initrd, nor a kernel")

// Open finds out what a file is. Close it when done. dir is where what must be unpacked goes meanwhile.
func Open(path, dir string) (_ *Artifact, err error) {
	t := &Artifact{Path: path}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.Digest, t.Size, err = digest.File(path); err != nil {
		return nil, err
	}
	f, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	t.close = append(t.close, f.Close)
	head := make([]byte, 4096)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")), len(head) > bzMagic+4 && string(head[bzMagic:bzMagic+4]) == "HdrS":
		t.Kind = kindKernel
		t.Kernel, err = kernelOf(path)
	case bytes.HasPrefix(head, []byte("070701")), bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		t.Kind = kindInitrd
		var spool string
		if spool, err = os.MkdirTemp(dir, "katabuild-inspect-"); err == nil {
			t.close = append(t.close, func() error { return os.RemoveAll(spool) })
			t.Initrd, t.Tree, err = initrdOf(path, spool)
		}
	default:
		t.Kind = kindImage
		err = t.image(f)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// Close ends the reading of contents.
func (t *Artifact) Close() error {
	var errs []error
	for _, c := range t.close {
		errs = append(errs, c())
	}
	t.close = nil
	return errors.Join(errs...)
}

func (t *Artifact) image(f *os.File) error {
	d, err := partition.Read(f, t.Size)
	if err != nil {
		return err
	}
	t.Image = &Image{Layout: d.Kind.String(), ID: d.ID}
	for _, p := range d.Partitions {
		t.Image.Partitions = append(t.Image.Partitions, Partition{Number: p.Number, Offset: p.Offset, Size: p.Size,
			Type: p.Type, UUID: p.UUID, Name: p.Name})
	}
	if d.Kind == partition.Bare {
		t.Image.Partitions = []Partition{{Size: t.Size}}
	}
	hash := hashArea(t.Path)
	for i := range t.Image.Partitions {
		p := &t.Image.Partitions[i]
		if hash != nil && p.Offset == hash.Offset && d.Kind != partition.Bare {
			p.Holds = "hash tree"
			continue
		}
		fs, files, err := fileSystem(io.NewSectionReader(f, p.Offset, p.Size), p.Size)
		if err != nil {
			return fmt.Errorf("partition %d: %w", p.Number, err)
		}
		if p.FileSystem = fs; fs != nil && t.Tree == nil {
			t.Tree = files
		}
	}
	if t.Tree == nil {
		return errUnknown
	}
	return nil
}

// fileSystem opens what lies in a partition; nil where it is none that we read.
func fileSystem(r io.ReaderAt, size int64) (*FileSystem, *tree.Tree, error) {
	b := make([]byte, superblock.HeadSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, nil, nil // too small for any
	}
	switch superblock.Kind(b) {
	case manifest.EROFS:
		i, err := erofs.Open(r, size)
		if err != nil {
			return nil, nil, err
		}
		return &FileSystem{Kind: manifest.EROFS, UUID: uuid(i.UUID), Label: i.Label, Size: i.Size,
			Features: i.Features}, i.Tree, nil
	case manifest.Ext4:
		return openExt4(r, size)
	}
	return nil, nil, nil
}

func uuid(u [16]byte) string { return gpt.GUID(u).String() }

// hashArea is what the manifest beside an image says of its hash tree; nil where there is no manifest, or it is about
// something else.
func hashArea(path string) *manifest.Verity {
	m, _, err := manifest.Read(filepath.Dir(path), "")
	if err != nil || m.Image == nil || m.Image.Path != filepath.Base(path) {
		return nil
	}
	return m.Image.Verity
}
