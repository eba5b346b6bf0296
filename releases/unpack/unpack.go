// Package unpack takes guests out of a release, so that they can be booted.
package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/releases/assemble"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/refusal"
)

// Name is the folder of a guest: NAME-VERSION-ARCH, and its variant where it has one.
func Name(g *index.Guest) string {
	name := g.Name + "-" + g.Version + "-" + g.Arch
	if g.Variant != "" {
		name += "-" + g.Variant
	}
	return name
}

// programs are those of a release that a node needs.
var programs = []string{"containerd-shim-kata-v2", "kata-runtime"}

// ForNode is what a host of an architecture needs of a release to run its guests: those without a variant, and the
// programs that run them. A release without is refused.
func ForNode(x *index.Index, architecture string) (*index.Index, error) {
	part := &index.Index{Version: x.Version, Channel: x.Channel, Time: x.Time}
	for _, g := range x.Guests {
		if g.Arch == architecture && g.Variant == "" {
			part.Guests = append(part.Guests, g)
		}
	}
	if len(part.Guests) == 0 {
		return nil, refusal.New(refusal.Architecture, "release", "want a guest for %s that has no variant",
			architecture)
	}
	for _, p := range x.Programs {
		if p.Arch == architecture && slices.Contains(programs, p.Name) {
			part.Programs = append(part.Programs, p)
		}
	}
	if len(part.Programs) != len(programs) {
		return nil, refusal.New(refusal.Architecture, "release", "want the programs %s for %s: make dist builds them, "+
			"and a release has those that it is given", strings.Join(programs, " and "), architecture)
	}
	return part, nil
}

// Guest makes the folder of a guest below dir, and returns it. What is there is replaced file by file, the manifest
// last. The release was judged before; each file is read once more as it is copied.
func Guest(ctx context.Context, from judge.Source, g *index.Guest, dir string) (string, error) {
	to := filepath.Join(dir, Name(g))
	if err := os.MkdirAll(to, 0o755); err != nil {
		return "", err
	}
	for _, a := range g.Artefacts {
		if err := file(ctx, from, a.Blob, filepath.Join(to, filepath.FromSlash(a.Name)), 0o644); err != nil {
			return "", fmt.Errorf("%s: %w", a.Name, err)
		}
	}
	for name, b := range map[string]index.Blob{assemble.ReportName: g.Report, assemble.VerdictName: g.Verdict} {
		if err := file(ctx, from, b, filepath.Join(to, name), 0o644); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
	}
	data, err := judge.Read(ctx, from, manifest.Name, g.Manifest)
	if err != nil {
		return "", err
	}
	return to, manifest.Write(to, data)
}

// Program puts a program below dir, as ARCH/NAME, and returns its path. It is copied as Guest copies files.
func Program(ctx context.Context, from judge.Source, p *index.Program, dir string) (string, error) {
	to := filepath.Join(dir, p.Arch, p.Name)
	if err := file(ctx, from, p.Blob, to, 0o755); err != nil {
		return "", fmt.Errorf("%s: %w", p.Name, err)
	}
	return to, nil
}

// file copies one out.
func file(ctx context.Context, from judge.Source, b index.Blob, path string, mode fs.FileMode) error {
	fi, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && fi.IsDir() {
		return fmt.Errorf("%s is a folder", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.With(path, mode, func(w io.Writer) error {
		return judge.Copy(ctx, from, filepath.Base(path), b, w)
	})
}
