package features

import (
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// FuzzFragment: every setting of a fragment points at the line that says it, and nothing else is a setting. No kernel
// has two of one symbol, whatever their conditions.
func FuzzFragment(f *testing.F) {
	entries, err := files.ReadDir(".")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		if data, err := files.ReadFile(e.Name()); err == nil {
			f.Add(data)
		}
	}
	f.Add([]byte("CONFIG_A=y\n# why\n\nCONFIG_B=m\r\n"))
	f.Add([]byte("#: purpose: a\n#: requires: b, b\n"))
	f.Add([]byte("#: except: s390x\n\n# one\n#: until: 6.14\nCONFIG_A=y\n#: since: 6.15\n# two\nCONFIG_A=m\n"))
	f.Add([]byte("#: only: aarch64, riscv64\nCONFIG_A=y\n\n#: only: x86_64\n#: since: 6.12.37\nCONFIG_A=n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := strings.Split(string(data), "\n")
		for _, reasons := range []bool{false, true} {
			_, settings, err := parse("f", data, reasons)
			if err != nil {
				if !strings.HasPrefix(err.Error(), "f:") {
					t.Errorf("%v names no place", err)
				}
				continue
			}
			want := 0
			for _, l := range lines {
				if _, _, ok, _ := kconfig.ParseLine(l); ok {
					want++
				}
			}
			if len(settings) != want {
				t.Errorf("%d settings in %d lines of settings", len(settings), want)
			}
			for _, a := range arch.All() {
				for _, version := range []string{"", "6.12.117", "6.15-rc1", "7.3"} {
					seen := map[string]bool{}
					for _, w := range (Fragment{Settings: settings}).For(a.Name, version) {
						if seen[w.Symbol] {
							t.Errorf("%s is there twice on %s in %q", w.Symbol, a.Name, version)
						}
						seen[w.Symbol] = true
					}
				}
			}
			for _, w := range settings {
				symbol, value, ok, err := kconfig.ParseLine(lines[w.Line-1])
				if !ok || err != nil || symbol != w.Symbol || value != w.Value || w.File != "f" {
					t.Errorf("%+v is not what line %d says: %q", w, w.Line, lines[w.Line-1])
				}
				if reasons && w.Reason == "" && !strings.Contains(string(data), "#") {
					t.Errorf("%+v has no reason", w)
				}
			}
		}
	})
}
