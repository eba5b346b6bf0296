// Package features holds what a guest kernel can be asked for by name, and reads the fragments that say so.
//
// A feature is one file of this folder: a purpose, the features it requires, and groups of kernel symbols, each with
// the reason it is wanted. docs/formats/features.md owns the format. This package knows nothing of kernel trees:
// whether the result is what was asked for is for kconfig.
package features

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/mistake"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// The sets: features that only require others.
const (
	Default = "default" // what a guest for containers needs
	Tiny    = "tiny"    // what boots an agent, for the inner loop and CI
	Modules = "modules" // not a set: loadable modules, which a request for modules means
	BTF     = "btf"     // not a set: types of the kernel, which another tool makes
	// ModuleSigning is no set either: modules that are signed.
	ModuleSigning = "module-signing"
)

//go:embed *.config x86_64/*.config aarch64/*.config ppc64le/*.config s390x/*.config riscv64/*.config
var files embed.FS

// folder is what the embedded files are called towards people: it is where they lie in the repository.
const folder = "kernel/features"

// Owns says whether a file that a setting names is one of the features'.
func Owns(file string) bool { return strings.HasPrefix(file, folder+"/") }

// Of is the name of the feature that a file of settings is of; "" where it is none of the features'.
func Of(file string) string {
	if !Owns(file) {
		return ""
	}
	return strings.TrimSuffix(path.Base(file), suffix)
}

// Feature is one thing to ask for by name.
type Feature struct {
	Name     string
	Purpose  string   // one line
	Requires []string // features that come along
	Fragment Fragment // of the file for every architecture, then of the architecture's own
	// Elsewhere says that it asks for something that does not apply to the architecture.
	Elsewhere bool
}

// Digest names the bytes that the feature's settings were read from.
func (f Feature) Digest() digest.Digest { return f.Fragment.Digest }

// Fragment is what one or more files ask for. That of a feature has what applies to its architecture, in every version.
type Fragment struct {
	Settings []kconfig.Setting
	Digest   digest.Digest // of the bytes, with all that does not apply
}

// For is what applies to a kernel: an architecture's name, and a version of Linux such as 6.12.117. An empty version
// is one that nobody knows yet; then only what applies to all versions is there.
func (f Fragment) For(architecture, version string) []kconfig.Setting {
	var out []kconfig.Setting
	for _, w := range f.Settings {
		if w.When.On(architecture) && w.When.In(version) {
			out = append(out, w)
		}
	}
	return out
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
		for i, w := range more {
			if w.When.Only != "" || w.When.Except != "" {
				return Feature{}, w.Wrong("the folder says the architecture, a condition cannot", false)
			}
			more[i].When.Only = a.Name
		}
		settings = append(settings, more...)
		sum.Write([]byte{0}) // neither file holds one, so the pair cannot be confused with another
		sum.Write(data)
	}
	here := slices.DeleteFunc(slices.Clone(settings), func(w kconfig.Setting) bool { return !w.When.On(a.Name) })
	f.Elsewhere = len(here) < len(settings)
	f.Fragment = Fragment{Settings: here, Digest: sum.Digest()}
	return f, nil
}

// Known is every setting of a symbol that the features have, for whichever architecture and version.
func Known(symbol string) ([]kconfig.Setting, error) {
	var out []kconfig.Setting
	for _, pattern := range []string{"*" + suffix, "*/*" + suffix} {
		names, err := fs.Glob(files, pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			data, err := files.ReadFile(name)
			if err != nil {
				return nil, err
			}
			_, settings, err := parse(path.Join(folder, name), data, true)
			if err != nil {
				return nil, err
			}
			for _, w := range settings {
				if dir := path.Dir(name); dir != "." {
					w.When.Only = dir
				}
				if w.Symbol == symbol {
					out = append(out, w)
				}
			}
		}
	}
	return out, nil
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

// header is what the lines that begin with "#:" say of a whole file.
type header struct {
	purpose  string
	requires []string
	prefers  []string     // symbols of the file that give way
	when     kconfig.When // of all settings
}

const headerMark = "#:"

// maxTimes bounds how often a file sets one symbol, each time under another condition.
const maxTimes = 20

// fragmentParser reads one fragment, line by line.
type fragmentParser struct {
	name    string
	reasons bool // a feature's file: every group of settings has a comment right above it, and there may be headers

	head     header
	settings []kconfig.Setting
	set      map[string][]kconfig.Setting // those of settings, by symbol

	n       int    // the line
	line    string // without its end
	reason  []string
	when    kconfig.When // of the group that the lines above belong to
	inGroup bool         // the last line was a setting
	marked  error        // what to say of the condition right above if it belongs to nothing; nil without one
}

// parse reads one fragment. Where reasons are wanted, every group of settings has a comment right above it.
func parse(name string, data []byte, reasons bool) (header, []kconfig.Setting, error) {
	p := &fragmentParser{name: name, reasons: reasons, set: map[string][]kconfig.Setting{}}
	for line := range strings.Lines(string(data)) {
		p.n++
		p.line = strings.TrimSuffix(line, "\n")
		if err := p.read(); err != nil {
			return header{}, nil, err
		}
	}
	if p.marked != nil && len(p.settings) > 0 {
		return header{}, nil, p.marked
	}
	for i, w := range p.settings {
		p.settings[i].Preference = slices.Contains(p.head.prefers, w.Symbol)
	}
	for _, s := range p.head.prefers {
		if len(p.set[s]) == 0 {
			return header{}, nil, p.wrong("", "prefers: the file does not set CONFIG_%s", s)
		}
	}
	return p.head, p.settings, nil
}

// wrong is a mistake in the line that is being read, at a word of it.
func (p *fragmentParser) wrong(word, format string, args ...any) error {
	at := strings.Index(p.line, word)
	return &mistake.Error{File: p.name, Line: p.n, Column: utf8.RuneCountInString(p.line[:max(0, at)]) + 1,
		Message: fmt.Errorf(format, args...).Error(), Source: p.line}
}

func (p *fragmentParser) read() error {
	if rest, ok := strings.CutPrefix(p.line, headerMark); ok {
		return p.mark(rest)
	}
	symbol, value, ok, err := kconfig.ParseLine(p.line)
	if err != nil {
		word := ""
		if _, v, found := strings.Cut(p.line, "="); found && strings.HasPrefix(p.line, "CONFIG_") {
			word = v
		}
		return p.wrong(word, "%w", err)
	}
	if !ok {
		return p.comment()
	}
	if p.reasons && len(p.reason) == 0 {
		return p.wrong("CONFIG_"+symbol, "CONFIG_%s has no reason: put a comment right above its group", symbol)
	}
	w := kconfig.Setting{Symbol: symbol, Value: value, File: p.name, Line: p.n, Source: p.line,
		Reason: strings.Join(p.reason, " ")}
	if w.When, ok = p.head.when.And(p.when); !ok {
		return p.wrong("CONFIG_"+symbol, "the group says %s, and the file %s: a condition of one kind is said once",
			p.when,
			p.head.when)
	}
	all := arch.Names(arch.All())
	for _, f := range p.set[symbol] {
		if !f.When.Apart(w.When, all) {
			return p.wrong("CONFIG_"+symbol, "CONFIG_%s is already set on line %d", symbol, f.Line)
		}
	}
	if len(p.set[symbol]) == maxTimes {
		return p.wrong("CONFIG_"+symbol, "CONFIG_%s is set more than %d times", symbol, maxTimes)
	}
	p.inGroup, p.marked = true, nil
	p.set[symbol] = append(p.set[symbol], w)
	p.settings = append(p.settings, w)
	return nil
}

// comment reads a line that is a comment or blank. Both end a group of settings.
func (p *fragmentParser) comment() error {
	text, isComment := strings.CutPrefix(strings.TrimSpace(p.line), "#")
	if !isComment && p.marked != nil {
		if len(p.settings) > 0 || p.head.when != (kconfig.When{}) {
			return p.marked
		}
		p.head.when = p.when // a block before the first setting speaks of the whole file
	}
	if !isComment || p.inGroup {
		p.reason, p.when, p.marked = nil, kconfig.When{}, nil
	}
	if isComment {
		p.reason = append(p.reason, strings.TrimSpace(text))
	}
	p.inGroup = false
	return nil
}

// mark reads a line behind its mark: a condition, which belongs to the settings right below or, in a block of its own,
// to the whole file; or a header.
func (p *fragmentParser) mark(rest string) error {
	key, value, ok := strings.Cut(rest, ":")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if !ok || value == "" {
		return p.wrong("", "%q: want %s key: value", rest, headerMark)
	}
	switch key {
	case "only", "except", "since", "until":
		if p.inGroup {
			p.reason, p.when, p.inGroup = nil, kconfig.When{}, false
		}
		p.marked = p.wrong(key, "the condition belongs to no setting: put it right above its group")
		return p.condition(key, value)
	case "purpose", "requires", "prefers":
		if !p.reasons {
			return p.wrong(key, "%q: only the features of this repository have headers", p.line)
		}
		if len(p.settings) > 0 {
			return p.wrong(key, "%q: headers come before settings", p.line)
		}
		return p.header(key, value)
	}
	return p.wrong(key, "unknown header %q (known: except, only, prefers, purpose, requires, since, until)", key)
}

// condition reads where the settings below apply.
func (p *fragmentParser) condition(key, value string) error {
	field := map[string]*string{"only": &p.when.Only, "except": &p.when.Except, "since": &p.when.Since,
		"until": &p.when.Until}[key]
	if *field != "" {
		return p.wrong(key, "a second %q for the same settings", key)
	}
	if key == "since" || key == "until" {
		if err := kconfig.CheckVersion(value); err != nil {
			return p.wrong(value, "%s: %w", key, err)
		}
		*field = value
		if w := p.when; w.Since != "" && w.Until != "" && !w.In(w.Since) {
			return p.wrong(value, "no version is both since %s and until %s", w.Since, w.Until)
		}
		return nil
	}
	if p.when.Only != "" || p.when.Except != "" {
		return p.wrong(key, "only and except exclude each other")
	}
	names, known := strings.Split(value, ","), arch.Names(arch.All())
	for i, n := range names {
		names[i] = strings.TrimSpace(n)
		if slices.Contains(names[:i], names[i]) {
			return p.wrong(names[i], "%s: %q twice", key, names[i])
		}
		if !slices.Contains(known, names[i]) {
			s := fmt.Sprintf("%s: unknown architecture %q (known: %s)", key, names[i], strings.Join(known, ", "))
			if near := mistake.Nearest(names[i], known, 4); near != "" {
				s += fmt.Sprintf("; did you mean %s?", near)
			}
			return p.wrong(names[i], "%s", s)
		}
	}
	*field = strings.Join(names, ", ")
	return nil
}

// header reads what a feature's file says of itself.
func (p *fragmentParser) header(key, value string) error {
	if key == "purpose" {
		if p.head.purpose != "" {
			return p.wrong(key, "a second purpose")
		}
		p.head.purpose = value
		return nil
	}
	list := &p.head.requires
	if key == "prefers" {
		list = &p.head.prefers
	}
	for name := range strings.SplitSeq(value, ",") {
		name = strings.TrimSpace(name)
		if name == "" || slices.Contains(*list, name) {
			return p.wrong(key, "%s: an empty name, or %q twice", key, name)
		}
		*list = append(*list, name)
	}
	return nil
}
