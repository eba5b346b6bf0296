package early

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/golden"
)

func TestTablePrintsWhatItDoes(t *testing.T) {
	var b strings.Builder
	for _, i := range Table() {
		b.WriteString(i.String())
		if i.Essential {
			b.WriteString("   # essential")
		}
		b.WriteByte('\n')
	}
	golden.Check(t, "table.sh", []byte(b.String()))
}

type step struct {
	name string
	err  error
	done *[]string
}

func (s step) String() string { return s.name }
func (s step) do() error      { *s.done = append(*s.done, s.name); return s.err }

func TestRunStopsOnlyForWhatIsEssential(t *testing.T) {
	boom := errors.New("boom")
	var done []string
	var told []error
	err := Run([]Item{
		{step{"a", nil, &done}, true},
		{step{"b", errors.New("no cgroups"), &done}, false},
		{step{"c", boom, &done}, true},
		{step{"d", nil, &done}, false},
	}, func(err error) { told = append(told, err) })
	if !errors.Is(err, boom) || strings.Join(done, "") != "abc" || len(told) != 1 {
		t.Error(err, done, told)
	}
}

func TestLinkReplacesWhatIsThere(t *testing.T) {
	p := filepath.Join(t.TempDir(), "ptmx")
	for _, before := range []func() error{
		func() error { return nil },
		func() error { return nil }, // the right link is there
		func() error { return errors.Join(os.Remove(p), os.WriteFile(p, nil, 0o600)) },
		func() error { return errors.Join(os.Remove(p), os.Symlink("elsewhere", p)) },
	} {
		if err := before(); err != nil {
			t.Fatal(err)
		}
		if err := (link{Target: "pts/ptmx", Path: p}).do(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(p); err != nil || got != "pts/ptmx" {
			t.Error(got, err)
		}
	}
	if err := (link{Target: "x", Path: filepath.Join(p, "y", "z")}).do(); err == nil {
		t.Error("a link in a folder that is not there")
	}
}

func TestMountedTellsMountPoints(t *testing.T) {
	if !mounted("/proc") {
		t.Error("/proc is not mounted?")
	}
	if mounted(t.TempDir()) {
		t.Error("a plain folder counts as a mount point")
	}
	// What is mounted already is left alone, whoever may mount.
	if err := (Mount{Type: "proc", Source: "proc", Target: "/proc"}).do(); err != nil {
		t.Error(err)
	}
}
