package arch

import (
	"strings"
	"testing"
)

func TestEveryNameFindsItsRow(t *testing.T) {
	for _, a := range All() {
		if b, err := Parse(a.Name); err != nil || b != a {
			t.Errorf("%s: %v", a.Name, err)
		}
		if b, err := FromGo(a.Go); err != nil || b != a {
			t.Errorf("%s: %v", a.Go, err)
		}
	}
	if _, err := Parse("vax"); err == nil || !strings.Contains(err.Error(), "x86_64") {
		t.Errorf("an unknown name: %v", err)
	}
}
