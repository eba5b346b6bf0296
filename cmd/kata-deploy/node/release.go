package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/releases/admit"
	"github.com/katabuild/katabuild/releases/chunks"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/install"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/policy"
	"github.com/katabuild/katabuild/releases/unpack"
	"github.com/katabuild/katabuild/runtime/attest"
)

// release is what a place offers to this node.
type release struct {
	id      string // its name below the prefix: the version, and the beginning of the index's digest
	version string // of its guests
	index   digest.Digest
	part    *index.Index // what of it this node needs; nil of one that is installed and was not asked for
}

// Names in the work folder.
const (
	takenName    = "release"  // what was taken of a release
	guestsName   = "guests"   // its guests, unpacked
	programsName = "programs" // its programs
)

// open opens the place.
func (n *node) open(ctx context.Context) (place.Source, error) {
	s, err := place.Open(ctx, n.Release, n.access())
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", n.Release, err)
	}
	return s, nil
}

func (n *node) access() registry.Access {
	a := n.Registries
	a.Authorities = append(slices.Clone(a.Authorities), n.host.authorities()...)
	return a
}

// ask asks the place what it offers, and the policy whether that is taken.
func (n *node) ask(ctx context.Context) (r *release, err error) {
	from, err := n.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	head, err := from.Index(ctx)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", n.Release, err)
	}
	x, err := n.admit(ctx, head)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", n.Release, err)
	}
	here, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	part, err := unpack.ForNode(x, here.Name)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", n.Release, err)
	}
	d := digest.Of(head.Index)
	version := part.Guests[0].Version
	id := version[:min(len(version), 50)] + "-" + d.Hex()[:12]
	return &release{id: id, version: version, index: d, part: part}, nil
}

// admit asks the policy; without one, whoever vouches for the folder vouches for the release.
func (n *node) admit(ctx context.Context, head folder.Head) (*index.Index, error) {
	if n.Policy == "" {
		return index.Decode(head.Index)
	}
	p, err := policy.ReadMounted(n.Policy)
	if err != nil {
		return nil, err
	}
	asker := &admit.Asker{Policy: p, Now: time.Now, Access: n.access(), Memory: func(root []byte) (string, error) {
		return n.recall("roles-" + digest.Of(root).Hex() + ".json")
	}}
	a, err := asker.Ask(ctx, n.Release, head)
	if err != nil {
		return nil, err
	}
	if a.Newer != "" {
		n.log.Info("a higher version of this channel is offered", "version", a.Newer)
	}
	n.log.Info("release accepted", "place", n.Release, "by", strings.Join(a.By, ", "))
	return a.Index, asker.Reproduced(head, a.Index)
}

// narrowed is a source whose index is a part of what it was.
type narrowed struct {
	place.Source
	head folder.Head
}

func (s *narrowed) Index(context.Context) (folder.Head, error) { return s.head, nil }

// narrowedRanges is one that sends parts of files, too.
type narrowedRanges struct {
	*narrowed
	ranges interface {
		OpenRange(ctx context.Context, b index.Blob, offset, n int64) (io.ReadCloser, error)
	}
}

func (s *narrowedRanges) OpenRange(ctx context.Context, b index.Blob, offset, size int64) (io.ReadCloser, error) {
	return s.ranges.OpenRange(ctx, b, offset, size)
}

// narrow makes a source have no more than a part of its index, whose bytes are believed.
func narrow(from place.Source, part *index.Index) (place.Source, error) {
	data, err := part.Encode()
	if err != nil {
		return nil, err
	}
	s := &narrowed{from, folder.Head{Index: data}}
	if r, ok := from.(interface {
		OpenRange(ctx context.Context, b index.Blob, offset, n int64) (io.ReadCloser, error)
	}); ok {
		return &narrowedRanges{s, r}, nil
	}
	return s, nil
}

// take takes a release into the work folder, and says what it is made of. What was begun goes on where it was.
func (n *node) take(ctx context.Context, r *release) (src install.Source, err error) {
	from, err := n.open(ctx)
	if err != nil {
		return src, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	head, err := from.Index(ctx)
	if err != nil {
		return src, fmt.Errorf("release %s: %w", n.Release, err)
	}
	if digest.Of(head.Index) != r.index {
		n.offer = nil // asks again
		return src, fmt.Errorf("release %s: another one is offered since it was asked", n.Release)
	}
	s, err := narrow(from, r.part)
	if err != nil {
		return src, err
	}
	var read judge.Source = s
	if n.Policy != "" {
		to, err := folder.Create(ctx, filepath.Join(n.Work, takenName))
		if err != nil {
			return src, err
		}
		defer func() { err = errors.Join(err, to.Close()) }()
		n.log.Info("taking the release", "place", n.Release, "release", r.id)
		var seeds chunks.Seeds // installed releases, of whose parts another one can be made
		seeds.AddBelow(filepath.Join(n.Host, n.Prefix, "releases"))
		done, err := place.Copy(ctx, s, to, place.Options{Seeds: seeds, Progress: n.progress("taken")})
		if err != nil {
			return src, fmt.Errorf("release %s: %w", n.Release, err)
		}
		n.log.Info("the release is taken", "release", r.id, "moved_bytes", done.Bytes)
		read = to
	}
	if err := judge.Documents(ctx, r.part, read, claims); err != nil {
		return src, fmt.Errorf("release %s: %w", n.Release, err)
	}
	src.Version = r.id
	for i := range r.part.Guests {
		dir, err := unpack.Guest(ctx, read, &r.part.Guests[i], filepath.Join(n.Work, guestsName))
		if err != nil {
			return src, err
		}
		src.Guests = append(src.Guests, dir)
	}
	for i := range r.part.Programs {
		p, err := unpack.Program(ctx, read, &r.part.Programs[i], filepath.Join(n.Work, programsName))
		if err != nil {
			return src, err
		}
		src.Programs = filepath.Dir(p)
	}
	return src, nil
}

// sweep removes what was taken, once it is installed.
func (n *node) sweep() error {
	var err error
	for _, name := range []string{takenName, guestsName, programsName} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(n.Work, name)))
	}
	return err
}

// claims compares a report that was kept with a manifest.
func claims(m *manifest.Manifest, r *report.Report) []verdict.Claim {
	return attest.Report(m, r, attest.Boot{})
}

// steps is in how many lines of the log progress is told.
const steps = 5

// progress tells how far something is that takes a while.
func (n *node) progress(what string) func(done, of int64) {
	var told int64
	return func(done, of int64) {
		if of < 50e6 || done*steps/of <= told {
			return
		}
		told = done * steps / of
		n.log.Info(what, "mb", done/1e6, "of_mb", of/1e6)
	}
}
