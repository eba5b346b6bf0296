package kernel

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/objcache"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/kernel/makelog"
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

// TestATreeReachesNoObjectsButItsOwn lets a tree's programs go for the cache: objects of the tree that it is made of,
// the report, the wrapper and its server.
func TestATreeReachesNoObjectsButItsOwn(t *testing.T) {
	const compile = "\tcd . && touch a.h && gcc -Wp,-MMD,.a.o.d -nostdinc -I. -c -o a.o a.c && test -s .a.o.d\n"
	build := func(rules string, patches []Patch, cache ObjectCache) (*build, []makelog.Compiled) {
		r := madeUp(t, obedient+"bzImage:\n\tprintf 'int a;\\n' >a.c; sleep 0.1\n"+rules)
		cache.Tree = "the same for all"
		r.ObjectCache, r.Patches = cache, patches
		b := &build{Request: r}
		res := &Result{}
		if err := os.MkdirAll(r.WorkDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := b.unpack(t.Context(), res); err != nil {
			t.Fatal(err)
		}
		defer b.left.Close()
		log := &bytes.Buffer{}
		b.Log = log
		if err := b.makeCached(t.Context(), res, "bzImage"); err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		return b, res.Compiled
	}
	testenv.Require(t, testenv.Tool("gcc"))
	cache := ObjectCache{Dir: filepath.Join(t.TempDir(), "objects"), Program: buildCC(t)}
	if _, all := build(compile, nil, cache); len(all) != 1 || all[0].Cached || all[0].Object != "a.o" {
		t.Fatalf("first build: %v", all)
	}
	if _, all := build(compile, nil, cache); len(all) != 1 || !all[0].Cached {
		t.Fatalf("second build: %v", all)
	}
	before := snapshot(t, cache.Dir)
	patch := Patch{Name: "p", Data: []byte(
		"--- a/Kconfig\n+++ b/Kconfig\n@@ -1,1 +1,1 @@\n-mainmenu \"x\"\n+mainmenu \"y\"\n")}
	hostile := "\t! touch ../levels/1/x; ! rm -rf ../levels/1/keys; for f in `find ../levels/1 -type f`; do " +
		"! chmod 777 $$f; ! sh -c \"echo x >$$f\"; done\n" +
		"\t! touch ../compilers/gcc2; ! ln -sf /bin/true ../compilers/gcc; ! cp /bin/true ../katabuild-cc\n" +
		"\trm -f ../reports/objects; ln -s /etc/passwd ../reports/objects\n" +
		"\techo nonsense >../levels/0/keys; ln -s / ../levels/0/blobs\n"
	_, all := build(hostile+compile, []Patch{patch}, cache)
	if len(all) != 0 {
		t.Errorf("a report that is a link was read: %v", all)
	}
	after := snapshot(t, cache.Dir)
	for name, data := range before {
		if after[name] != data {
			t.Errorf("%s changed", name)
		}
	}
	// What it left in its own level harms neither the next build of it nor the builder.
	if _, all := build(compile, []Patch{patch}, cache); len(all) != 1 || !all[0].Cached {
		t.Errorf("a build beside what a hostile one left: %v", all)
	}
	if _, err := objcache.Trim(cache.Dir, 0, time.Now()); err != nil {
		t.Error(err)
	}
	// A server that a tree's program ends is one that nobody answers for.
	ended := "\trm -rf /tmp/objects-*\n"
	if _, all := build(ended+compile, nil, cache); len(all) != 0 {
		t.Errorf("without a server: %v", all)
	}
}

// snapshot is every file below a folder.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		all[p] = string(data)
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("%d files: %v", len(all), err)
	}
	return all
}
