// Package features holds what a guest kernel can be asked for by name, and reads the fragments that say so.
//
// A feature is one file of this folder: a purpose, the features it requires, and groups of kernel symbols, each with
// the reason it is wanted. docs/formats/features.md owns the format. This package knows nothing of kernel trees:
// whether the result is what was asked for is for kconfig.
package features

import (
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// The sets: features that only require others.
const (
	Default = "default" // what a guest for containers needs
	Tiny    = "tiny"    // what boots an agent, for the inner loop and CI
	Modules = "modules" // not a set: loadable modules, which a request for modules means
)

//go:embed *.config */*.config
var files embed.FS

// folder is what the embedded files are called towards people: it is where they lie in the repository.
const folder = "kernel/features"

// Owns says whether a file that a setting names is one of the features'.
func Owns(file string) bool { return strings.HasPrefix(file, folder+"/") }

// Feature is one thing to ask for by name.
type Feature struct {
	Name     string
	Purpose  string   // one line
	Requires []string // features that come along
	Fragment Fragment // of the file for every architecture, then of the architecture's own
}

// Digest names the bytes that the feature's settings were read from.
func (f Feature) Digest() digest.Digest { return f.Fragment.Digest }

// Fragment is what one or more files ask for.
type Fragment struct {
	Settings []kconfig.Setting
	Digest   digest.Digest
}

// unknown says that no feature has the name.
type unknown struct {
	Name  string
	Known []string
}

func (u *unknown) Error() string {
	return fmt.Sprintf("unknown kernel feature %q (known: %s)", u.Name, strings.Join(u.Known, ", "))
}

// All lists every feature, sorted by name.
func All(a arch.Arch) ([]Feature, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var all []Feature
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		f, err := read(strings.TrimSuffix(e.Name(), suffix), a)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

const suffix = ".config"

// read reads one feature: the file for all, and the architecture's own when there is one.
func read(name string, a arch.Arch) (Feature, error) {
	data, err := files.ReadFile(name + suffix)
	if err != nil {
		return Feature{}, err
	}
	at := path.Join(folder, name+suffix)
	head, settings, err := parse(at, data, true)
	if err != nil {
		return Feature{}, err
	}
	if head.purpose == "" {
		return Feature{}, fmt.Errorf("%s: no purpose", at)
	}
	f := Feature{Name: name, Purpose: head.purpose, Requires: head.requires}
	sum := digest.New()
	sum.Write(data)
	own := path.Join(a.Name, name+suffix)
	if data, err := files.ReadFile(own); err == nil {
		at := path.Join(folder, own)
		head, more, err := parse(at, data, true)
		if err != nil {
			return Feature{}, err
		}
		if head.purpose != "" || head.requires != nil {
			return Feature{}, fmt.Errorf("%s: the purpose and what is required belong into %s", at,
				path.Join(folder, name+suffix))
		}
		settings = append(settings, more...)
		sum.Write([]byte{0}) // neither file holds one, so the pair cannot be confused with another
		sum.Write(data)
	}
	f.Fragment = Fragment{Settings: settings, Digest: sum.Digest()}
	return f, nil
}

// Resolve lists the named features and all they require, sorted by name, each once. An *Unknown says which name is
// none.
func Resolve(a arch.Arch, names []string) ([]Feature, error) {
	all, err := All(a)
	if err != nil {
		return nil, err
	}
	byName := map[string]Feature{}
	var known []string
	for _, f := range all {
		byName[f.Name] = f
		known = append(known, f.Name)
	}
	seen := map[string]bool{}
	var out []Feature
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		f, ok := byName[name]
		if !ok {
			return &unknown{Name: name, Known: known}
		}
		for _, r := range f.Requires {
			if err := visit(r); err != nil {
				return fmt.Errorf("feature %s: %w", name, err)
			}
		}
		out = append(out, f)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b Feature) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Parse reads a fragment that somebody else wrote: reasons may be missing, and it has neither a purpose nor
// requirements. The name is for error messages.
func Parse(name string, data []byte) (Fragment, error) {
	_, settings, err := parse(name, data, false)
	if err != nil {
		return Fragment{}, err
	}
	return Fragment{Settings: settings, Digest: digest.Of(data)}, nil
}

// header is what the lines that begin with "#:" say.
type header struct {
	purpose  string
	requires []string
	prefers  []string // symbols of the file that give way
}

const headerMark = "#:"

// parse reads one fragment. Where reasons are wanted, every group of settings has a comment right above it.
func parse(name string, data []byte, reasons bool) (header, []kconfig.Setting, error) {
	var head header
	var settings []kconfig.Setting
	var reason []string
	at := map[string]int{}
	inGroup := false // the last line was a setting
	n := 0
	fail := func(format string, args ...any) (header, []kconfig.Setting, error) {
		return header{}, nil, fmt.Errorf("%s:%d: %w", name, n, fmt.Errorf(format, args...))
	}
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, headerMark); ok {
			if !reasons {
				return fail("%q: only the features of this repository have headers", line)
			}
			if len(settings) > 0 {
				return fail("%q: headers come before settings", line)
			}
			if err := head.set(rest); err != nil {
				return fail("%w", err)
			}
			continue
		}
		symbol, value, ok, err := kconfig.ParseLine(line)
		if err != nil {
			return fail("%w", err)
		}
		if !ok {
			comment, isComment := strings.CutPrefix(strings.TrimSpace(line), "#")
			if !isComment || inGroup {
				reason = nil
			}
			if isComment {
				reason = append(reason, strings.TrimSpace(comment))
			}
			inGroup = false
			continue
		}
		if first, twice := at[symbol]; twice {
			return fail("CONFIG_%s is already set on line %d", symbol, first)
		}
		if reasons && len(reason) == 0 {
			return fail("CONFIG_%s has no reason: put a comment right above its group", symbol)
		}
		at[symbol] = n
		inGroup = true
		settings = append(settings, kconfig.Setting{Symbol: symbol, Value: value, File: name, Line: n,
			Reason:     strings.Join(reason, " "),
			Preference: slices.Contains(head.prefers, symbol)})
	}
	for _, s := range head.prefers {
		if at[s] == 0 {
			return fail("prefers: the file does not set CONFIG_%s", s)
		}
	}
	return head, settings, nil
}

// set reads one header line behind its mark.
func (h *header) set(rest string) error {
	key, value, ok := strings.Cut(rest, ":")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if !ok || value == "" {
		return fmt.Errorf("%q: want %s key: value", rest, headerMark)
	}
	switch key {
	case "purpose":
		if h.purpose != "" {
			return fmt.Errorf("a second purpose")
		}
		h.purpose = value
	case "requires", "prefers":
		list := &h.requires
		if key == "prefers" {
			list = &h.prefers
		}
		for name := range strings.SplitSeq(value, ",") {
			name = strings.TrimSpace(name)
			if name == "" || slices.Contains(*list, name) {
				return fmt.Errorf("%s: an empty name, or %q twice", key, name)
			}
			*list = append(*list, name)
		}
	default:
		return fmt.Errorf("unknown header %q (known: prefers, purpose, requires)", key)
	}
	return nil
}
