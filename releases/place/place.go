// Package place has the places where releases lie, and copies releases between them: folders, single files, static web
// servers and registries of OCI artefacts.
//
// A place is told from others by what its name begins with. Nothing that a place says is believed: an index is judged
// by its signatures, and a file by the digest that the index has.
package place

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
)

// Source is where a release is read.
type Source interface {
	// Index reads what is known of the release before its files.
	Index(ctx context.Context) (folder.Head, error)
	// Open begins to read a file at an offset, in bytes. The caller closes it.
	Open(ctx context.Context, b index.Blob, offset int64) (io.ReadCloser, error)
	Close() error
}

// Sink is where a release is written. Begin comes first and Finish, which lets others see the release, last.
type Sink interface {
	Begin(ctx context.Context, h folder.Head) error
	// Has says whether a file is there already.
	Has(ctx context.Context, b index.Blob) (bool, error)
	Put(ctx context.Context, b index.Blob, open folder.Opener) error
	Finish(ctx context.Context, h folder.Head) error
	Close() error
	// Parallel is how many files may be put at once. Where it is 1, they come in the order of Index.Blobs.
	Parallel() int
}

// The prefixes of places.
const (
	dirPrefix    = "dir:"
	bundlePrefix = "bundle:"
	ociPrefix    = "oci:"
)

// Forms tells people what places look like.
const Forms = "dir:FOLDER (or just FOLDER), bundle:FILE, oci:HOST/REPOSITORY[:TAG], http(s)://HOST/FOLDER"

// Open opens a place for reading.
func Open(ctx context.Context, name string, access registry.Access) (Source, error) {
	switch {
	case strings.HasPrefix(name, ociPrefix):
		return openRegistry(ctx, name[len(ociPrefix):], access, true)
	case strings.HasPrefix(name, bundlePrefix):
		return openBundle(name[len(bundlePrefix):])
	case strings.HasPrefix(name, "https://"), strings.HasPrefix(name, "http://"):
		return openWeb(name, access)
	}
	dir, err := folderOf(name)
	if err != nil {
		return nil, err
	}
	return folder.Open(dir)
}

// Create opens a place for writing.
func Create(ctx context.Context, name string, access registry.Access) (Sink, error) {
	switch {
	case strings.HasPrefix(name, ociPrefix):
		return openRegistry(ctx, name[len(ociPrefix):], access, false)
	case strings.HasPrefix(name, bundlePrefix):
		return createBundle(name[len(bundlePrefix):])
	case strings.HasPrefix(name, "https://"), strings.HasPrefix(name, "http://"):
		return nil, fmt.Errorf("%s: a web server is only read; write a folder, and have it serve that", name)
	}
	dir, err := folderOf(name)
	if err != nil {
		return nil, err
	}
	return folder.Create(ctx, dir)
}

// IsRemote says whether a name is that of a place which is no folder.
func IsRemote(name string) bool {
	for _, p := range []string{ociPrefix, bundlePrefix, dirPrefix, "https://", "http://"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// IsBundle says whether a name is that of a bundle: a release for hosts without a network.
func IsBundle(name string) bool { return strings.HasPrefix(name, bundlePrefix) }

// IsWritable says whether something can be put beside a release that lies in a place: a folder, or a registry.
func IsWritable(name string) bool {
	return !IsRemote(name) || strings.HasPrefix(name, ociPrefix) || strings.HasPrefix(name, dirPrefix)
}

func folderOf(name string) (string, error) {
	dir := strings.TrimPrefix(name, dirPrefix)
	if dir == "" {
		return "", errors.New("the name of a place is empty: want " + Forms)
	}
	return dir, nil
}
