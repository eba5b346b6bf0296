package features

import (
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
)

// asksFor lists the symbols that a feature, or one that it requires, sets somewhere.
func asksFor(t *testing.T, name string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, a := range arch.All() {
		fs, err := Resolve(a, []string{name})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fs {
			for _, w := range f.Fragment.Settings {
				out[w.Symbol] = true
			}
		}
	}
	return out
}

func TestEveryFeatureIsProvedOrSaysWhyNot(t *testing.T) {
	all, err := All(x86(t))
	if err != nil {
		t.Fatal(err)
	}
	proofs, names := Proofs(), map[string]bool{}
	for _, f := range all {
		p, ok := proofs[f.Name]
		delete(proofs, f.Name)
		if !ok || (len(p.Probes) == 0) == (p.Why == "") {
			t.Errorf("feature %s: want probes in probes.go, or the reason why there are none", f.Name)
		}
		symbols := asksFor(t, f.Name)
		for _, pr := range p.Probes {
			if pr.Name != f.Name && !strings.HasPrefix(pr.Name, f.Name+".") {
				t.Errorf("probe %s is listed under the feature %s", pr.Name, f.Name)
			}
			if names[pr.Name] || pr.Proves == "" || strings.HasSuffix(pr.Proves, ".") || len(pr.Covers) == 0 {
				t.Errorf("probe %s: twice, without a line of what it proves, or covering nothing", pr.Name)
			}
			names[pr.Name] = true
			for i, s := range pr.Covers {
				if !symbols[s] || slices.Contains(pr.Covers[:i], s) {
					t.Errorf("probe %s covers CONFIG_%s, which %s does not ask for, or twice", pr.Name, s, f.Name)
				}
			}
			for _, w := range pr.With {
				if asksFor(t, w) == nil { // it fails for what is no feature
					t.Error(w)
				}
			}
		}
	}
	for name := range proofs {
		t.Errorf("%s is proved, and no feature", name)
	}
}

func TestProbesAreThoseOfWhatApplies(t *testing.T) {
	probes := func(a arch.Arch, version string, names ...string) []string {
		fs, err := Resolve(a, names)
		if err != nil {
			t.Fatal(err)
		}
		return Probes(fs, a, version)
	}
	for _, a := range arch.All() {
		for _, v := range versions {
			got := probes(a, v, Default)
			if !slices.IsSorted(got) || len(got) < 40 {
				t.Errorf("%s: %v", a.Name, got)
			}
			for name, on := range map[string]bool{
				"hardening.x86": a.Name == "x86_64", "guest.pvh": a.Name == "x86_64",
				"guest.another": a.Name == "x86_64", "pmem": a.Name != "s390x",
				"clock.rtc": a.Name != "s390x", "vsock": true, "wireguard": false,
				"memory-hotplug.driver": a.Name != "ppc64le" && (a.Name != "s390x" || v != versions[0]),
			} {
				if slices.Contains(got, name) != on {
					t.Errorf("%s, Linux %s: claims %s: %v, want %v", a.Name, v, name, !on, on)
				}
			}
		}
	}
	// What needs something of another feature is claimed with that feature alone.
	if got := probes(x86(t), versions[0], "bpf"); slices.Contains(got, "bpf.traffic") || !slices.Contains(got, "bpf") {
		t.Error(got)
	}
	if got := probes(x86(t), versions[0], "bpf", "net-devices", "net-protocols", "namespaces"); !slices.Contains(got,
		"bpf.traffic") {
		t.Error(got)
	}
}
