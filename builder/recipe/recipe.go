// Package recipe reads recipe.yaml: what a person wants a guest to be.
//
// In goes the text, out comes a Recipe that makes sense by itself, or one error a line of the text can be blamed for.
// It knows nothing of digests, stores or the network. docs/formats/recipe.md owns the format.
package recipe

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/manifest"
)

// Version is the only version of the format this package reads.
const Version = 1

// FileName is the name of a recipe in its folder.
const FileName = "recipe.yaml"

// Recipe is what one guest is to be. Its zero values are filled by Parse.
type Recipe struct {
	Version int    `yaml:"version"`
	Name    string `yaml:"name"` // of the guest: lower-case letters, digits and dashes
	Arch    string `yaml:"arch"` // default x86_64
	// Extension makes no guest but an image that is attached to one: a rootfs, and nothing that boots.
	Extension bool   `yaml:"extension"`
	Kernel    Kernel `yaml:"kernel"`
	Initrd    Initrd `yaml:"initrd"`
	// Rootfs and Image make a guest that boots from a disk instead of an initrd. They come together.
	Rootfs *Rootfs `yaml:"rootfs"`
	Image  *Image  `yaml:"image"`
	Boot   Boot    `yaml:"boot"`

	at    *reader // where each field stands in the text
	other bool    // it was read for another architecture than its own
}

// Kernel is what to build the kernel from, and what it must be able to do.
type Kernel struct {
	Source    Source   `yaml:"source"`
	Features  []string `yaml:"features"`
	Fragments []string `yaml:"fragments"`  // files beside the recipe, in the form of a feature
	Patches   []string `yaml:"patches"`    // files beside the recipe, applied in this order
	Modules   bool     `yaml:"modules"`    // also build and pack loadable modules
	External  []string `yaml:"external"`   // folders beside the recipe with modules that are not part of the kernel
	ModuleKey string   `yaml:"module_key"` // file beside the recipe: the key that signs modules, and its certificate
	Headers   bool     `yaml:"headers"`    // also pack what other modules are built against
	// Toolchain is what it is built with: debian (default), llvm or host.
	Toolchain string `yaml:"toolchain"`

	Override []Override `yaml:"override"` // options whose value takes the place of what the features ask for
}

// Override is one option of the kernel that the recipe decides against its features.
type Override struct {
	Option string      `yaml:"option"` // with CONFIG_
	Value  OptionValue `yaml:"value"`
	Reason string      `yaml:"reason"`
}

// OptionValue is the value of a kernel option as a .config spells it: y, m, n, a decimal or 0x number, or a string in
// double quotes. In the text of a recipe y, m, n and numbers may stand in quotes or not, and any other text is a
// string.
type OptionValue string

// UnmarshalYAML takes numbers as they stand.
func (v *OptionValue) UnmarshalYAML(b []byte) error {
	s := strings.TrimSpace(string(b))
	if strings.HasPrefix(s, `"`) || strings.HasPrefix(s, "'") {
		if err := yaml.Unmarshal(b, &s); err != nil {
			return err
		}
	}
	switch {
	case s == "y", s == "m", s == "n", optionNumber.MatchString(s), len(s) >= 2 && strings.HasPrefix(s, `"`) &&
		strings.HasSuffix(s, `"`):
	default:
		s = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	*v = OptionValue(s)
	return nil
}

var (
	optionNumber = regexp.MustCompile(`^(-?[0-9]+|0x[0-9a-fA-F]+)$`)
	optionName   = regexp.MustCompile(`^CONFIG_[A-Za-z0-9_]+$`)
	optionText   = regexp.MustCompile(`^"([^"\\\n\r\x00]|\\[^\n\r\x00])*"$`)
)

// Source is where kernel source comes from; exactly one field is set.
type Source struct {
	Debian  *Debian  `yaml:"debian"`
	Tarball *Tarball `yaml:"tarball"`
	Tree    string   `yaml:"tree"` // a folder, relative to the recipe
}

// Debian is a package of Debian's archive.
type Debian struct {
	Package string   `yaml:"package"`
	Suite   string   `yaml:"suite"`  // default trixie
	Suites  []string `yaml:"suites"` // or several, of which the newest version counts
}

// Tarball is a kernel.org release.
type Tarball struct {
	From      string `yaml:"from"`      // a file relative to the recipe, or an http or https address
	Signature string `yaml:"signature"` // likewise: a detached OpenPGP signature over the uncompressed tar
	Keyring   string `yaml:"keyring"`   // a file relative to the recipe with the keys that may sign
	SHA256    string `yaml:"sha256"`    // 64 hexadecimal digits; optional for a file
}

// Initrd is what the initial RAM disk holds.
type Initrd struct {
	// "builtin", the one that came with katabuild, or a file relative to the recipe
	Agent       string   `yaml:"agent"`
	Compression string   `yaml:"compression"` // zstd or none
	Files       []File   `yaml:"files"`
	URoot       []string `yaml:"uroot"` // commands of the u-root project, by name
}

// File is one more entry of the initrd.
type File struct {
	Path   string  `yaml:"path"`   // absolute, in the guest
	From   string  `yaml:"from"`   // a file relative to the recipe
	Text   *string `yaml:"text"`   // or its content, which may be empty
	Link   string  `yaml:"link"`   // or the target of a symbolic link
	Folder bool    `yaml:"folder"` // or an empty folder
	Mode   Octal   `yaml:"mode"`   // default 0644, folders 0755; links have none
	UID    uint32  `yaml:"uid"`
	GID    uint32  `yaml:"gid"`
}

// Octal is octal digits as they stand in the text: 644, 0644, 0o644 and "0644" are the same, which YAML alone would not
// say.
type Octal string

// bits is the number that the digits are.
func (o Octal) bits() (uint32, error) {
	digits := strings.TrimPrefix(string(o), "0o") // YAML 1.2.2 10.3.2
	n, err := strconv.ParseUint(digits, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, fmt.Errorf("mode %q: want octal digits from 0000 to 7777, such as 0644", string(o))
	}
	return uint32(n), nil
}

// UnmarshalYAML takes the digits as they stand.
func (o *Octal) UnmarshalYAML(b []byte) error {
	*o = Octal(strings.Trim(strings.TrimSpace(string(b)), `"'`))
	return nil
}

// Boot is how the guest is started unless the command line says otherwise.
type Boot struct {
	Machine     string   `yaml:"machine"` // microvm or q35
	CPUs        int      `yaml:"cpus"`
	Memory      string   `yaml:"memory"`       // such as 256MiB or 2GiB
	Disk        string   `yaml:"disk"`         // of a guest with an image: virtio-blk (default) or nvdimm
	CommandLine []string `yaml:"command_line"` // words added to the kernel command line
}

// Vocabulary is what kernel, initrd and rootfs can do today; Parse refuses other words and suggests the nearest.
type Vocabulary struct {
	Features []string // kernel features and sets
	URoot    []string // u-root commands; nil means unchecked
	// Toolchains are what a kernel can be built with, the default first.
	Toolchains []string
	// Arch is the architecture to read a recipe for, one that guests can be built for. Empty is the recipe's own.
	Arch string
	// ImageCompressions are what erofs may be compressed with, the default first.
	ImageCompressions []string
}

// AgentBuiltin asks for the agent that came with this katabuild, AgentRego for the one that reads policies in Rego too.
const (
	AgentBuiltin = "builtin"
	AgentRego    = "rego"
)

// OwnAgent says whether an agent came with this katabuild, and is no file beside the recipe.
func OwnAgent(name string) bool { return name == AgentBuiltin || name == AgentRego }

// MemoryMiB is Memory in MiB; Parse has checked it.
func (b Boot) MemoryMiB() int {
	n, _ := parseMemory(b.Memory)
	return n
}

// FileMode is Mode as bits; Parse has checked it.
func (f File) FileMode() uint32 {
	n, _ := f.Mode.bits()
	return n
}

func parseMemory(s string) (int, error) {
	unit := 1
	n, ok := strings.CutSuffix(s, "MiB")
	if !ok {
		n, ok = strings.CutSuffix(s, "GiB")
		unit = 1024
	}
	v, err := strconv.Atoi(n)
	if !ok || err != nil || v < 1 || v > 1<<24 {
		return 0, fmt.Errorf("memory %q: want a number and MiB or GiB, such as 256MiB", s)
	}
	return v * unit, nil
}

// note notes that a field, by its path, is wrong, and why. Checks go on behind a mistake, so that all are told at once.
type note func(field, msg string)

// check fills defaults and notes what is wrong. has says whether a field stands in the text.
func (r *Recipe) check(v Vocabulary, has func(field string) bool, at note) {
	if r.Version != Version {
		at("version", fmt.Sprintf("version is %d, this katabuild reads version %d", r.Version, Version))
		return // whose rules are other ones
	}
	if !validName(r.Name) {
		at("name", fmt.Sprintf("name %q: want lower-case letters, digits and dashes, at most 63", r.Name))
	}
	r.setArch(v.Arch, at)
	if r.Extension {
		r.checkExtension(v, has, at)
		return
	}
	r.checkKernel(v, has, at)
	r.checkInitrd(v, at)
	r.checkDisk(v, at)
	r.checkBoot(at)
}

func (r *Recipe) checkKernel(v Vocabulary, has func(field string) bool, at note) {
	s := &r.Kernel.Source
	n := 0
	if s.Debian != nil {
		n++
		suitesOf(&s.Debian.Suite, &s.Debian.Suites, "kernel.source.debian", at)
		if !word(s.Debian.Package) {
			at("kernel.source.debian", "no package name, such as package: linux-source-6.12")
		}
	}
	if t := s.Tarball; t != nil {
		n++
		if t.From == "" {
			at("kernel.source.tarball", "no from: a file beside the recipe or an address")
		}
		if IsURL(t.From) && t.SHA256 == "" && t.Signature == "" {
			at("kernel.source.tarball", "an address needs sha256, signature or both, or anybody on the way "+
				"could change the source")
		}
		if t.SHA256 != "" && (len(t.SHA256) != 64 || strings.Trim(t.SHA256, "0123456789abcdef") != "") {
			at("kernel.source.tarball.sha256", fmt.Sprintf("sha256 %q: want 64 lower-case hexadecimal digits",
				t.SHA256))
		}
		if (t.Signature == "") != (t.Keyring == "") {
			at("kernel.source.tarball", "signature and keyring go together: a signature proves nothing "+
				"without the keys that may sign")
		}
	}
	if s.Tree != "" {
		n++
	}
	if n != 1 {
		at("kernel.source", fmt.Sprintf("want exactly one of debian, tarball and tree, got %d", n))
	}
	if len(r.Kernel.Features) == 0 && !has("kernel.features") {
		at("kernel", "no features: a kernel without any cannot boot (try features: [tiny]; features: [] "+
			"leaves all to the fragments)")
	}
	seen := map[string]bool{}
	for i, f := range r.Kernel.Features {
		field := fmt.Sprintf("kernel.features[%d]", i)
		if !slices.Contains(v.Features, f) {
			at(field, fmt.Sprintf("unknown kernel feature %q", f)+didYouMean(f, v.Features))
		}
		if seen[f] {
			at(field, fmt.Sprintf("feature %q stands twice", f))
		}
		seen[f] = true
	}
	for i, p := range r.Kernel.Fragments {
		if p == "" {
			at(fmt.Sprintf("kernel.fragments[%d]", i), "an empty file name")
		}
	}
	for i, p := range r.Kernel.Patches {
		if p == "" {
			at(fmt.Sprintf("kernel.patches[%d]", i), "an empty file name")
		}
	}
	if len(v.Toolchains) > 0 && r.Kernel.Toolchain == "" {
		r.Kernel.Toolchain = v.Toolchains[0]
	}
	if len(v.Toolchains) > 0 && !slices.Contains(v.Toolchains, r.Kernel.Toolchain) {
		at("kernel.toolchain", fmt.Sprintf("unknown tool-chain %q", r.Kernel.Toolchain)+
			didYouMean(r.Kernel.Toolchain, v.Toolchains))
	}
	r.checkModules(at)
	r.checkOverrides(at)
}

func (r *Recipe) checkModules(at note) {
	k := &r.Kernel
	names := map[string]int{}
	for i, p := range k.External {
		field := fmt.Sprintf("kernel.external[%d]", i)
		localPath(field, p, at)
		switch name := ExternalName(p); {
		case p == "" || IsURL(p):
			at(field, "want a folder relative to the recipe")
		case !externalName.MatchString(name):
			at(field, fmt.Sprintf("the folder's name %q: want lower-case letters, digits, - and _", name))
		case names[name] > 0:
			at(field, fmt.Sprintf("a second folder called %q; the first is kernel.external[%d]", name, names[name]-1))
		default:
			names[name] = i + 1
		}
	}
	localPath("kernel.module_key", k.ModuleKey, at)
	if IsURL(k.ModuleKey) {
		at("kernel.module_key", "a key is a file beside the recipe, and comes from no address")
	}
	for _, w := range []struct {
		field string
		set   bool
	}{{"external", len(k.External) > 0}, {"module_key", k.ModuleKey != ""}} {
		if w.set && !k.Modules {
			at("kernel."+w.field, "the kernel has no loadable modules; kernel.modules: true builds them")
		}
	}
}

// externalName is the form of the name of a folder with a module's source.
var externalName = regexp.MustCompile(`^[a-z0-9_][a-z0-9_-]{0,62}$`)

// ExternalName is what a module outside of the kernel is called, by its folder.
func ExternalName(folder string) string { return path.Base(folder) }

func (r *Recipe) checkOverrides(at note) {
	first := map[string]int{}
	for i, o := range r.Kernel.Override {
		field, wrong := fmt.Sprintf("kernel.override[%d]", i), ""
		j, twice := first[o.Option]
		switch first[o.Option] = i; {
		case !optionName.MatchString(o.Option):
			field, wrong = field+".option", fmt.Sprintf(
				"option %q: want the name of a kernel option, such as CONFIG_NET", o.Option)
		case twice:
			field, wrong = field+".option", fmt.Sprintf("%s stands twice; the first is kernel.override[%d]", o.Option,
				j)
		case o.Value == "":
			wrong = "no value: want y, m, n, a decimal or 0x number, or a string"
		case strings.HasPrefix(string(o.Value), `"`) && !optionText.MatchString(string(o.Value)):
			field, wrong = field+".value", fmt.Sprintf(
				"value %s: want a string of one line, with \\ before \" and \\", o.Value)
		case strings.TrimSpace(o.Reason) == "" || strings.ContainsAny(o.Reason, "\n\r"):
			wrong = "no reason, or one of several lines: whoever reads the recipe wants to know why it goes against " +
				"its features"
		}
		if wrong != "" {
			at(field, wrong)
		}
	}
}

func (r *Recipe) checkInitrd(v Vocabulary, at note) {
	in := &r.Initrd
	if in.Agent == "" {
		in.Agent = AgentBuiltin
	}
	if in.Compression == "" {
		in.Compression = manifest.InitrdCompressions()[0]
	}
	if !slices.Contains(manifest.InitrdCompressions(), in.Compression) {
		at("initrd.compression", fmt.Sprintf("unknown compression %q", in.Compression)+didYouMean(
			in.Compression, manifest.InitrdCompressions()))
	}
	localPath("initrd.agent", in.Agent, at)
	r.checkFiles(in.Files, "initrd.files", at)
	links := map[string]bool{}
	for _, f := range in.Files {
		links[f.Path] = f.Link != ""
	}
	for i, f := range in.Files {
		field := fmt.Sprintf("initrd.files[%d]", i)
		if f.Path == "/init" {
			at(field, "/init is the agent; set initrd.agent to use another one")
		}
		for _, above := range above(f.Path) {
			switch {
			case links[above]:
				at(field, fmt.Sprintf(
					"%s lies below the link %s, which an initrd cannot follow: give the path that the link leads to",
					f.Path, above))
			case above == "/init" || above == "/dev/console" || above == "/dev/null":
				at(field, fmt.Sprintf("%s lies below %s, which is no folder of an initrd", f.Path,
					above))
			}
		}
	}
	v.checkURoot(in.URoot, "initrd.uroot", at)
}

// checkURoot finds commands that u-root does not have here.
func (v Vocabulary) checkURoot(names []string, field string, at note) {
	for i, c := range names {
		if v.URoot != nil && !slices.Contains(v.URoot, c) {
			at(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("unknown u-root command %q", c)+didYouMean(c, v.URoot))
		}
	}
}

// checkFiles fills defaults and finds what is wrong with a list of files.
func (r *Recipe) checkFiles(files []File, list string, at note) {
	seen := map[string]int{}
	for i := range files {
		r.checkFile(&files[i], fmt.Sprintf("%s[%d]", list, i), at)
		if j, twice := seen[files[i].Path]; twice {
			at(fmt.Sprintf("%s[%d]", list, i), fmt.Sprintf("path %q stands twice; the first is at %s",
				files[i].Path, r.Place(fmt.Sprintf("%s[%d]", list, j))))
			continue
		}
		seen[files[i].Path] = i
	}
	for i, f := range files {
		for _, above := range above(f.Path) {
			if j, ok := seen[above]; ok && !files[j].Folder && files[j].Link == "" {
				field := fmt.Sprintf("%s[%d]", list, i)
				at(field, fmt.Sprintf("%s lies below %s, which is a file (%s)", f.Path, above,
					r.Place(fmt.Sprintf("%s[%d]", list, j))))
				break
			}
		}
	}
}

func (r *Recipe) checkFile(f *File, field string, at note) {
	if why := guestPath(f.Path); why != "" {
		at(field, fmt.Sprintf("path %q: %s", f.Path, why))
		return
	}
	kinds := 0
	for _, set := range []bool{f.From != "", f.Text != nil, f.Link != "", f.Folder} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		at(field, fmt.Sprintf("%s: want exactly one of from, text, link and folder, got %d", f.Path, kinds))
		return
	}
	localPath(field+".from", f.From, at)
	if len(f.Link) > maxTarget || strings.ContainsRune(f.Link, 0) {
		at(field+".link", fmt.Sprintf("a link to %d bytes: want 1 to %d, without NUL", len(f.Link), maxTarget))
	}
	if f.Link != "" && f.Mode != "" {
		at(field+".mode", "a link has no mode; what it leads to has")
	}
	if f.Mode == "" {
		f.Mode = "0644"
		if f.Folder {
			f.Mode = "0755"
		}
	}
	if _, err := f.Mode.bits(); err != nil {
		at(field+".mode", err.Error())
	}
}

// Limits of Linux, in bytes. <linux/limits.h>: NAME_MAX, and PATH_MAX without its NUL.
const (
	maxComponent = 255
	maxTarget    = 4095
)

// guestPath says what is wrong with a path of the guest; "" is nothing.
func guestPath(p string) string {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
		return "want a clean absolute path in the guest"
	}
	if len(p) > maxTarget {
		return fmt.Sprintf("%d bytes: Linux has paths of at most %d", len(p), maxTarget)
	}
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > maxComponent {
			return fmt.Sprintf("a name of %d bytes in it: Linux has names of at most %d", len(part), maxComponent)
		}
	}
	return ""
}

// above are the paths on the way to a clean absolute one, nearest first, without the root.
func above(p string) (out []string) {
	if !path.IsAbs(p) {
		return nil
	}
	for p = path.Dir(p); p != "/"; p = path.Dir(p) {
		out = append(out, p)
	}
	return out
}

// localPath refuses the path of an input that cannot be one beside the recipe: addresses are no paths.
func localPath(field, p string, at note) {
	switch {
	case IsURL(p) || OwnAgent(p) || p == "":
		return
	case strings.Contains(p, "://"):
		at(field, fmt.Sprintf(
			"%s: want a path relative to the recipe, or an address that begins with http:// or https://", p))
	case path.IsAbs(p):
		at(field, fmt.Sprintf(
			"%s is an absolute path: want one relative to the recipe, so that a checkout elsewhere builds the same", p))
	case strings.ContainsRune(p, 0):
		at(field, fmt.Sprintf("path %q has a NUL", p))
	}
}

// withNVDIMM names the machines whose guests can have one.
func withNVDIMM(a arch.Arch) string {
	var names []string
	for _, m := range a.Machines {
		if m.NVDIMM {
			names = append(names, m.Name)
		}
	}
	return strings.Join(names, " or ")
}

func (r *Recipe) checkBoot(at note) {
	b := &r.Boot
	a, err := arch.Parse(r.Arch)
	if err != nil {
		return // check has noted it
	}
	machines := a.MachineNames()
	if b.Machine == "" {
		b.Machine = machines[0]
	}
	machine, known := a.FindMachine(b.Machine)
	if !known {
		at("boot.machine", fmt.Sprintf("unknown machine %q", b.Machine)+didYouMean(b.Machine, machines))
	}
	if b.CPUs == 0 {
		b.CPUs = 1
	}
	if b.CPUs < 1 || b.CPUs > 240 {
		at("boot.cpus", fmt.Sprintf("cpus is %d, want 1 to 240", b.CPUs))
	}
	if b.Memory == "" {
		b.Memory = "256MiB"
	}
	mib, err := parseMemory(b.Memory)
	if err != nil {
		at("boot.memory", err.Error())
	}
	if step := machine.MemoryStep; err == nil && step > 0 && mib%step != 0 {
		if r.other { // the recipe was written for another machine
			b.Memory = fmt.Sprintf("%dMiB", (mib+step-1)/step*step)
		} else {
			at("boot.memory", fmt.Sprintf("memory %s: the machine %s has multiples of %dMiB", b.Memory, b.Machine,
				step))
		}
	}
	if err == nil && mib < 64 {
		at("boot.memory", fmt.Sprintf("memory %s is too little to boot in, want at least 64MiB", b.Memory))
	}
	switch {
	case r.Image == nil && b.Disk != "":
		at("boot.disk", "a guest without a rootfs has no disk")
	case r.Image != nil && b.Disk == "":
		b.Disk = manifest.Disks()[0]
	case r.Image != nil && !slices.Contains(manifest.Disks(), b.Disk):
		at("boot.disk", fmt.Sprintf("unknown disk %q", b.Disk)+didYouMean(b.Disk, manifest.Disks()))
	case b.Disk == manifest.NVDIMM && known && !machine.NVDIMM:
		at("boot.disk", "only the machine "+withNVDIMM(a)+" has NVDIMMs")
	}
	checkCommandLine(b.CommandLine, at)
}

// IsURL tells an address from a file name.
func IsURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }

// Find turns what a user typed, a folder or a file, into the path of the recipe.
func Find(arg string) string {
	if filepath.Ext(arg) == ".yaml" || filepath.Ext(arg) == ".yml" {
		return arg
	}
	return filepath.Join(arg, FileName)
}

func validName(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-'
}

// word says whether s can stand in a sources.list line and on apt's command line.
func word(s string) bool {
	return s != "" && s[0] != '-' && strings.Trim(s,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-_~:/") == ""
}
