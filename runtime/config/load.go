package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// dropIns is the folder beside a configuration whose files are read after it.
const dropIns = "config.d"

// Paths lists where a configuration is looked for, the first found wins. The list is the caller's own. The first is of
// this runtime alone, so that it and Kata Containers' can be on one host.
func Paths() []string {
	return []string{
		"/etc/katabuild/configuration.toml",
		"/etc/kata-containers/configuration.toml",
		"/usr/share/defaults/kata-containers/configuration.toml",
	}
}

// AnnotationPrefix begins the annotations of a pod that set values; the section's first name and the key follow, as in
// io.katacontainers.config.hypervisor.default_vcpus.
const AnnotationPrefix = "io.katacontainers.config."

// Options say what to load. The zero value loads this host's configuration as it is for a pod without annotations.
type Options struct {
	Files Files  // nil is the host's
	Path  string // the file the user names; empty is the first of Paths
	// Environment is the value of KATA_CONF_FILE. As in Kata it chooses among Paths only; another value is a warning.
	Environment string
	Annotations map[string]string // of the pod; those without AnnotationPrefix are ignored
	// Suffix is of the installation, where a host has several: its configuration is
	// /etc/katabuild-SUFFIX/configuration.toml, and no other is looked for.
	Suffix string
	// Lenient makes keys that nobody knows warnings: for a configuration written for another version of Kata. What it
	// names is not done.
	Lenient bool
}

// Loaded is a configuration and where it came from.
type Loaded struct {
	Config   Config
	Files    []string  // read, in this order: the configuration and its drop-ins
	Warnings []Warning // in the order of the files, then of the annotations' names

	from map[string][]Place // by key; none is the default
}

// Warning is what a person should know about a configuration that works.
type Warning struct {
	Place   Place
	Message string
}

// String is "place: message".
func (w Warning) String() string {
	if w.Place == (Place{}) {
		return w.Message
	}
	return w.Place.String() + ": " + w.Message
}

// Place is where a value was set. The zero value is the defaults.
type Place struct {
	File         string
	Line, Column int    // from 1; in characters
	Annotation   string // the whole name
}

// String is "file:line:column", "annotation NAME" or "default".
func (p Place) String() string {
	switch {
	case p.Annotation != "":
		return "annotation " + p.Annotation
	case p.File != "":
		return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	return "default"
}

// Setting is the effective value of one key.
type Setting struct {
	Key   string // with its section
	Ours  bool   // Kata has no such key
	Value string // in TOML
	JSON  json.RawMessage
	From  []Place // one, or two where an annotation adds to a value; never none
}

// Default says that nobody has set the value.
func (s *Setting) Default() bool { return s.From[0] == Place{} }

// Settings lists every key that has an effect, section by section; of the hypervisors' tables the one in force.
func (l *Loaded) Settings() ([]Setting, error) {
	var out []Setting
	for i := range keys {
		k := &keys[i]
		if !l.Config.inForce(k.section) {
			continue
		}
		field := k.field(&l.Config)
		s := Setting{Key: k.String(), Ours: k.ours, Value: field.toml(), From: slices.Clone(l.from[k.String()])}
		if len(s.From) == 0 {
			s.From = []Place{{}}
		}
		var err error
		if s.JSON, err = json.Marshal(field.json()); err != nil {
			return nil, fmt.Errorf("value of %s: %w", k, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// Load finds, reads and merges a configuration. An error may be several, joined; those that a line can be blamed for
// are an *Error, those of annotations an *annotationError.
func Load(o Options) (*Loaded, error) {
	files := o.Files
	if files == nil {
		files = hostFiles{}
	}
	main, warnings, err := find(files, o)
	if err != nil {
		return nil, err
	}
	texts, err := readAll(files, main)
	if err != nil {
		return nil, err
	}
	l, err := Read(texts, o.Annotations, o.Lenient)
	if err != nil {
		return nil, err
	}
	l.Warnings = append(warnings, l.Warnings...)
	return l, nil
}

// find returns the configuration with its links followed, because drop-ins lie beside the file itself.
func find(files Files, o Options) (string, []Warning, error) {
	if o.Path != "" {
		p, err := files.Resolve(o.Path)
		if err != nil {
			return "", nil, fmt.Errorf("configuration %s: %w", o.Path, err)
		}
		return p, nil, nil
	}
	paths := Paths()
	if o.Suffix != "" {
		paths = []string{"/etc/katabuild-" + o.Suffix + "/configuration.toml"}
	}
	var warnings []Warning
	if o.Environment != "" {
		if slices.Contains(paths, o.Environment) {
			paths = []string{o.Environment}
		} else {
			warnings = append(
				warnings, Warning{Message: fmt.Sprintf("KATA_CONF_FILE=%s is ignored, because it is none of %s",
					o.Environment, strings.Join(paths, " and "))})
		}
	}
	for _, p := range paths {
		real, err := files.Resolve(p)
		if err == nil {
			return real, warnings, nil
		}
		// What is there and cannot be read must not be passed over for another.
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, fmt.Errorf("configuration %s: %w", p, err)
		}
	}
	return "", nil, &NotFoundError{Paths: paths}
}

// NotFoundError says that there is no configuration.
type NotFoundError struct{ Paths []string }

func (e *NotFoundError) Error() string {
	return "no configuration: there is no " + strings.Join(e.Paths, " and no ")
}

func readAll(files Files, main string) ([]Text, error) {
	data, err := files.ReadFile(main)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	texts := []Text{{main, data}}
	dir := filepath.Join(filepath.Dir(main), dropIns)
	names, err := files.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return texts, nil
	}
	if err != nil {
		return nil, fmt.Errorf("drop-ins: %w", err)
	}
	slices.Sort(names)
	for _, n := range names {
		if strings.HasPrefix(n, ".") { // an editor's
			continue
		}
		p := filepath.Join(dir, n)
		if data, err = files.ReadFile(p); err != nil {
			return nil, fmt.Errorf("drop-in: %w", err)
		}
		texts = append(texts, Text{p, data})
	}
	return texts, nil
}

// Read merges texts, each later value winning over an earlier one as a whole, and then annotations. It looks at nothing
// else.
func Read(texts []Text, annotations map[string]string, lenient bool) (*Loaded, error) {
	r := &reader{Loaded: &Loaded{Config: Default(), from: map[string][]Place{}}, lenient: lenient}
	for _, t := range texts {
		r.Files = append(r.Files, t.Name)
		d, err := parse(t)
		if err != nil {
			r.fail(err)
			continue
		}
		r.document(d)
	}
	// An annotation is judged by the configuration: with a wrong one there is no judging.
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	r.annotations(annotations)
	r.oneGuest()
	r.onePort()
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	return r.Loaded, nil
}

type reader struct {
	*Loaded
	lenient   bool
	errs      []error
	entered   string // the hypervisor's table; empty where none was read yet
	enteredAt Place  // its first place
}

// oneGuest refuses a configuration that names two guests, or half of one.
func (r *reader) oneGuest() {
	q := &r.Config.VM
	fail := func(format string, args ...any) { r.fail(fmt.Errorf(format, args...)) }
	set := func(name string) string { return fmt.Sprintf("%s (%s)", name, r.place(name)) }
	for _, other := range []struct{ name, value string }{{"kernel", q.Kernel}, {"image", q.Image},
		{"initrd", q.Initrd}} {
		if q.Guest != "" && other.value != "" {
			fail(`%s and %s are both set, and only one can say what is booted; set the other to ""`, set("guest"),
				set(other.name))
			return // once is enough
		}
	}
	switch {
	case q.Image != "" && q.Initrd != "":
		fail(`%s and %s are both set, and a guest has one of them; set the other to ""`, set("image"), set("initrd"))
	case q.Kernel != "" && q.Image == "" && q.Initrd == "":
		fail("%s is set, and neither image nor initrd", set("kernel"))
	case q.Kernel == "" && q.Image != "":
		fail("%s is set without a kernel", set("image"))
	case q.Kernel == "" && q.Initrd != "":
		fail("%s is set without a kernel", set("initrd"))
	case q.KernelVerityParams != "" && q.Initrd != "":
		fail("%s is for an image, and the guest has %s", set("kernel_verity_params"), set("initrd"))
	case q.KernelVerityParams != "" && q.Guest != "":
		fail("%s is set, but %s has the root hash of its disk in its manifest", set("kernel_verity_params"),
			set("guest"))
	}
}

// onePort refuses devices of the host both from the start and later, as Kata does, and a switch without places.
func (r *reader) onePort() {
	q := &r.Config.VM
	switch {
	case q.ColdPlugVFIO != PortNone && q.HotPlugVFIO != PortNone:
		r.fail(fmt.Errorf("cold_plug_vfio (%s) is %q and hot_plug_vfio (%s) is %q, and only one of them can be set; "+
			"set the other to %q", r.place("cold_plug_vfio"), q.ColdPlugVFIO, r.place("hot_plug_vfio"), q.HotPlugVFIO,
			PortNone))
	case q.HotPlugVFIO == PortSwitch && q.PCIeSwitchPorts == 0:
		r.fail(fmt.Errorf("hot_plug_vfio (%s) is %q, and pcie_switch_port is 0: the switch has no places",
			r.place("hot_plug_vfio"), q.HotPlugVFIO))
	}
}

func (r *reader) unknown(e *Error) {
	if !r.lenient {
		r.fail(e)
		return
	}
	r.warn(Place{File: e.File, Line: e.Line, Column: e.Column}, e.Message)
}

func (r *reader) warn(p Place, msg string) { r.Warnings = append(r.Warnings, Warning{p, msg}) }

// fail notes a mistake; reading goes on, so that all are told.
func (r *reader) fail(err error) { r.errs = append(r.errs, err) }

func (r *reader) document(d *document) {
	for _, top := range d.ordered(d.root) {
		table, isTable := d.root[top].(map[string]any)
		want := ""
		switch top {
		case sectionRuntime, sectionFactory:
			want = fmt.Sprintf("the table [%s]", top)
		case "hypervisor", "agent":
			want = fmt.Sprintf("tables such as [%s]", sectionsOf(top)[0])
		}
		switch {
		case want == "":
			r.unknown(d.atKey(top, fmt.Sprintf("unknown key %q", top)+hint(top, "", groups())))
		case !isTable:
			r.fail(d.atValue(top, fmt.Sprintf("want %s, got %s", want, kindOf(d.root[top]))))
		case slices.Contains(sections, top):
			r.section(d, table, top, top)
		default:
			r.group(d, table, top)
		}
	}
}

// group reads the tables whose names begin alike: hypervisor.qemu.
func (r *reader) group(d *document, tables map[string]any, top string) {
	for _, name := range d.ordered(tables, top) {
		section, at := top+"."+name, pathOf(top, name)
		table, isTable := tables[name].(map[string]any)
		switch {
		case slices.Contains(sections, section) && isTable:
			r.enter(d, section, []string{top, name})
			r.section(d, table, section, top, name)
		case isTable && top == "hypervisor" && slices.Contains([]string{"cloud-hypervisor", "stratovirt", "remote",
			"dragonball", "openvmm", "acrn"}, name):
			// Never a warning: what such a file asks for is another virtual machine.
			r.fail(d.atKey(at, fmt.Sprintf("hypervisor %q is not supported; there are [%s]", name,
				strings.Join(hypervisorSections, "], ["))))
		case slices.Contains(sections, section):
			r.fail(d.atValue(at, fmt.Sprintf("want the table [%s], got %s", section,
				kindOf(tables[name]))))
		default:
			r.unknown(d.atKey(at, fmt.Sprintf("unknown key %q in [%s]", name, top)+hint(name, "",
				lastNames(sectionsOf(top)))))
		}
	}
}

func (r *reader) section(d *document, table map[string]any, section string, path ...string) {
	for _, name := range d.ordered(table, path...) {
		at := pathOf(append(slices.Clone(path), name)...)
		whole := section + "." + name
		line, column := d.place(d.keys[at])
		place := Place{File: d.name, Line: line, Column: column}
		v := table[name]
		if k := findKey(section, name); k != nil {
			field := k.field(&r.Config)
			err := field.set(v)
			if err == nil && k.check != nil {
				err = k.check(&r.Config)
			}
			if err != nil {
				r.fail(d.atValue(at, fmt.Sprintf("%s: %v", name, err)))
				continue
			}
			r.from[whole] = []Place{place}
			continue
		}
		i := findIdle(idles, section, name)
		switch {
		case i == nil:
			r.unknown(d.atKey(at, fmt.Sprintf("unknown key %q in [%s]", name, section)+hint(name, section,
				namesOf(section, false))))
		case i.harmless != "" && !isHarmless(v, i.harmless):
			r.fail(d.atValue(at, fmt.Sprintf("%s can only be %s, because %s", name, i.harmless,
				i.reason)))
		default:
			r.warn(place, fmt.Sprintf("%s has no effect, because %s", whole, i.reason))
		}
	}
}

// isHarmless says whether a TOML value, or an annotation's text, is the one that asks for nothing.
func isHarmless(v any, harmless string) bool {
	switch v := v.(type) {
	case bool:
		return fmt.Sprint(v) == harmless
	case string:
		return v == strings.Trim(harmless, `"`)
	}
	return false
}

// hint says where a key belongs, or which is meant.
func hint(name, section string, known []string) string {
	for _, s := range sections {
		if s != section && (findKey(s, name) != nil || findIdle(idles, s, name) != nil) {
			return fmt.Sprintf("; it belongs in [%s]", s)
		}
	}
	return didYouMean(name, known)
}

// groups are the names that may stand at the top.
func groups() []string { return []string{"hypervisor", "agent", sectionRuntime, sectionFactory} }

func sectionsOf(top string) []string {
	return slices.DeleteFunc(slices.Clone(sections), func(s string) bool { return !strings.HasPrefix(s, top+".") })
}

func lastNames(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s[strings.LastIndexByte(s, '.')+1:]
	}
	return out
}

// namesOf lists the keys of a section, or of those the ones that annotations may set: with an effect first, so that
// they win when two are equally near.
func namesOf(section string, pod bool) []string {
	var out []string
	for _, k := range keys {
		if k.section == section && (k.pod || !pod) {
			out = append(out, k.name)
		}
	}
	idle := idles
	if pod {
		idle = slices.Concat(idles, podIdles)
	}
	for _, i := range idle {
		if i.in(section) {
			out = append(out, i.names...)
		}
	}
	return out
}

// annotationError is an annotation that cannot be followed.
type annotationError struct {
	Name    string // whole
	Message string
}

func (e *annotationError) Error() string { return fmt.Sprintf("annotation %s: %s", e.Name, e.Message) }

func (r *reader) annotations(all map[string]string) {
	var names []string
	for n := range all {
		if strings.HasPrefix(n, AnnotationPrefix) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		if msg := r.annotation(n, all[n]); msg != "" {
			r.fail(&annotationError{n, msg})
		}
	}
}

// annotation follows one annotation, and returns why it could not.
func (r *reader) annotation(whole, value string) string {
	group, name, _ := strings.Cut(strings.TrimPrefix(whole, AnnotationPrefix), ".")
	section := map[string]string{hypervisorGroup: r.Config.section(), "agent": sectionAgent,
		"runtime": sectionRuntime}[group]
	if section == "" {
		return fmt.Sprintf("unknown group %q%s", group, didYouMean(group, []string{"hypervisor", "agent", "runtime"}))
	}
	k, i := findKey(section, name), findIdle(slices.Concat(idles, podIdles), section, name)
	if k == nil && i == nil {
		return fmt.Sprintf("unknown key %q%s", name, didYouMean(name, namesOf(section, true)))
	}
	if k != nil && !k.pod {
		return fmt.Sprintf("only the host's configuration may set %s", k)
	}
	// What has no effect cannot weaken anything; of the hypervisor's group it must be listed all the same, as in Kata.
	if list := r.enabledIn(section); (k != nil || section == r.Config.section()) && !matches(*list, name) {
		return fmt.Sprintf("not allowed by enable_annotations = %s in [%s] (%s)", (*texts)(list).toml(), section,
			r.placeIn(section, "enable_annotations"))
	}
	if i != nil {
		if i.harmless != "" && !isHarmless(value, i.harmless) {
			return fmt.Sprintf("it can only be %s, because %s", i.harmless, i.reason)
		}
		r.warn(Place{Annotation: whole}, "it has no effect, because "+i.reason)
		return ""
	}
	field := k.field(&r.Config)
	v, ok := field.parse(value)
	if !ok {
		return fmt.Sprintf("want %s, got %q", field.kind(), value)
	}
	before := slices.Clone(r.Config.VM.KernelParams)
	err := field.set(v)
	from := []Place{{Annotation: whole}}
	if added, ok := field.(*params); ok && err == nil {
		// As in Kata, a pod adds words to the host's and takes none away.
		*added = append(before, *added...)
		from = append(slices.Clone(r.from[k.String()]), from...)
	}
	if err == nil && k.check != nil {
		err = k.check(&r.Config)
	}
	if err != nil {
		return err.Error()
	}
	if k.valid != nil {
		patterns, list := k.valid(&r.Config)
		if !slices.ContainsFunc(patterns, func(p string) bool {
			ok, err := path.Match(p, value)
			return ok && err == nil
		}) {
			return fmt.Sprintf("path %q matches none of %s = %s (%s)", value, list, (*texts)(&patterns).toml(),
				r.place(list))
		}
	}
	r.from[k.String()] = from
	return ""
}

// enabledIn is the list of a section's names that annotations may have.
func (r *reader) enabledIn(section string) *[]string {
	switch section {
	case sectionAgent:
		return &r.Config.Agent.EnableAnnotations
	case sectionRuntime:
		return &r.Config.Runtime.EnableAnnotations
	}
	return &r.Config.VM.EnableAnnotations
}

// matches says whether one of the expressions is for the whole name.
func matches(list []string, name string) bool {
	return slices.ContainsFunc(list, func(e string) bool {
		re, err := regexp.Compile(`^(?:` + e + `)$`)
		return err == nil && re.MatchString(name)
	})
}

// place is where a key of the hypervisor was set.
func (r *reader) place(name string) Place { return r.placeIn(r.Config.section(), name) }

// placeIn is where a key was set.
func (r *reader) placeIn(section, name string) Place {
	if p := r.from[section+"."+name]; len(p) > 0 {
		return p[0]
	}
	return Place{}
}
