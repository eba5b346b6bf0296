// Package modules brings loadable modules into and out of a kernel's build: sources of external ones are copied in, and
// what was built is packed, signed where there is a key, with what further ones are built against.
//
// What a build leaves is foreign: it is opened beneath a handle on its folder, by kind and up to a bound.
package modules

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/modsign"
)

// What modules may be: all of Linux 6.12 as modules has 7,000 files, and 10 GB with debugging information.
const (
	maxModules       = 16 << 30
	maxModuleEntries = 100_000
)

// Pack writes root's lib/modules as a tar whose bytes depend on names, modes, contents and the key alone. Each
// module gets the key's signature; nil signs none.
func Pack(ctx context.Context, root, out string, t time.Time, key *modsign.Key) error {
	left, err := regular.OpenFolder(root)
	if err != nil {
		return err
	}
	defer left.Close()
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buf)
	var total int64
	entries := 0
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil || rel == "." {
			return err
		}
		if entries++; entries > maxModuleEntries {
			return fmt.Errorf("more than %d files and folders", maxModuleEntries)
		}
		h := &tar.Header{Name: filepath.ToSlash(rel), ModTime: t, Format: tar.FormatPAX, Uname: "root", Gname: "root"}
		switch {
		case d.IsDir():
			h.Typeflag, h.Mode, h.Name = tar.TypeDir, 0o755, h.Name+"/"
			return w.WriteHeader(h)
		case d.Type() == fs.ModeSymlink:
			return nil // build and source point into the work folder
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is neither file nor folder", rel)
		}
		in, err := left.Open(filepath.ToSlash(rel))
		if err != nil {
			return err
		}
		defer in.Close()
		fi, err := in.Stat()
		if err != nil {
			return err
		}
		if total += fi.Size(); total > maxModules {
			return fmt.Errorf("more than %d bytes", int64(maxModules))
		}
		var signature []byte
		if key != nil && strings.HasSuffix(h.Name, ".ko") {
			if signature, err = key.Sign(in); err != nil {
				return fmt.Errorf("sign %s: %w", rel, err)
			}
			if _, err := in.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
		h.Typeflag, h.Mode, h.Size = tar.TypeReg, 0o644, fi.Size()+int64(len(signature))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err = io.Copy(w, in); err != nil {
			return err
		}
		_, err = w.Write(signature)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = buf.Flush()
	}
	return errors.Join(err, f.Close())
}
