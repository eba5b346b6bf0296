package pod

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/translate"
)

// copyChunk is what one call carries, in bytes, as Kata's hosts do; ttrpc takes 4 MiB.
const copyChunk = 1 << 20

// Bounds of what is copied for one volume: such volumes are configuration, and all of it is the guest's memory, and a
// call each.
const (
	maxCopied      = 64 << 20 // bytes
	maxCopiedFiles = 4096     // files, folders and links
)

// room is what may still be copied for a volume.
type room struct{ bytes, files int64 }

// take takes room for a file of a size.
func (r *room) take(size int64) error {
	r.bytes -= size
	r.files--
	switch {
	case r.bytes < 0:
		return fmt.Errorf("it has more than %d MiB; share it with virtio-fs, or put it on a block device",
			maxCopied>>20)
	case r.files < 0:
		return fmt.Errorf("it has more than %d files; share it with virtio-fs, or put it on a block device",
			maxCopiedFiles)
	}
	return nil
}

// copyVolume copies a file or folder of the host into a guest with which nothing is shared, as it is now. Changes of
// the host's come with the next container that has the volume; those of the guest's stay there.
func (p *Pod) copyVolume(ctx context.Context, c translate.Copy) error {
	left := room{maxCopied, maxCopiedFiles}
	root, err := filepath.EvalSymlinks(c.Source)
	if err != nil {
		return err
	}
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return p.copyFile(ctx, path, filepath.Join(c.Path, rel), &left)
	})
	if err != nil {
		return fmt.Errorf("copy %s into the guest: %w", c.Source, err)
	}
	return nil
}

// copyFile copies one file, folder or symbolic link; others have no meaning in another machine.
func (p *Pod) copyFile(ctx context.Context, from, to string, left *room) error {
	st, err := os.Lstat(from)
	if err != nil {
		return err
	}
	size := int64(0)
	if st.Mode().IsRegular() {
		size = st.Size()
	}
	if err := left.take(size); err != nil {
		return err
	}
	sys := st.Sys().(*syscall.Stat_t)
	req := &katapb.CopyFileRequest{Path: to, FileMode: sys.Mode, DirMode: 0o755, Uid: int32(sys.Uid),
		Gid: int32(sys.Gid)}
	switch {
	case st.IsDir():
		_, err = p.link.CopyFile(ctx, req)
		return err
	case st.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		req.Data, req.FileSize = []byte(target), int64(len(target))
		_, err = p.link.CopyFile(ctx, req)
		return err
	case !st.Mode().IsRegular():
		p.log.Warn("not copied into the guest: neither file, folder nor link", "path", from)
		return nil
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	req.FileSize = st.Size()
	b := make([]byte, min(copyChunk, st.Size()))
	for {
		n, err := io.ReadFull(f, b[:min(int64(len(b)), req.FileSize-req.Offset)])
		if err != nil {
			return fmt.Errorf("%s: %w", from, err) // it became shorter while it was read
		}
		req.Data = b[:n]
		if _, err := p.link.CopyFile(ctx, req); err != nil {
			return err
		}
		if req.Offset += int64(n); req.Offset >= req.FileSize {
			return nil
		}
	}
}
