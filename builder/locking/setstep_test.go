package locking

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/builder/fetch/archivetest"
	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// workshop is an extension's recipe, with a store and a small archive to take packages from.
type workshop struct {
	inputs.Config
	archive *archivetest.Archive
	dir     string
}

func newWorkshop(t *testing.T, packages ...archivetest.Package) *workshop {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := archivetest.New(t)
	a.Add(t, packages...)
	w := &workshop{archive: a, dir: dir, Config: inputs.Config{Recipe: filepath.Join(dir, "recipe.yaml"), Store: s,
		HTTPArchive: a.URL, ArchiveKeyring: a.Keyring}}
	w.Now = func() time.Time { return a.Date.Add(time.Hour) }
	return w
}

// recipe writes the recipe with layers, each a line.
func (w *workshop) recipe(t *testing.T, layers ...string) {
	t.Helper()
	text := "version: 1\nname: case\nextension: true\nrootfs:\n  layers:\n"
	for _, l := range layers {
		text += "    - " + l + "\n"
	}
	files(t, w.dir, map[string]string{"recipe.yaml": text})
}

// lock locks, and lists the packages as NAME=VERSION.
func (w *workshop) lock(t *testing.T, u Update) ([]string, *Locked) {
	t.Helper()
	l, err := w.try(u)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, in := range l.Lock.Inputs {
		if in.Package != nil {
			out = append(out, in.Package.Name+"="+in.Package.Version)
		}
	}
	return out, l
}

func (w *workshop) try(u Update) (*Locked, error) {
	c := w.Config
	return MakeLock(context.Background(), c, Options{Update: u})
}

// build builds the image and returns what a file in it says.
func (w *workshop) build(t *testing.T) *builder.Built {
	t.Helper()
	g, err := builder.Open(t.Context(), w.Config)
	if err != nil {
		t.Fatal(err)
	}
	b, err := g.Build(t.Context(), []string{builder.ImageStep}, filepath.Join(w.dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pkg(suite, name, version, control string) archivetest.Package {
	return archivetest.Package{Suite: suite, Name: name, Version: version, Control: control,
		Files: map[string]string{"/usr/share/" + name: version}}
}

func TestSeveralSuitesAndTheirPriorities(t *testing.T) {
	w := newWorkshop(t,
		pkg("trixie", "app", "1.0-1", "Depends: lib (>= 1)\n"), pkg("trixie", "lib", "1.0-1", ""),
		pkg("trixie-security", "lib", "1.0-1+deb13u1", ""), pkg("trixie-updates", "tz", "2026b", ""),
		pkg("trixie-backports", "app", "2.0-1~bpo", "Depends: lib (>= 1)\n"), pkg("experimental", "app", "3.0-1", ""),
		archivetest.Package{Suite: "trixie", Component: "non-free-firmware", Name: "firmware", Version: "5-1"},
	)
	w.archive.Flag("trixie-backports", "NotAutomatic: yes\nButAutomaticUpgrades: yes\n")
	w.archive.Flag("experimental", "NotAutomatic: yes\n")
	for _, c := range []struct{ name, layer, want string }{
		{"one suite", "debian: {packages: [app]}", "app=1.0-1 lib=1.0-1"},
		{"security updates count", "debian: {suites: [trixie, trixie-security, trixie-updates], packages: [app, tz]}",
			"app=1.0-1 lib=1.0-1+deb13u1 tz=2026b"},
		{"the order of suites does not", "debian: {suites: [trixie-security, trixie], packages: [app]}",
			"app=1.0-1 lib=1.0-1+deb13u1"},
		{"backports wait to be asked", "debian: {suites: [trixie, trixie-backports, experimental], packages: [app]}",
			"app=1.0-1 lib=1.0-1"},
		{"a package of a suite", "debian: {suites: [trixie, trixie-backports, experimental], packages: " +
			"[app/trixie-backports]}", "app=2.0-1~bpo lib=1.0-1"},
		{"a version", "debian: {suites: [trixie, experimental], packages: [app=3.0-1]}", "app=3.0-1"},
		{"an older version than the newest",
			"debian: {suites: [trixie, trixie-security], packages: [app, lib=1.0-1]}", "app=1.0-1 lib=1.0-1"},
		{"another component", "debian: {components: [main, non-free-firmware], packages: [firmware]}", "firmware=5-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.recipe(t, c.layer)
			if got, _ := w.lock(t, Update{All: true}); strings.Join(got, " ") != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			w.build(t) // what is locked can be fetched
		})
	}
	for _, c := range []struct{ name, layer, want string }{
		{"a version that is not there", "debian: {suites: [trixie, trixie-security], packages: [lib=9]}",
			"recipe.yaml:6:62: package lib: there is no version 9; there is 1.0-1+deb13u1 in trixie-security, 1.0-1 " +
				"in trixie"},
		{"a typo", "debian: {packages: [ap]}", "recipe.yaml:6:27: ap: there is no such package; did you mean app?"},
		{"a typo of what is excluded", "debian: {packages: [app], exclude: [libb]}",
			"libb: excluded, but there is no such package; did you mean lib?"},
		{"a suite that is not there", "debian: {suites: [trixie, forky], packages: [app]}",
			"dists/forky/InRelease: not found"},
		{"a component that is not there", "debian: {components: [contrib], packages: [app]}", "trixie contrib at "},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.recipe(t, c.layer)
			if _, err := w.try(Update{All: true}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestWhatIsPinnedStaysPinnedWhenOtherThingsChange(t *testing.T) {
	w := newWorkshop(t, pkg("trixie", "app", "1-1", "Depends: lib\n"), pkg("trixie", "lib", "1-1", ""),
		pkg("trixie", "more", "1-1", "Depends: lib\n"),
		pkg("trixie", "side", "1-1", ""))
	w.recipe(t, "debian: {packages: [app]}", "debian: {packages: [side]}")
	got, first := w.lock(t, Update{})
	if strings.Join(got, " ") != "app=1-1 lib=1-1 side=1-1" {
		t.Fatal(got)
	}
	w.archive.Add(t, pkg("trixie", "app", "2-1", "Depends: lib\n"), pkg("trixie", "lib", "2-1", ""),
		pkg("trixie", "side", "2-1", ""))
	step := func(name, want string, u Update, layers ...string) *Locked {
		t.Helper()
		w.recipe(t, layers...)
		got, l := w.lock(t, u)
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
		return l
	}
	if l := step("nothing", "app=1-1 lib=1-1 side=1-1", Update{}, "debian: {packages: [app]}",
		"debian: {packages: [side]}"); l.Changed {
		t.Error("the lock changed though the recipe did not")
	}
	l := step("a layer in front, another order", "app=1-1 lib=1-1 side=1-1", Update{},
		"files: [{path: /a, text: x}]", "debian: {packages: [side]}", "debian: {packages: [app]}")
	if l.Changed || !slices.EqualFunc(l.Lock.Sets, first.Lock.Sets,
		func(a, b lock.Set) bool { return a.Name == b.Name && a.Asked == b.Asked }) {
		t.Errorf("sets are named by position: %+v", l.Lock.Sets)
	}
	step("a package joins", "app=1-1 lib=1-1 more=1-1 side=1-1", Update{}, "debian: {packages: [app, more]}",
		"debian: {packages: [side]}")
	step("one is renewed", "app=1-1 lib=1-1 more=1-1 side=2-1", Update{Names: []string{"side"}},
		"debian: {packages: [app, more]}", "debian: {packages: [side]}")
	step("all are", "app=2-1 lib=2-1 more=1-1 side=2-1", Update{All: true}, "debian: {packages: [app, more]}",
		"debian: {packages: [side]}")
	if _, err := w.try(Update{Names: []string{"sida"}}); err == nil || !strings.Contains(err.Error(),
		`nothing called "sida" to renew; did you mean "side"?`) {
		t.Errorf("got %v", err)
	}
}

func TestAPinGivesWayToWhatIsAskedFor(t *testing.T) {
	w := newWorkshop(t, pkg("trixie", "app", "1-1", "Depends: lib\n"), pkg("trixie", "lib", "1-1", ""),
		pkg("trixie", "other", "1-1", ""))
	w.recipe(t, "debian: {packages: [app, other]}")
	w.lock(t, Update{})
	w.archive.Add(t, pkg("trixie", "app", "2-1", "Depends: lib (>= 2)\n"), pkg("trixie", "lib", "2-1",
		"Breaks: app (<< 2)\n"), pkg("trixie", "other", "2-1", ""))
	// The new app needs the new lib, which is pinned to the old; other has nothing to do with it.
	if got, _ := w.lock(t, Update{Names: []string{"app"}}); strings.Join(got, " ") != "app=2-1 lib=2-1 other=1-1" {
		t.Errorf("got %s", got)
	}
}

func TestALockedVersionThatTheArchiveDroppedIsKeptFromTheStore(t *testing.T) {
	w := newWorkshop(t, pkg("trixie", "app", "1-1", "Depends: lib\n"), pkg("trixie", "lib", "1-1", ""),
		pkg("trixie", "more", "1-1", ""))
	w.recipe(t, "debian: {packages: [app]}")
	w.lock(t, Update{})
	w.build(t)
	w.archive.Remove("lib", "1-1")
	w.archive.Add(t, pkg("trixie", "lib", "2-1", ""))
	w.recipe(t, "debian: {packages: [app, more]}")
	if got, _ := w.lock(t, Update{}); strings.Join(got, " ") != "app=1-1 lib=1-1 more=1-1" {
		t.Errorf("got %s", got)
	}
	w.build(t)
}

func TestALockSaysInWordsWhatChanges(t *testing.T) {
	w := newWorkshop(t, pkg("trixie", "app", "1-1", ""), pkg("trixie", "lib", "1-1", ""), pkg("trixie", "old", "1-1",
		""), pkg("trixie", "new", "1-1", ""))
	w.recipe(t, "debian: {suites: [trixie, trixie-security], packages: [app, lib, old]}")
	w.archive.Add(t, pkg("trixie-security", "unrelated", "1-1", ""))
	w.lock(t, Update{})
	w.archive.Add(t, pkg("trixie", "app", "2-1", ""), pkg("trixie-security", "lib", "1-1+deb13u1", ""))
	w.recipe(t, "debian: {suites: [trixie, trixie-security], packages: [app, lib, new]}")
	before, err := os.ReadFile(filepath.Join(w.dir, "lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := MakeLock(t.Context(), w.Config, Options{Update: Update{All: true}, Dry: true})
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, c := range lock.Diff(l.Old, l.Lock) {
		said = append(said, c.String())
	}
	want := "app: 1-1 -> 2-1\nlib: 1-1 -> 1-1+deb13u1 (security update)\nnew: new, 1-1\nold: gone, was 1-1"
	if got := strings.Join(said, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if after, err := os.ReadFile(filepath.Join(w.dir, "lock.json")); err != nil || string(after) != string(before) {
		t.Errorf("the lock was written: %v", err)
	}
}

func TestOwnArchivesAndSingleFiles(t *testing.T) {
	w := newWorkshop(t, pkg("trixie", "lib", "1-1", ""))
	own := archivetest.New(t)
	own.Add(t, pkg("stable", "tool", "1-1", "Depends: lib\n"), pkg("stable", "lib", "9-1", ""))
	deb := archivetest.Deb(t, pkg("", "mine", "1-1", "Depends: lib (>= 1)\n"))
	var indented strings.Builder
	for line := range strings.Lines(string(own.Key(t))) {
		if strings.TrimSpace(line) == "" {
			line = ".\n"
		}
		indented.WriteString(" " + line)
	}
	files(t, w.dir, map[string]string{
		"own.asc": string(own.Key(t)), "mine.deb": string(deb),
		"own.sources": "Types: deb\nURIs: " + own.URL + "\nSuites: stable\nComponents: main\nSigned-By:\n" +
			indented.String(),
	})
	archive := "{name: own, address: '" + own.URL + "', suite: stable, keyring: own.asc"
	for _, c := range []struct{ name, layer, want string }{
		{"a package of it", "debian: {packages: [tool], archives: [" + archive + "}]}", "lib=9-1 tool=1-1"},
		{"with less priority", "debian: {packages: [tool], archives: [" + archive + ", priority: 400}]}",
			"lib=1-1 tool=1-1"},
		{"as a file of sources", "debian: {packages: [tool], archives: [{name: own, sources: own.sources}]}",
			"lib=9-1 tool=1-1"},
		{"a single file", "debian: {debs: [mine.deb]}", "mine=1-1 lib=1-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.recipe(t, c.layer)
			got, _ := w.lock(t, Update{All: true})
			slices.Sort(got)
			want := strings.Fields(c.want)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got %s, want %s", got, want)
			}
			w.build(t)
		})
	}
	w.recipe(t, "debian: {debs: [mine.deb]}")
	w.lock(t, Update{All: true})
	files(t, w.dir, map[string]string{"mine.deb": string(archivetest.Deb(t, pkg("", "mine", "2-1", "")))})
	if _, err := builder.Open(t.Context(), w.Config); err == nil || !strings.Contains(err.Error(),
		"deb mine.deb is not what the lock pinned") {
		t.Errorf("a file that changed after the lock: %v", err)
	}
	if got, _ := w.lock(t, Update{}); strings.Join(got, " ") != "mine=2-1" {
		t.Errorf("locked again: %s", got)
	}
	files(t, w.dir, map[string]string{"own.asc": string(w.archive.Key(t))})
	w.recipe(t, "debian: {packages: [tool], archives: ["+archive+"}]}")
	if _, err := w.try(Update{All: true}); err == nil || !strings.Contains(err.Error(), "no good signature") {
		t.Errorf("an archive that another key signed: %v", err)
	}
}

// baseImage writes a tar of an image that has packages of its own: one in dpkg's database, one as distroless has it.
func (w *workshop) baseImage(t *testing.T) {
	t.Helper()
	stanza := func(name, version, more string) string {
		return "Package: " + name + "\n" + more + "Version: " + version +
			"\nArchitecture: amd64\nMaintainer: Somebody <s@example.org>\nDescription: of the image\n"
	}
	const ok = "Status: install ok installed\n"
	f, err := os.Create(filepath.Join(w.dir, "base.tar"))
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(f)
	for _, e := range [][2]string{
		{"var/lib/dpkg/status", stanza("base", "1-1", ok) + "\n" + stanza("lib", "0-1", ok)},
		{"var/lib/dpkg/info/lib.list", "/usr\n/usr/share\n/usr/share/lib\n/usr/share/lib-of-old\n/usr/share/old\n/" +
			"usr/share/old/file\n"},
		{"var/lib/dpkg/status.d/tzdata", stanza("tzdata", "2026a", "")}, {"var/lib/dpkg/status.d/tzdata.md5sums",
			"0  x\n"},
		{"usr/share/lib", "0-1"}, {"usr/share/lib-of-old", "x"}, {"usr/share/old/file", "x"}, {"usr/share/base", "1-1"},
	} {
		if err := tw.WriteHeader(&tar.Header{Name: e[0], Typeflag: tar.TypeReg, Mode: 0o644,
			Size: int64(len(e[1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, e[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// rootfsFiles are the regular files of the root file system by their paths.
func (w *workshop) rootfsFiles(t *testing.T) map[string]string {
	t.Helper()
	g, err := builder.Open(t.Context(), w.Config)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(w.dir, "tree")
	if _, err := g.Build(t.Context(), []string{builder.RootfsStep}, out); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(out, "rootfs.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]string{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all["/"+strings.TrimPrefix(h.Name, "./")] = string(b)
	}
}

// TestOneDatabaseForAllLayers: whichever layers brought packages, in whatever order, dpkg and the bill of materials say
// the same, each package once.
func TestOneDatabaseForAllLayers(t *testing.T) {
	testenv.Require(t, testenv.Tool("dpkg-query"))
	w := newWorkshop(t, pkg("trixie", "app", "1-1", "Depends: lib\n"), pkg("trixie", "lib", "1-1", ""),
		pkg("trixie", "side", "1-1", "Depends: lib\n"),
		pkg("trixie-security", "lib", "1-1+deb13u1", ""))
	w.baseImage(t)
	const image, app, side = "tar: base.tar", "debian: {packages: [app]}",
		"debian: {suites: [trixie, trixie-security], packages: [side]}"
	for _, c := range []struct {
		name   string
		layers []string
		want   string
	}{
		{"two layers of packages", []string{app, side}, "app=1-1 lib=1-1+deb13u1 side=1-1"},
		{"the other way round", []string{side, app}, "app=1-1 lib=1-1 side=1-1"},
		{"on an image", []string{image, app}, "app=1-1 base=1-1 lib=1-1 tzdata=2026a"},
		{"below an image", []string{app, image}, "app=1-1 base=1-1 lib=0-1 tzdata=2026a"},
		{"on both sides of one", []string{app, image, side}, "app=1-1 base=1-1 lib=1-1+deb13u1 side=1-1 tzdata=2026a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.recipe(t, c.layers...)
			w.lock(t, Update{All: true})
			all := w.rootfsFiles(t)
			admin := t.TempDir()
			for p, text := range all {
				if rel, ok := strings.CutPrefix(p, "/var/lib/dpkg/"); ok {
					files(t, admin, map[string]string{rel: text})
				}
			}
			out, err := exec.Command("dpkg-query", "--admindir", admin, "-W", "-f",
				"${Package}=${Version} ${db:Status-Abbrev}\n").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var got []string
			for line := range strings.Lines(string(out)) {
				p, status, _ := strings.Cut(strings.TrimSpace(line), " ")
				if status != "ii" {
					t.Errorf("%s is %q", p, status)
				}
				got = append(got, p)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("dpkg says %s, want %s", got, c.want)
			}
			w.build(t)
			f, err := os.Open(filepath.Join(w.dir, "out", rootfs.SBOMName))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var doc v2_3.Document
			if err := spdxjson.ReadInto(f, &doc); err != nil {
				t.Fatal(err)
			}
			var billed []string
			for _, p := range doc.Packages {
				if len(p.PackageExternalReferences) > 0 &&
					p.PackageExternalReferences[0].RefType == common.TypePackageManagerPURL {
					billed = append(billed, p.PackageName+"="+p.PackageVersion)
				}
			}
			slices.Sort(billed)
			if strings.Join(billed, " ") != c.want {
				t.Errorf("the bill says %s, want %s", billed, c.want)
			}
			// Nothing of a version that gave way is left, and everything of the one that is there is.
			_, old := all["/usr/share/lib-of-old"]
			if lib := all["/usr/share/lib"]; !strings.Contains(c.want, "lib="+lib+" ") || old != (lib == "0-1") {
				t.Errorf("files of lib %s, and of the old one: %v", lib, old)
			}
		})
	}
}
