// Package kernel is the component that makes the guest's kernel: real source and a list of features in; bzImage,
// vmlinux, .config, System.map and modules out.
//
// The same Request gives the same bytes on every machine: what decides them is what Inputs lists. The kernel's own make
// runs in a jail without network or privileges. Every option asked for is compared with the final .config, and one that
// came out otherwise is an error that says who asked, where, and why it cannot be. This package does not know recipes,
// stores or guests.
package kernel

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/forbidden"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/makelog"
	"github.com/katabuild/katabuild/kernel/modsign"
	"github.com/katabuild/katabuild/kernel/modules"
	"github.com/katabuild/katabuild/kernel/patches"
	"github.com/katabuild/katabuild/kernel/source"
	"github.com/katabuild/katabuild/kernel/toolchain"
)

// revision changes whenever this package makes other bytes from the same inputs.
const revision = "1"

// Names of the outputs.
const (
	OutputVmlinux   = "vmlinux"     // uncompressed ELF without symbols, with its PVH note
	OutputConfig    = "config"      // the final .config
	OutputSystemMap = "System.map"  // addresses of symbols
	OutputModules   = "modules.tar" // lib/modules/<release>, when asked for
	OutputHeaders   = "headers.tar" // what modules outside of the tree are built against, when asked for
	// OutputModuleKey is the certificate of the key that has signed the modules, in PEM form, where they are signed.
	OutputModuleKey = "modules.pem"
	// The compressed kernel has the architecture's name for it, such as bzImage.
)

// Fragment is a piece of .config somebody adds to the features.
type Fragment struct {
	Name string // for error messages; unique
	Data []byte
}

// Patch is one patch file, applied in the order of the request.
type Patch = patches.Patch

// Override is a value that takes the place of what the features ask of an option.
type Override struct {
	Option string // with CONFIG_
	Value  kconfig.Value
	Reason string
	File   string // where it stands, for error messages
	Line   int
	Source string // the line as it is written; empty when nobody knows
}

// Request is one kernel to build.
type Request struct {
	Arch         arch.Arch
	SourceKind   string        // source.Debian, source.Tarball or source.Tree
	Source       string        // path of the package, tarball or folder
	SourceName   string        // what people call it, for errors; may be empty
	SourceDigest digest.Digest // of the file, or TreeDigest of the folder; checked while unpacking
	Features     []string      // names that Features lists; what they require comes along
	Fragments    []Fragment
	Overrides    []Override
	Patches      []Patch
	Modules      bool // build modules and pack them
	Headers      bool // also pack what modules outside of the tree are built against
	External     []modules.External
	// ModuleKey signs modules where the feature module-signing is asked for: a private key and its certificate in PEM
	// form, which is valid at Time. Without it one is derived from the request, which whoever knows the request can do
	// too.
	ModuleKey []byte
	Time      time.Time // stamped into the kernel
	Toolchain toolchain.Toolchain

	// What follows decides no byte.

	Jobs       int    // commands at once; 0 stands for one
	Objects    int    // Result.Objects of an earlier build, for progress; 0 when unknown
	WorkDir    string // for this build alone, made when missing, full of rubbish afterwards; about 2 GB
	OutDir     string // where outputs are left; made when missing
	Progress   progress.Func
	Log        io.Writer // everything make says; nil drops it
	OnlyConfig bool      // stop once the configuration is checked; the only output is the config
	Kconfig    bool      // with OnlyConfig: also leave the tree's Kconfig files and Makefiles

	ObjectCache ObjectCache
}

// Result is one kernel that was built.
type Result struct {
	Release       string // uname -r of the running kernel
	Version       string // uname -v
	BuildID       string // GNU build-id, hexadecimal
	SourceVersion string // version of the source, such as 6.12.117
	ConfigDigest  digest.Digest
	Outputs       []artifact.Output
	GaveWay       []*kconfig.Unmet // preferences of features that another setting excluded
	Moved         []string         // hunks of patches that applied at another line, for people
	Objects       int              // files compiled and assembled
	CPU           time.Duration
	Compiled      []makelog.Compiled // which objects of C and assembly, with the cache; empty without
}

// Cached counts the objects that came from the cache.
func (r *Result) Cached() int {
	n := 0
	for _, c := range r.Compiled {
		if c.Cached {
			n++
		}
	}
	return n
}

// Features lists what can be asked for by name on an architecture.
func Features(a arch.Arch) ([]features.Feature, error) { return features.All(a) }

// check refuses what Build could not do anyway.
func (r Request) check() error {
	switch {
	case r.Arch.Name == "":
		return errors.New("kernel: no architecture")
	case !slices.Contains(source.Kinds(), r.SourceKind):
		return fmt.Errorf("kernel: source kind %q (known: %s)", r.SourceKind, strings.Join(source.Kinds(), ", "))
	case r.SourceDigest == "":
		return errors.New("kernel: the source has no digest")
	case r.Time.IsZero():
		return errors.New("kernel: no time")
	case len(r.Toolchain.Tools) == 0:
		return errors.New("kernel: no tool-chain")
	}
	for i, f := range r.Fragments {
		if f.Name == "" || slices.ContainsFunc(r.Fragments[:i], func(g Fragment) bool { return g.Name == f.Name }) {
			return fmt.Errorf("kernel: fragment %d has no name of its own (%q)", i+1, f.Name)
		}
	}
	if err := r.checkExternal(); err != nil {
		return err
	}
	if r.ModuleKey != nil {
		if _, err := modsign.Parse(r.ModuleKey, r.Time); err != nil {
			return fmt.Errorf("kernel: the key for modules: %w", err)
		}
	}
	for i, o := range r.Overrides {
		_, value, ok, err := kconfig.ParseLine(o.Option + "=" + string(o.Value))
		if err != nil || !ok || value != o.Value || slices.ContainsFunc(r.Overrides[:i],
			func(p Override) bool { return p.Option == o.Option }) {
			return fmt.Errorf("kernel: override %d (%s=%s) is none, or the second for its option", i+1, o.Option,
				o.Value)
		}
	}
	return nil
}

// features resolves the names, and adds what Modules means.
func (r Request) features() ([]features.Feature, error) {
	names := r.Features
	if r.Modules {
		names = append(slices.Clone(names), features.Modules)
	}
	if r.ModuleKey != nil {
		names = append(slices.Clone(names), features.ModuleSigning)
	}
	return features.Resolve(r.Arch, names)
}

// WantsTypes says whether features, with what they require, mean types of the kernel, for which a tool-chain of the
// host needs pahole.
func WantsTypes(a arch.Arch, names []string) (bool, error) {
	fs, err := features.Resolve(a, names)
	return slices.ContainsFunc(fs, func(f features.Feature) bool { return f.Name == features.BTF }), err
}

// Probes are the names of what the running kernel can be asked to prove, sorted; version is that of its source. What
// overrides and fragments change makes no difference: a probe of what they take away is not met.
func (r Request) Probes(version string) ([]string, error) {
	fs, err := r.features()
	if err != nil {
		return nil, err
	}
	return features.Probes(fs, r.Arch, version), nil
}

// Inputs lists what decides the bytes of the outputs, and nothing else.
func (r Request) Inputs() ([]artifact.Input, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	fs, err := r.features()
	if err != nil {
		return nil, err
	}
	in := []artifact.Input{
		{Name: "kernel revision", Value: revision},
		{Name: "arch", Value: r.Arch.Name},
		{Name: "source", Value: r.SourceKind + " " + string(r.SourceDigest)},
		{Name: "time", Value: strconv.FormatInt(r.Time.Unix(), 10)},
		{Name: "modules", Value: strconv.FormatBool(r.Modules)},
		{Name: "tool-chain", Value: r.Toolchain.Kind},
	}
	if r.OnlyConfig {
		in = append(in, artifact.Input{Name: "only the configuration", Value: "true"})
	}
	if r.Kconfig {
		in = append(in, artifact.Input{Name: "Kconfig files and Makefiles", Value: "true"})
	}
	if r.Headers {
		in = append(in, artifact.Input{Name: "headers", Value: modules.HeadersRevision})
	}
	if r.ModuleKey != nil {
		in = append(in, artifact.Input{Name: "module key", Value: string(digest.Of(r.ModuleKey))})
	}
	for _, x := range r.External {
		in = append(in, artifact.Input{Name: "external module " + x.Name, Value: string(x.Digest)})
	}
	for _, f := range fs {
		in = append(in, artifact.Input{Name: "feature " + f.Name, Value: string(f.Digest())})
	}
	for _, f := range r.Fragments {
		in = append(in, artifact.Input{Name: "fragment " + f.Name, Value: string(digest.Of(f.Data))})
	}
	for _, o := range r.Overrides {
		in = append(in, artifact.Input{Name: "override " + o.Option, Value: string(o.Value)})
	}
	for i, p := range r.Patches {
		in = append(in, artifact.Input{Name: fmt.Sprintf("patch %d", i+1), Value: string(digest.Of(p.Data))})
	}
	for _, t := range r.Toolchain.Identity() {
		in = append(in, artifact.Input{Name: "tool " + t.Name, Value: t.Version + " " + string(t.Digest)})
	}
	return in, nil
}

// Overridden is an override with what it takes the place of.
type Overridden struct {
	Override
	Settings []kconfig.Setting // of features, none of which has the override's value; may be empty
}

// String is one line for people.
func (o Overridden) String() string {
	s := fmt.Sprintf("%s=%s by %s:%d (%q)", o.Option, o.Value, o.File, o.Line, o.Reason)
	if len(o.Settings) == 0 {
		return "override " + s + ": no feature asks otherwise"
	}
	for i, w := range o.Settings {
		s += []string{", against ", " and "}[min(i, 1)] + fmt.Sprintf("%s at %s:%d (%q)", w.Text(), w.File, w.Line,
			w.Reason)
	}
	return "override " + s
}

// Overridden lists what the request's overrides change, in their order, as far as it is the same in all versions of
// Linux.
func (r Request) Overridden() ([]Overridden, error) {
	_, over, err := r.settle("")
	return over, err
}

// settle lists every option asked for in a version of Linux, sorted by symbol, with preferences that no other setting
// for their symbol has replaced, and what the overrides change. An empty version is one that nobody knows yet: what
// depends on it is left out. Settings that contradict each other are one error, a *kconfig.Conflict for each.
func (r Request) settle(version string) ([]kconfig.Setting, []Overridden, error) {
	fs, err := r.features()
	if err != nil {
		return nil, nil, err
	}
	var all []kconfig.Setting
	for _, f := range fs {
		all = append(all, f.Fragment.For(r.Arch.Name, version)...)
	}
	var over []Overridden
	for _, o := range r.Overrides {
		w := kconfig.Setting{Symbol: strings.TrimPrefix(o.Option, "CONFIG_"), Value: o.Value, File: o.File,
			Line: o.Line, Reason: o.Reason, Source: o.Source}
		taken := Overridden{Override: o}
		all = slices.DeleteFunc(all, func(f kconfig.Setting) bool {
			if f.Symbol == w.Symbol && f.Value != w.Value {
				taken.Settings = append(taken.Settings, f)
			}
			return f.Symbol == w.Symbol
		})
		all = append(all, w)
		over = append(over, taken)
	}
	ours := len(all) // what comes behind is of fragments
	for _, f := range r.Fragments {
		parsed, err := features.Parse(f.Name, f.Data)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, parsed.For(r.Arch.Name, version)...)
	}
	var errs []error
	for _, w := range all {
		if why := forbidden.Why(w); why != "" {
			errs = append(errs, w.Wrong(fmt.Sprintf("CONFIG_%s cannot be asked for: %s", w.Symbol, why), false))
		}
	}
	merged, conflicts := kconfig.Merge(all)
	for _, c := range conflicts {
		if slices.Contains(all[:ours-len(over)], c.First) && slices.Contains(all[ours:], c.Second) {
			c.Fix = fmt.Sprintf("leave the line out, or put the feature's setting aside: kernel.override: [{option: "+
				"CONFIG_%s, value: %s, reason: ...}] in the recipe", c.Second.Symbol, overrideValue(c.Second.Value))
		}
		errs = append(errs, c)
	}
	return merged, over, errors.Join(errs...)
}

// overrideValue writes a value as a recipe does: a string there has quotes of YAML around its own.
func overrideValue(v kconfig.Value) string {
	if strings.HasPrefix(string(v), `"`) {
		return "'" + strings.ReplaceAll(string(v), "'", "''") + "'"
	}
	return string(v)
}

// The local version is ours: it lets uname -r prove the configuration.
const (
	symbolLocalVersion     = "LOCALVERSION"
	symbolLocalVersionAuto = "LOCALVERSION_AUTO"
	localVersionPrefix     = "-kb-"
)

// treeName is the kernel tree's folder below WorkDir.
const treeName = "linux"

func (r Request) tree() string { return filepath.Join(r.WorkDir, treeName) }

// modulesName is the folder below WorkDir that modules are installed into.
const modulesName = "modules"
