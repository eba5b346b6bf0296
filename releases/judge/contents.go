// Package judge says whether a release is what it says, and whether its signatures, channel and versions are those
// that a policy takes.
package judge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/recipetar"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/releases/chunks"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/provenance"
	"github.com/katabuild/katabuild/releases/refusal"
)

// MaxDocument bounds the documents of a guest, in bytes.
const MaxDocument = 16 << 20

// Source has the files of a release.
type Source interface {
	// Open begins to read a file at an offset; the caller closes it. Nothing it reads is believed.
	Open(ctx context.Context, b index.Blob, offset int64) (io.ReadCloser, error)
}

// Claims compares a report with a manifest.
type Claims func(*manifest.Manifest, *report.Report) []verdict.Claim

// Contents reads every file of a release and says what does not fit: a file that is not what the index names, or a
// document that is about something else. What is refused is a *refusal.Error.
func Contents(ctx context.Context, x *index.Index, s Source, claims Claims) error {
	if err := Documents(ctx, x, s, claims); err != nil {
		return err
	}
	lists := map[digest.Digest]index.Blob{}
	for _, g := range x.Guests {
		for _, a := range g.Artefacts {
			if a.Chunks != nil {
				lists[a.Digest] = *a.Chunks
			}
		}
	}
	for _, b := range x.Blobs() {
		what := names(x, b)
		of, listed := lists[b.Digest]
		if !listed {
			if err := Copy(ctx, s, what, b, io.Discard); err != nil {
				return err
			}
			continue
		}
		l := chunks.NewLister()
		if err := Copy(ctx, s, what, b, l); err != nil {
			return err
		}
		if err := sameList(what, l, of); err != nil {
			return err
		}
	}
	return nil
}

// sameList refuses a chunk list that is not that of the file which was written into l.
func sameList(what string, l *chunks.Lister, of index.Blob) error {
	made, err := l.List()
	if err != nil {
		return err
	}
	data, err := made.Encode()
	if err != nil {
		return err
	}
	if got := digest.Of(data); got != of.Digest {
		return refusal.New(refusal.Chunks, what, "its chunk list is %s, and its bytes make %s", of.Digest, got)
	}
	return nil
}

// programs refuses programs that are not for their architecture.
func programs(ctx context.Context, x *index.Index, s Source) error {
	for i := range x.Programs {
		p := &x.Programs[i]
		r, err := s.Open(ctx, p.Blob, 0)
		if err != nil {
			return err
		}
		head := make([]byte, index.ProgramHeader)
		n, err := io.ReadFull(r, head)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		if err := index.CheckProgram(p.Label(), p.Arch, head[:n]); err != nil {
			return err
		}
	}
	return nil
}

// Documents is Contents for files that entered their place by digest: it reads the documents alone.
func Documents(ctx context.Context, x *index.Index, s Source, claims Claims) error {
	for i := range x.Guests {
		if err := documents(ctx, &x.Guests[i], s, claims); err != nil {
			return fmt.Errorf("guest %s: %w", x.Guests[i].Label(), err)
		}
	}
	return programs(ctx, x, s)
}

// Copy reads a file, checks it and writes it to w. what is for errors.
func Copy(ctx context.Context, s Source, what string, b index.Blob, w io.Writer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, err := s.Open(ctx, b, 0)
	if err != nil {
		return err
	}
	got, n, err := digest.Reader(io.TeeReader(io.LimitReader(r, b.Size+1), w))
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	return check(what, b, got, n)
}

// names says what a file is to a release, for errors.
func names(x *index.Index, b index.Blob) string {
	for _, g := range x.Guests {
		for _, a := range g.Artefacts {
			if a.Digest == b.Digest {
				return g.Label() + " " + a.Name
			}
			if a.Chunks != nil && a.Chunks.Digest == b.Digest {
				return g.Label() + " chunk list of " + a.Name
			}
		}
		for what, d := range map[string]*index.Blob{"manifest": &g.Manifest, "report": &g.Report,
			"verdict": &g.Verdict, "provenance": &g.Provenance, "lock": g.Lock, "recipe": g.Recipe} {
			if d != nil && d.Digest == b.Digest {
				return g.Label() + " " + what
			}
		}
	}
	for i := range x.Programs {
		if x.Programs[i].Digest == b.Digest {
			return x.Programs[i].Label()
		}
	}
	for _, s := range x.Sources {
		if s.Digest == b.Digest {
			return "source " + string(b.Digest)
		}
	}
	return "notes"
}

func check(what string, b index.Blob, got digest.Digest, size int64) error {
	switch {
	case size < b.Size:
		return refusal.New(refusal.Size, what, "want %d bytes, got %d", b.Size, size)
	case size > b.Size:
		return refusal.New(refusal.Size, what, "want %d bytes, got more", b.Size)
	case got != b.Digest:
		return refusal.New(refusal.Digest, what, "want %s, got %s", b.Digest, got)
	}
	return nil
}

// Read reads a small file whole and checks it.
func Read(ctx context.Context, s Source, what string, b index.Blob) ([]byte, error) {
	if b.Size > MaxDocument {
		return nil, refusal.New(refusal.Size, what, "%d bytes, more than the %d a document may have", b.Size,
			MaxDocument)
	}
	r, err := s.Open(ctx, b, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, b.Size+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return data, check(what, b, digest.Of(data), int64(len(data)))
}

// documents checks that all documents of a guest are about that guest.
func documents(ctx context.Context, g *index.Guest, s Source, claims Claims) error {
	var data [4][]byte
	for i, d := range []struct {
		what string
		b    index.Blob
	}{{"manifest", g.Manifest}, {"report", g.Report}, {"verdict", g.Verdict}, {"provenance", g.Provenance}} {
		var err error
		if data[i], err = Read(ctx, s, d.what, d.b); err != nil {
			return err
		}
	}
	m, err1 := manifest.Decode(data[0])
	r, err2 := report.Decode(data[1])
	v, err3 := verdict.Decode(data[2])
	p, err4 := provenance.Decode(data[3])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return refusal.New(refusal.Document, g.Label(), "%v", err)
	}
	if err := described(g, m); err != nil {
		return err
	}
	if err := again(ctx, g, m, s); err != nil {
		return err
	}
	if err := p.About("provenance", m, g.Manifest.Digest); err != nil {
		return err
	}
	if err := lists(ctx, g, s); err != nil {
		return err
	}
	return attested(g, m, r, v, claims)
}

// lists refuses chunk lists that are none, or of other files. Whether they make the files, Contents checks.
func lists(ctx context.Context, g *index.Guest, s Source) error {
	for _, a := range g.Artefacts {
		if a.Chunks == nil {
			continue
		}
		what := g.Label() + " chunk list of " + a.Name
		if a.Chunks.Size > chunks.MaxSize {
			return refusal.New(refusal.Size, what, "%d bytes, more than the %d it may have", a.Chunks.Size,
				chunks.MaxSize)
		}
		var data bytes.Buffer
		if err := Copy(ctx, s, what, *a.Chunks, &data); err != nil {
			return err
		}
		l, err := chunks.Decode(data.Bytes())
		if err != nil {
			return refusal.New(refusal.Chunks, what, "%v", err)
		}
		if l.Digest != a.Digest || l.Size != a.Size {
			return refusal.New(refusal.Chunks, what, "it is of %s with %d bytes", l.Digest, l.Size)
		}
	}
	return nil
}

// described refuses an entry of an index that says something else than the manifest.
func described(g *index.Guest, m *manifest.Manifest) error {
	switch {
	case m.Arch != g.Arch:
		return refusal.New(refusal.Architecture, g.Label(), "its manifest is for %s", m.Arch)
	case m.Name != g.Name:
		return refusal.New(refusal.Manifest, g.Label(), "its manifest is that of %s", m.Name)
	}
	want, have := index.Artefacts(m), slices.Clone(g.Artefacts)
	for i := range have {
		have[i].Chunks = nil // which the manifest does not know
	}
	sbom := func(a index.Artefact) bool { return a.Kind != index.SBOM }
	if !slices.Equal(slices.DeleteFunc(slices.Clone(want), func(a index.Artefact) bool { return !sbom(a) }),
		slices.DeleteFunc(slices.Clone(have), func(a index.Artefact) bool { return !sbom(a) })) ||
		index.Measure(m) != g.Measurements {
		return refusal.New(refusal.Manifest, g.Label(), "its manifest names other files, or other measurements")
	}
	if !slices.Equal(want, have) {
		return refusal.New(refusal.SBOM, g.Label(), "its manifest names other bills of materials")
	}
	return nil
}

// again refuses a lock or a recipe that is not the one that the guest was built of.
func again(ctx context.Context, g *index.Guest, m *manifest.Manifest, s Source) error {
	if g.Lock != nil && g.Lock.Digest != m.Lock {
		return refusal.New(refusal.Recipe, g.Label(), "its lock is %s, and it was built of %s", g.Lock.Digest, m.Lock)
	}
	if g.Recipe == nil {
		return nil
	}
	data, err := Read(ctx, s, "recipe", *g.Recipe)
	if err != nil {
		return err
	}
	got, err := recipetar.Recipe(data)
	if err != nil {
		return refusal.New(refusal.Document, g.Label(), "%v", err)
	}
	if got != m.Recipe {
		return refusal.New(refusal.Recipe, g.Label(), "its recipe is %s, and it was built of %s", got, m.Recipe)
	}
	return nil
}

// attested refuses a guest whose boot report and verdict are not about it, or not good.
func attested(g *index.Guest, m *manifest.Manifest, r *report.Report, v *verdict.Verdict, claims Claims) error {
	switch {
	case v.Manifest != g.Manifest.Digest || v.Guest != m.Name:
		return refusal.New(refusal.Report, g.Label(), "its verdict is about a guest %s with the manifest %s", v.Guest,
			v.Manifest)
	case v.Report != g.Report.Digest:
		return refusal.New(refusal.Report, g.Label(), "its verdict is about the report %s", v.Report)
	case v.Result != verdict.Attested:
		return refusal.New(refusal.NotAttested, g.Label(), "its verdict is %s", v.Result)
	}
	for _, f := range m.Files() {
		c := verdict.Claim{Name: "file " + f.Path, Want: string(f.Digest), Got: string(f.Digest), Met: true}
		if !slices.Contains(v.Claims, c) {
			return refusal.New(refusal.Report, g.Label(), "its verdict does not say that %s was checked", f.Path)
		}
	}
	again := &verdict.Verdict{Claims: claims(m, r)}
	if again.Judge(true); again.Result != verdict.Attested {
		return refusal.New(refusal.Report, g.Label(), "the report is not one of this guest: %q", again.Unmet())
	}
	return nil
}
