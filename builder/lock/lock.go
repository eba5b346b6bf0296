// Package lock is the document that names every input of a guest by digest and size, and says where to find it.
//
// `katabuild lock` writes lock.json beside the recipe; plan and fetch read it. Only its writing resolves names;
// everything else refuses bytes with another digest. docs/formats/lock.md owns the bytes.
package lock

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
)

// Version is the only version this package reads and writes.
const Version = 1

// FileName is the name of a lock beside its recipe.
const FileName = "lock.json"

// FileNameFor is the name of the lock for another architecture than the recipe's own.
func FileNameFor(arch string) string { return "lock-" + arch + ".json" }

// Lock is every input of one guest.
type Lock struct {
	Version int     `json:"version"`
	Name    string  `json:"name"`   // of the guest
	Time    int64   `json:"time"`   // seconds since 1970: the time stamped into every output
	Inputs  []Input `json:"inputs"` // sorted by name
	// Sets are the requests that became more than one input: Debian packages with all they depend on. Sorted by name.
	Sets []Set `json:"sets,omitempty"`
}

// Set is a request for packages and what it became.
type Set struct {
	Name string `json:"name"` // "rootfs layer 0"
	// Asked is the digest over the request, so that a lock which answers another one is noticed.
	Asked digest.Digest `json:"asked"`
	// Inputs are the names of the inputs it became, in the order in which they are unpacked.
	Inputs []string `json:"inputs"`
}

// The kinds of inputs.
const (
	Debian = "debian" // a package of Debian's archive
	URL    = "url"    // an address
	Local  = "local"  // a file beside the recipe
	Tree   = "tree"   // a folder beside the recipe
	OCI    = "oci"    // an image in a registry
)

// Input is one thing from outside.
type Input struct {
	Name   string        `json:"name"` // what the recipe wants it for: "kernel source", "file motd"
	Kind   string        `json:"kind"`
	Digest digest.Digest `json:"digest"` // of the bytes; of a tree, its tree digest
	Size   int64         `json:"size"`   // bytes; zero for a tree
	// Where says how to find it again: an address, or a path relative to the recipe.
	Where   string   `json:"where,omitempty"`
	Package *Package `json:"package,omitempty"` // of kind debian
}

// Package is where a Debian package stands in the archive. Of a single .deb file only name, version and architecture
// are known.
type Package struct {
	Archive  string `json:"archive,omitempty"` // the recipe's name of one of its own archives; "" is Debian's
	Suite    string `json:"suite"`
	Name     string `json:"name"`
	Version  string `json:"version"`
	Arch     string `json:"arch"`     // dpkg's name, or "all"
	Filename string `json:"filename"` // below the archive's root: pool/…
}

// Find returns the input called name, or nil.
func (l *Lock) Find(name string) *Input {
	i := slices.IndexFunc(l.Inputs, func(in Input) bool { return in.Name == name })
	if i < 0 {
		return nil
	}
	return &l.Inputs[i]
}

// Encode is the canonical form; it sorts the inputs.
func (l *Lock) Encode() ([]byte, error) {
	slices.SortFunc(l.Inputs, func(a, b Input) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(l.Sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return document.Encode(l)
}

// Decode reads the canonical form and nothing else.
func Decode(data []byte) (*Lock, error) {
	var l Lock
	if err := document.Decode("lock", data, &l); err != nil {
		return nil, err
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return &l, nil
}

func (l *Lock) check() error {
	if l.Version != Version {
		return fmt.Errorf("version %d, this katabuild reads version %d", l.Version, Version)
	}
	if l.Inputs == nil {
		return errors.New("inputs may be empty but not null")
	}
	if l.Time < 0 {
		return fmt.Errorf("time %d lies before 1970", l.Time)
	}
	for i, in := range l.Inputs {
		if i > 0 && l.Inputs[i-1].Name >= in.Name {
			return fmt.Errorf("input %q is not in order, or stands twice", in.Name)
		}
		if err := in.check(); err != nil {
			return fmt.Errorf("input %q: %w", in.Name, err)
		}
	}
	for i, s := range l.Sets {
		if i > 0 && l.Sets[i-1].Name >= s.Name {
			return fmt.Errorf("set %q is not in order, or stands twice", s.Name)
		}
		if s.Asked == "" || s.Inputs == nil {
			return fmt.Errorf("set %q does not say what was asked for, or what it became", s.Name)
		}
		for _, name := range s.Inputs {
			if in := l.Find(name); in == nil || in.Package == nil {
				return fmt.Errorf("set %q: no package %q", s.Name, name)
			}
		}
	}
	return nil
}

// FindSet returns the set called name, or nil.
func (l *Lock) FindSet(name string) *Set {
	i := slices.IndexFunc(l.Sets, func(s Set) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &l.Sets[i]
}

func (in *Input) check() error {
	if in.Digest == "" || in.Size < 0 {
		return errors.New("no digest or a negative size")
	}
	if in.Kind == Debian && in.Package == nil || in.Kind != Debian && in.Kind != Local && in.Kind != URL &&
		in.Package != nil {
		return errors.New("a package goes with the kind debian, or a file")
	}
	if p := in.Package; p != nil {
		if in.Kind != Debian && (p.Archive != "" || p.Suite != "" || p.Filename != "") {
			return errors.New("a file stands in no archive")
		}
		// Filename ends up in addresses, the others in apt's arguments: nothing in them may climb or look like an
		// option.
		if in.Kind == Debian && (path.IsAbs(p.Filename) || path.Clean(p.Filename) != p.Filename ||
			strings.HasPrefix(p.Filename, "..")) {
			return fmt.Errorf("file name %q leaves the archive", p.Filename)
		}
		words := []string{p.Name, p.Version, p.Arch}
		if in.Kind == Debian {
			words = append(words, p.Suite)
		}
		if p.Archive != "" {
			words = append(words, p.Archive)
		}
		for _, w := range words {
			if w == "" || w[0] == '-' || strings.ContainsAny(w, " \t\n\"'\\;|&$`<>") {
				return fmt.Errorf("%q is no suite, package, version or architecture", w)
			}
		}
	}
	switch in.Kind {
	case Debian:
	case URL, Local, Tree, OCI:
		if in.Where == "" {
			return errors.New("does not say where to find it")
		}
	default:
		return fmt.Errorf("unknown kind %q", in.Kind)
	}
	return nil
}
