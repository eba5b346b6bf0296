package debian

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/mistake"
	"github.com/katabuild/katabuild/rootfs/debian/control"
)

// Package is what a Packages file says of a package, as far as choosing and fetching it needs. Relations are unread:
// most packages are never looked at.
type Package struct {
	Name      string
	Version   control.Version
	Arch      string // dpkg's name, or "all"
	Essential bool
	Priority  string // "required", "important", "standard", "optional", "extra"
	MultiArch string // "same", "foreign", "allowed", or ""

	PreDepends, Depends, Recommends, Provides, Conflicts, Breaks string

	Filename      string // below the archive's root
	Size          int64  // of the .deb, in bytes
	InstalledSize int64  // in KiB
	Digest        digest.Digest

	Source Source // the list that it stands in
}

// Source is where a list of packages comes from.
type Source struct {
	Archive string // the name that the recipe gives an archive; "" is Debian's own
	Suite   string
	// Pin is its priority: of two versions of a package the one of the list with the higher priority counts, then the
	// newer. apt_preferences(5).
	Pin int
}

// Priorities of lists that nobody has set. apt_preferences(5), "APT's Default Priority Assignments".
const (
	PinDefault      = 500
	PinNotAutomatic = 1   // a release file with NotAutomatic, such as that of experimental
	PinUpgrades     = 100 // and ButAutomaticUpgrades, such as those of backports
)

// Index is package lists of one architecture: of each package the version that counts, and the others.
type Index struct {
	arch     string // dpkg's name
	packages map[string]*Package
	others   map[string][]*Package  // versions that do not count, unless somebody asks for one
	provides map[string][]provision // by virtual name; built on first use
}

// provision is that a package provides a name, in a version or in none.
type provision struct {
	by      *Package
	version control.Version
}

// NewIndex is an empty index for dpkg's name of an architecture.
func NewIndex(arch string) *Index {
	return &Index{arch: arch, packages: map[string]*Package{}, others: map[string][]*Package{}}
}

// Find is a package, or nil.
func (x *Index) Find(name string) *Package { return x.packages[name] }

// maxLine bounds a line of a Packages file: the longest of Debian's has 60 KB.
const maxLine = 1 << 20

// Read adds a Packages file. Packages of other architectures are left out; of two versions the one with the higher
// priority counts, then the newer, of two equal ones the first.
func (x *Index) Read(r io.Reader, from Source) error {
	return parsePackages(r, func(p *Package) error {
		if p.Arch == x.arch || p.Arch == "all" {
			p.Source = from
			x.Add(p)
		}
		return nil
	})
}

// Add adds a package as Read does.
func (x *Index) Add(p *Package) {
	x.provides = nil
	old := x.packages[p.Name]
	switch {
	case old == nil:
		x.packages[p.Name] = p
	case cmp.Or(cmp.Compare(p.Source.Pin, old.Source.Pin), p.Version.Compare(old.Version)) > 0:
		x.packages[p.Name] = p
		x.others[p.Name] = append(x.others[p.Name], old)
	case p.Digest != old.Digest:
		x.others[p.Name] = append(x.others[p.Name], p)
	}
}

// Choose makes a version of a package the one that counts: the first for which is says true, in the order of priority
// and version. It says whether there is one.
func (x *Index) Choose(name string, is func(*Package) bool) bool {
	for _, p := range x.Versions(name) {
		if !is(p) {
			continue
		}
		if old := x.packages[name]; old != p {
			x.others[name] = append(slices.DeleteFunc(x.others[name], func(o *Package) bool { return o == p }), old)
			x.packages[name] = p
			x.provides = nil
		}
		return true
	}
	return false
}

// Versions are all versions of a package, the one that counts first, then by priority and version.
func (x *Index) Versions(name string) []*Package {
	if x.packages[name] == nil {
		return nil
	}
	others := slices.Clone(x.others[name])
	slices.SortStableFunc(others, func(a, b *Package) int {
		return -cmp.Or(cmp.Compare(a.Source.Pin, b.Source.Pin), a.Version.Compare(b.Version))
	})
	return append([]*Package{x.packages[name]}, others...)
}

// Nearest is the name of a package, or of what one provides, that a misspelt name was probably meant to be; empty where
// none is near.
func (x *Index) Nearest(name string) string {
	return mistake.Nearest(name, slices.Sorted(maps.Keys(x.packages)), len(name)/3+2)
}

// parsePackages calls f for each stanza of a Packages file, in its order. A stanza without a name, version,
// architecture, file name, size or digest is an error.
func parsePackages(r io.Reader, f func(*Package) error) error {
	in := bufio.NewReaderSize(r, maxLine)
	p, n := &Package{}, 0
	end := func() error {
		if *p == (Package{}) {
			return nil
		}
		n++
		err := p.check()
		if err == nil {
			err = f(p)
		}
		if err != nil {
			return fmt.Errorf("package lists: stanza %d, package %q: %w", n, p.Name, err)
		}
		p = &Package{}
		return nil
	}
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("package lists: a line of more than %d bytes after package %q", maxLine, p.Name)
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("package lists: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			if e := end(); e != nil {
				return e
			}
		} else if e := p.field(line); e != nil {
			return fmt.Errorf("package lists: stanza %d, package %q: %w", n+1, p.Name, e)
		}
		if err == io.EOF {
			return end()
		}
	}
}

// field takes one line, of which most say nothing that counts here. None of those that count goes over several lines.
func (p *Package) field(line []byte) error {
	i := bytes.IndexByte(line, ':')
	if i < 0 || line[0] == ' ' || line[0] == '\t' {
		if line[0] != ' ' && line[0] != '\t' && line[0] != '#' {
			return fmt.Errorf("line %.40q is no field", line)
		}
		return nil
	}
	value := bytes.TrimSpace(line[i+1:])
	var err error
	switch string(line[:i]) {
	case "Package":
		if p.Name != "" {
			return errors.New("two packages in a stanza")
		}
		p.Name = string(value)
	case "Version":
		p.Version = control.Version(value)
	case "Architecture":
		p.Arch = string(value)
	case "Essential":
		p.Essential = string(value) == "yes"
	case "Priority":
		p.Priority = string(value)
	case "Multi-Arch":
		p.MultiArch = string(value)
	case "Pre-Depends":
		p.PreDepends = string(value)
	case "Depends":
		p.Depends = string(value)
	case "Recommends":
		p.Recommends = string(value)
	case "Provides":
		p.Provides = string(value)
	case "Conflicts":
		p.Conflicts = string(value)
	case "Breaks":
		p.Breaks = string(value)
	case "Filename":
		p.Filename = string(value)
	case "Size":
		p.Size, err = strconv.ParseInt(string(value), 10, 64)
	case "Installed-Size":
		p.InstalledSize, err = strconv.ParseInt(string(value), 10, 64)
	case "SHA256":
		p.Digest, err = digest.Parse("sha256:" + string(value))
	}
	return err
}

func (p *Package) check() error {
	switch {
	case p.Filename == "" || p.Size <= 0 || p.Digest == "":
		return errors.New("no file name, size or SHA256")
	case strings.HasPrefix(p.Filename, "/") || slices.Contains(strings.Split(p.Filename, "/"), ".."):
		return fmt.Errorf("file name %q leaves the archive", p.Filename)
	}
	return cmp.Or(control.CheckName(p.Name), p.Version.Check(), control.CheckArch(p.Arch))
}

// providers are the packages that provide a name in a version that a relation wants: the more important first, then by
// name. A relation with a version is only met by a provision with one. Debian Policy 7.5.
func (x *Index) providers(r control.Relation) ([]*Package, error) {
	if x.provides == nil {
		provides := map[string][]provision{}
		for _, p := range x.packages {
			list, err := p.provisions()
			if err != nil {
				return nil, fmt.Errorf("package %s: Provides: %w", p.Name, err)
			}
			for name, v := range list {
				provides[name] = append(provides[name], provision{p, v})
			}
		}
		for _, l := range provides {
			slices.SortFunc(l, func(a, b provision) int {
				return cmp.Or(rank(a.by.Priority)-rank(b.by.Priority), strings.Compare(a.by.Name, b.by.Name))
			})
		}
		x.provides = provides
	}
	var out []*Package
	for _, p := range x.provides[r.Name] {
		if r.Op == "" || p.version != "" && r.Holds(p.version) {
			out = append(out, p.by)
		}
	}
	return out, nil
}

// provisions are the names a package provides beside its own, with their versions.
func (p *Package) provisions() (map[string]control.Version, error) {
	if p.Provides == "" {
		return nil, nil
	}
	clauses, err := control.ParseRelations(p.Provides)
	if err != nil {
		return nil, err
	}
	out := map[string]control.Version{}
	for _, c := range clauses {
		if len(c) > 1 || c[0].Op != "" && c[0].Op != "=" {
			return nil, fmt.Errorf("%q: want names, with (= version) at most", c)
		}
		out[c[0].Name] = c[0].Version
	}
	return out, nil
}

func rank(priority string) int {
	if i := slices.Index([]string{"required", "important", "standard", "optional"}, priority); i >= 0 {
		return i
	}
	return 4
}
