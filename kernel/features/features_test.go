package features

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

func x86(t testing.TB) arch.Arch {
	t.Helper()
	a, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// versions are those of Linux that the features are kept for.
var versions = []string{"6.12.117", "7.3.4"}

// settings lists what features ask of an architecture and a version.
func settings(t testing.TB, a arch.Arch, version string, names ...string) []kconfig.Setting {
	t.Helper()
	fs, err := Resolve(a, names)
	if err != nil {
		t.Fatal(err)
	}
	var all []kconfig.Setting
	for _, f := range fs {
		all = append(all, f.Fragment.For(a.Name, version)...)
	}
	return all
}

// TestSets shows in review what a change of a feature means for the sets.
func TestSets(t *testing.T) {
	for _, a := range arch.All() {
		for _, set := range []string{Default, Tiny} {
			merged, conflicts := kconfig.Merge(settings(t, a, versions[0], set))
			for _, c := range conflicts {
				t.Error(c)
			}
			var b bytes.Buffer
			for _, w := range merged {
				fmt.Fprintln(&b, w.Text())
			}
			golden.Check(t, a.Name+"-"+set+".config", b.Bytes())
		}
	}
}

func TestEverySettingHasAReasonAndAPlace(t *testing.T) {
	for _, a := range arch.All() {
		all, err := All(a)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			if f.Purpose == "" || strings.HasSuffix(f.Purpose, ".") {
				t.Errorf("%s: purpose %q: want one line without a full stop", f.Name, f.Purpose)
			}
			for _, w := range f.Fragment.Settings {
				if w.Reason == "" || !strings.HasPrefix(w.File, folder+"/") || w.Line == 0 || !w.When.On(a.Name) {
					t.Errorf("%+v", w)
				}
			}
		}
	}
}

func TestFeaturesThatMeetDoNotContradictEachOther(t *testing.T) {
	for _, a := range arch.All() {
		var names []string
		all, err := All(a)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			names = append(names, f.Name)
		}
		for _, v := range versions {
			_, conflicts := kconfig.Merge(settings(t, a, v, names...))
			for _, c := range conflicts {
				t.Errorf("%s, Linux %s: %v", a.Name, v, c)
			}
		}
	}
}

func TestEveryArchitectureFileHasItsFeature(t *testing.T) {
	for _, a := range arch.All() {
		entries, err := files.ReadDir(a.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if _, err := files.ReadFile(e.Name()); err != nil {
				t.Errorf("%s/%s adds to no feature", a.Name, e.Name())
			}
		}
	}
}

func TestRequiredFeaturesComeAlongSortedAndOnce(t *testing.T) {
	fs, err := Resolve(x86(t), []string{"vsock", "virtio-fs", "vsock"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range fs {
		names = append(names, f.Name)
	}
	for _, want := range []string{"fuse", "guest", "pci", "virtio", "virtio-fs", "vsock"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing from %v", want, names)
		}
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("%v", names)
	}
}

func TestUnknownFeatureListsTheKnown(t *testing.T) {
	_, err := Resolve(x86(t), []string{"vsok"})
	var u *unknown
	if !errors.As(err, &u) || u.Name != "vsok" || !slices.Contains(u.Known, "vsock") {
		t.Errorf("got %v", err)
	}
}

func TestDigestChangesWithTheArchitectureFile(t *testing.T) {
	data, err := os.ReadFile("guest.config")
	if err != nil {
		t.Fatal(err)
	}
	f, err := read("guest", x86(t))
	if err != nil {
		t.Fatal(err)
	}
	alone, err := Parse("guest.config", bytes.ReplaceAll(data, []byte(headerMark), []byte("# ")))
	if err != nil {
		t.Fatal(err)
	}
	if f.Digest() == alone.Digest || len(f.Fragment.Settings) <= len(alone.Settings) {
		t.Errorf("%+v", f)
	}
}

func TestFragmentErrorsAreLocated(t *testing.T) {
	for data, want := range map[string]string{
		"# why\nCONFIG_A=y\nCONFIG_A=n\n":       "f:3: CONFIG_A is already set on line 2",
		"CONFIG_A=y\n":                          "f:1: CONFIG_A has no reason",
		"# why\n\nCONFIG_A=y\n":                 "f:3: CONFIG_A has no reason",
		"# why\nCONFIG_A=y\n\nCONFIG_B=y\n":     "f:4: CONFIG_B has no reason",
		"# why\nCONFIG_A=y\n#: purpose: late\n": "f:3: ",
		"#: purpose: a\n#: purpose: b\n":        "f:2: a second purpose",
		"#: requires: a,,b\n":                   "f:1: requires: an empty name",
		"#: requires: a, a\n":                   `f:1: requires: an empty name, or "a" twice`,
		"#: prefers: A, A\n":                    `f:1: prefers: an empty name, or "A" twice`,
		"#: prefers: A\n# why\nCONFIG_B=y\n":    "f:3: prefers: the file does not set CONFIG_A",
		"#: author: me\n":                       `f:1: unknown header "author"`,
		"#: only: aarch46\n": `f:1: only: unknown architecture ` +
			`"aarch46" (known: x86_64, aarch64,`,
		"#: only: a64\n":                                             `f:1: only: unknown architecture "a64"`,
		"#: only: s390x, s390x\n":                                    `f:1: only: "s390x" twice`,
		"#: only: s390x\n#: except: ppc64le\n":                       "f:2: only and except exclude each other",
		"#: since: 6\n":                                              `f:1: since: "6": want a version of Linux`,
		"#: since: 6.015\n":                                          `f:1: since: "6.015": want a version of Linux`,
		"#: until: v6.12\n":                                          `f:1: until: "v6.12": want a version of Linux`,
		"#: since: 6.12\n#: since: 6.13\n":                           `f:2: a second "since" for the same settings`,
		"#: since: 6.13\n#: until: 6.12\n":                           "f:2: no version is both since 6.13",
		"# why\nCONFIG_A=y\n\n#: since: 6.12\n":                      "f:4: the condition belongs to no setting",
		"# why\nCONFIG_A=y\n\n#: only: s390x\n\n# why\nCONFIG_B=y\n": "f:4: the condition belongs to no setting",
		"#: only: s390x\n\n#: only: ppc64le\n# why\nCONFIG_B=y\n": "f:5: the group says only ppc64le, and the file " +
			"only s390x",
		"# why\n#: until: 6.12\nCONFIG_A=y\n\n# why\n#: since: 6.12\nCONFIG_A=n\n": "f:7: CONFIG_A is already set",
		"#: purpose\n":                    "f:1: ",
		"# why\nCONFIG_A=maybe\n":         "f:2: ",
		"# why\n# CONFIG_A is  not set\n": "f:2: ",
	} {
		_, _, err := parse("f", []byte(data), true)
		place, message, _ := strings.Cut(want, " ")
		if err == nil || !strings.HasPrefix(err.Error(), place) || !strings.Contains(err.Error(), ": "+message) ||
			!strings.HasSuffix(err.Error(), "^") {
			t.Errorf("%q: got %v, want %s and a caret", data, err, want)
		}
	}
	if _, err := Parse("user.config", []byte("CONFIG_A=y\n# CONFIG_B is not set\n")); err != nil {
		t.Errorf("a fragment without reasons: %v", err)
	}
	if _, err := Parse("user.config", []byte("#: purpose: x\nCONFIG_A=y\n")); err == nil {
		t.Error("a fragment with headers was accepted")
	}
}

func TestAReasonCoversItsGroup(t *testing.T) {
	_, ws, err := parse("f", []byte("#: prefers: B\n"+
		"# one\n# and two\nCONFIG_A=y\nCONFIG_B=7\n# three\nCONFIG_C=\"x\"\n"), true)
	if err != nil {
		t.Fatal(err)
	}
	want := []kconfig.Setting{
		{Symbol: "A", Value: "y", File: "f", Line: 4, Reason: "one and two", Source: "CONFIG_A=y"},
		{Symbol: "B", Value: "7", File: "f", Line: 5, Reason: "one and two", Preference: true, Source: "CONFIG_B=7"},
		{Symbol: "C", Value: `"x"`, File: "f", Line: 7, Reason: "three", Source: `CONFIG_C="x"`},
	}
	if !slices.Equal(ws, want) {
		t.Errorf("got %v", ws)
	}
}

func TestAConditionCoversItsGroupOrTheFile(t *testing.T) {
	const file = "#: purpose: p\n#: except: s390x\n\n# one\nCONFIG_A=y\n\n" +
		"#: only: aarch64, riscv64\n# two\n#: since: 6.15\nCONFIG_B=y\nCONFIG_C=y\n# three\nCONFIG_D=y\n" +
		"# four\n#: until: 6.14\nCONFIG_E=y\n#: since: 6.15\n# five\nCONFIG_E=m\n"
	_, ws, err := parse("f", []byte(file), true)
	if err != nil {
		t.Fatal(err)
	}
	f := Fragment{Settings: ws}
	for _, c := range []struct{ arch, version, want string }{
		{"x86_64", "6.12.117", "A=y D=y E=y"},
		{"x86_64", "6.15-rc1", "A=y D=y E=m"},
		{"aarch64", "6.14.9", "A=y D=y E=y"},
		{"aarch64", "7.3.4", "A=y B=y C=y D=y E=m"},
		{"aarch64", "", "A=y D=y"},
		{"s390x", "7.3.4", ""},
	} {
		var got []string
		for _, w := range f.For(c.arch, c.version) {
			got = append(got, w.Symbol+"="+string(w.Value))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s, Linux %s: %s, want %s", c.arch, c.version, s, c.want)
		}
	}
	// A fragment of a user's own may have conditions too.
	own, err := Parse("user.config", []byte("#: only: ppc64le\nCONFIG_A=y\n\nCONFIG_B=y\n"))
	if err != nil || len(own.For("ppc64le", "")) != 2 || len(own.For("x86_64", "6.12")) != 1 {
		t.Errorf("%+v, %v", own, err)
	}
}

// TestAFolderIsACondition: what stands in an architecture's folder says so, and every architecture's is known.
func TestAFolderIsACondition(t *testing.T) {
	known, err := Known("PVH")
	if err != nil || len(known) == 0 || !strings.Contains(known[0].When.String(), "x86_64") {
		t.Errorf("%+v, %v", known, err)
	}
}
