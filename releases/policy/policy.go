// Package policy is the file in which a person says which releases are accepted: whose signatures, how many, which
// channels and the lowest version. docs/formats/release-policy.md owns its keys.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/refusal"
)

// Version is the only version of the file that this package reads.
const version = 1

// maxFile bounds the file, in bytes.
const maxFile = 1 << 20

// Policy says what is accepted.
type Policy struct {
	Threshold int   // how many keys must have signed, at least 1
	Keys      []Key // whose signatures count
	Channels  []string
	Lowest    string // the lowest version of a guest; empty for any
	Roles     *Roles // who is asked in the place of keys; nil is nobody
	// Reproduced asks for others to have built each guest once more with the same bytes; nil asks for nobody.
	Reproduced *Reproduced
	// Otherwise says, for errors, why the policy is as it is where nobody has written one.
	Otherwise string
}

// Reproduced says who must have reproduced a release.
type Reproduced struct {
	Threshold int // how many of the keys, at least 1
	Keys      []Key
}

// Roles says whose metadata of roles is asked.
type Roles struct {
	File     string // of root metadata that is trusted, from the policy's folder
	Root     []byte // what is in it
	Metadata string // the place of newer metadata; empty where each release brings its own
}

// Key is one whose signatures count.
type Key struct {
	Name string // for people
	keys.Public
}

// file is the policy as a person writes it.
type file struct {
	Version   int      `yaml:"version"`
	Threshold int      `yaml:"threshold"`
	Keys      []named  `yaml:"keys"`
	Channels  []string `yaml:"channels"`
	Lowest    string   `yaml:"lowest_version"`
	Roles     *struct {
		Root     string `yaml:"root"` // a file, from the policy's folder
		Metadata string `yaml:"metadata"`
	} `yaml:"roles"`

	Reproduced *struct {
		Threshold int     `yaml:"threshold"`
		Keys      []named `yaml:"keys"`
	} `yaml:"reproduced"`
}

type named struct {
	Name   string `yaml:"name"`
	Public string `yaml:"public_key"`
}

// Read reads a policy from a file, YAML or JSON, that nobody but this user and root could have written. Otherwise it is
// a *refusal.Error.
func Read(path string) (*Policy, error) { return read(path, owned.Read) }

// ReadMounted reads a policy from a file that whoever mounted it vouches for: to a container, the modes of a volume's
// folders say nothing about who could have written it.
func ReadMounted(path string) (*Policy, error) { return read(path, regular.ReadFile) }

// reader reads a file of at most limit bytes.
type reader func(path string, limit int64) ([]byte, error)

func read(path string, file reader) (*Policy, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	data, err := file(abs, maxFile+1)
	if u, unsafe := errors.AsType[*owned.Unsafe](err); unsafe {
		return nil, refusal.New(refusal.Policy, path, "%v", u)
	}
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p, err := Parse(data)
	if err == nil && p.Roles != nil {
		err = p.Roles.read(filepath.Dir(abs), file)
	}
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", path, err)
	}
	return p, nil
}

// read reads the root that a policy in the folder dir trusts: from a file that nobody else could have written, like the
// policy itself.
func (r *Roles) read(dir string, file reader) error {
	at := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	var err error
	r.Root, err = file(at(r.File), maxFile)
	if u, unsafe := errors.AsType[*owned.Unsafe](err); unsafe {
		return refusal.New(refusal.Policy, at(r.File), "%v", u)
	}
	if err != nil {
		return fmt.Errorf("roles: %w", err)
	}
	if r.Metadata != "" && !strings.Contains(r.Metadata, ":") {
		r.Metadata = at(r.Metadata)
	}
	return nil
}

// Parse reads a policy strictly. The root that it trusts is a file that it names, which is not read.
func Parse(data []byte) (*Policy, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than the %d bytes that a policy may have", maxFile)
	}
	var f file
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&f); err != nil {
		return nil, err
	}
	p := &Policy{Threshold: f.Threshold, Channels: f.Channels, Lowest: f.Lowest}
	var err error
	if p.Keys, err = parseKeys(f.Keys); err != nil {
		return nil, err
	}
	if r := f.Reproduced; r != nil {
		p.Reproduced = &Reproduced{Threshold: r.Threshold}
		if p.Reproduced.Keys, err = parseKeys(r.Keys); err != nil {
			return nil, fmt.Errorf("reproduced: %w", err)
		}
	}
	if f.Roles != nil {
		p.Roles = &Roles{File: f.Roles.Root, Metadata: f.Roles.Metadata}
	}
	return p, p.check(f.Version)
}

func parseKeys(list []named) ([]Key, error) {
	var out []Key
	seen := map[digest.Digest]string{}
	for _, k := range list {
		public, err := keys.ParsePublic([]byte(k.Public))
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", k.Name, err)
		}
		if other, twice := seen[public.ID]; twice || k.Name == "" {
			return nil, fmt.Errorf("key %q has no name, or is the key %q once more: each counts once", k.Name, other)
		}
		seen[public.ID] = k.Name
		out = append(out, Key{k.Name, public})
	}
	return out, nil
}

func (p *Policy) check(v int) error {
	switch {
	case v != version:
		return fmt.Errorf("version %d, this katabuild reads version %d", v, version)
	case p.Roles != nil && (p.Threshold != 0 || len(p.Keys) > 0):
		return errors.New("it names roles, and keys or a threshold: roles have keys of their own")
	case p.Roles != nil && p.Roles.File == "":
		return errors.New("roles: want root, a file of root metadata that is trusted")
	case p.Roles != nil:
	case p.Threshold < 1 || p.Threshold > len(p.Keys):
		return fmt.Errorf("threshold %d of %d keys: want at least 1, and no more than there are keys", p.Threshold,
			len(p.Keys))
	case p.Reproduced != nil && (p.Reproduced.Threshold < 1 || p.Reproduced.Threshold > len(p.Reproduced.Keys)):
		return fmt.Errorf("reproduced: threshold %d of %d keys: want at least 1, and no more than there are keys",
			p.Reproduced.Threshold, len(p.Reproduced.Keys))
	}
	if len(p.Channels) == 0 {
		return errors.New("no channels: name those whose releases are accepted")
	}
	for _, c := range p.Channels {
		if err := index.CheckWord("channel", c); err != nil {
			return err
		}
	}
	if p.Lowest != "" {
		return index.CheckVersion(p.Lowest)
	}
	return nil
}

// Own is the policy where nobody has written one: what was released with this host's own key.
func Own(host keys.Public) *Policy {
	return &Policy{Threshold: 1, Keys: []Key{{"this host", host}},
		Otherwise: "; as there is no policy, only what was released on this host is accepted: write one, or name it " +
			"with --policy"}
}

// Takes says whether releases of a channel and a version are for this host.
func (p *Policy) Takes(channel, version string) bool {
	return (len(p.Channels) == 0 || slices.Contains(p.Channels, channel)) &&
		(p.Lowest == "" || index.CompareVersions(version, p.Lowest) >= 0)
}

// Allows refuses a release of another channel, or of too low a version.
func (p *Policy) Allows(x *index.Index) error {
	if len(p.Channels) > 0 && !slices.Contains(p.Channels, x.Channel) {
		return refusal.New(refusal.Channel, "release", "its channel is %s; the policy takes %q", x.Channel, p.Channels)
	}
	for i := range x.Guests {
		if g := &x.Guests[i]; p.Lowest != "" && index.CompareVersions(g.Version, p.Lowest) < 0 {
			return refusal.New(refusal.Lowest, g.Label(), "the policy's lowest version is %s", p.Lowest)
		}
	}
	return nil
}
