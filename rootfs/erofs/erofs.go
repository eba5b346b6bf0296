// Package erofs writes and reads EROFS images, Linux's read-only file system.
//
// A tree comes in and an image goes out, or the other way round. The same tree and options give the same bytes, whoever
// runs it, on however many processors. The package knows nothing of block devices, mounts, partitions or verity, and
// never touches the host's file system itself: files are read through the tree, and the image goes where the caller
// says.
//
// The format is Linux's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h; docs/formats/erofs.md says what of
// it is used and why.
package erofs

import (
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Compression is how the data of files is packed.
type Compression uint8

// The compressions there are. What a kernel needs for each is in docs/formats/erofs.md.
const (
	None    Compression = iota // files are stored as they are, from a block's start on, fit for DAX
	LZ4                        // quick to write and to read
	LZ4HC                      // slow to write, read like LZ4
	Zstd                       // the smallest
	Deflate                    // small, for kernels before 6.10
)

var compressionNames = [...]string{"none", "lz4", "lz4hc", "zstd", "deflate"}

// Compressions lists the names of all, that of the zero value first.
func Compressions() []string { return slices.Clone(compressionNames[:]) }

func (c Compression) String() string {
	if int(c) < len(compressionNames) {
		return compressionNames[c]
	}
	return fmt.Sprintf("compression %d", uint8(c))
}

// ParseCompression is the compression of a name as String prints it.
func ParseCompression(name string) (Compression, error) {
	for i, n := range compressionNames {
		if n == name {
			return Compression(i), nil
		}
	}
	return 0, fmt.Errorf("compression %q: want one of %q", name, compressionNames)
}

// Options say how an image is written. The zero value is an image without compression, of 1970.
type Options struct {
	Compression Compression
	// Level of the compression; 0 is the default. LZ4HC and Deflate have 1 to 9, Zstd 1 to 4, the others none.
	Level int
	// ClusterSize is how many bytes of a file are compressed at a time: a multiple of blockLength up to 1 MiB. Larger
	// is smaller, and slower to read at random. 0 is the default, 128 KiB.
	ClusterSize int
	// Inline puts the last bytes of a file behind its inode where they fit, without Compression too: smaller, but such
	// files are not fit for DAX.
	Inline bool
	// UUID of the file system; zero derives it from the content.
	UUID [16]byte
	// Label has at most 16 bytes, none of them NUL.
	Label string
	// Time is when the image was built, in seconds since 1970. A file of just that time takes 32 bytes less than
	// others.
	Time int64
	// Jobs is how many goroutines compress; 0 is one a processor. Each takes some 40 MB. The image does not depend on
	// it.
	Jobs int
	// Files opens the tree's files, each once; nil is an Opener of its own.
	Files *tree.Opener
}

// Info says what was written.
type Info struct {
	Size   int64 // bytes, a multiple of blockLength
	Inodes int
	// UUID is Options.UUID or, where that is zero, derived: SHA-256 over two checksums (CRC-32C, CRC-32) of every 256
	// KiB of the image and of its first blocks, cut to the form of a UUID of version 8 (RFC 9562). It tells images
	// apart; it proves nothing.
	UUID [16]byte
}

// The defaults and bounds of Options, in one place.
const (
	defaultCluster = 128 << 10
	maxCluster     = segmentSize
	maxLabel       = 16
)

var levels = [...]struct{ max, standard int }{
	None: {0, 0}, LZ4: {0, 0}, LZ4HC: {9, 4}, Zstd: {4, 3}, Deflate: {9, 6},
}

// complete checks options and puts the defaults in.
func (o Options) complete() (Options, error) {
	if int(o.Compression) >= len(levels) {
		return o, fmt.Errorf("%v: there is no such compression", o.Compression)
	}
	l := levels[o.Compression]
	if o.Level < 0 || o.Level > l.max {
		return o, fmt.Errorf("level %d of %v: want at most %d", o.Level, o.Compression, l.max)
	}
	if o.Level == 0 {
		o.Level = l.standard
	}
	if o.ClusterSize == 0 {
		o.ClusterSize = defaultCluster
	}
	if o.ClusterSize < 2*blockLength || o.ClusterSize > maxCluster || o.ClusterSize%blockLength != 0 {
		return o, fmt.Errorf("cluster size %d: want a multiple of %d from %d to %d", o.ClusterSize, blockLength,
			2*blockLength, maxCluster)
	}
	if len(o.Label) > maxLabel {
		return o, fmt.Errorf("label %q: want at most %d bytes", o.Label, maxLabel)
	}
	for i := range len(o.Label) {
		if o.Label[i] == 0 {
			return o, fmt.Errorf("label %q holds a NUL", o.Label)
		}
	}
	if o.Jobs < 0 {
		return o, fmt.Errorf("%d jobs", o.Jobs)
	}
	if o.Jobs == 0 {
		o.Jobs = runtime.GOMAXPROCS(0)
	}
	return o, nil
}

// pathError names the file of a tree that could not be written.
func pathError(p string, err error) error {
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("erofs: %s: %w", p, err)
}
