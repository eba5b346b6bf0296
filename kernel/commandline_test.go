package kernel

import (
	"slices"
	"strings"
	"testing"
)

func TestTheCommandLineSuitsTheMachine(t *testing.T) {
	for _, c := range []struct{ name, machine, want, not string }{
		{"every machine has the console", "microvm", "console=ttyS0", ""},
		{"a panic ends the guest", "q35", "panic=-1", ""},
		{"a machine nobody knows gets no word that could stop it", "pc", "quiet", "nolapic_timer"},
		{"q35 has other timers than the processor's", "q35", "nolapic_timer", ""},
		{"microvm has no timer but the processor's", "microvm", "tsc_early_khz={tsc_khz}", "nolapic_timer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			line, tcg := CommandLine(x86(t), c.machine)
			words := strings.Fields(line + " " + tcg)
			if !slices.Contains(words, c.want) || slices.Contains(words, c.not) {
				t.Errorf("%s: %q + %q", c.machine, line, tcg)
			}
			slices.Sort(words)
			if len(slices.Compact(slices.Clone(words))) != len(words) {
				t.Errorf("a word twice: %q", words)
			}
		})
	}
}

func TestOnlyEmulationIsToldTheClock(t *testing.T) {
	line, tcg := CommandLine(x86(t), "q35")
	if strings.Contains(line, "tsc") || !strings.Contains(tcg, "{tsc_khz}") {
		t.Errorf("%q + %q", line, tcg)
	}
	if line != strings.Join(strings.Fields(line), " ") || tcg != strings.Join(strings.Fields(tcg), " ") {
		t.Errorf("spaces: %q + %q", line, tcg)
	}
}
