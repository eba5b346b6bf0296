package kernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/forbidden"
	"github.com/katabuild/katabuild/kernel/foreign"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/menu"
)

// Foreign is a configuration that somebody else wrote: one file, or several whose later lines count.
type Foreign struct {
	Name  string // what it is called in the fragment
	Files []Fragment
	Form  foreign.Form // empty lets FormOf guess
}

// Imported is what a foreign configuration is in a request's tree, and how to ask for it here.
type Imported struct {
	Form     foreign.Form `json:"form"`
	Features []string     `json:"features"` // that it has whole
	// Overrides are lines for kernel.override: what the features, or those that they require, want otherwise.
	Overrides []string            `json:"overrides"`
	Near      []foreign.Near      `json:"near"`    // that it has most of
	Fragment  []byte              `json:"-"`       // the remainder
	Lines     int                 `json:"lines"`   // of the remainder
	Left      []menu.Left         `json:"left"`    // what features and remainder do not make like it
	Dropped   []Dropped           `json:"dropped"` // what it asks for and does not get in this tree
	Against   *foreign.Difference `json:"against"` // a is the request's own kernel, b the foreign one
	Version   string              `json:"version"` // of the tree
}

// Dropped is a line of a foreign configuration that does not come to be in this tree.
type Dropped struct {
	Line string `json:"line"`
	File string `json:"file"`
	At   int    `json:"at"`
	Got  string `json:"got"`
	Why  string `json:"why"`
}

// importedName is the remainder's name while it is tried.
const importedName = "remainder"

// Import completes a foreign configuration in the request's tree, as its own configurator does, finds the features that
// it has, and writes what remains as a fragment. Then it configures the tree by these, and lists what is otherwise. The
// request's own features are what it is compared with.
func Import(ctx context.Context, r Request, in Foreign) (*Imported, error) {
	r.OnlyConfig = true
	b, err := r.workbench(ctx, &Result{})
	if err != nil {
		return nil, err
	}
	defer b.left.Close()
	var data [][]byte
	var asked []kconfig.Setting
	for _, f := range in.Files {
		settings, err := foreign.Read(f.Name, f.Data)
		if err != nil {
			return nil, err
		}
		asked, data = append(asked, settings...), append(data, f.Data)
	}
	out := &Imported{Form: in.Form, Version: b.sourceVersion, Near: []foreign.Near{}, Features: []string{},
		Overrides: []string{}}
	if out.Form == "" {
		out.Form = foreign.FormOf(data)
	}
	target, err := b.complete(ctx, out.Form, asked)
	if err != nil {
		return nil, err
	}
	tree, err := b.readTree(b.left.FS(maxText))
	if err != nil {
		return nil, err
	}
	k := menu.Kernel{Tree: tree, Final: target, Feature: features.Of}
	out.Dropped = dropped(tree, target, asked)
	all, err := Features(r.Arch)
	if err != nil {
		return nil, err
	}
	of := foreign.Kernel{Arch: r.Arch.Name, Version: b.sourceVersion}
	cover := foreign.Cover(of, all, target)
	out.Features, out.Near = append(out.Features, cover.Features...), append(out.Near, cover.Near...)

	own, _, err := r.settle(b.sourceVersion)
	if err != nil {
		return nil, err
	}
	out.Against = foreign.Compare(of, all, k.Foresee(own), target)

	b.Features, b.Fragments, b.Overrides, b.Modules = out.Features, nil, nil, false
	for i, w := range cover.Aside {
		b.Overrides = append(b.Overrides, Override{Option: "CONFIG_" + w.Symbol, Value: w.Value,
			Reason: "as " + in.Name + " has it", File: in.Name, Line: i + 1})
		out.Overrides = append(out.Overrides, fmt.Sprintf("{option: CONFIG_%s, value: %s, reason: as %s has it}",
			w.Symbol, overrideValue(w.Value), in.Name))
	}
	ours, _, err := b.settle(b.sourceVersion)
	if err != nil {
		return nil, err
	}
	lines, left := k.Remainder(ours, target, forbidden.Why)
	out.Left, out.Lines = left, len(lines)
	out.Fragment = k.Fragment(fmt.Sprintf("What %s has beside the features %s.", in.Name,
		strings.Join(out.Features, ", ")), "", lines)
	return out, b.confirm(ctx, out, target, tree)
}

// confirm configures the tree by an import's features and fragment, and makes Left what the configurator says.
func (b *build) confirm(ctx context.Context, out *Imported, target *kconfig.Config, tree *kconfig.Tree) error {
	b.Fragments = []Fragment{{Name: importedName, Data: out.Fragment}}
	config, wrong := b.configure(ctx)
	if config == nil {
		return wrong
	}
	got, err := kconfig.ParseConfig(".config", config)
	if err != nil {
		return err
	}
	why := map[string]string{}
	for _, l := range out.Left {
		why[l.Option] = l.Why
	}
	out.Left = b.otherwise(target, got, why)
	return wrong
}

// otherwise lists the options that a configuration has as nobody wanted them: want is what was wanted, why the reasons
// that are known, by option.
func (b *build) otherwise(want, got *kconfig.Config, why map[string]string) []menu.Left {
	out := []menu.Left{}
	d := foreign.Compare(foreign.Kernel{Arch: b.Arch.Name, Version: b.sourceVersion}, nil, want, got)
	for _, c := range slices.Concat(d.Rest, d.Facts) {
		if strings.TrimPrefix(c.Option, "CONFIG_") == symbolLocalVersion {
			continue
		}
		w := why[c.Option]
		if w == "" {
			w = "the configurator decides it otherwise"
		}
		out = append(out, menu.Left{Option: c.Option, Want: c.A, Got: c.B, Why: w})
	}
	return out
}

// dropped lists the lines that did not come to be.
func dropped(tree *kconfig.Tree, final *kconfig.Config, asked []kconfig.Setting) []Dropped {
	last := map[string]kconfig.Setting{}
	for _, w := range asked {
		last[w.Symbol] = w
	}
	out := []Dropped{}
	for _, w := range asked {
		// That something is off which there is not is no loss.
		if w != last[w.Symbol] || len(kconfig.Compare([]kconfig.Setting{w}, final)) == 0 || w.Value == `""` {
			continue
		}
		d := Dropped{Line: w.Text(), File: w.File, At: w.Line, Got: string(final.Get(w.Symbol))}
		if tree.Symbol(w.Symbol) == nil {
			d.Why = "this kernel has no such option"
		} else {
			d.Why = tree.Explain(w, final, nil)
		}
		out = append(out, d)
	}
	return out
}

// complete makes a whole configuration of settings.
func (b *build) complete(ctx context.Context, form foreign.Form, settings []kconfig.Setting) (*kconfig.Config, error) {
	var list bytes.Buffer
	// A make with ARCH=x86_64, as others call it, has 64 bits without being told; ours is called with ARCH=x86, which
	// asks. Linux: arch/x86/Kconfig, config 64BIT.
	if b.Arch.Linux == "x86" {
		fmt.Fprintln(&list, "CONFIG_64BIT=y")
	}
	for _, w := range settings {
		fmt.Fprintln(&list, w.Text())
	}
	name := "foreign.config"
	if err := os.WriteFile(filepath.Join(b.WorkDir, name), list.Bytes(), 0o644); err != nil {
		return nil, err
	}
	b.show(name, false)
	target := "alldefconfig"
	switch form {
	case foreign.Fragments:
		target = "allnoconfig"
	case foreign.Whole, foreign.Saved:
	default:
		return nil, fmt.Errorf("form %q: want %s, %s or %s", form, foreign.Whole, foreign.Saved, foreign.Fragments)
	}
	b.phase("configure")
	if err := b.make(ctx, "KCONFIG_ALLCONFIG="+guestDir+"/"+name, target); err != nil {
		return nil, err
	}
	data, err := b.left.ReadFile(".config", maxText)
	if err != nil {
		return nil, collect(err)
	}
	return kconfig.ParseConfig(".config", data)
}
