// Package template keeps guests that wait to be woken: a folder of them on the host, each in a folder of its own, named
// by what it depends on.
//
// In come a guest's memory, its machine's state and a document about them; out comes a copy of both for one more guest,
// whose every byte was compared with the document on its way. It knows no hypervisor, and what is in the bytes. Nothing
// partial is ever found: a template gets its name when it is whole. docs/formats/template.md owns the folder.
package template

import (
	"fmt"
	"regexp"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
)

// version is the only version this package reads and writes.
const version = 1

// The files of a template.
const (
	documentName = "template.json"
	memoryName   = "memory"
	stateName    = "state"
)

// Key is what a template depends on. One whose key is another is not used.
type Key struct {
	Manifest  digest.Digest `json:"manifest"`  // of the guest
	Machine   digest.Digest `json:"machine"`   // what the hypervisor is told, without names of files
	Program   digest.Digest `json:"program"`   // of the hypervisor
	CPU       digest.Digest `json:"cpu"`       // of the host's processor's kind and abilities
	Katabuild string        `json:"katabuild"` // version
}

// Document is what a template's folder holds, and how it came to be.
type Document struct {
	Version int    `json:"version"`
	Guest   string `json:"guest"` // the manifest's name
	Key     Key    `json:"key"`
	Made    int64  `json:"made"` // seconds since the Epoch
	Memory  File   `json:"memory"`
	State   File   `json:"state"`
	// Attested is the verdict about the guest that was restored from the template first.
	Attested digest.Digest `json:"attested"`
}

// File is one of the two files.
type File struct {
	Size   int64         `json:"size"`   // bytes
	Digest digest.Digest `json:"digest"` // of the memory: as Sum has it
}

// maxMemory is the most memory of a template, in bytes.
const maxMemory = 1 << 40

// maxState is the most that a machine's state may be, in bytes; real ones have less than one MiB.
const maxState = 64 << 20

// maxText bounds names.
const maxText = 256

var textForm = regexp.MustCompile(`^[ -~]+$`)

func (d *Document) check() error {
	if d.Version != version {
		return fmt.Errorf("version %d, this katabuild reads version %d", d.Version, version)
	}
	for name, s := range map[string]string{"guest": d.Guest, "katabuild": d.Key.Katabuild} {
		if !textForm.MatchString(s) || len(s) > maxText {
			return fmt.Errorf("%s %q: want 1 to %d printable characters", name, s, maxText)
		}
	}
	for name, s := range map[string]digest.Digest{"manifest": d.Key.Manifest, "machine": d.Key.Machine,
		"program": d.Key.Program, "cpu": d.Key.CPU, "attested": d.Attested, "memory": d.Memory.Digest,
		"state": d.State.Digest} {
		if _, err := digest.Parse(string(s)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case d.Made <= 0:
		return fmt.Errorf("made %d: want seconds since the Epoch", d.Made)
	case d.Memory.Size <= 0 || d.Memory.Size > maxMemory || d.Memory.Size%page != 0:
		return fmt.Errorf("memory of %d bytes: want a multiple of %d, up to %d", d.Memory.Size, page, int64(maxMemory))
	case d.State.Size <= 0 || d.State.Size > maxState:
		return fmt.Errorf("state of %d bytes: want up to %d", d.State.Size, maxState)
	}
	return nil
}

// encode is the canonical form.
func (d *Document) encode() ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	return document.Encode(d)
}

// decode reads the canonical form and nothing else.
func decode(data []byte) (*Document, error) {
	var d Document
	if err := document.Decode("template", data, &d); err != nil {
		return nil, err
	}
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	return &d, nil
}

// name is the folder of a template with the key.
func (k Key) name() (string, error) {
	b, err := document.Encode(k)
	if err != nil {
		return "", err
	}
	return digest.Of(b).Hex(), nil
}

// differs says in what another key is another.
func (k Key) differs(other Key) []string {
	var out []string
	for _, part := range []struct {
		what string
		same bool
	}{
		{"guest", k.Manifest == other.Manifest}, {"machine or its configuration", k.Machine == other.Machine},
		{"hypervisor's program", k.Program == other.Program}, {"host's processor", k.CPU == other.CPU},
		{"version of katabuild", k.Katabuild == other.Katabuild},
	} {
		if !part.same {
			out = append(out, part.what)
		}
	}
	return out
}
