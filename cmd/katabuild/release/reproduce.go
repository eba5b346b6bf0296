package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/recipetar"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/releases/dsse"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/reproduced"
	"github.com/katabuild/katabuild/releases/unpack"
)

// Again says what to do with the guests of a release.
type Again struct {
	Policy string // a file; empty for that of the host
	// Recipe and Lock are files, or empty for those that the release has.
	Recipe, Lock string
	// Build builds a guest once more of a recipe and a lock, which are files, and compares it with the one in the
	// folder dir. What differs it names, and then it is an error.
	Build func(ctx context.Context, g *index.Guest, dir, recipe, lock string) error
	Flags AgainFlags
}

// AgainFlags are the flags about that.
type AgainFlags struct {
	key    keyFlags
	guests []string
}

// Names are the names of the flags.
func (f *AgainFlags) Names() []string {
	return []string{"guest", "key", "key-command", "passphrase-file"}
}

// Add adds the flags.
func (f *AgainFlags) Add(fl *pflag.FlagSet) {
	fl.StringArrayVar(&f.guests, "guest", nil, "of a release, with --rebuild: only the guest `NAME`, or "+
		"NAME-VERSION-ARCH (repeatable)")
	f.key.add(fl)
}

func (f *AgainFlags) signs() bool { return f.key.file != "" || f.key.command != "" }

// Reproduce builds guests of a release once more. Where all are the same, byte for byte, and a key is named, it says so
// in a signed statement, which it puts beside the release.
func (h *Host) Reproduce(ctx context.Context, at string, again Again, access registry.Access) (err error) {
	var by keys.Signer
	if again.Flags.signs() {
		if !place.IsWritable(at) {
			return &usage.Error{Err: fmt.Errorf("%s: a statement is put beside a release in a folder or a registry: "+
				"copy it there first", at)}
		}
		if by, err = h.signer(ctx, again.Flags.key); err != nil {
			return err
		}
	}
	from, head, err := (origin{at, access}).open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	x, _, err := h.accept(ctx, again.Policy, origin{at, access}, head)
	if err != nil {
		return err
	}
	guests, err := chosen(x, again.Flags.guests)
	if err != nil {
		return err
	}
	var said []reproduced.Guest
	for _, g := range guests {
		if err := again.one(ctx, from, g); err != nil {
			return fmt.Errorf("guest %s: %w", g.Label(), err)
		}
		said = append(said, reproduced.Of(g))
	}
	if by == nil {
		return nil
	}
	return h.state(ctx, at, head, said, by, access)
}

// chosen are the guests that a user names; none is all.
func chosen(x *index.Index, names []string) ([]*index.Guest, error) {
	var out []*index.Guest
	found := map[string]bool{}
	for i := range x.Guests {
		g := &x.Guests[i]
		is := len(names) == 0
		for _, n := range names {
			if n == g.Name || n == unpack.Name(g) {
				found[n], is = true, true
			}
		}
		if is {
			out = append(out, g)
		}
	}
	for _, n := range names {
		if !found[n] {
			return nil, fmt.Errorf("the release has no guest %s; katabuild list shows what it has", n)
		}
	}
	return out, nil
}

// one brings a guest and what it is built of, and has it built.
func (a *Again) one(ctx context.Context, from judge.Source, g *index.Guest) (err error) {
	tmp, err := os.MkdirTemp("", "katabuild-again-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	recipe, lock := a.Recipe, a.Lock
	if recipe == "" {
		if g.Recipe == nil {
			return errors.New("the release does not have its recipe: name it with --rebuild RECIPE")
		}
		data, err := judge.Read(ctx, from, "recipe", *g.Recipe)
		if err != nil {
			return err
		}
		if recipe, err = UnpackRecipe(data, tmp); err != nil {
			return err
		}
	}
	if lock == "" {
		if g.Lock == nil {
			return errors.New("the release does not have its lock: name it with --lock")
		}
		data, err := judge.Read(ctx, from, "lock", *g.Lock)
		if err != nil {
			return err
		}
		lock = filepath.Join(tmp, "lock.json")
		if err := os.WriteFile(lock, data, 0o644); err != nil {
			return err
		}
	}
	dir, err := unpack.Guest(ctx, from, g, filepath.Join(tmp, "guests"))
	if err != nil {
		return err
	}
	return a.Build(ctx, g, dir, recipe, lock)
}

// UnpackRecipe unpacks a recipe and what lies beside it into a folder of its own below dir.
func UnpackRecipe(data []byte, dir string) (string, error) {
	below := filepath.Join(dir, "of")
	if err := os.Mkdir(below, 0o755); err != nil {
		return "", err
	}
	return recipetar.Unpack(data, below)
}

// state puts a signed statement beside a release.
func (h *Host) state(ctx context.Context, at string, head folder.Head, said []reproduced.Guest, by keys.Signer,
	access registry.Access) (err error) {
	e, err := reproduced.Sign(ctx, head.Index, said, reproduced.Builder{Version: h.Version, Commit: h.Commit}, by)
	if err != nil {
		return err
	}
	var list reproduced.List
	if err := list.Add(e); err != nil {
		return err
	}
	data, err := list.Encode()
	if err != nil {
		return err
	}
	if head.Reproduced, err = reproduced.Merge(head.Reproduced, data); err != nil {
		return err
	}
	to, err := place.Create(ctx, at, access)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := to.Finish(ctx, head); err != nil {
		return err
	}
	_, err = fmt.Fprintf(h.Out, "%s: %d guests reproduced, signed with %s\n", at, len(said), by.Public().ID)
	return err
}

// independent are the keys that reproduced a guest and have not signed the release, by the digest of its manifest.
func independent(head folder.Head, x *index.Index) (map[digest.Digest][]digest.Digest, error) {
	by, err := reproduced.By(head.Reproduced, head.Index, x)
	if err != nil || head.Envelope == nil {
		return by, err
	}
	e, err := dsse.Decode(head.Envelope)
	if err != nil {
		return nil, err
	}
	for d := range by {
		by[d] = slices.DeleteFunc(by[d], func(k digest.Digest) bool {
			return slices.ContainsFunc(e.Signatures, func(s dsse.Signature) bool { return s.KeyID == k })
		})
	}
	return by, nil
}

// times says by how many keys something was reproduced.
func times(k []digest.Digest) string {
	switch len(k) {
	case 0:
		return "-"
	case 1:
		return "by 1 key"
	}
	return fmt.Sprintf("by %d keys", len(k))
}

// allKeys are the keys that reproduced any guest, for people.
func allKeys(by map[digest.Digest][]digest.Digest) string {
	var all []string
	for _, list := range by {
		for _, k := range list {
			all = append(all, string(k))
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}
