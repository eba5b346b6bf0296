package install

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"errors"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// The CRI plug-in of containerd, by the version of the configuration.
// containerd: docs/cri/config.md.
const (
	pluginV2 = "io.containerd.grpc.v1.cri"
	pluginV3 = "io.containerd.cri.v1.runtime"
)

// mainFile is containerd's main file.
type mainFile struct {
	text    string
	there   bool
	version int      // of the configuration
	imports []string // files that it reads besides
	handler bool     // it knows a runtime by our name
}

// parseMain reads containerd's main file.
func parseMain(name, text, handler string) (m mainFile, err error) {
	var doc struct {
		Version int            `toml:"version"`
		Imports []string       `toml:"imports"`
		Plugins map[string]any `toml:"plugins"`
	}
	if err := toml.Unmarshal([]byte(text), &doc); err != nil {
		if d, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, column := d.Position()
			return m, fmt.Errorf("%s:%d:%d: %w", name, line, column, err)
		}
		return m, fmt.Errorf("%s: %w", name, err)
	}
	m = mainFile{text: text, there: true, version: doc.Version, imports: doc.Imports}
	if m.version == 0 {
		m.version = 1
	}
	for _, plugin := range []string{pluginV2, pluginV3} {
		if _, ok := tableAt(doc.Plugins, plugin, "containerd", "runtimes")[handler]; ok {
			m.handler = true
		}
	}
	return m, nil
}

// tableAt is the table below a path of keys; nil where there is none.
func tableAt(t map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		t, _ = t[k].(map[string]any)
	}
	return t
}

// runtimeTable is what tells containerd of the runtime.
func runtimeTable(o Options, version int) string {
	plugin := pluginV2
	if version >= 3 {
		plugin = pluginV3
	}
	out := fmt.Sprintf("[plugins.%q.containerd.runtimes.%s]\nruntime_type = %q\n"+
		"privileged_without_host_devices = true\n"+
		"pod_annotations = [\"io.katacontainers.*\"]\n", plugin, o.RuntimeClass(), o.runtimeType())
	if o.Sandboxer == sandboxerShim && version >= 3 {
		out += fmt.Sprintf("sandboxer = %q\n", o.Sandboxer)
	}
	return out
}

// crioTable is what tells CRI-O of it. cri-o: docs/crio.conf.5.md, CRIO.RUNTIME.RUNTIMES TABLE.
func crioTable(o Options) string {
	return fmt.Sprintf("[crio.runtime.runtimes.%s]\nruntime_path = %q\nruntime_type = \"vm\"\n"+
		"privileged_without_host_devices = true\n", o.RuntimeClass(), path.Join(o.Bin, o.shimLinks()[0]))
}

// Lines around the block in containerd's main file. The first says what of the white space before it is ours.
const (
	beginBlock = "# begin of %s: kata-runtime install wrote this, and takes it away again%s"
	endBlock   = "# end of %s"
	madeBreak  = " (with the line break before it)"
)

// blockMarks are the first line, without and with a line break made for it, and the last.
func blockMarks(o Options) (begin, beginBroken, end string) {
	name := o.dashed("katabuild")
	return fmt.Sprintf(beginBlock, name, "") + "\n", fmt.Sprintf(beginBlock, name, madeBreak) + "\n",
		fmt.Sprintf(endBlock, name) + "\n"
}

// findBlock is where the block is, from the line break that is ours to its end; both are 0 where there is none.
func findBlock(o Options, text string) (from, to int, err error) {
	begin, broken, end := blockMarks(o)
	at, n := strings.Index(text, begin), len(begin)
	from = at
	if at < 0 {
		if at, n = strings.Index(text, broken), len(broken); at < 0 {
			return 0, 0, nil
		}
		if at == 0 || text[at-1] != '\n' {
			return 0, 0, errors.New("the line before our block is gone")
		}
		from = at - 1
	}
	size := strings.Index(text[at+n:], end)
	if size < 0 {
		return 0, 0, fmt.Errorf("our block has no end: the line %q is gone", strings.TrimSuffix(end, "\n"))
	}
	if to = at + n + size + len(end); to < len(text) {
		from = at // the line break is not the last any more
	}
	return from, to, nil
}

// setBlock puts the block where it is already, or behind the text; an empty one is taken out. What others wrote stays
// what it is, byte for byte.
func setBlock(o Options, text, block string) (string, error) {
	from, to, err := findBlock(o, text)
	if err != nil {
		return "", err
	}
	begin, broken, end := blockMarks(o)
	before, behind := text[:from], text[to:]
	if to == 0 {
		before, behind = text, ""
	}
	switch {
	case block == "":
		return before + behind, nil
	case before != "" && !strings.HasSuffix(before, "\n"):
		return before + "\n" + broken + block + end + behind, nil
	}
	return before + begin + block + end + behind, nil
}

// checkBlock compares a main file's meaning without the block and with it: nothing else may differ.
func checkBlock(name, without, with string, handler string) error {
	before, err := parsePlugins(name, without)
	if err != nil {
		return err
	}
	after, err := parsePlugins(name, with)
	if err != nil {
		return fmt.Errorf("the block does not fit behind what is there: %w", err)
	}
	plugins, _ := after["plugins"].(map[string]any)
	for _, plugin := range []string{pluginV2, pluginV3} {
		delete(tableAt(plugins, plugin, "containerd", "runtimes"), handler)
	}
	if !reflect.DeepEqual(prune(before), prune(after)) {
		return fmt.Errorf("%s: with a block at its end it would mean something else", name)
	}
	return nil
}

func parsePlugins(name, text string) (map[string]any, error) {
	out := map[string]any{}
	if err := toml.NewDecoder(bytes.NewReader([]byte(text))).Decode(&out); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

// prune drops empty tables, which mean nothing.
func prune(t map[string]any) map[string]any {
	for _, k := range slices.Collect(maps.Keys(t)) {
		if sub, ok := t[k].(map[string]any); ok {
			if len(prune(sub)) == 0 {
				delete(t, k)
			}
		}
	}
	return t
}

// dropIns is the folder of files that a main file of containerd 2 may import.
func (o Options) dropIns() string {
	if o.Layout.DropIns != "" {
		return o.Layout.DropIns
	}
	return path.Join(path.Dir(o.ContainerdConfig), "conf.d")
}

// dropInVersion is the version of containerd's format that our file there has.
func (o Options) dropInVersion() int { return cmp.Or(o.Layout.Version, 3) }

// dropIn is our file there.
func (o Options) dropIn() string { return path.Join(o.dropIns(), o.dashed("katabuild")+".toml") }

// importsDropIns says whether the main file reads our drop-in.
func (m mainFile) importsDropIns(o Options) bool {
	return slices.ContainsFunc(m.imports, func(pattern string) bool {
		if !path.IsAbs(pattern) { // containerd takes it from the main file's folder
			pattern = path.Join(path.Dir(o.ContainerdConfig), pattern)
		}
		ok, err := path.Match(pattern, o.dropIn())
		return err == nil && ok
	})
}

// containerdMajor is the major version of the host's containerd; 0 where there is none.
func (h *host) containerdMajor() (int, error) {
	for _, p := range []string{"/usr/local/bin/containerd", "/usr/bin/containerd", "/bin/containerd"} {
		f, err := h.root.Open(rel(p))
		if err != nil {
			continue
		}
		info, err := buildinfo.Read(f)
		f.Close()
		if err != nil {
			return 0, fmt.Errorf("%s does not say what it is (%w): say --containerd block or drop-in", p, err)
		}
		if strings.HasPrefix(info.Path, "github.com/containerd/containerd/v2/") {
			return 2, nil
		}
		return 1, nil
	}
	return 0, nil
}

// emptyMain is a main file for a containerd that has none.
func emptyMain(o Options, way string) string {
	if o.isTemplate() {
		return "{{ template \"base\" . }}\n"
	}
	if way == wayDropIn {
		return fmt.Sprintf("version = 3\nimports = [%q]\n", path.Join(o.dropIns(), "*.toml"))
	}
	return "version = 2\n"
}

// containerd decides how containerd is told. The block is for its main file, of which made says that it is ours.
func (i *Installation) containerd(s *state, old *state) error {
	o := s.Options
	if o.Containerd == wayNo {
		return nil
	}
	if o.Layout.Main != "" {
		return i.generated(s, old)
	}
	text, there, err := i.host.text(o.ContainerdConfig)
	if err != nil {
		return err
	}
	made := old != nil && old.MadeConfig && old.Options.ContainerdConfig == o.ContainerdConfig
	base := string(text)
	if old != nil {
		if base, err = setBlock(old.Options, base, ""); err != nil {
			return fmt.Errorf("%s: %w", o.ContainerdConfig, err)
		}
	}
	m, err := parseMain(o.ContainerdConfig, base, o.RuntimeClass())
	if err != nil {
		return err
	}
	m.there = there
	if !there && o.Layout.Name != "" && o.ContainerdConfig != defaultContainerdConfig {
		return fmt.Errorf("%s is not there: %s has not started on this host yet", o.ContainerdConfig, o.Layout.Name)
	}
	way := o.Containerd
	if !there || made {
		major, err := i.host.containerdMajor()
		if err != nil && way == wayAuto {
			return err
		}
		if way == wayAuto {
			if major == 0 {
				return nil // nobody to tell
			}
			way = []string{"", wayBlock, wayDropIn}[major]
		}
		if !there {
			s.MadeConfig, m.version = true, map[string]int{wayBlock: 2, wayDropIn: 3}[way]
			m.imports = []string{path.Join(o.dropIns(), "*.toml")}
		}
	}
	s.MadeConfig = s.MadeConfig || made
	if m.handler {
		return fmt.Errorf("%s: there is a runtime %s that is not ours; choose another name by --handler or --suffix",
			o.ContainerdConfig, o.RuntimeClass())
	}
	if m.version < 2 {
		return fmt.Errorf("%s has version %d of containerd's format, which has other names; let containerd convert it "+
			"(containerd config dump), or say --containerd no", o.ContainerdConfig, m.version)
	}
	if way == wayAuto {
		if way = wayBlock; m.version >= 3 && m.importsDropIns(o) {
			way = wayDropIn
		}
	}
	if way == wayDropIn {
		if !m.importsDropIns(o) {
			return fmt.Errorf("%s does not import %s: add imports = [%q] to it, or say --containerd block",
				o.ContainerdConfig, o.dropIn(), path.Join(o.dropIns(), "*.toml"))
		}
		if m.version < 3 {
			return fmt.Errorf("%s has version %d of containerd's format: containerd 1 forgets the plug-in's other "+
				"settings when a drop-in has some; say --containerd block", o.ContainerdConfig, m.version)
		}
		s.Links = append(s.Links, o.dropIn())
		return nil
	}
	s.Block = runtimeTable(o, m.version)
	with, err := setBlock(o, base, s.Block)
	if err != nil {
		return err
	}
	return checkBlock(o.ContainerdConfig, base, with, o.RuntimeClass())
}

// isTemplate says whether containerd's file is one of which a distribution makes the main file.
func (o Options) isTemplate() bool { return path.Ext(o.ContainerdConfig) == ".tmpl" }

// generated decides how a containerd is told whose distribution makes its main file: by a drop-in where there is a
// folder for them, otherwise by a block in the file that the main one is made of.
func (i *Installation) generated(s *state, old *state) error {
	o := s.Options
	text, there, err := i.host.text(o.Layout.Main)
	if err == nil && !there {
		err = fmt.Errorf("it is not there: %s has not started on this host yet", o.Layout.Name)
	}
	base := string(text)
	if err == nil && old != nil { // what was made of the block is no reason to refuse it
		base, err = setBlock(old.Options, base, "")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.Layout.Main, err)
	}
	m, err := parseMain(o.Layout.Main, base, o.RuntimeClass())
	if err != nil {
		return err
	}
	if m.handler {
		return fmt.Errorf("%s: there is a runtime %s that is not ours; choose another name by --handler or --suffix",
			o.Layout.Main, o.RuntimeClass())
	}
	s.MadeConfig = old != nil && old.MadeConfig && old.Options.ContainerdConfig == o.ContainerdConfig
	if o.Layout.DropIns != "" && o.Containerd != wayBlock {
		s.Links = append(s.Links, o.dropIn())
		return nil
	}
	if !o.isTemplate() || o.Containerd == wayDropIn {
		return fmt.Errorf("%s is made by %s, and cannot be told by the way %s", o.Layout.Main, o.Layout.Name,
			o.Containerd)
	}
	if _, there, err = i.host.text(o.ContainerdConfig); err != nil {
		return err
	}
	s.MadeConfig = s.MadeConfig || !there
	s.Block = runtimeTable(o, m.version)
	with, err := setBlock(o, base, s.Block)
	if err != nil {
		return err
	}
	return checkBlock(o.Layout.Main, base, with, o.RuntimeClass())
}
