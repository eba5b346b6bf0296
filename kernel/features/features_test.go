package features

import "testing"

import "github.com/katabuild/katabuild/internal/arch"

func TestDump(t *testing.T) {
	a, _ := arch.Parse("x86_64")
	for _, n := range []string{"default", "tiny"} {
		fs, err := Resolve(a, []string{n})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fs {
			for _, w := range f.Fragment.Wishes {
				println(n, w.Setting())
			}
		}
	}
}
