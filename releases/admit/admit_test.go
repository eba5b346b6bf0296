package admit

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/policy"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/releasetest"
)

// head is what is known of a release before its files, signed with a key.
func head(t *testing.T) (string, folder.Head, keys.Signer) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if _, err := keys.Write(file, keys.Ed25519, nil); err != nil {
		t.Fatal(err)
	}
	by, err := keys.Read(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, data := releasetest.Release(t, "1.4.0", releasetest.Guest{})
	h := folder.Head{Index: data}
	if h.Envelope, err = judge.Sign(t.Context(), data, nil, by); err != nil {
		t.Fatal(err)
	}
	return dir, h, by
}

func TestAPolicyDecides(t *testing.T) {
	at, h, by := head(t)
	good := policy.Policy{Threshold: 1, Keys: []policy.Key{{Name: "us", Public: by.Public()}},
		Channels: []string{"stable"}}
	with := func(change func(*policy.Policy)) *policy.Policy {
		p := good
		change(&p)
		return &p
	}
	_, other, _ := head(t)
	other.Index = h.Index // another's signatures, over another release
	for name, c := range map[string]struct {
		p    *policy.Policy
		h    folder.Head
		want refusal.Reason
	}{
		"nobody has signed":     {&good, folder.Head{Index: h.Index}, refusal.Unsigned},
		"somebody else":         {&good, other, refusal.UnknownKey},
		"more than have signed": {with(func(p *policy.Policy) { p.Threshold = 2 }), h, refusal.Threshold},
		"for others": {with(func(p *policy.Policy) { p.Channels = []string{"testing"} }), h,
			refusal.Channel},
		"too low":                {with(func(p *policy.Policy) { p.Lowest = "2.0.0" }), h, refusal.Lowest},
		"an index that is none":  {&good, folder.Head{Index: []byte("{}"), Envelope: h.Envelope}, ""},
		"what a policy accepts":  {&good, h, "none"},
		"roles without metadata": {with(func(p *policy.Policy) { p.Roles = &policy.Roles{} }), h, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Asker{Policy: c.p, Now: time.Now, Memory: func([]byte) (string, error) {
				return filepath.Join(t.TempDir(), "memory"), nil
			}}
			got, err := a.Ask(t.Context(), at, c.h)
			if c.want == "none" {
				if err != nil || !slices.Equal(got.By, []string{"us"}) || len(got.Index.Guests) != 1 {
					t.Errorf("%+v %v", got, err)
				}
				if err := a.Reproduced(c.h, got.Index); err != nil {
					t.Error(err)
				}
				return
			}
			refused, ok := errors.AsType[*refusal.Error](err)
			if err == nil || c.want != "" && (!ok || refused.Reason != c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if got.By != nil && strings.Contains(name, "signed") {
				t.Errorf("signed by %q", got.By)
			}
		})
	}
}
