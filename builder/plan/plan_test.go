package plan

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/artifact"
)

func in(pairs ...string) []artifact.Input {
	var out []artifact.Input
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, artifact.Input{Name: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func TestAKeyIsItsNameAndInputsAndNothingElse(t *testing.T) {
	base := New("kernel", nil, in("a", "1", "b", "2"))
	if k := New("kernel", []string{"source"}, in("b", "2", "a", "1")); k.Key != base.Key {
		t.Error("the order of inputs, or a need, changes the key")
	}
	for name, s := range map[string]Step{
		"the step's name":        New("initrd", nil, in("a", "1", "b", "2")),
		"a value":                New("kernel", nil, in("a", "1", "b", "3")),
		"an input's name":        New("kernel", nil, in("a", "1", "c", "2")),
		"one input more":         New("kernel", nil, in("a", "1", "b", "2", "c", "")),
		"a border between words": New("kernel", nil, in("a", `1","b":"2`)),
	} {
		if s.Key == base.Key {
			t.Errorf("%s does not change the key", name)
		}
	}
}

func TestAMissSaysWhatChanged(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "s"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d, n, err := s.Put("x", strings.NewReader("x"), "")
	if err != nil {
		t.Fatal(err)
	}
	source := New("source", nil, in("digest", "1"))
	kernel := New("kernel", []string{"source"}, in("feature vsock", "1", "gcc", "12", "modules", "no"))
	states := func(k Step) []Status { return Check(s, "guest", []Step{source, k}, []string{"kernel"}) }

	st := states(kernel)
	if st[0].State != miss || st[1].State != miss || !strings.Contains(st[1].Why[0], "never built") {
		t.Errorf("in an empty store: %+v", st)
	}
	if err := s.PutAction(&store.Action{Key: kernel.Key, Step: "kernel", Inputs: kernel.Inputs, ElapsedMS: 2000,
		Outputs: []store.Output{{Name: "bzImage", Digest: d, Size: n}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetLast("guest", "kernel", kernel.Key); err != nil {
		t.Fatal(err)
	}
	if st = states(kernel); st[1].State != hit || st[0].State != unused {
		t.Errorf("after a build: %+v", st)
	}
	changed := New("kernel", []string{"source"}, in("feature vsock", "2", "gcc", "12", "patch a", "x"))
	st = states(changed)
	want := []string{`feature vsock: was "1", is "2"`, `patch a: new, "x"`, `modules: gone, was "no"`}
	if st[1].State != miss || !slices.Equal(st[1].Why, want) || st[1].Expected.Seconds() != 2 || st[0].State != miss {
		t.Errorf("after a change: %+v", st)
	}
}
