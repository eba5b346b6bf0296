package recipe

import (
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
)

// defaultSuite is the suite that is meant where a recipe names none.
const defaultSuite = "trixie"

// DebianLayer is packages of Debian's archive, and of archives like it, with all that they depend on.
type DebianLayer struct {
	Suite      string    `yaml:"suite"`      // one suite; default trixie
	Suites     []string  `yaml:"suites"`     // or several, such as trixie, trixie-updates and trixie-security
	Components []string  `yaml:"components"` // of the suites; default main
	Archives   []Archive `yaml:"archives"`   // further archives
	Debs       []string  `yaml:"debs"`       // single packages: files relative to the recipe, or addresses
	Packages   []string  `yaml:"packages"`   // by name, or as NAME=VERSION or NAME/SUITE
	Recommends bool      `yaml:"recommends"` // also what packages recommend
	Exclude    []string  `yaml:"exclude"`    // packages to do without, although something depends on them
	Paths      Paths     `yaml:"paths"`
}

// Asked is the digest over what decides the packages: not over which of their files are unpacked.
func (d *DebianLayer) Asked() digest.Digest {
	data, err := document.Encode(struct {
		Suites     []string  `json:"suites"`
		Components []string  `json:"components"`
		Archives   []Archive `json:"archives"`
		Debs       []string  `json:"debs"`
		Packages   []string  `json:"packages"`
		Recommends bool      `json:"recommends"`
		Exclude    []string  `json:"exclude"`
	}{d.Suites, d.Components, d.Archives, d.Debs, d.Packages, d.Recommends, d.Exclude})
	if err != nil {
		panic(err) // strings, numbers and lists of them always encode
	}
	return digest.Of(data)
}

// Archive is an archive of packages that is not Debian's own. Either Sources is set, or Address and Suite.
type Archive struct {
	Name       string   `yaml:"name"`       // by which locks name it
	Address    string   `yaml:"address"`    // http or https, above dists and pool
	Suite      string   `yaml:"suite"`      // or the path of a folder that has a list itself, which ends in /
	Components []string `yaml:"components"` // default main
	Keyring    string   `yaml:"keyring"`    // a file relative to the recipe: the OpenPGP keys that sign it
	Sources    string   `yaml:"sources"`    // a file in the form of sources.list(5), deb822, that says all of this
	Priority   int      `yaml:"priority"`   // as apt_preferences(5); default 500, or what the archive says of itself
}

// Wanted is a package that a layer asks for.
type Wanted struct {
	Name    string
	Version string // this one and no other; may be empty
	Suite   string // the newest of this suite; may be empty
}

// ParseWanted reads NAME, NAME=VERSION or NAME/SUITE.
func ParseWanted(s string) Wanted {
	if name, version, ok := strings.Cut(s, "="); ok {
		return Wanted{Name: name, Version: version}
	}
	name, suite, _ := strings.Cut(s, "/")
	return Wanted{Name: name, Suite: suite}
}

// suitesOf fills in the suites of a layer or a kernel's source.
func suitesOf(one *string, many *[]string, field string, at note) {
	switch {
	case *one != "" && *many != nil:
		at(field+".suites", "suite and suites; want one of them")
	case *many == nil && *one == "":
		*one = defaultSuite
		fallthrough
	case *many == nil:
		*many = []string{*one}
	}
	for i, s := range *many {
		where := fmt.Sprintf("%s.suites[%d]", field, i)
		if *one != "" {
			where = field + ".suite"
		}
		if !suite(s) || strings.HasSuffix(s, "/") {
			at(where, fmt.Sprintf("suite %q is no name of a suite, such as trixie or trixie-security", s))
		}
		if slices.Contains((*many)[:i], s) {
			at(where, fmt.Sprintf("suite %q stands twice", s))
		}
	}
	if len(*many) == 0 {
		at(field+".suites", "no suites")
	}
}

// suite says whether a name may be one of a suite: words between slashes, as in buster/updates, or ./ for a folder with
// a list.
func suite(s string) bool {
	for i, w := range strings.Split(strings.TrimSuffix(s, "/"), "/") {
		if !word(w) || strings.HasPrefix(w, ".") && !(i == 0 && w == "." && strings.HasSuffix(s, "/")) {
			return false
		}
	}
	return true
}

func (d *DebianLayer) check(field string, at note) {
	if d == nil {
		return
	}
	suitesOf(&d.Suite, &d.Suites, field, at)
	if len(d.Packages) == 0 && len(d.Debs) == 0 {
		at(field, "no packages")
	}
	if d.Components == nil {
		d.Components = []string{"main"}
	}
	for _, list := range []struct {
		name, what string
		words      []string
	}{{"components", "component", d.Components}, {"exclude", "package", d.Exclude}} {
		checkWords(field+"."+list.name, list.what, list.words, at)
	}
	seen := map[string]bool{}
	for i, p := range d.Packages {
		w, where := ParseWanted(p), fmt.Sprintf("%s.packages[%d]", field, i)
		switch {
		case !word(w.Name) || strings.Contains(p, "=") && !word(w.Version) || strings.Contains(p, "/") &&
			w.Version == "" && !suite(w.Suite):
			at(where, fmt.Sprintf("%q is no name of a package; want NAME, NAME=VERSION or NAME/SUITE", p))
		case seen[w.Name]:
			at(where, fmt.Sprintf("package %q stands twice", w.Name))
		}
		seen[w.Name] = true
	}
	for i, f := range d.Debs {
		if f == "" || slices.Contains(d.Debs[:i], f) {
			at(fmt.Sprintf("%s.debs[%d]", field, i), fmt.Sprintf("file %q is empty, or stands twice", f))
		}
	}
	names := map[string]bool{}
	for i := range d.Archives {
		where := fmt.Sprintf("%s.archives[%d]", field, i)
		a := &d.Archives[i]
		a.check(where, at)
		if names[a.Name] {
			at(where+".name", fmt.Sprintf("archive %q stands twice", a.Name))
		}
		names[a.Name] = true
	}
	checkPatterns(field+".paths.exclude", d.Paths.Exclude, at)
	checkPatterns(field+".paths.include", d.Paths.Include, at)
}

func checkWords(field, what string, words []string, at note) {
	for i, w := range words {
		if !word(w) || strings.ContainsRune(w, '/') {
			at(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("%q is no name of a %s", w, what))
		}
		if slices.Contains(words[:i], w) {
			at(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("%s %q stands twice", what, w))
		}
	}
}

// maxPriority is the highest priority of an archive: apt_preferences(5) does not say one, and uses numbers up to 1000.
const maxPriority = 100_000

func (a *Archive) check(field string, at note) {
	switch {
	case !word(a.Name) || strings.ContainsRune(a.Name, '/'):
		at(field, fmt.Sprintf("name %q: want one word, by which the lock names the archive", a.Name))
	case a.Priority < 0 || a.Priority > maxPriority:
		at(field+".priority", fmt.Sprintf("priority %d: want 1 to %d", a.Priority, maxPriority))
	case a.Sources != "":
		if a.Address != "" || a.Suite != "" || a.Components != nil || a.Keyring != "" {
			at(field, "sources says address, suite, components and keys; want them in one place")
		}
		return
	case !IsURL(a.Address):
		at(field, fmt.Sprintf("address %q: want http:// or https:// and what stands above dists and pool",
			a.Address))
	case !suite(a.Suite):
		at(field, fmt.Sprintf("suite %q: want the name of a suite, or ./ for a folder that has a list itself",
			a.Suite))
	case a.Keyring == "":
		at(field, "no keyring: packages of an archive count only with its signature; single files go into debs")
	}
	if a.Components == nil {
		a.Components = []string{"main"}
	}
	checkWords(field+".components", "component", a.Components, at)
}
