package features

import (
	"strings"
	"testing"

	"github.com/katabuild/katabuild/kernel/kconfig"
)

// FuzzFragment: every setting of a fragment points at the line that says it, and nothing else is a setting.
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
