package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/builder/inputs"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/builder/tasks"
	"github.com/katabuild/katabuild/internal/registry"
)

func TestErrorsComeWithTheWayOut(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("anything"), ""},
		{&inputs.NoLock{Path: "r/lock.json", Recipe: "r"}, "katabuild lock r"},
		{&inputs.StaleLock{Path: "r/lock.json", Recipe: "r", Why: "w"}, "katabuild lock r"},
		{&tasks.ChangedInput{Name: "n", Recipe: "r", Err: errors.New("e")},
			"undo the change, or run: katabuild lock r"},
		{&tasks.Offline{What: "w"}, "without --offline"},
		{&tasks.Offline{What: "w", Recipe: "r"}, "katabuild fetch r"},
		{&builder.NoAgent{Err: fs.ErrNotExist}, "--agent"},
		{&builder.NoAgent{Err: fs.ErrNotExist, Rego: true}, "make agent-rego"},
		{fetch.ErrGone, "katabuild lock --update"},
		{&fetch.NoArchive{Suite: "trixie"}, "--archive ADDRESS"},
		{&builder.NoTimes{Recipe: "r/recipe.yaml"}, "run: katabuild build r"},
		{&builder.NoTimes{Recipe: "r/recipe.yaml", Built: true, Err: errors.New("e")},
			"katabuild store gc --unused-for 0, then katabuild build r"},
		{&registry.Refused{Registry: "h", Err: errors.New("e")}, "--registry-auth"},
		{&registry.Insecure{Scheme: "http", Host: "h:5000"}, "--registry-insecure h:5000"},
		{&store.Full{Dir: "d", Err: errors.New("e")}, "katabuild store gc"},
		{&store.OtherLayout{Dir: "d", Layout: "2"}, "--store"},
		{&store.Unsafe{}, "--store-shared"},
		{&fs.PathError{Op: "open", Path: "out/x/manifest.json", Err: fs.ErrNotExist},
			"katabuild build RECIPE -o out/x"},
		{&fs.PathError{Op: "open", Path: "out/x/vmlinux", Err: fs.ErrNotExist}, ""},
		{&execute.Failure{Log: "l", Err: errors.New("e")}, "in l"},
		{&execute.Failure{Log: "l", Err: &store.Full{Dir: "d", Err: errors.New("e")}}, "katabuild store gc"},
	} {
		got := hintFor(fmt.Errorf("a step: %w", c.err))
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%v: the hint is %q, want %q in it", c.err, got, c.want)
		}
	}
}
