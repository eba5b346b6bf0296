// Package provenance is the document that says how a guest was made: SLSA's provenance, version 1, in an in-toto
// statement, version 1.
//
// It is written in one form (internal/document), and only that form is read. docs/formats/provenance.md says what each
// field holds. Specifications: in-toto attestation, spec/v1/statement.md and resource_descriptor.md; slsa.dev,
// provenance v1.
package provenance

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/releases/refusal"
)

// The names that the specifications give, and ours for how a guest is built.
const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://slsa.dev/provenance/v1"
	buildType     = "https://github.com/katabuild/katabuild/guest/v1"
)

// Statement is the whole document.
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"` // sorted by name
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is a file that the statement is about.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"` // sha256, hexadecimal
}

// Predicate is SLSA's provenance.
type Predicate struct {
	BuildDefinition Definition `json:"buildDefinition"`
	RunDetails      Run        `json:"runDetails"`
}

// Definition is what was asked for.
type Definition struct {
	BuildType          string     `json:"buildType"`
	ExternalParameters Parameters `json:"externalParameters"`
	// ResolvedDependencies are the lock, its inputs, the tool-chain and the agent.
	ResolvedDependencies []Dependency `json:"resolvedDependencies"`
}

// Parameters are what a person decided.
type Parameters struct {
	Guest  string        `json:"guest"` // the recipe's name
	Arch   string        `json:"arch"`
	Recipe digest.Digest `json:"recipe"`
}

// Dependency is bytes that a guest was made of, or with.
type Dependency struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"` // sha256, or katabuildTree of a folder; hexadecimal
	Name   string            `json:"name"`
	// Annotations are kind and, where they are known, version and size.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Run is who did it.
type Run struct {
	Builder  Builder  `json:"builder"`
	Metadata Metadata `json:"metadata"`
}

// Builder is the platform that is trusted to have done what the definition says.
type Builder struct {
	ID string `json:"id"` // a URI
	// Version is that of katabuild: its own, and where it is known the commit.
	Version map[string]string `json:"version"`
}

// Metadata is about the run. Times of day are left out, as the same guest gives the same statement.
type Metadata struct {
	InvocationID string `json:"invocationId"` // the digest of the manifest that came of it
}

// Options are what a manifest does not say.
type Options struct {
	Builder   string       // URI of who built
	Katabuild string       // the version of katabuild
	Commit    string       // its commit; empty where it is not known
	Inputs    []Dependency // of the lock
}

// TreeDigest is the name of the digest of a folder.
const TreeDigest = "katabuildTree"

// SHA256 is a digest as these documents write it.
func SHA256(d digest.Digest) map[string]string { return map[string]string{"sha256": d.Hex()} }

// Of makes the statement about a guest, whose manifest has the digest d.
func Of(m *manifest.Manifest, d digest.Digest, o Options) *Statement {
	s := &Statement{Type: statementType, Subject: subjects(m, d), PredicateType: predicateType}
	version := map[string]string{"katabuild": o.Katabuild}
	if o.Commit != "" {
		version["commit"] = o.Commit
	}
	kind := m.Kernel.ToolchainKind
	if kind == "" {
		kind = "host" // as docs/formats/manifest.md has it
	}
	deps := []Dependency{{Name: "lock", Digest: SHA256(m.Lock), Annotations: map[string]string{"kind": "lock"}},
		{Name: "agent", Digest: SHA256(m.Agent.Digest),
			Annotations: map[string]string{"kind": "agent", "version": m.Agent.Go}}}
	for _, t := range m.Kernel.Toolchain {
		deps = append(deps, Dependency{Name: "tool " + t.Name, Digest: SHA256(t.Digest),
			Annotations: map[string]string{"kind": "toolchain " + kind, "version": t.Version}})
	}
	s.Predicate = Predicate{
		BuildDefinition: Definition{
			BuildType:            buildType,
			ExternalParameters:   Parameters{Guest: m.Name, Arch: m.Arch, Recipe: m.Recipe},
			ResolvedDependencies: append(deps, o.Inputs...),
		},
		RunDetails: Run{Builder: Builder{ID: o.Builder, Version: version}, Metadata: Metadata{InvocationID: string(d)}},
	}
	return s
}

// subjects are all files of a guest.
func subjects(m *manifest.Manifest, d digest.Digest) []Subject {
	out := []Subject{{Name: manifest.Name, Digest: SHA256(d)}}
	for _, f := range m.Files() {
		out = append(out, Subject{Name: f.Path, Digest: SHA256(f.Digest)})
	}
	slices.SortFunc(out, func(a, b Subject) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Encode is the canonical form.
func (s *Statement) Encode() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return document.Encode(s)
}

// Decode reads the canonical form and nothing else.
func Decode(data []byte) (*Statement, error) {
	var s Statement
	if err := document.Decode("provenance", data, &s); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return &s, nil
}

func (s *Statement) check() error {
	if s.Type != statementType || s.PredicateType != predicateType ||
		s.Predicate.BuildDefinition.BuildType != buildType {
		return fmt.Errorf("a %s of %s by %s: want %s of %s by %s", s.Type, s.PredicateType,
			s.Predicate.BuildDefinition.BuildType, statementType, predicateType, buildType)
	}
	if len(s.Subject) == 0 {
		return errors.New("no subject")
	}
	for i, sub := range s.Subject {
		if i > 0 && s.Subject[i-1].Name >= sub.Name {
			return fmt.Errorf("subject %q is not in order, or stands twice", sub.Name)
		}
		if err := checkDigest(sub.Name, sub.Digest, "sha256"); err != nil {
			return err
		}
	}
	deps := s.Predicate.BuildDefinition.ResolvedDependencies
	if len(deps) == 0 || deps[0].Name != "lock" {
		return errors.New("the first dependency is not the lock")
	}
	for _, d := range deps {
		if err := checkDigest(d.Name, d.Digest, "sha256", TreeDigest); err != nil {
			return err
		}
	}
	if u, err := url.Parse(s.Predicate.RunDetails.Builder.ID); err != nil || u.Scheme == "" {
		return fmt.Errorf("builder %q: want a URI", s.Predicate.RunDetails.Builder.ID)
	}
	if s.Predicate.RunDetails.Builder.Version["katabuild"] == "" {
		return errors.New("no version of katabuild")
	}
	return nil
}

func checkDigest(name string, d map[string]string, kinds ...string) error {
	for k, v := range d {
		if b, err := hex.DecodeString(v); err == nil && len(b) == 32 && len(d) == 1 && name != "" &&
			slices.Contains(kinds, k) && strings.ToLower(v) == v {
			return nil
		}
	}
	return fmt.Errorf("%q: digest %v: want one of %s, of 64 hexadecimal digits", name, d, strings.Join(kinds, ", "))
}

// About refuses a statement that is not about a guest, whose manifest has the digest d. what is for the error.
func (s *Statement) About(what string, m *manifest.Manifest, d digest.Digest) error {
	same := func(a, b Subject) bool { return a.Name == b.Name && a.Digest["sha256"] == b.Digest["sha256"] }
	def := s.Predicate.BuildDefinition
	switch {
	case !slices.EqualFunc(s.Subject, subjects(m, d), same):
		return refusal.New(refusal.Provenance, what, "its subjects are not the files of the guest")
	case def.ExternalParameters != Parameters{Guest: m.Name, Arch: m.Arch, Recipe: m.Recipe}:
		return refusal.New(refusal.Provenance, what, "it is about the recipe %s of %s for %s",
			def.ExternalParameters.Recipe, def.ExternalParameters.Guest, def.ExternalParameters.Arch)
	case def.ResolvedDependencies[0].Digest["sha256"] != m.Lock.Hex():
		return refusal.New(refusal.Provenance, what, "its lock is not that of the guest, %s", m.Lock)
	}
	return nil
}
