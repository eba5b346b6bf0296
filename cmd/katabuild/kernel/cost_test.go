package kernel

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/golden"
)

// report is one of a made-up kernel.
func report() *builder.KernelCost {
	sum := func(objects int, ms, bytes int64) builder.CostSum {
		return builder.CostSum{Objects: objects, CPUMS: ms, Bytes: bytes}
	}
	return &builder.KernelCost{
		Release: "6.12.94-kb-0123456789", Toolchain: "gcc-14 (Debian 14.2.0-19) 14.2.0",
		Total: sum(1700, 400_000, 17_000_000), Cached: 12, Sizes: true,
		Features: []builder.CostFeature{
			{Name: "core", Options: 47, Sum: sum(200, 100_000, 9_000_000)},
			{Name: "always built", Sum: sum(355, 90_040, 123)},
			{Name: "small-code", Options: 2},
		},
		Options: []builder.CostOption{
			{Option: "CONFIG_NET", Feature: "core", Asked: true, Alone: sum(384, 90_000, 100),
				Gone: sum(447, 99_950, 200)},
			{Option: "CONFIG_CRC", Feature: "core", Asked: true, Alone: sum(1, 100, 10),
				Held: []string{"CONFIG_FS", "CONFIG_NET"}},
			{Option: "CONFIG_BPF", Feature: "bpf", Alone: sum(1, 90, 10), Gone: sum(1, 90, 10)},
		},
	}
}

func TestHowCostIsPrinted(t *testing.T) {
	var out bytes.Buffer
	print := func(change func(r *builder.KernelCost), f costFlags) {
		t.Helper()
		r := report()
		change(r)
		if out.Len() > 0 {
			out.WriteString("\n")
		}
		if err := printCost(&out, r, f); err != nil {
			t.Fatal(err)
		}
	}
	print(func(*builder.KernelCost) {}, costFlags{by: "feature"})
	print(func(*builder.KernelCost) {}, costFlags{by: "option"})
	print(func(r *builder.KernelCost) {
		r.Sizes, r.BootUS = false, 12345
		r.Features[0].BootUS, r.Options[0].BootUS = 12000, 11000
	}, costFlags{by: "feature"})
	print(func(r *builder.KernelCost) { r.BootUS, r.Options[0].BootUS = 12345, 11000 },
		costFlags{by: "option", most: 1})
	golden.Check(t, "cost.txt", out.Bytes())
}

func TestHowThePageIsPrinted(t *testing.T) {
	var out bytes.Buffer
	if err := printCostPage(&out, report(), []builder.CostReason{
		{Option: "CONFIG_NET", Verdict: "kept", Why: "guests have networks"},
		{Option: "CONFIG_SHPC", Verdict: "dropped", Why: "no machine has it"},
		{Option: "CONFIG_XFS", Verdict: "split", Feature: "xfs", Why: "few use it"},
	}); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "cost.md", out.Bytes())
}

// TestThePageOnCostHasAReasonForEachOfTheDearest holds the page's table against the reasons, and the reasons against
// the set default.
func TestThePageOnCostHasAReasonForEachOfTheDearest(t *testing.T) {
	page, err := os.ReadFile("../../../docs/kernel-cost.md")
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := builder.CostReasons()
	if err != nil {
		t.Fatal(err)
	}
	all, err := builder.Features(arch.All()[0], "")
	if err != nil {
		t.Fatal(err)
	}
	asked := func(option string) (by []string) {
		for _, f := range all {
			if slices.ContainsFunc(f.Symbols, func(s builder.Symbol) bool { return s.Setting == option+"=y" }) {
				by = append(by, f.Name)
			}
		}
		return by
	}
	var inTable []string
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, " | ")
		if option, ok := strings.CutPrefix(cells[0], "| CONFIG_"); ok && len(cells) > 3 {
			inTable = append(inTable, "CONFIG_"+option)
			if why := reasonFor(reasons, "CONFIG_"+option); why == "?" || strings.TrimSuffix(cells[len(cells)-1],
				" |\n") != why {
				t.Errorf("CONFIG_%s: kernel/cost/reasons.txt says %q, the page %q (make cost-page)", option, why,
					cells[len(cells)-1])
			}
		}
	}
	if len(inTable) != dearest {
		t.Errorf("the page has %d options, want %d", len(inTable), dearest)
	}
	set := closure(all, "default")
	for _, d := range reasons {
		switch by := asked(d.Option); {
		case d.Verdict == "kept" && !slices.ContainsFunc(by, func(f string) bool { return slices.Contains(set, f) }):
			t.Errorf("%s was kept, and nothing in the set default asks for it", d.Option)
		case d.Verdict == "split" && !slices.Contains(by, d.Feature):
			t.Errorf("%s is not asked for by %s, which it was split off to", d.Option, d.Feature)
		case d.Verdict != "kept" && slices.ContainsFunc(by, func(f string) bool { return slices.Contains(set, f) }):
			t.Errorf("%s was %s, and %v in the set default asks for it", d.Option, d.Verdict, by)
		}
	}
}

// closure is a feature with all that it requires.
func closure(all []builder.Feature, name string) []string {
	out := []string{name}
	for i := 0; i < len(out); i++ {
		for _, f := range all {
			for _, r := range f.Requires {
				if f.Name == out[i] && !slices.Contains(out, r) {
					out = append(out, r)
				}
			}
		}
	}
	return out
}
