package kernel

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/builder"
)

func (h *Host) explainCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "explain CONFIG_X [RECIPE]", Args: cobra.RangeArgs(1, 2),
		Short: "say what an option is, who asked for it, and what would switch it on",
		Long: `explain says of an option of a recipe's kernel: its value, who asked for it (feature, file, line and
reason), its type, prompt and help, what it depends on with the value of each part, what selects or implies it, and,
if it is off, a smallest set of lines that would switch it on. Lines that somebody has decided otherwise are marked:
those need kernel.override in the recipe, the others go into a fragment. It reads the Kconfig files of the recipe's
own kernel source, patches applied, and compiles nothing. The first question takes seconds; the answer's material
stays in the store. A misspelt name is answered with the nearest ones.`,
		Example: "  katabuild kernel explain CONFIG_VIRTIO_FS recipes/minimal\n" +
			"  katabuild kernel explain DEBUG_INFO_BTF --json",
	}
	open := h.Flags(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		recipe := ""
		if len(args) > 1 {
			recipe = args[1]
		}
		g, end, err := open(c.Context(), recipe)
		if err != nil {
			return err
		}
		o, err := g.Options(c.Context())
		end()
		if err != nil {
			return err
		}
		if o.Wrong != nil {
			fmt.Fprintf(h.Err, "katabuild: the configuration is not what was asked for:\n%v\n", o.Wrong)
		}
		a := o.Menu.Explain(args[0])
		switch {
		case asJSON:
			err = h.json(a)
		case a.Known:
			err = printAccount(h.Out, a)
		}
		if err != nil || a.Known {
			return err
		}
		return unknown(a)
	}
	return c
}

// unknown says that a kernel has no such option.
func unknown(a *builder.Account) error {
	s := fmt.Sprintf("this kernel has no %s", a.Option)
	if len(a.Nearest) > 0 {
		s += "; the nearest are " + strings.Join(a.Nearest, ", ")
	}
	for _, w := range a.Asked {
		s += fmt.Sprintf("; %s:%d asks for it", w.File, w.At)
	}
	return errors.New(s)
}

// printer prints lines with an indentation.
type printer struct {
	out io.Writer
	err error
}

func (p *printer) line(depth int, format string, args ...any) {
	_, err := fmt.Fprintf(p.out, strings.Repeat("  ", depth)+format+"\n", args...)
	p.err = errors.Join(p.err, err)
}

func printAccount(out io.Writer, a *builder.Account) error {
	p := &printer{out: out}
	p.line(0, "%s=%s, a %s", a.Option, a.Value, a.Type)
	for _, w := range a.Asked {
		p.line(1, "asked for by %s", who(w))
	}
	if len(a.Asked) == 0 {
		p.line(1, "nobody asked for it by name")
	}
	for _, d := range a.Definitions {
		p.definition(d)
	}
	p.by("selected by", a.SelectedBy)
	p.by("implied by", a.ImpliedBy)
	switch {
	case a.Unreachable:
		p.line(0, "to switch it on: no settings were found")
	case len(a.Wish) > 0:
		p.line(0, "to switch it on, ask for:")
		for _, l := range a.Wish {
			text := l.Line
			if l.Prompt != "" {
				text = fmt.Sprintf("%-40s # %s", text, l.Prompt)
			}
			p.line(1, "%s", strings.TrimRight(text, " "))
			for _, w := range l.Against {
				p.line(2, "by kernel.override, as %s asks otherwise", who(w))
			}
		}
	}
	for i, o := range a.Also {
		if i == mostAlso {
			p.line(1, "and %d more", len(a.Also)-i)
			break
		}
		if i == 0 {
			p.line(0, "that also makes:")
		}
		p.line(1, "%s=%s", o.Option, o.Value)
	}
	return p.err
}

// mostAlso is how many options are shown that a wish changes beside its own.
const mostAlso = 12

// who says who asked for a line, and why.
func who(w builder.AskedLine) string {
	s := fmt.Sprintf("%s:%d", w.File, w.At)
	if w.Feature != "" {
		s += ", feature " + w.Feature
	}
	s += ": " + w.Line
	if w.Preference {
		s += " (gives way to others)"
	}
	if w.Reason != "" {
		s += fmt.Sprintf(" %q", w.Reason)
	}
	return s
}

func (p *printer) definition(d builder.OptionDefinition) {
	p.line(0, "defined at %s:%d", d.File, d.Line)
	if len(d.Menu) > 0 {
		p.line(1, "menu: %s", strings.Join(d.Menu, " > "))
	}
	if d.Prompt != "" {
		p.line(1, "prompt: %s", d.Prompt)
	} else {
		p.line(1, "no prompt: nobody can ask for it by name")
	}
	for _, c := range d.Depends {
		p.condition(1, "depends on ", c)
	}
	for _, c := range d.Visible {
		p.condition(1, "can be asked for only if ", c)
	}
	for _, x := range d.Default {
		if x.If == nil {
			p.line(1, "default %s", x.Value)
			continue
		}
		p.condition(1, "default "+x.Value+" if ", *x.If)
	}
	for _, r := range d.Range {
		p.line(1, "from %s", r)
	}
	for i, m := range d.Choice {
		if i == 0 {
			p.line(1, "one of a choice:")
		}
		p.line(2, "%s=%s", m.Option, m.Value)
	}
	for i, l := range d.Help {
		if i == 0 {
			p.line(1, "help:")
		}
		if l == "" {
			p.line(0, "")
			continue
		}
		p.line(2, "%s", l)
	}
}

func (p *printer) condition(depth int, words string, c builder.OptionCondition) {
	p.line(depth, "%s%s: %s", words, c.Text, c.Value)
	for _, part := range c.Parts {
		p.condition(depth+1, "", part)
	}
}

// mostBy is how many options are shown that select another one and do not do it now.
const mostBy = 8

func (p *printer) by(words string, all []builder.OptionBy) {
	idle := 0
	for _, b := range all {
		if !b.Active {
			if idle++; idle > mostBy {
				continue
			}
		}
		state := "not active"
		if b.Active {
			state = "active"
		}
		p.line(0, "%s %s=%s, %s", words, b.Option, b.Value, state)
		if b.If != nil {
			p.condition(1, "if ", *b.If)
		}
	}
	if idle > mostBy {
		p.line(0, "%s %d more, not active", words, idle-mostBy)
	}
}
