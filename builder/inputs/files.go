package inputs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/flow"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/source"
)

// FileDigest is digest.File that ends with its context.
func FileDigest(ctx context.Context, path string) (digest.Digest, int64, error) {
	f, err := regular.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	return digest.Reader(flow.Until(ctx, f))
}

// TreeDigest is the digest of a folder that a recipe names, which may be a link to it.
func TreeDigest(ctx context.Context, name, path string) (digest.Digest, error) {
	dir, err := checkout.Folder(path)
	if err != nil {
		return "", err
	}
	if name == lock.SourceInput {
		return source.TreeDigest(ctx, dir)
	}
	return checkout.Digest(ctx, dir)
}

// Problem says what is wrong with an input beside the recipe, by the name that the recipe has for it.
func Problem(ctx context.Context, w Wish, err error) error {
	switch {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, fs.ErrNotExist) && (w.Kind == lock.Local || w.Kind == lock.Tree):
		return fmt.Errorf("%s is not there: %w", w.Where, err)
	}
	if k, ok := errors.AsType[*regular.KindError](err); ok && k.Kind == "a folder" {
		return fmt.Errorf("%s is a folder, and a file is wanted: %w", w.Where, err)
	}
	return fmt.Errorf("%s: %w", w.Name, err)
}

// ReadLock reads the lock at path; a missing one is fs.ErrNotExist.
func ReadLock(path string) (*lock.Lock, error) {
	data, err := regular.ReadFile(path, maxLock)
	if err != nil {
		return nil, err
	}
	l, err := lock.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// maxLock bounds a lock, in bytes: one with a thousand packages has less than one million.
const maxLock = 16 << 20

// Inside says whether a path, which need not be there, lies in a folder without links in its own path, or is it.
func Inside(dir, path string) bool {
	path, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	rest := ""
	for {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = filepath.Join(real, rest)
			break
		} else if !errors.Is(err, os.ErrNotExist) || path == "/" {
			path = filepath.Join(path, rest)
			break
		}
		path, rest = filepath.Dir(path), filepath.Join(filepath.Base(path), rest)
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
