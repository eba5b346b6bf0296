// Package assemble makes a release of guests that were built and have booted.
//
// Folders of guests go in, a release's folder comes out. A guest that has not booted to 'attested', with these very
// bytes, is refused.
package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/recipetar"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/releases/chunks"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/provenance"
	"github.com/katabuild/katabuild/releases/refusal"
)

// The names under which `katabuild boot` leaves what it saw beside a guest.
const (
	ReportName  = "report.json"
	VerdictName = "verdict.json"
)

// Guest is a guest to release.
type Guest struct {
	Dir     string
	Variant string // empty for none
}

// Origin is how a guest was made.
type Origin struct {
	provenance.Options
	Lock []byte // the lock as it is written
}

// Config is what to release.
type Config struct {
	Guests  []Guest
	Version string // of all of them
	Channel string
	Notes   string // a folder of notes, *.md, or one such file; empty for none
	// Programs is a folder with a folder for each architecture, which has its programs; empty for none.
	Programs string
	// Sources bring what the guests' locks name, once for each file; nil for none.
	Sources func(lock []byte) ([]Source, error)
	// Origin says of a guest how it was made. The manifest's Lock says by which lock.
	Origin func(Guest, *manifest.Manifest) (Origin, error)
	// Claims compares a report with a manifest.
	Claims judge.Claims
	// Sign signs the release; nil leaves it unsigned.
	Sign keys.Signer
}

// Release makes the release in a folder, and returns its index as it is written.
func Release(ctx context.Context, c Config, to *folder.Folder) ([]byte, error) {
	if err := errors.Join(index.CheckVersion(c.Version), index.CheckWord("channel", c.Channel)); err != nil {
		return nil, err
	}
	x := &index.Index{Version: index.Version, Channel: c.Channel}
	for _, g := range c.Guests {
		if err := c.add(ctx, x, g, to); err != nil {
			return nil, fmt.Errorf("guest %s: %w", g.Dir, err)
		}
	}
	if c.Notes != "" {
		notes, err := readNotes(c.Notes)
		if err != nil {
			return nil, err
		}
		b, err := put(ctx, to, notes)
		if err != nil {
			return nil, err
		}
		x.Notes = &b
	}
	if c.Programs != "" {
		if err := c.programs(ctx, x, to); err != nil {
			return nil, fmt.Errorf("programs: %w", err)
		}
	}
	data, err := x.Encode()
	if err != nil {
		return nil, err
	}
	// What others will be asked to believe is judged as they will judge it.
	if err := judge.Contents(ctx, x, to, c.Claims); err != nil {
		return nil, err
	}
	if c.Sign == nil {
		return data, to.Finish(ctx, folder.Head{Index: data})
	}
	envelope, err := judge.Sign(ctx, data, nil, c.Sign)
	if err != nil {
		return nil, err
	}
	return data, to.Finish(ctx, folder.Head{Index: data, Envelope: envelope})
}

func (c *Config) add(ctx context.Context, x *index.Index, g Guest, to *folder.Folder) error {
	m, d, err := manifest.Read(g.Dir, "")
	if err != nil {
		return err
	}
	data, err := regular.ReadFile(filepath.Join(g.Dir, manifest.Name), judge.MaxDocument)
	if err != nil {
		return err
	}
	entry := index.Of(m, int64(len(data)), d)
	entry.Version, entry.Variant = c.Version, g.Variant
	if entry.Manifest, err = put(ctx, to, data); err != nil {
		return err
	}
	if err := c.boot(ctx, &entry, g.Dir, to); err != nil {
		return err
	}
	how, err := c.Origin(g, m)
	if err != nil {
		return err
	}
	statement, err := provenance.Of(m, d, how.Options).Encode()
	if err != nil {
		return err
	}
	if err := c.again(ctx, &entry, g.Dir, how.Lock, to); err != nil {
		return err
	}
	if c.Sources != nil {
		if err := c.sources(ctx, x, how.Lock, to); err != nil {
			return err
		}
	}
	if entry.Provenance, err = put(ctx, to, statement); err != nil {
		return err
	}
	for i := range entry.Artefacts {
		a := &entry.Artefacts[i]
		err := to.AddFile(ctx, filepath.Join(g.Dir, filepath.FromSlash(a.Name)), a.Blob)
		if err == nil && a.Size >= chunks.Least {
			a.Chunks, err = list(ctx, to, a.Blob)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", a.Name, err)
		}
	}
	x.Guests = append(x.Guests, entry)
	x.Time = max(x.Time, m.Time)
	return nil
}

// list makes the chunk list of a file. One that is too big for a list has none.
func list(ctx context.Context, to *folder.Folder, b index.Blob) (*index.Blob, error) {
	r, err := to.Open(ctx, b, 0)
	if err != nil {
		return nil, err
	}
	l, err := chunks.Make(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	data, err := l.Encode()
	if err != nil {
		return nil, nil
	}
	of, err := put(ctx, to, data)
	return &of, err
}

// again takes in what a guest can be built of once more: its lock, and where it lies beside the guest its recipe.
func (c *Config) again(ctx context.Context, entry *index.Guest, dir string, lock []byte, to *folder.Folder) error {
	b, err := put(ctx, to, lock)
	if err != nil {
		return err
	}
	entry.Lock = &b
	data, err := regular.ReadFile(filepath.Join(dir, recipetar.FileName), recipetar.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	of, err := put(ctx, to, data)
	entry.Recipe = &of
	return err
}

// Source is a file that a lock names.
type Source struct {
	Path string
	index.Blob
}

// sources takes in what a lock names.
func (c *Config) sources(ctx context.Context, x *index.Index, lock []byte, to *folder.Folder) error {
	list, err := c.Sources(lock)
	if err != nil {
		return err
	}
	for _, s := range list {
		at, found := slices.BinarySearchFunc(x.Sources, s.Digest, func(b index.Blob, d digest.Digest) int {
			return strings.Compare(string(b.Digest), string(d))
		})
		if found {
			continue
		}
		if err := to.AddFile(ctx, s.Path, s.Blob); err != nil {
			return fmt.Errorf("%s: %w", s.Path, err)
		}
		x.Sources = slices.Insert(x.Sources, at, s.Blob)
	}
	return nil
}

// programs takes in the programs of a folder.
func (c *Config) programs(ctx context.Context, x *index.Index, to *folder.Folder) error {
	files, err := filepath.Glob(filepath.Join(c.Programs, "*", "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		d, size, err := digest.File(file)
		if err != nil {
			return err
		}
		p := index.Program{Name: filepath.Base(file), Version: c.Version, Arch: filepath.Base(filepath.Dir(file)),
			Blob: index.Blob{Digest: d, Size: size}}
		if err := to.AddFile(ctx, file, p.Blob); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		x.Programs = append(x.Programs, p)
	}
	if len(files) == 0 {
		return fmt.Errorf("%s has none: want %s/ARCH/PROGRAM, as make dist leaves them", c.Programs, c.Programs)
	}
	return nil
}

// boot takes the report and the verdict of a guest's boot.
func (c *Config) boot(ctx context.Context, entry *index.Guest, dir string, to *folder.Folder) error {
	said, err1 := regular.ReadFile(filepath.Join(dir, ReportName), report.MaxSize)
	found, err2 := regular.ReadFile(filepath.Join(dir, VerdictName), judge.MaxDocument)
	if err := errors.Join(err1, err2); errors.Is(err, fs.ErrNotExist) {
		return refusal.New(refusal.NotAttested, dir, "it has no %s and %s: boot it (katabuild boot %s)", ReportName,
			VerdictName, dir)
	} else if err != nil {
		return err
	}
	if v, err := verdict.Decode(found); err == nil && v.Manifest != entry.Manifest.Digest {
		return refusal.New(refusal.NotAttested, dir, "it was built anew since it has booted: boot it again (katabuild "+
			"boot %s)", dir)
	}
	var err error
	if entry.Report, err = put(ctx, to, said); err != nil {
		return err
	}
	entry.Verdict, err = put(ctx, to, found)
	return err
}

// put takes bytes in.
func put(ctx context.Context, to *folder.Folder, data []byte) (index.Blob, error) {
	b := index.Blob{Digest: digest.Of(data), Size: int64(len(data))}
	return b, to.Put(ctx, b, func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data[offset:])), nil
	})
}

// maxNote bounds a note, in bytes.
const maxNote = 1 << 20

// readNotes puts all notes of a folder behind each other, sorted by name, or reads the one file.
func readNotes(dir string) ([]byte, error) {
	if fi, err := os.Stat(dir); err == nil && !fi.IsDir() {
		text, err := regular.ReadFile(dir, maxNote)
		if err == nil && !strings.HasPrefix(string(text), "# ") {
			err = fmt.Errorf("%s does not begin with a title", dir)
		}
		if err != nil {
			return nil, fmt.Errorf("notes: %w", err)
		}
		return text, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("notes: %w", err)
	}
	var out []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".md" {
			continue
		}
		text, err := regular.ReadFile(filepath.Join(dir, e.Name()), maxNote)
		if err != nil {
			return nil, fmt.Errorf("notes: %w", err)
		}
		out = append(out, strings.TrimSpace(string(text))+"\n")
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("notes: there is no *.md in %s", dir)
	}
	if slices.ContainsFunc(out, func(s string) bool { return !strings.HasPrefix(s, "# ") }) {
		return nil, fmt.Errorf("notes: a file in %s does not begin with a title", dir)
	}
	return []byte(strings.Join(out, "\n")), nil
}
