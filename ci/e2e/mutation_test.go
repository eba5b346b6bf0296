package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// Variables of the tests that take options away.
const (
	// mutations is how many of the options that probes cover are taken away, evenly spread; "all" is all. Empty is
	// defaultMutations.
	mutations = "KATABUILD_TEST_MUTATIONS"
	// mutationFeatures are the features of the kernel that they are taken from, separated by commas. Empty is tiny.
	mutationFeatures = "KATABUILD_TEST_MUTATION_FEATURES"
)

const defaultMutations = 2

// covered is an option that probes cover, and what is asked of it.
type covered struct {
	kconfig.Setting
	probes []string
}

// coverage is what a set of features asks of x86_64, in Linux of a version: what probes cover, and the rest, by symbol.
func coverage(t *testing.T, version string, names ...string) (with []covered, without []kconfig.Setting) {
	t.Helper()
	a, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	fs, err := features.Resolve(a, names)
	if err != nil {
		t.Fatal(err)
	}
	claimed, by := features.Probes(fs, a, version), map[string][]string{}
	for _, f := range fs {
		for _, p := range features.Proofs()[f.Name].Probes {
			if slices.Contains(claimed, p.Name) {
				for _, s := range p.Covers {
					by[s] = append(by[s], p.Name)
				}
			}
		}
	}
	var all []kconfig.Setting
	for _, f := range fs {
		all = append(all, f.Fragment.For(a.Name, version)...)
	}
	merged, conflicts := kconfig.Merge(all)
	for _, c := range conflicts {
		t.Error(c)
	}
	for _, w := range merged {
		if by[w.Symbol] == nil {
			without = append(without, w)
			continue
		}
		with = append(with, covered{w, by[w.Symbol]})
	}
	return with, without
}

// chosen are those that this run takes away.
func chosen(t *testing.T, all []covered) []covered {
	t.Helper()
	n := defaultMutations
	switch v := os.Getenv(mutations); v {
	case "":
	case "all":
		return all
	default:
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 0 {
			t.Fatalf("%s=%s: want a number, or all", mutations, v)
		}
	}
	n = min(n, len(all))
	var out []covered
	for i := range n {
		out = append(out, all[(2*i+1)*len(all)/(2*n)])
	}
	return out
}

// contrary is a value that is not the one that is asked for.
func contrary(v kconfig.Value) string {
	switch v {
	case "y", "m":
		return "n"
	case "n":
		return "y"
	}
	if strings.HasPrefix(string(v), `"`) {
		return `'""'`
	}
	return "7"
}

// restsOn says whether the feature of a probe, one that it requires, or one that the probe needs besides asks for a
// symbol.
func restsOn(t *testing.T, probe, symbol string) bool {
	t.Helper()
	a, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	feature, _, _ := strings.Cut(probe, ".")
	names := []string{feature}
	for _, p := range features.Proofs()[feature].Probes {
		if p.Name == probe {
			names = append(names, p.With...)
		}
	}
	fs, err := features.Resolve(a, names)
	if err != nil {
		return false // a claim that is none of a probe
	}
	return slices.ContainsFunc(fs, func(f features.Feature) bool {
		return slices.ContainsFunc(f.Fragment.Settings, func(w kconfig.Setting) bool { return w.Symbol == symbol })
	})
}

// TestAnOptionThatIsTakenAwayIsMissed takes options away, one a kernel, and wants each to be missed: by the
// configuration, since other options that features ask for need it; by the guest, which does not come up; or by a probe
// that covers it, and by none that it has nothing to do with. What others select too cannot be taken away.
func TestAnOptionThatIsTakenAwayIsMissed(t *testing.T) {
	need(t, testenv.Asked("KATABUILD_TEST_KERNEL", "test-kernel"))
	set := features.Tiny
	if v := os.Getenv(mutationFeatures); v != "" {
		set = v
	}
	m, _, err := manifest.Read(tiny(t), "")
	if err != nil {
		t.Fatal(err)
	}
	version, _, _ := strings.Cut(m.Kernel.Release, "-")
	with, without := coverage(t, version, strings.Split(set, ",")...)
	var names []string
	for _, w := range without {
		names = append(names, w.Symbol)
	}
	t.Logf("%d options are covered by probes; %d are not: %s", len(with), len(names), strings.Join(names, " "))
	for _, c := range chosen(t, with) {
		t.Run(c.Symbol, func(t *testing.T) {
			dir := t.TempDir()
			text, err := os.ReadFile(abs(t, "recipes/tiny/recipe.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(text), "features: [tiny]\n", fmt.Sprintf("features: [%s]\n  override:\n"+
				"    - {option: CONFIG_%s, value: %s, reason: to see whether it is missed}\n", set, c.Symbol,
				contrary(c.Value)), 1)
			if err := os.WriteFile(filepath.Join(dir, "recipe.yaml"), []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(dir, "out")
			r := katabuild(t, nil, "build", dir, "--lock", abs(t, "out/tiny.lock.json"), "-o", out)
			if r.code != 0 {
				if !strings.Contains(r.err, "asked for CONFIG_") {
					t.Fatalf("the build fails otherwise:\n%s", r.err)
				}
				if strings.Contains(r.err, "asked for CONFIG_"+c.Symbol+"=") {
					t.Log("cannot be taken away: others select it, or have it by default")
				} else {
					t.Log("missed by the configuration")
				}
				return
			}
			r = katabuild(t, nil, "boot", out, "--probe", "--json")
			if r.code != 0 && r.out == "" {
				t.Logf("missed by the guest, which does not come up: %.300s", r.err)
				return
			}
			failed, missed := unmet(t, r), false
			for _, u := range failed {
				name := strings.TrimPrefix(u, "probe ")
				missed = missed || slices.Contains(c.probes, name)
				if !slices.Contains(c.probes, name) && !restsOn(t, name, c.Symbol) {
					t.Errorf("%s is not met, and has nothing to do with it", u)
				}
			}
			if !missed {
				t.Errorf("none of %v misses it; not met: %v", c.probes, failed)
			}
			t.Logf("missed by %v", failed)
		})
	}
}
