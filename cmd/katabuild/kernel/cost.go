package kernel

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// costFlags are what cost is asked for.
type costFlags struct {
	by, boot         string
	most             int
	asJSON, markdown bool
}

func (h *Host) costCmd() *cobra.Command {
	var f costFlags
	c := &cobra.Command{
		Use: "cost RECIPE", Args: cobra.ExactArgs(1),
		Short: "say what each feature and option of a kernel costs: compiling, bytes, boot time",
		Long: `cost says what the features of a recipe's kernel cost, as its last build recorded it: the kernel must be
built, as the recipe and its lock are now, with the cache of objects on. It reads from the Makefiles of the kernel's own
source, patches applied, which options each object is built for, and compiles nothing.

  CPU s   seconds of processor time that the compiler takes for the objects; of one that came from the cache, when it
          was put there, so that figures of two builds on one machine can be compared
  bytes   what of the objects is in the kernel's memory: code, data, and what begins as zeroes
  boot    milliseconds of virtual time in initcalls, one nanosecond an instruction; with --boot alone, which boots the
          guest once under emulation

An object belongs to the feature that asks for the innermost option it is built for; an option that nobody asks for, to
the feature of what selects it. With --by option there is, for each option, what it alone brings by the Makefiles
(alone), and what a kernel would lack that is made without asking for it (gone), with all that depends on it.`,
		Example: "  katabuild kernel cost recipes/default\n" +
			"  katabuild kernel cost recipes/default --by option --most 10\n" +
			"  katabuild kernel cost recipes/default --boot out/default --json",
	}
	open := h.Flags(c.Flags())
	fl := c.Flags()
	fl.StringVar(&f.by, "by", "feature", "feature or option")
	fl.IntVar(&f.most, "most", 20, "how many options to print; 0 is all")
	fl.StringVar(&f.boot, "boot", "", "boot the guest in this `folder`, which must have this kernel, and measure its "+
		"initcalls")
	fl.BoolVar(&f.asJSON, "json", false, "print JSON: all features and options")
	fl.BoolVar(&f.markdown, "markdown", false, "print the tables of docs/kernel-cost.md")
	usage.Rules(c, usage.Rule{Flag: "json", Excludes: []string{"by", "most", "markdown"}, Why: "which has all"},
		usage.Rule{Flag: "markdown", Excludes: []string{"by", "most"}, Why: "which has both tables"})
	c.RunE = func(c *cobra.Command, args []string) error {
		if !slices.Contains([]string{"feature", "option"}, f.by) || f.most < 0 {
			return &usage.Error{Err: fmt.Errorf("--by %q --most %d: want feature or option, and a number from 0", f.by,
				f.most)}
		}
		g, end, err := open(c.Context(), args[0])
		if err != nil {
			return err
		}
		var boot *builder.BootConsole
		if f.boot != "" {
			boot, err = initcalls(c.Context(), f.boot)
		}
		var r *builder.KernelCost
		if err == nil {
			r, err = g.KernelCost(c.Context(), boot)
		}
		end()
		switch {
		case err != nil:
			return err
		case f.asJSON:
			return h.json(r)
		case f.markdown:
			reasons, err := builder.CostReasons()
			if err != nil {
				return err
			}
			return printCostPage(h.Out, r, reasons)
		}
		return printCost(h.Out, r, f)
	}
	return c
}

// initcalls boots a guest in virtual time, and returns what its kernel says of each initcall.
func initcalls(ctx context.Context, dir string) (_ *builder.BootConsole, err error) {
	m, d, err := manifest.Read(dir, "")
	if err != nil {
		return nil, err
	}
	g, err := guest.FromManifest(m, d, dir, "")
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	cfg := sandbox.Config{Guest: g, Hypervisor: hypervisor.Default(), VirtualTime: true, Accel: accel.OnlyTCG,
		Console: &said, Words: []string{"initcall_debug", "ignore_loglevel"}}
	p, err := sandbox.NewPlan(cfg)
	if err != nil {
		return nil, err
	}
	s, err := p.Start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("boot %s for its initcalls: %w", dir, err)
	}
	if err := s.Stop(); err != nil {
		return nil, err
	}
	return &builder.BootConsole{Release: m.Kernel.Release, Said: said.Bytes()}, nil
}

// costTable prints rows whose first column is text and whose others are numbers.
type costTable struct {
	sizes, boot bool
	total       builder.CostSum
}

func tableOf(r *builder.KernelCost) costTable {
	return costTable{sizes: r.Sizes, boot: r.BootUS > 0, total: r.Total}
}

// share is how much of the processor time something takes, in percent.
func (t costTable) share(s builder.CostSum) string {
	if t.total.CPUMS == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(s.CPUMS)/float64(t.total.CPUMS))
}

func (t costTable) bytes(s builder.CostSum) string {
	if !t.sizes {
		return "-"
	}
	return fmt.Sprint(s.Bytes)
}

func cpuSeconds(s builder.CostSum) string { return fmt.Sprintf("%.1f", s.CPU().Seconds()) }

// features are the rows of the table by feature, the heading first.
func (t costTable) features(r *builder.KernelCost) [][]string {
	head := []string{"feature", "options", "objects", "CPU s", "share", "bytes"}
	rows := [][]string{head}
	add := func(name, options string, s builder.CostSum, us int64) {
		row := []string{name, options, fmt.Sprint(s.Objects), cpuSeconds(s), t.share(s), t.bytes(s)}
		if t.boot {
			row = append(row, fmt.Sprintf("%.2f", float64(us)/1000))
		}
		rows = append(rows, row)
	}
	if t.boot {
		rows[0] = append(rows[0], "boot ms")
	}
	for _, f := range r.Features {
		add(f.Name, fmt.Sprint(f.Options), f.Sum, f.BootUS)
	}
	add("all", "", r.Total, r.BootUS)
	return rows
}

// options are the rows of the table by option, the heading first.
func (t costTable) options(all []builder.CostOption) [][]string {
	rows := [][]string{{"option", "feature", "objects", "CPU s gone", "bytes gone", "CPU s alone", "bytes alone"}}
	if t.boot {
		rows[0] = append(rows[0], "boot ms")
	}
	for _, o := range all {
		row := []string{o.Option, o.Feature, fmt.Sprint(o.Gone.Objects), cpuSeconds(o.Gone), t.bytes(o.Gone),
			cpuSeconds(o.Alone), t.bytes(o.Alone)}
		if t.boot {
			row = append(row, fmt.Sprintf("%.2f", float64(o.BootUS)/1000))
		}
		rows = append(rows, row)
	}
	return rows
}

// costOf says of which kernel a table is.
func costOf(r *builder.KernelCost) []string {
	lines := []string{
		fmt.Sprintf("Linux %s, %s", r.Release, r.Toolchain),
		fmt.Sprintf("%d objects, %s CPU s; %d of them from the cache, with the time that compiling them took then",
			r.Total.Objects, cpuSeconds(r.Total), r.Cached),
	}
	if !r.Sizes {
		lines = append(lines, "bytes are not known: the kernel was built by a katabuild that recorded none")
	}
	return lines
}

func printCost(out io.Writer, r *builder.KernelCost, f costFlags) error {
	p := &printer{out: out}
	for _, l := range costOf(r) {
		p.line(0, "%s", l)
	}
	t := tableOf(r)
	rows, text := t.features(r), 1
	var held []builder.CostOption
	if f.by == "option" {
		all := r.Options
		if f.most > 0 {
			all = all[:min(f.most, len(all))]
		}
		rows, text = t.options(all), 2
		held = slices.DeleteFunc(slices.Clone(all), func(o builder.CostOption) bool { return len(o.Held) == 0 })
	}
	p.table(rows, text)
	for _, o := range held {
		p.line(0, "%s would stay on: it is selected by %s", o.Option, strings.Join(o.Held, ", "))
	}
	return p.err
}

// table prints rows, whose first columns are text and whose others are numbers.
func (p *printer) table(rows [][]string, text int) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			if i < text {
				line += fmt.Sprintf("%-*s  ", width[i], cell)
				continue
			}
			line += fmt.Sprintf("%*s  ", width[i], cell)
		}
		p.line(0, "%s", strings.TrimRight(line, " "))
	}
}

// dearest is how many options the page gives a reason for.
const dearest = 10

// printCostPage prints the tables of the page, in Markdown: all features, and the dearest options that are asked for,
// each with what was decided about it.
func printCostPage(out io.Writer, r *builder.KernelCost, reasons []builder.CostReason) error {
	p := &printer{out: out}
	p.line(0, "")
	for _, l := range costOf(r) {
		p.line(0, "- %s", l)
	}
	t := tableOf(r)
	p.markdown(t.features(r), 1)
	asked := slices.DeleteFunc(slices.Clone(r.Options), func(o builder.CostOption) bool { return !o.Asked })
	rows := t.options(asked[:min(dearest, len(asked))])
	for i := range rows {
		rows[i] = append(rows[i], reasonFor(reasons, rows[i][0]))
	}
	rows[0][len(rows[0])-1] = "kept, because"
	p.markdown(rows, 2)
	rows = [][]string{{"option", "what became of it", "because"}}
	for _, d := range reasons {
		switch d.Verdict {
		case "dropped":
			rows = append(rows, []string{d.Option, "dropped", d.Why})
		case "split":
			rows = append(rows, []string{d.Option, fmt.Sprintf("split off to `%s`", d.Feature), d.Why})
		}
	}
	p.markdown(rows, 3)
	return p.err
}

// reasonFor is why an option is kept.
func reasonFor(reasons []builder.CostReason, option string) string {
	for _, d := range reasons {
		if d.Option == option && d.Verdict == "kept" {
			return d.Why
		}
	}
	return "?"
}

// markdown prints a table whose first columns are text.
func (p *printer) markdown(rows [][]string, text int) {
	p.line(0, "")
	for i, row := range rows {
		p.line(0, "| %s |", strings.Join(row, " | "))
		if i == 0 {
			marks := slices.Repeat([]string{"--:"}, len(row))
			for j := range marks {
				if j < text || row[j] == "kept, because" {
					marks[j] = "---"
				}
			}
			p.line(0, "|%s|", strings.Join(marks, "|"))
		}
	}
}
