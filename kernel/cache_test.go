package kernel

import (
	"slices"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/kernel/source"
)

func TestObjectsAreSharedOnlyWithTreesThatATreeIsMadeOf(t *testing.T) {
	patch := func(text string) Patch { return Patch{Name: text, Data: []byte(text)} }
	levels := func(change func(r *Request)) []string {
		r := request(t)
		r.Patches = nil
		change(&r)
		return r.levels()
	}
	plain := levels(func(*Request) {})
	one := levels(func(r *Request) { r.Patches = []Patch{patch("a")} })
	two := levels(func(r *Request) { r.Patches = []Patch{patch("a"), patch("b")} })
	turned := levels(func(r *Request) { r.Patches = []Patch{patch("b"), patch("a")} })
	if len(plain) != 1 || !slices.Equal(one[1:], plain) || !slices.Equal(two[1:], one) {
		t.Errorf("plain %v, one patch %v, two %v: each should read what the one before wrote", plain, one, two)
	}
	if one[0] == plain[0] || two[0] == one[0] || slices.Contains(turned, two[0]) || slices.Contains(turned, one[0]) {
		t.Errorf("a tree reads what one with other patches wrote: %v, %v, %v", one, two, turned)
	}
	if same := levels(func(r *Request) { r.Features, r.Fragments, r.Modules = nil, nil, true }); same[0] != plain[0] {
		t.Error("another configuration has another level")
	}
	for name, change := range map[string]func(*Request){
		"source":      func(r *Request) { r.SourceDigest = digest.Of(nil) },
		"kind":        func(r *Request) { r.SourceKind = source.Debian },
		"tool":        func(r *Request) { r.Toolchain.Tools[0].Digest = digest.Of(nil) },
		"arch":        func(r *Request) { r.Arch.Name = "other" },
		"edited tree": func(r *Request) { r.SourceKind, r.ObjectCache.Tree = source.Tree, "/a" },
	} {
		if other := levels(change); slices.Contains(other, plain[0]) {
			t.Errorf("another %s has the same level", name)
		}
	}
	tree := func(name string, d digest.Digest) string {
		return levels(func(r *Request) { r.SourceKind, r.SourceDigest, r.ObjectCache.Tree = source.Tree, d, name })[0]
	}
	if tree("/a", digest.Of(nil)) != tree("/a", digest.Of([]byte("edited"))) {
		t.Error("an edited folder has another level")
	}
	if tree("/a", digest.Of(nil)) == tree("/b", digest.Of(nil)) {
		t.Error("two folders share a level")
	}
	many := levels(func(r *Request) { r.Patches = slices.Repeat([]Patch{patch("a")}, 100) })
	if len(many) != maxLevels {
		t.Errorf("%d levels, want %d", len(many), maxLevels)
	}
}

func TestTheCacheDecidesNoByte(t *testing.T) {
	r := request(t)
	want := mustInputs(t, r)
	r.ObjectCache = ObjectCache{Dir: "/cache", Program: "/bin/katabuild-cc", Tree: "/tree"}
	if got := mustInputs(t, r); !slices.Equal(got, want) {
		t.Errorf("the cache is an input: %v", got)
	}
}
