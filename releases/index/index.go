// Package index is the document that says what a release holds: its guests by name, version, architecture and variant,
// and every file of theirs by digest and size.
//
// A release is signed by signing this document's bytes: nothing else of a release is believed that it does not name.
// docs/formats/release.md owns the bytes.
package index

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/releases/refusal"
)

// Version is the version of the document that this package writes. It reads the one before, too.
const Version = 2

// MediaType is what an index is called where kinds of content have names. It stays the same in all versions, so that
// whoever cannot read one says so by its version.
const MediaType = "application/vnd.katabuild.release.v1+json"

// Bounds of a release: an index comes from a network.
const (
	MaxSize      = 4 << 20  // of an encoded index, bytes
	maxBlob      = 64 << 30 // of a file, bytes
	maxGuests    = 1000
	maxArtefacts = 100 // of a guest
	maxPrograms  = 1000
	maxSources   = 10_000
)

// Index is a release.
type Index struct {
	Version int     `json:"version"`
	Channel string  `json:"channel"` // such as stable: for whom the release is
	Time    int64   `json:"time"`    // of the youngest guest's lock, seconds since 1970
	Guests  []Guest `json:"guests"`  // sorted by name, version, architecture, variant
	// Programs run guests or build them; sorted by architecture and name. Since version 2.
	Programs []Program `json:"programs,omitempty"`
	// Sources are inputs of the guests' locks, as those name them by digest; sorted by digest. Since version 2.
	Sources []Blob `json:"sources,omitempty"`
	Notes   *Blob  `json:"notes,omitempty"`
}

// Blob is bytes by what they are.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes, at most 64 GiB
}

// Guest is one guest of a release.
type Guest struct {
	Name     string `json:"name"`
	Version  string `json:"version"` // as semver.org has it, without build metadata
	Arch     string `json:"arch"`    // a name of internal/arch
	Variant  string `json:"variant,omitempty"`
	Manifest Blob   `json:"manifest"`
	// Artefacts are the files that the manifest names, sorted by name.
	Artefacts  []Artefact `json:"artefacts"`
	Provenance Blob       `json:"provenance"`
	// Lock and Recipe are what the guest can be built of once more: lock.json, and the recipe with what it names
	// beside it (internal/recipetar). Since version 2; the recipe is missing where it has more than that can hold, or
	// a secret.
	Lock         *Blob        `json:"lock,omitempty"`
	Recipe       *Blob        `json:"recipe,omitempty"`
	Report       Blob         `json:"report"`
	Verdict      Blob         `json:"verdict"`
	Measurements Measurements `json:"measurements"`
}

// Artefact is a file of a guest.
type Artefact struct {
	Name string `json:"name"`           // its path beside the manifest
	Kind string `json:"kind"`           // one of kinds
	Form string `json:"form,omitempty"` // of a bill of materials: spdx-2.3 or cyclonedx-1.6
	Blob
	// Chunks is the list of what a big file is made of (package chunks). Since version 2.
	Chunks *Blob `json:"chunks,omitempty"`
}

// The kinds of artefacts.
const (
	Kernel    = "kernel" // the compressed one
	Vmlinux   = "vmlinux"
	Config    = "config"
	SystemMap = "system-map"
	Modules   = "modules"
	ModuleKey = "module-key"
	Headers   = "headers"
	Initrd    = "initrd"
	Image     = "image"
	SBOM      = "sbom"
)

// kinds lists them.
func kinds() []string {
	return []string{Kernel, Vmlinux, Config, SystemMap, Modules, ModuleKey, Headers, Initrd, Image, SBOM}
}

// Measurements are what somebody who measures the guest as it boots must find.
type Measurements struct {
	RootHash    string        `json:"root_hash,omitempty"` // of the root's dm-verity tree, hexadecimal
	Kernel      digest.Digest `json:"kernel"`              // of the compressed kernel
	Vmlinux     digest.Digest `json:"vmlinux"`
	Initrd      digest.Digest `json:"initrd,omitempty"`
	CommandLine digest.Digest `json:"command_line"` // of the text, under hardware virtualisation, without a NUL
}

// Measure predicts measurements from a manifest.
func Measure(m *manifest.Manifest) Measurements {
	out := Measurements{RootHash: m.Root.VerityRootHash, Kernel: m.Kernel.Image.Digest,
		Vmlinux: m.Kernel.Vmlinux.Digest, CommandLine: digest.Of([]byte(m.Boot.CommandLine))}
	if m.Initrd != nil {
		out.Initrd = m.Initrd.Digest
	}
	return out
}

// Artefacts are the files of a manifest as an index lists them.
func Artefacts(m *manifest.Manifest) []Artefact {
	var out []Artefact
	add := func(kind, form string, f *manifest.File) {
		if f != nil {
			out = append(out, Artefact{Name: f.Path, Kind: kind, Form: form, Blob: Blob{f.Digest, f.Size}})
		}
	}
	k := m.Kernel
	add(Kernel, "", &k.Image)
	add(Vmlinux, "", &k.Vmlinux)
	add(Config, "", &k.Config)
	add(SystemMap, "", &k.SystemMap)
	add(Modules, "", k.Modules)
	add(ModuleKey, "", k.ModuleKey)
	add(Headers, "", k.Headers)
	if m.Initrd != nil {
		add(Initrd, "", &m.Initrd.File)
	}
	if m.Image != nil {
		add(Image, "", &m.Image.File)
	}
	for _, s := range m.SBOM {
		add(SBOM, s.Format, &s.File)
	}
	slices.SortFunc(out, func(a, b Artefact) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Of makes the entry of a guest, without what the manifest does not say.
func Of(m *manifest.Manifest, size int64, d digest.Digest) Guest {
	return Guest{Name: m.Name, Arch: m.Arch, Manifest: Blob{d, size}, Artefacts: Artefacts(m), Measurements: Measure(m)}
}

// Label names a guest for people: "tiny 1.4.0 x86_64", and its variant where it has one.
func (g *Guest) Label() string {
	s := g.Name + " " + g.Version + " " + g.Arch
	if g.Variant != "" {
		s += " " + g.Variant
	}
	return s
}

// Blobs are all bytes that an index names, each once, sorted by digest.
func (x *Index) Blobs() []Blob {
	var out []Blob
	if x.Notes != nil {
		out = append(out, *x.Notes)
	}
	for _, p := range x.Programs {
		out = append(out, p.Blob)
	}
	out = append(out, x.Sources...)
	for _, g := range x.Guests {
		out = append(out, g.documents()...)
		for _, a := range g.Artefacts {
			out = append(out, a.Blob)
			if a.Chunks != nil {
				out = append(out, *a.Chunks)
			}
		}
	}
	slices.SortFunc(out, func(a, b Blob) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return slices.CompactFunc(out, func(a, b Blob) bool { return a.Digest == b.Digest })
}

// documents are the files of a guest that are not artefacts.
func (g *Guest) documents() []Blob {
	out := []Blob{g.Manifest, g.Provenance, g.Report, g.Verdict}
	for _, b := range []*Blob{g.Lock, g.Recipe} {
		if b != nil {
			out = append(out, *b)
		}
	}
	return out
}

// compare orders guests as an index does.
func compare(a, b Guest) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), CompareVersions(a.Version, b.Version),
		strings.Compare(a.Arch, b.Arch), strings.Compare(a.Variant, b.Variant))
}

// CheckVersion says what is wrong with a version.
func CheckVersion(s string) error {
	if v := "v" + s; len(s) > 64 || !semver.IsValid(v) || semver.Canonical(v) != v {
		return fmt.Errorf("version %q: want MAJOR.MINOR.PATCH, such as 1.4.0 or 2.0.0-rc.1", s)
	}
	return nil
}

// CompareVersions is negative where a is lower than b, zero where they are equal, positive where a is higher. Both
// must be versions.
func CompareVersions(a, b string) int { return semver.Compare("v"+a, "v"+b) }

// Encode is the canonical form; it sorts the guests.
func (x *Index) Encode() ([]byte, error) {
	slices.SortFunc(x.Guests, compare)
	slices.SortFunc(x.Programs, comparePrograms)
	if err := x.check(); err != nil {
		return nil, fmt.Errorf("release index: %w", err)
	}
	data, err := document.Encode(x)
	if err == nil && len(data) > MaxSize {
		err = fmt.Errorf("release index: %d bytes, more than the %d it may have", len(data), MaxSize)
	}
	return data, err
}

// Decode reads the canonical form and nothing else. What is refused is a *refusal.Error.
func Decode(data []byte) (*Index, error) {
	if len(data) > MaxSize {
		return nil, refusal.New(refusal.Document, "release index", "%d bytes, more than the %d it may have", len(data),
			MaxSize)
	}
	var x Index
	if err := document.Decode("release index", data, &x); err != nil {
		return nil, refusal.New(refusal.Document, "release index", "%v", err)
	}
	if err := x.check(); err != nil {
		if r, ok := errors.AsType[*refusal.Error](err); ok {
			return nil, r
		}
		return nil, refusal.New(refusal.Document, "release index", "%v", err)
	}
	return &x, nil
}

// word is the form of names, channels and variants: good as a folder, and as a tag of a registry.
var word = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)

// CheckWord says what is wrong with a name, a channel or a variant.
func CheckWord(what, s string) error {
	if !word.MatchString(s) {
		return fmt.Errorf("%s %q: want 1 to 64 of a-z, 0-9, dots, dashes and underscores, with a letter or digit "+
			"first and last", what, s)
	}
	return nil
}

// before is the version before, which is read.
const before = Version - 1

// isNewer says whether an index has something that the version before did not have.
func (x *Index) isNewer() bool {
	return x.Programs != nil || x.Sources != nil ||
		slices.ContainsFunc(x.Guests, func(g Guest) bool {
			return g.Lock != nil || g.Recipe != nil ||
				slices.ContainsFunc(g.Artefacts, func(a Artefact) bool { return a.Chunks != nil })
		})
}

func (x *Index) check() error {
	if x.Version != Version && x.Version != before {
		return fmt.Errorf("version %d, this katabuild reads versions %d and %d", x.Version, before, Version)
	}
	if x.Version == before && x.isNewer() {
		return fmt.Errorf("version %d has nothing of version %d", before, Version)
	}
	if err := CheckWord("channel", x.Channel); err != nil {
		return err
	}
	if x.Time < 0 {
		return fmt.Errorf("time %d lies before 1970", x.Time)
	}
	if len(x.Guests) == 0 || len(x.Guests) > maxGuests {
		return fmt.Errorf("%d guests: want 1 to %d", len(x.Guests), maxGuests)
	}
	for i := range x.Guests {
		g := &x.Guests[i]
		if err := g.check(); err != nil {
			return fmt.Errorf("guest %q: %w", g.Name, err)
		}
		if i == 0 {
			continue
		}
		switch c := compare(x.Guests[i-1], *g); {
		case c == 0:
			return refusal.New(refusal.Twice, "release index", "there are two guests %s", g.Label())
		case c > 0:
			return fmt.Errorf("guest %q is not in order", g.Name)
		}
	}
	if err := x.checkPrograms(); err != nil {
		return err
	}
	if len(x.Sources) > maxSources {
		return fmt.Errorf("%d sources: want at most %d", len(x.Sources), maxSources)
	}
	for i := 1; i < len(x.Sources); i++ {
		if x.Sources[i-1].Digest >= x.Sources[i].Digest {
			return fmt.Errorf("source %s is not in order, or stands twice", x.Sources[i].Digest)
		}
	}
	return x.checkBlobs()
}

// checkBlobs checks every digest and size, and that bytes have one size.
func (x *Index) checkBlobs() error {
	sizes := map[digest.Digest]int64{}
	check := func(b Blob) error {
		if b.Digest == "" || b.Size < 0 || b.Size > maxBlob {
			return fmt.Errorf("%q of %d bytes: want a digest, and at most %d bytes", b.Digest, b.Size, int64(maxBlob))
		}
		if have, ok := sizes[b.Digest]; ok && have != b.Size {
			return fmt.Errorf("%s has %d bytes here and %d there", b.Digest, have, b.Size)
		}
		sizes[b.Digest] = b.Size
		return nil
	}
	for _, g := range x.Guests {
		for _, b := range g.documents() {
			if err := check(b); err != nil {
				return err
			}
		}
		for _, a := range g.Artefacts {
			if err := check(a.Blob); err != nil {
				return err
			}
			if a.Chunks == nil {
				continue
			}
			if err := check(*a.Chunks); err != nil {
				return err
			}
		}
	}
	for _, p := range x.Programs {
		if err := check(p.Blob); err != nil {
			return err
		}
	}
	for _, b := range x.Sources {
		if err := check(b); err != nil {
			return err
		}
	}
	if x.Notes != nil {
		return check(*x.Notes)
	}
	return nil
}

func (g *Guest) check() error {
	err := errors.Join(CheckWord("name", g.Name), CheckVersion(g.Version))
	if g.Variant != "" {
		err = errors.Join(err, CheckWord("variant", g.Variant))
	}
	if _, archErr := arch.Parse(g.Arch); archErr != nil || err != nil {
		return errors.Join(err, archErr)
	}
	if len(g.Artefacts) == 0 || len(g.Artefacts) > maxArtefacts {
		return fmt.Errorf("%d artefacts: want 1 to %d", len(g.Artefacts), maxArtefacts)
	}
	if g.Recipe != nil && g.Lock == nil {
		return errors.New("a recipe without a lock")
	}
	for i, a := range g.Artefacts {
		if !clean(a.Name) {
			return refusal.New(refusal.Path, "artefact "+a.Name, "want a clean relative path that stays in its folder")
		}
		if !slices.Contains(kinds(), a.Kind) || (a.Form != "") != (a.Kind == SBOM) {
			return fmt.Errorf("artefact %s: kind %q and form %q: want one of %s, and a form for sbom alone", a.Name,
				a.Kind, a.Form, strings.Join(kinds(), ", "))
		}
		if i == 0 {
			continue
		}
		switch c := strings.Compare(g.Artefacts[i-1].Name, a.Name); {
		case c == 0:
			return refusal.New(refusal.Twice, g.Label(), "two artefacts are called %s", a.Name)
		case c > 0:
			return fmt.Errorf("artefact %s is not in order", a.Name)
		}
	}
	return nil
}

// clean says whether a name stays in the folder that it is put into, and takes no name of a guest's own documents.
func clean(p string) bool {
	return p != "" && len(p) <= 255 && !path.IsAbs(p) && path.Clean(p) == p && p != "." &&
		!slices.Contains(strings.Split(p, "/"), "..") && !strings.ContainsAny(p, "\x00\n\\") &&
		p != manifest.Name && p != manifest.SumName
}
