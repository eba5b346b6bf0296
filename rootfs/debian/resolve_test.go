package debian_test

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/rootfs/debian"
	"github.com/katabuild/katabuild/rootfs/debian/debiantest"
)

// stanzas makes a Packages file of lines like "name 1.0 amd64; Depends: x; Provides: y".
func stanzas(lines ...string) string {
	var b strings.Builder
	for _, l := range lines {
		parts := strings.Split(l, ";")
		f := strings.Fields(parts[0])
		fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: %s\n", f[0], f[1], f[2])
		for _, p := range parts[1:] {
			fmt.Fprintln(&b, strings.TrimSpace(p))
		}
		fmt.Fprintf(&b, "Description: a text\n of several lines\nTag: a,\n b\nFilename: pool/%s.deb\nSize: "+
			"9\nSHA256: %064d\n\n", f[0], 0)
	}
	return b.String()
}

func index(t testing.TB, lines ...string) *debian.Index {
	t.Helper()
	x := debian.NewIndex("amd64")
	if err := x.Read(strings.NewReader(stanzas(lines...)), debian.Source{}); err != nil {
		t.Fatal(err)
	}
	return x
}

func TestPackagesAreRead(t *testing.T) {
	x := index(t, "aa 1.0 amd64; Depends: bb (>= 1), cc | dd:any; Essential: yes; Priority: required; "+
		"Installed-Size: 12", "aa 0.9 amd64", "aa 1.1 arm64", "bb 1 all; Multi-Arch: foreign")
	want := &debian.Package{Name: "aa", Version: "1.0", Arch: "amd64", Essential: true, Priority: "required",
		Depends: "bb (>= 1), cc | dd:any", Filename: "pool/aa.deb",
		Size: 9, InstalledSize: 12, Digest: x.Find("bb").Digest}
	if got := x.Find("aa"); !reflect.DeepEqual(got, want) || len(x.Versions("aa")) != 1 {
		t.Errorf("got %+v of %d, want %+v", got, len(x.Versions("aa")), want)
	}
	if err := x.Read(strings.NewReader(strings.TrimRight(stanzas("aa 2 amd64"), "\n")), debian.Source{}); err != nil ||
		x.Find("aa").Version != "2" {
		t.Errorf("a second list, without an end of line: %v, %+v", err, x.Find("aa"))
	}
	one := stanzas("aa 1 amd64")
	for name, s := range map[string]string{
		"no digest":         strings.Replace(one, "SHA256", "SHA1", 1),
		"half a digest":     strings.Replace(one, "0000\n", "\n", 1),
		"no size":           strings.Replace(one, "Size: 9", "Size: -9", 1),
		"a size in letters": strings.Replace(one, "Size: 9", "Size: nine", 1),
		"outside":           strings.Replace(one, "pool/", "pool/../../", 1),
		"absolute":          strings.Replace(one, "pool/", "/pool/", 1),
		"no name":           strings.Replace(one, "Package: aa", "Package:", 1),
		"two names":         "Package: bb\n" + one,
		"an option":         strings.Replace(one, "Package: aa", "Package: --aa", 1),
		"a version":         strings.Replace(one, "Version: 1", "Version: $(x)", 1),
		"no field":          "rubbish\n" + one,
		"a long line":       "X: " + strings.Repeat("x", 1<<20) + "\n" + one,
	} {
		if err := debian.NewIndex("amd64").Read(strings.NewReader(s), debian.Source{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func names(l []*debian.Package) string {
	var s []string
	for _, p := range l {
		s = append(s, p.Name)
	}
	return strings.Join(s, " ")
}

func TestResolve(t *testing.T) {
	world := []string{
		"base 1 amd64; Essential: yes; Priority: required; Pre-Depends: awk; Depends: libc (>= 2)",
		"libc 2.1-1 amd64; Priority: required",
		"gawk 1 amd64; Provides: awk", "mawk 1 amd64; Provides: awk; Priority: required", "aawk 1 amd64; Provides: awk",
		"app 1 all; Depends: one | two, libc (<< 3), tool:any; Recommends: extra, missing; Conflicts: rival",
		"one 1 amd64", "two 1 amd64", "wants-two 1 amd64; Depends: two", "tool 1 amd64; Multi-Arch: allowed",
		"extra 1 all; Depends: one-more", "one-more 1 all",
		"rival 1 amd64; Provides: game", "game-data 1 all; Breaks: app (<< 2); Provides: game",
		"virtual-user 1 all; Depends: mta (>= 3)", "mta-a 1 all; Provides: mta", "mta-b 1 all; Provides: mta (= 2)",
		"mta-c 1 all; Provides: mta (= 3)",
		"self 1 all; Provides: thing; Conflicts: thing", "loop-a 1 all; Depends: loop-b",
		"loop-b 1 all; Pre-Depends: loop-a",
		"broken 1 all; Depends: middle", "middle 1 all; Depends: libc (>= 9) | nothing",
		"foreign 1 all; Depends: tool:arm64",
		"needs-both 1 all; Depends: app, rival", "avoids 1 all; Depends: rival | two",
	}
	for _, c := range []struct {
		name string
		wish debian.Request
		want string // or the error
	}{
		{"nothing", debian.Request{}, ""},
		{"essential, and the important provider", debian.Request{Essential: true}, "base libc mawk"},
		{"required", debian.Request{Required: true}, "base libc mawk"},
		{"a provider that is there anyway", debian.Request{Essential: true, Packages: []string{"gawk"}},
			"base gawk libc"},
		{"the first alternative", debian.Request{Packages: []string{"app"}}, "app libc one tool"},
		{"an alternative that is there anyway", debian.Request{Packages: []string{"wants-two", "app"}},
			"app libc tool two wants-two"},
		{"recommended", debian.Request{Packages: []string{"app"}, Recommends: true},
			"app extra libc one one-more tool"},
		{"excluded alternative", debian.Request{Packages: []string{"app"}, Exclude: []string{"one"}},
			"app libc tool two"},
		{"excluded need", debian.Request{Packages: []string{"app"}, Exclude: []string{"libc"}}, "app one tool"},
		{"excluded essential", debian.Request{Essential: true, Exclude: []string{"base"}}, ""},
		{"a provider with the version", debian.Request{Packages: []string{"virtual-user"}}, "mta-c virtual-user"},
		{"a name with one provider", debian.Request{Packages: []string{"thing"}}, "self"},
		{"needs in a circle", debian.Request{Packages: []string{"loop-a"}}, "loop-a loop-b"},
		{"an alternative without a conflict", debian.Request{Packages: []string{"app", "avoids"}},
			"app avoids libc tool two"},
		{"unknown", debian.Request{Packages: []string{"nothing"}}, "error: nothing: there is no such package"},
		{"wanted and excluded", debian.Request{Packages: []string{"app"}, Exclude: []string{"app"}},
			"error: app: both wanted and excluded"},
		{"a name with several providers", debian.Request{Packages: []string{"awk"}},
			"error: awk: no package, but provided by several: ask for one of mawk, aawk, gawk"},
		{"unmet", debian.Request{Packages: []string{"broken"}},
			"error: broken needs middle needs libc (>= 9) | nothing: there is libc 2.1-1"},
		{"another architecture", debian.Request{Packages: []string{"foreign"}},
			"error: foreign needs tool:arm64: tool:arm64 is of another architecture"},
		{"conflict", debian.Request{Packages: []string{"needs-both"}},
			"error: needs-both needs rival: rival 1 conflicts with app"},
		{"wanted conflict", debian.Request{Packages: []string{"app", "rival"}},
			"error: rival: rival 1 conflicts with app"},
		{"broken", debian.Request{Packages: []string{"app", "game-data"}},
			"error: game-data: game-data 1 conflicts with app"},
	} {
		x := index(t, world...)
		got, err := debian.Resolve(x, c.wish)
		s := names(got)
		if err != nil {
			s = "error: " + err.Error()
		}
		if s != c.want {
			t.Errorf("%s: got %s\nwant %s", c.name, s, c.want)
		}
		var unmet *debian.UnmetError
		if err != nil && !errors.As(err, &unmet) {
			t.Errorf("%s: %T", c.name, err)
		}
		slices.Reverse(c.wish.Packages)
		turned := slices.Clone(world)
		slices.Reverse(turned)
		again, err2 := debian.Resolve(index(t, turned...), c.wish)
		if (err == nil) != (err2 == nil) || names(again) != names(got) {
			t.Errorf("%s: in another order %s, %v", c.name, names(again), err2)
		}
	}
	if _, err := debian.Resolve(index(t, "bad 1 all; Depends: x [y]"),
		debian.Request{Packages: []string{"bad"}}); err == nil ||
		!strings.Contains(err.Error(), "package bad: Depends") {
		t.Errorf("got %v", err)
	}
	if _, err := debian.Resolve(index(t, "bad 1 all; Provides: xx (>= 1)", "good 1 all; Depends: yy"),
		debian.Request{Packages: []string{"good"}}); err == nil ||
		!strings.Contains(err.Error(), "package bad: Provides") {
		t.Errorf("got %v", err)
	}
}

// FuzzPackages: whatever a list says, reading and choosing end, and what is chosen is met.
func FuzzPackages(f *testing.F) {
	f.Add(stanzas("aa 1 amd64; Depends: bb (>= 1) | cc", "bb 1 all; Provides: cc (= 2); Conflicts: dd",
		"dd 2 all; Recommends: aa"))
	f.Add(stanzas("aa 1 amd64; Depends: aa; Conflicts: aa; Breaks: aa", "bb 1 all; Pre-Depends: aa:any"))
	f.Fuzz(func(t *testing.T, s string) {
		x := debian.NewIndex("amd64")
		if err := x.Read(strings.NewReader(s), debian.Source{}); err != nil {
			return
		}
		var all []string
		for _, m := range regexp.MustCompile(`(?m)^Package:(.*)$`).FindAllStringSubmatch(s, -1) {
			if name := strings.TrimSpace(m[1]); x.Find(name) != nil && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
		for _, w := range []debian.Request{{Essential: true, Packages: all, Recommends: true},
			{Packages: all[:min(1, len(all))]}} {
			l, err := debian.Resolve(x, w)
			if err != nil {
				continue
			}
			if err := debiantest.Satisfied(l, "amd64"); err != nil {
				t.Error(err)
			}
		}
	})
}
