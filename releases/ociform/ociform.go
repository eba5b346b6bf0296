// Package ociform says how a release looks in a registry of OCI artefacts.
//
// It is a function of the release's index alone: whoever has the index knows every byte that a registry must have, and
// what a registry says beside that is not believed. docs/formats/release.md owns the names. Specifications: OCI image
// specification 1.1, manifest.md and image-index.md; distribution specification 1.1, referrers.
package ociform

import (
	"encoding/json"
	"fmt"
	"time"

	godigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/roles"
)

// The types of artefacts and of their files.
const (
	ReleaseType    = "application/vnd.katabuild.release.v1"
	SignatureType  = "application/vnd.katabuild.signature.v1"
	ReproducedType = "application/vnd.katabuild.reproduced.v1"
	RolesType      = "application/vnd.katabuild.roles.v1"
	EnvelopeType   = "application/vnd.dsse.envelope.v1+json"

	guestType    = "application/vnd.katabuild.guest.v1"
	bootType     = "application/vnd.katabuild.boot.v1"
	manifestType = "application/vnd.katabuild.manifest.v1+json"
	reportType   = "application/vnd.katabuild.report.v1+json"
	verdictType  = "application/vnd.katabuild.verdict.v1+json"
	fileType     = "application/vnd.katabuild.%s.v1" // of a kind of artefact
	inTotoType   = "application/vnd.in-toto+json"
	notesType    = "text/markdown"

	chunksType     = "application/vnd.katabuild.chunks.v1"   // lists of what files are made of
	programsType   = "application/vnd.katabuild.programs.v1" // of one architecture
	programType    = "application/vnd.katabuild.program.v1"
	sourcesType    = "application/vnd.katabuild.sources.v1" // what locks name
	sourceType     = "application/vnd.katabuild.source.v1"
	recipeType     = "application/vnd.katabuild.recipe.v1" // lock and recipe of a guest
	lockType       = "application/vnd.katabuild.lock.v1+json"
	recipeFileType = "application/vnd.katabuild.recipe.v1+tar"
)

// sbomTypes are the types of bills of materials, by their form.
var sbomTypes = map[string]string{"spdx-2.3": "application/spdx+json",
	"cyclonedx-1.6": "application/vnd.cyclonedx+json"}

// Object is a manifest, or an index of manifests.
type Object struct {
	Descriptor v1.Descriptor
	Data       []byte
	Refers     bool // to another one, as its subject
}

// Form is a release as a registry has it.
type Form struct {
	Index Object // what a tag points to
	// Manifests are what the index names, then what refers to those. Each comes behind what it names.
	Manifests []Object
}

// Of is the form of a release, whose index is data.
func Of(x *index.Index, data []byte) (*Form, error) {
	f := &Form{}
	release, err := manifest(v1.Manifest{ArtifactType: ReleaseType, Config: v1.DescriptorEmptyJSON,
		Layers: releaseFiles(x, data)})
	if err != nil {
		return nil, err
	}
	f.Manifests = []Object{release}
	list := []v1.Descriptor{release.Descriptor}
	var referrers []Object
	for i := range x.Guests {
		g := &x.Guests[i]
		o, err := guest(g)
		if err != nil {
			return nil, err
		}
		f.Manifests = append(f.Manifests, o)
		d := o.Descriptor
		of, err := arch.Parse(g.Arch)
		if err != nil {
			return nil, err
		}
		d.Platform = &v1.Platform{OS: "linux", Architecture: of.Go}
		d.Annotations = annotations(g)
		list = append(list, d)
		more, err := about(g, o.Descriptor)
		if err != nil {
			return nil, err
		}
		referrers = append(referrers, more...)
	}
	more, err := programs(x)
	if err != nil {
		return nil, err
	}
	for _, o := range more {
		f.Manifests = append(f.Manifests, o.Object)
		list = append(list, o.listed)
	}
	f.Manifests = append(f.Manifests, referrers...)
	f.Index, err = object(v1.MediaTypeImageIndex, ReleaseType, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex, ArtifactType: ReleaseType, Manifests: list, Annotations: map[string]string{
			v1.AnnotationCreated: time.Unix(x.Time, 0).UTC().Format(time.RFC3339), "vnd.katabuild.channel": x.Channel}})
	return f, err
}

// listed is an object with what the index says of it.
type listed struct {
	Object
	listed v1.Descriptor
}

// programs are an artefact of programs for each architecture, and one of sources.
func programs(x *index.Index) ([]listed, error) {
	var out []listed
	for i := 0; i < len(x.Programs); {
		m := v1.Manifest{ArtifactType: programsType, Config: v1.DescriptorEmptyJSON, Annotations: map[string]string{
			v1.AnnotationTitle: "programs", v1.AnnotationVersion: x.Programs[i].Version}}
		name := x.Programs[i].Arch
		for ; i < len(x.Programs) && x.Programs[i].Arch == name; i++ {
			d := Describe(programType, x.Programs[i].Blob)
			d.Annotations = map[string]string{v1.AnnotationTitle: x.Programs[i].Name}
			m.Layers = append(m.Layers, d)
		}
		of, err := arch.Parse(name)
		if err != nil {
			return nil, err
		}
		o, err := manifest(m)
		if err != nil {
			return nil, err
		}
		d := o.Descriptor
		d.Platform, d.Annotations = &v1.Platform{OS: "linux", Architecture: of.Go}, m.Annotations
		out = append(out, listed{o, d})
	}
	if len(x.Sources) == 0 {
		return out, nil
	}
	m := v1.Manifest{ArtifactType: sourcesType, Config: v1.DescriptorEmptyJSON,
		Annotations: map[string]string{v1.AnnotationTitle: "sources"}}
	for _, b := range x.Sources {
		m.Layers = append(m.Layers, Describe(sourceType, b))
	}
	o, err := manifest(m)
	d := o.Descriptor
	d.Annotations = m.Annotations
	return append(out, listed{o, d}), err
}

// Envelope is the manifest that has an envelope refer to a release, as an artefact of a type.
func Envelope(artifactType string, of v1.Descriptor, envelope []byte) (Object, error) {
	return manifest(v1.Manifest{ArtifactType: artifactType, Config: v1.DescriptorEmptyJSON, Subject: &of,
		Layers: []v1.Descriptor{Describe(EnvelopeType, index.Blob{Digest: digest.Of(envelope),
			Size: int64(len(envelope))})}})
}

// Roles is the manifest of a set of metadata of roles.
func Roles(set []byte) (Object, error) {
	return manifest(v1.Manifest{ArtifactType: RolesType, Config: v1.DescriptorEmptyJSON,
		Layers: []v1.Descriptor{Describe(roles.SetType, index.Blob{Digest: digest.Of(set), Size: int64(len(set))})}})
}

// Describe is a file as registries name it.
func Describe(mediaType string, b index.Blob) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: godigest.Digest(b.Digest), Size: b.Size}
}

func releaseFiles(x *index.Index, data []byte) []v1.Descriptor {
	files := []v1.Descriptor{Describe(index.MediaType, index.Blob{Digest: digest.Of(data), Size: int64(len(data))})}
	if x.Notes != nil {
		files = append(files, Describe(notesType, *x.Notes))
	}
	return files
}

// annotations tell people, and nobody else, what a guest is.
func annotations(g *index.Guest) map[string]string {
	a := map[string]string{v1.AnnotationTitle: g.Name, v1.AnnotationVersion: g.Version}
	if g.Variant != "" {
		a["vnd.katabuild.variant"] = g.Variant
	}
	return a
}

// guest is the manifest of a guest: its own one is the configuration, its files are the layers.
func guest(g *index.Guest) (Object, error) {
	m := v1.Manifest{ArtifactType: guestType, Config: Describe(manifestType, g.Manifest), Annotations: annotations(g)}
	for _, a := range g.Artefacts {
		d := Describe(fmt.Sprintf(fileType, a.Kind), a.Blob)
		if t := sbomTypes[a.Form]; t != "" {
			d.MediaType = t
		}
		d.Annotations = map[string]string{v1.AnnotationTitle: a.Name}
		m.Layers = append(m.Layers, d)
	}
	return manifest(m)
}

// about are the artefacts that refer to a guest: its provenance, its boot, what it was built of and its bills of
// materials.
func about(g *index.Guest, subject v1.Descriptor) ([]Object, error) {
	list := []v1.Manifest{
		{ArtifactType: inTotoType, Layers: []v1.Descriptor{Describe(inTotoType, g.Provenance)}},
		{ArtifactType: bootType, Layers: []v1.Descriptor{Describe(reportType, g.Report),
			Describe(verdictType, g.Verdict)}},
	}
	if g.Lock != nil {
		again := v1.Manifest{ArtifactType: recipeType, Layers: []v1.Descriptor{Describe(lockType, *g.Lock)}}
		if g.Recipe != nil {
			again.Layers = append(again.Layers, Describe(recipeFileType, *g.Recipe))
		}
		list = append(list, again)
	}
	lists := v1.Manifest{ArtifactType: chunksType}
	for _, a := range g.Artefacts {
		if a.Chunks != nil {
			d := Describe(chunksType, *a.Chunks)
			d.Annotations = map[string]string{v1.AnnotationTitle: a.Name}
			lists.Layers = append(lists.Layers, d)
		}
	}
	if len(lists.Layers) > 0 {
		list = append(list, lists)
	}
	for _, a := range g.Artefacts {
		if t := sbomTypes[a.Form]; t != "" {
			list = append(list, v1.Manifest{ArtifactType: t, Layers: []v1.Descriptor{Describe(t, a.Blob)}})
		}
	}
	var out []Object
	for _, m := range list {
		m.Config, m.Subject = v1.DescriptorEmptyJSON, &subject
		o, err := manifest(m)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func manifest(m v1.Manifest) (Object, error) {
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, v1.MediaTypeImageManifest
	m.Config.Data = nil
	o, err := object(v1.MediaTypeImageManifest, m.ArtifactType, m)
	o.Refers = m.Subject != nil
	return o, err
}

func object(mediaType, artifactType string, v any) (Object, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return Object{}, err
	}
	d := Describe(mediaType, index.Blob{Digest: digest.Of(data), Size: int64(len(data))})
	d.ArtifactType = artifactType
	return Object{Descriptor: d, Data: data}, nil
}
