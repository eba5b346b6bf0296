// Package ext4 writes and reads ext4 images, Linux's general file system.
//
// A tree comes in and an image goes out, or the other way round. The same tree and options give the same bytes, whoever
// runs it. The package knows nothing of block devices, mounts, partitions or verity, and never touches the host's file
// system itself: files are read through the tree, and the image goes where the caller says.
//
// The format is Linux's Documentation/filesystems/ext4; where that leaves a calculation out, the comment names the
// kernel's source. docs/formats/ext4.md says what of it is used and why.
package ext4

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// blockSize of the images written, in bytes.
const blockSize = 4096

// Options say how an image is written. The zero value is as small an image as holds the tree, without a journal, of
// 1970.
type Options struct {
	// UUID of the file system; zero derives it from the content.
	UUID [16]byte
	// Label has at most 16 bytes, none of them NUL.
	Label string
	// Time is when the file system was made and last written and checked, in seconds since 1970, at most 2^40-1.
	Time int64
	// FreeSpace is how many bytes are left for files to come, rounded up to blocks; there is then an inode more for
	// every 16 KiB.
	FreeSpace int64
	// Journal adds one, of 4 to 64 MiB, so that the file system survives a crash while it is mounted for writing.
	// Kata's runtime needs it even read-only: it mounts ext4 with data=ordered, which the kernel refuses where there is
	// no journal.
	Journal bool
	// Files opens the tree's files, each once; nil is an Opener of its own.
	Files *tree.Opener
}

// Info says what was written.
type Info struct {
	Size   int64 // bytes, a multiple of blockSize
	Inodes int   // of the tree: a file with several names counts once
	// UUID is Options.UUID; where that is zero, it is made from SHA-256 over all that the tree says of its files and
	// two checksums of every run of their data, in the form of a UUID of version 8, RFC 9562. It tells images apart; it
	// proves nothing.
	UUID [16]byte
	// Warnings are what the image cannot say as the tree does, with the path: times that ext4 has not.
	Warnings []string
}

// Write writes the tree to w, where everything must read as zeros, as in a new file. The last block is always written,
// so that a new file gets its length. Contents are read once, one after the other, in the order of the paths. A content
// shorter than its size is an error.
func Write(ctx context.Context, w io.WriterAt, t *tree.Tree, o Options) (Info, error) {
	p, err := newPlan(t, o)
	if err != nil {
		return Info{}, err
	}
	if err := p.write(ctx, w); err != nil {
		return Info{}, err
	}
	return p.info(), nil
}

func (o Options) check() error {
	switch {
	case len(o.Label) > 16 || strings.Contains(o.Label, "\x00"):
		return fmt.Errorf("ext4: label %q: want at most 16 bytes without NUL", o.Label)
	case o.Time < 0 || o.Time >= 1<<40:
		return fmt.Errorf("ext4: time %d: want it from 0 to 2^40-1", o.Time)
	case o.FreeSpace < 0 || o.FreeSpace > maxSize:
		return fmt.Errorf("ext4: %d bytes of free space", o.FreeSpace)
	}
	return nil
}

// Times that an inode can hold: a signed 32-bit number and two bits more above it.
// Documentation/filesystems/ext4/inodes.rst, "Inode Timestamps".
const (
	minTime = -1 << 31
	maxTime = 1<<34 - 1<<31 - 1 // 2446-05-10
)

// clamp is the nearest time that an inode can hold.
func clamp(t tree.Time) tree.Time {
	switch {
	case t.Sec < minTime:
		return tree.Time{Sec: minTime}
	case t.Sec > maxTime:
		return tree.Time{Sec: maxTime, Nsec: 999999999}
	}
	return t
}
