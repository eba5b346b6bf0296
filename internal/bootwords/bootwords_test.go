package bootwords

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
)

func x86(t *testing.T) arch.Arch {
	t.Helper()
	a, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestTheCommandLineSuitsTheMachine(t *testing.T) {
	for _, c := range []struct{ name, machine, want, not string }{
		{"every machine has the console", "microvm", "console=ttyS0", ""},
		{"a panic ends the guest", "q35", "panic=-1", ""},
		{"a machine nobody knows gets no word that could stop it", "pc", "quiet", "nolapic_timer"},
		{"q35 has other timers than the processor's", "q35", "nolapic_timer", ""},
		{"microvm has no timer but the processor's", "microvm", "tsc_early_khz={tsc_khz}", "nolapic_timer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			line, tcg := Built(x86(t), c.machine)
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
	line, tcg := Built(x86(t), "q35")
	if strings.Contains(line, "tsc") || !strings.Contains(tcg, "{tsc_khz}") {
		t.Errorf("%q + %q", line, tcg)
	}
	if line != strings.Join(strings.Fields(line), " ") || tcg != strings.Join(strings.Fields(tcg), " ") {
		t.Errorf("spaces: %q + %q", line, tcg)
	}
}

func TestTheWordsOfEachArchitectureAreItsOwn(t *testing.T) {
	for _, a := range arch.All() {
		line, tcg := Plain(a, PlainRoot{})
		if !strings.HasPrefix(line, "console="+a.Console+" quiet panic=-1 ") || tcg != a.TCGWords {
			t.Errorf("%s: %q + %q", a.Name, line, tcg)
		}
		if built, _ := Built(a, a.Machine); (a.Name == "x86_64") != strings.Contains(built, "reboot=t") ||
			strings.Contains(built, "numa") {
			t.Errorf("%s: %q", a.Name, built)
		}
		if (a.Name == "riscv64") != strings.Contains(line, "numa=off") {
			t.Errorf("%s: %q", a.Name, line)
		}
	}
}

func TestAHostsClockIsPutInAndFoundAgain(t *testing.T) {
	_, tcg := Built(x86(t), "q35")
	for khz, want := range map[int]string{
		2600000: "tsc_early_khz=2600000 tsc=reliable no_timer_check nolapic_timer GODEBUG=cpu.avx2=off",
		0:       "tsc=reliable no_timer_check nolapic_timer GODEBUG=cpu.avx2=off",
	} {
		got := OnHost(tcg, khz)
		if got != want {
			t.Errorf("%d kHz: %q, want %q", khz, got, want)
		}
		if ok, err := regexp.MatchString("^"+Pattern(tcg)+"$", got); ok != (khz > 0) || err != nil {
			t.Errorf("%d kHz: found again: %v, %v", khz, ok, err)
		}
	}
	if ok, _ := regexp.MatchString(Pattern("a.b"), "axb"); ok {
		t.Error("a dot is any character")
	}
}
