package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/forbidden"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/menu"
)

// Editors lists the kernel's own editors that run in a terminal.
func Editors() []string { return []string{"menuconfig", "nconfig"} }

// Editing is how a person edits the options of a request's kernel.
type Editing struct {
	Editor string // one of Editors
	// Terminal calls run with a terminal for the editor alone, in front of the person.
	Terminal func(run func(tty *os.File) error) error
	Term     string   // what kind of terminal it is: $TERM
	Terminfo []byte   // what is known of that kind, as terminfo(5) has it; empty where the tool-chain's root knows
	Fragment Fragment // what is there of the fragment that the changes go into
	Reason   string   // stands above each group of changes
}

// Edited is what a person changed.
type Edited struct {
	Changes   []kconfig.Setting
	Fragment  []byte   // the whole file, with what there was of it
	Overrides []string // lines for kernel.override, with their reasons left open: what features ask otherwise
	Elsewhere []string // lines of other fragments that ask otherwise, and have to be changed there
	Left      []menu.Left
}

// NoCurses says that the tool-chain has no ncurses to compile an editor with.
type NoCurses struct{ Err error }

func (e *NoCurses) Error() string { return fmt.Sprintf("the kernel's editor needs ncurses: %v", e.Err) }

// Unwrap is what the kernel's make said.
func (e *NoCurses) Unwrap() error { return e.Err }

// Edit lets a person change the merged configuration of a request in the kernel's own editor, and makes a fragment of
// what was changed: a line for each option that has another value and can be asked for by name. In the end the
// configurator makes a configuration with it, and Left lists what is otherwise.
func Edit(ctx context.Context, r Request, e Editing) (*Edited, error) {
	if !slices.Contains(Editors(), e.Editor) {
		return nil, fmt.Errorf("editor %q: want one of %s", e.Editor, strings.Join(Editors(), ", "))
	}
	r.OnlyConfig = true
	b, err := r.workbench(ctx, &Result{})
	if err != nil {
		return nil, err
	}
	defer b.left.Close()
	data, err := b.configure(ctx)
	if err != nil {
		return nil, err
	}
	before, err := kconfig.ParseConfig(".config", data)
	if err != nil {
		return nil, err
	}
	if err := b.make(ctx, "build_"+e.Editor); err != nil {
		if m := (*makeError)(nil); errors.As(err, &m) && strings.Contains(strings.Join(m.Lines, " "), "ncurses") {
			err = &NoCurses{err}
		}
		return nil, err
	}
	if err := b.edit(ctx, e); err != nil {
		return nil, err
	}
	if data, err = b.left.ReadFile(".config", maxText); err != nil {
		return nil, collect(err)
	}
	after, err := kconfig.ParseConfig(".config", data)
	if err != nil {
		return nil, err
	}
	tree, err := b.readTree(b.left.FS(maxText))
	if err != nil {
		return nil, err
	}
	k := menu.Kernel{Tree: tree, Final: before, Feature: features.Of}
	asked, _, err := b.settle(b.sourceVersion)
	if err != nil {
		return nil, err
	}
	out := changes(k, asked, after, e)
	if len(out.Changes) == 0 {
		return out, nil
	}
	return out, b.confirmEdit(ctx, out, after, e)
}

// changes sorts what was changed by where it has to be said.
func changes(k menu.Kernel, asked []kconfig.Setting, after *kconfig.Config, e Editing) *Edited {
	firm := map[string]kconfig.Setting{}
	for _, w := range asked {
		if !w.Preference && w.File != e.Fragment.Name {
			firm[w.Symbol] = w
		}
	}
	out := &Edited{}
	var lines []kconfig.Setting
	for _, w := range k.Differing(k.Final, after) {
		if w.Symbol == symbolLocalVersion || w.Symbol == symbolLocalVersionAuto {
			continue
		}
		if why := forbidden.Why(w); why != "" {
			out.Left = append(out.Left, menu.Left{Option: "CONFIG_" + w.Symbol, Want: string(w.Value),
				Got: string(k.Final.Get(w.Symbol)), Why: why})
			continue
		}
		out.Changes = append(out.Changes, w)
		switch f, ok := firm[w.Symbol]; {
		case !ok:
			lines = append(lines, w)
		case features.Owns(f.File):
			out.Overrides = append(out.Overrides, fmt.Sprintf(
				"{option: CONFIG_%s, value: %s, reason: } # %s:%d asks for %s",
				w.Symbol, overrideValue(w.Value), f.File, f.Line, f.Value))
		default:
			out.Elsewhere = append(out.Elsewhere, fmt.Sprintf("%s:%d asks for %s, and you for %s", f.File, f.Line,
				f.Text(),
				w.Text()))
		}
	}
	out.Fragment = renew(e.Fragment.Data, k, lines, e.Reason)
	return out
}

// renew adds lines to a fragment, and takes what there was for the same options out of it.
func renew(old []byte, k menu.Kernel, lines []kconfig.Setting, reason string) []byte {
	var kept bytes.Buffer
	for line := range strings.Lines(string(old)) {
		symbol, _, ok, err := kconfig.ParseLine(strings.TrimSuffix(line, "\n"))
		if ok && err == nil && slices.ContainsFunc(lines, func(w kconfig.Setting) bool { return w.Symbol == symbol }) {
			continue
		}
		kept.WriteString(line)
	}
	if len(lines) > 0 {
		kept.Write(k.Fragment("", reason, lines))
	}
	return bytes.TrimLeft(kept.Bytes(), "\n")
}

// confirmEdit configures the tree by an edit's fragment and overrides, and lists what is otherwise.
func (b *build) confirmEdit(ctx context.Context, out *Edited, after *kconfig.Config, e Editing) error {
	if len(out.Elsewhere) > 0 {
		return nil // these contradict each other until somebody has changed the others
	}
	b.Fragments = slices.DeleteFunc(slices.Clone(b.Fragments),
		func(f Fragment) bool { return f.Name == e.Fragment.Name })
	b.Fragments = append(b.Fragments, Fragment{Name: e.Fragment.Name, Data: out.Fragment})
	inFile, err := features.Parse(e.Fragment.Name, out.Fragment)
	if err != nil {
		return err
	}
	for i, w := range out.Changes {
		if !slices.ContainsFunc(inFile.Settings, func(f kconfig.Setting) bool { return f.Symbol == w.Symbol }) {
			b.Overrides = append(slices.DeleteFunc(slices.Clone(b.Overrides), func(o Override) bool {
				return o.Option == "CONFIG_"+w.Symbol
			}), Override{Option: "CONFIG_" + w.Symbol, Value: w.Value, Reason: "changed in " + e.Editor, File: e.Editor,
				Line: i + 1})
		}
	}
	data, wrong := b.configure(ctx)
	if data == nil {
		return wrong
	}
	got, err := kconfig.ParseConfig(".config", data)
	if err != nil {
		return err
	}
	out.Left = append(out.Left, b.otherwise(after, got, nil)...)
	return wrong
}

// terminfoName is the folder below WorkDir with what is known of the terminal. terminfo(5): an entry lies in a folder
// called by its first letter.
const terminfoName = "terminfo"

// edit runs the editor.
func (b *build) edit(ctx context.Context, e Editing) error {
	env := append(b.environment(), "TERM="+e.Term)
	if len(e.Terminfo) > 0 && e.Term == filepath.Base(e.Term) {
		dir := filepath.Join(b.WorkDir, terminfoName, e.Term[:1])
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, e.Term), e.Terminfo,
			0o644)); err != nil {
			return err
		}
		b.show(terminfoName, false)
		env = append(env, "TERMINFO="+guestDir+"/"+terminfoName)
	}
	// Nothing else runs beside it, and nobody collects what it writes.
	one := b.Request
	one.Jobs = 1
	return e.Terminal(func(tty *os.File) error {
		_, err := jail.Command{Args: one.makeArgs(e.Editor), Env: env, Root: b.Toolchain.Root, Binds: b.binds,
			Terminal: tty}.Run(ctx)
		return err
	})
}
