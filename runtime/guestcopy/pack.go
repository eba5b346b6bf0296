package guestcopy

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Pack writes a file, link, or folder with all that is in it as a tar whose top is called name. Hard links among the
// files are kept. Devices, pipes and sockets are left out, and told to skipped. progress is told of bytes.
func Pack(w io.Writer, from, name string, skipped func(string), progress func(int64)) error {
	t := tar.NewWriter(w)
	links := map[[2]uint64]string{} // of files with several names, the first, by device and number
	err := filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		return packOne(t, p, path.Join(name, filepath.ToSlash(rel)), links, skipped, progress)
	})
	return errors.Join(err, t.Close())
}

func packOne(t *tar.Writer, from, name string, links map[[2]uint64]string, skipped func(string),
	progress func(int64)) error {
	st, err := os.Lstat(from)
	if err != nil {
		return err
	}
	target := ""
	switch st.Mode().Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		if target, err = os.Readlink(from); err != nil {
			return err
		}
	default:
		skipped(from)
		return nil
	}
	h, err := tar.FileInfoHeader(st, target)
	if err != nil {
		return err
	}
	h.Name, h.Format = name, tar.FormatPAX
	h.Uname, h.Gname = "", "" // the guest's users are others
	if sys := (unix.Stat_t{}); st.Mode().IsRegular() && unix.Lstat(from, &sys) == nil && sys.Nlink > 1 {
		key := [2]uint64{uint64(sys.Dev), sys.Ino}
		if first := links[key]; first != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return t.WriteHeader(h)
		}
		links[key] = name
	}
	if err := t.WriteHeader(h); err != nil || !st.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(io.MultiWriter(t, counter(progress)), io.LimitReader(f, h.Size))
	if err == nil && n < h.Size {
		err = fmt.Errorf("%s has become shorter while it was read", from)
	}
	return err
}
