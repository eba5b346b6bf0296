// Package roles says, by metadata of The Update Framework, which releases are offered now, and who may say so.
//
// Keys have roles. Root keys say which keys the others are; targets keys, and those they delegate channels to, list
// releases by digest; snapshot keys say which lists belong together; timestamp keys say, every day anew, that nothing
// newer is there. A client that has met newer metadata takes no older, and none that has expired.
//
// Signatures, thresholds, versions and expiry are judged by go-tuf's trusted set of metadata; this package asks for the
// files, bounds them, keeps what a host has seen, and names what is refused. Package ceremony makes the files, and
// docs/formats/roles.md owns the bytes. Specification: github.com/theupdateframework/specification, 1.0.
package roles

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/keys"
)

// The roles that every repository has. Others are delegated by targets.
const (
	Root      = metadata.ROOT
	Targets   = metadata.TARGETS
	Snapshot  = metadata.SNAPSHOT
	Timestamp = metadata.TIMESTAMP
)

// Bounds, in bytes and in numbers.
const (
	maxRoot      = 512 << 10
	maxTimestamp = 16 << 10
	maxSnapshot  = 1 << 20
	maxTargets   = 1 << 20
	maxRotations = 256 // roots that one update follows
	maxRoles     = 8   // roles with lists of releases that one update asks
)

// NamesField is a field of ours in root and targets metadata: what people call the keys, by key.
const NamesField = "x-katabuild-names"

// suffix ends the names of all files.
const suffix = ".json"

// FileName is the name of a role's metadata. That of the timestamp alone has no version.
func FileName(role string, version int64) string {
	if role == Timestamp {
		return role + suffix
	}
	return strconv.FormatInt(version, 10) + "." + role + suffix
}

// limit is how many bytes a role's metadata may have.
func limit(role string) int64 {
	switch role {
	case Root:
		return maxRoot
	case Timestamp:
		return maxTimestamp
	case Snapshot:
		return maxSnapshot
	}
	return maxTargets
}

// ParseName takes the name of a file apart.
func ParseName(name string) (role string, version int64, ok bool) {
	rest, ok := strings.CutSuffix(name, suffix)
	if rest == Timestamp && ok {
		return rest, 0, true
	}
	number, role, dot := strings.Cut(rest, ".")
	version, err := strconv.ParseInt(number, 10, 64)
	ok = ok && dot && err == nil && version > 0 && role != Timestamp && FileName(role, version) == name &&
		index.CheckWord("role", role) == nil
	return role, version, ok
}

// Path is what a release of a channel is called in the lists of releases.
func Path(channel, version string) string { return channel + "/" + version }

// ReleasePath is what a release is called: its channel, and the highest version of a guest.
func ReleasePath(x *index.Index) string {
	highest := ""
	for i := range x.Guests {
		if v := x.Guests[i].Version; highest == "" || index.CompareVersions(v, highest) > 0 {
			highest = v
		}
	}
	return Path(x.Channel, highest)
}

// Key is a public key in the form of metadata, with its name there: the digest of that form.
func Key(p keys.Public) (*metadata.Key, string, error) {
	b, _ := pem.Decode(p.PEM())
	public, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return nil, "", err
	}
	k, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return nil, "", err
	}
	id, err := k.ID()
	return k, id, err
}

// Head is what all metadata has in common, read and not checked.
type Head struct {
	Type       string
	Version    int64
	Expires    time.Time
	Signatures []metadata.Signature
	// Payload are the bytes that signatures are over: the canonical form of what is signed.
	Payload []byte
}

// ReadHead reads the head of metadata. Metadata with a value null or a key twice is refused: the one makes go-tuf 2.4.2
// panic, and the other has no one meaning.
func ReadHead(data []byte) (*Head, error) {
	if err := plain(data); err != nil {
		return nil, err
	}
	var file struct {
		Signed     json.RawMessage      `json:"signed"`
		Signatures []metadata.Signature `json:"signatures"`
	}
	var signed struct {
		Type    string    `json:"_type"`
		Version int64     `json:"version"`
		Expires time.Time `json:"expires"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(file.Signed, &signed); err != nil {
		return nil, err
	}
	if signed.Version < 1 || signed.Type == "" {
		return nil, fmt.Errorf("metadata of the type %q and of version %d", signed.Type, signed.Version)
	}
	payload, err := cjson.EncodeCanonical(file.Signed)
	if err != nil {
		return nil, err
	}
	return &Head{signed.Type, signed.Version, signed.Expires, file.Signatures, payload}, nil
}

// maxDepth bounds how deep metadata nests.
const maxDepth = 16

// plain refuses JSON with null, with a key twice, or with something behind its end.
func plain(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := plainValue(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something stands behind the end of the metadata")
	}
	return nil
}

func plainValue(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	delim, open := t.(json.Delim)
	switch {
	case t == nil:
		return errors.New("a value is null")
	case depth > maxDepth:
		return errors.New("it nests too deep")
	case !open:
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if delim == '{' {
			key, err := d.Token()
			if err != nil {
				return err
			}
			if name, ok := key.(string); !ok || seen[name] {
				return fmt.Errorf("the key %q stands twice", key)
			} else {
				seen[name] = true
			}
		}
		if err := plainValue(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// Keepers are the keys that speak for a role, and how many must.
type Keepers struct {
	Keys      map[string]*metadata.Key // by their names in metadata
	IDs       []string                 // of those that count
	Threshold int
	Names     map[string]string // what people call them
}

// Name is what people call a key.
func (k *Keepers) Name(id string) string {
	if n := k.Names[id]; n != "" {
		return n
	}
	return "key " + id[:min(len(id), 12)]
}

// Signed sorts the signatures of metadata: those of keepers that fit, and of keepers that do not; all others are of
// strangers.
func (k *Keepers) Signed(h *Head) (fit, unfit, strangers []string) {
	counted := map[string]bool{}
	for _, s := range h.Signatures {
		if !slices.Contains(k.IDs, s.KeyID) {
			strangers = append(strangers, s.KeyID)
			continue
		}
		p, err := public(k.Keys[s.KeyID])
		if err != nil || !p.Verify(h.Payload, s.Signature) {
			unfit = append(unfit, s.KeyID)
			continue
		}
		if !counted[string(p.ID)] {
			counted[string(p.ID)] = true
			fit = append(fit, s.KeyID)
		}
	}
	return fit, unfit, strangers
}

// Find is the key that a word means: its name, or the beginning of its identifier, at least eight letters of it.
func (k *Keepers) Find(word string) (string, error) {
	for _, id := range k.IDs {
		if k.Names[id] == word || len(word) >= 8 && strings.HasPrefix(id, word) {
			return id, nil
		}
	}
	return "", fmt.Errorf("there is no key %q", word)
}

// Public is a key in our own form.
func (k *Keepers) Public(id string) (keys.Public, error) { return public(k.Keys[id]) }

// public is a key of metadata as ours.
func public(k *metadata.Key) (keys.Public, error) {
	if k == nil {
		return keys.Public{}, errors.New("no such key")
	}
	p, err := k.ToPublicKey()
	if err != nil {
		return keys.Public{}, err
	}
	return keys.Of(p)
}

// OfRoot are the keepers of one of root's roles.
func OfRoot(r *metadata.RootType, role string) *Keepers {
	k := &Keepers{Keys: r.Keys, Names: names(r.UnrecognizedFields)}
	if of := r.Roles[role]; of != nil {
		k.IDs, k.Threshold = of.KeyIDs, of.Threshold
	}
	return k
}

// OfTargets are the keepers of a role that targets has delegated; nil where it has not.
func OfTargets(t *metadata.TargetsType, role string) *Keepers {
	if t.Delegations == nil {
		return nil
	}
	for i := range t.Delegations.Roles {
		if d := &t.Delegations.Roles[i]; d.Name == role {
			return &Keepers{t.Delegations.Keys, d.KeyIDs, d.Threshold, names(t.UnrecognizedFields)}
		}
	}
	return nil
}

// names reads NamesField.
func names(fields map[string]any) map[string]string {
	out := map[string]string{}
	if all, ok := fields[NamesField].(map[string]any); ok {
		for id, v := range all {
			if n, ok := v.(string); ok && index.CheckWord("name", n) == nil {
				out[id] = n
			}
		}
	}
	return out
}
