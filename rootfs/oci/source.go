package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/internal/flow"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/rootfs/compression"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
)

// source is the files of an image, by slash-separated names.
type source interface {
	// Open reads a file. A missing one is errNoFile.
	Open(name string) (io.ReadCloser, error)
	Close() error
}

var errNoFile = errors.New("no such file in the image")

// open finds out what is at path. An archive that is compressed is unpacked in the folder work first.
func open(ctx context.Context, name, work string) (source, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		r, err := regular.OpenFolder(name) // no link in the folder leads out of it
		return folder{r}, err
	}
	f, err := regular.Open(name)
	if err != nil {
		return nil, err
	}
	if err := tarfile.Check("it", f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var magic [512]byte
	_, err = io.ReadFull(f, magic[:])
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if string(magic[257:262]) != "ustar" { // POSIX.1-2017, pax, "ustar Interchange Format"
		plain := filepath.Join(work, "image.tar")
		_, _, err := compression.Decompress(flow.Until(ctx, f), plain, defaultMaxLayer)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("unpack it: %w", err)
		}
		if f, err = os.Open(plain); err != nil {
			return nil, err
		}
	}
	a := &archive{file: f, members: map[string]member{}}
	if err := a.list(); err != nil {
		return nil, errors.Join(fmt.Errorf("read the archive: %w", err), f.Close())
	}
	return a, nil
}

type folder struct{ *regular.Folder }

func (f folder) Open(name string) (io.ReadCloser, error) {
	// What a link leads to may be no part of the folder's digest. Blobs have digests of their own; what names them has
	// not.
	if fi, err := f.Root().Lstat(name); err == nil && !fi.Mode().IsRegular() && !strings.HasPrefix(name, blobs) {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	r, err := f.Folder.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s: %w", name, errNoFile)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// archive is a tar whose files are read in place.
type archive struct {
	file    *os.File
	members map[string]member
}

// member is where a file lies in a tar, or to which other one it is a link: Docker links equal layers to each other.
type member struct {
	offset, size int64
	link         string
}

// maxMembers bounds how many files an archive of an image may have: a few for each layer.
const maxMembers = 1 << 16

func (a *archive) list() error {
	tr := tar.NewReader(a.file) // which reads no further than headers, and skips contents by seeking
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return err
		}
		if len(a.members) >= maxMembers {
			return fmt.Errorf("more than %d files", maxMembers)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := a.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			a.members[name] = member{offset: at, size: h.Size}
		case tar.TypeSymlink:
			a.members[name] = member{link: path.Join("/", path.Dir(name), h.Linkname)[1:]}
		case tar.TypeLink:
			a.members[name] = member{link: path.Clean("/" + h.Linkname)[1:]}
		}
	}
}

func (a *archive) Open(name string) (io.ReadCloser, error) {
	m, ok := a.members[name]
	for range 8 { // links to links end here
		if !ok || m.link == "" {
			break
		}
		m, ok = a.members[m.link]
	}
	if !ok || m.link != "" {
		return nil, fmt.Errorf("%s: %w", name, errNoFile)
	}
	return io.NopCloser(io.NewSectionReader(a.file, m.offset, m.size)), nil
}

func (a *archive) Close() error { return a.file.Close() }
