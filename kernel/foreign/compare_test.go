package foreign

import (
	"reflect"
	"testing"

	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// two are features of a small kernel.
func two() []features.Feature {
	set := func(symbol string, value kconfig.Value, reason string) kconfig.Setting {
		return kconfig.Setting{Symbol: symbol, Value: value, File: "kernel/features/x.config", Reason: reason}
	}
	return []features.Feature{
		{Name: "disk", Fragment: features.Fragment{Settings: []kconfig.Setting{set("BLOCK", "y", "Disks."),
			set("SCSI", "n", "Not these.")}}},
		{Name: "net", Requires: []string{"disk"}, Fragment: features.Fragment{Settings: []kconfig.Setting{
			set("NET", "y", "Networks."), {Symbol: "TICK", Value: "y", Preference: true}}}},
		{Name: "set", Requires: []string{"disk", "net"}},
	}
}

func config(t *testing.T, text string) *kconfig.Config {
	t.Helper()
	settings, err := Read("c", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return Final(settings)
}

func TestDifferencesAreToldByFeature(t *testing.T) {
	a := config(t, "CONFIG_BLOCK=y\nCONFIG_NET=y\nCONFIG_GCC_VERSION=1\nCONFIG_NAME=\"\"\nCONFIG_BASE=0xFF\n")
	b := config(t, "CONFIG_BLOCK=y\nCONFIG_SCSI=y\nCONFIG_USB=m\nCONFIG_GCC_VERSION=2\nCONFIG_BASE=0xff\n")
	got := Compare(Kernel{Arch: "x86_64", Version: "6.12.1"}, two(), a, b)
	want := &Difference{OnlyA: []string{"disk", "net"}, OnlyB: []string{},
		Groups: []Group{{"disk", []Change{{"CONFIG_SCSI", "n", "y", "Not these."}}},
			{"net", []Change{{"CONFIG_NET", "y", "n", "Networks."}}}},
		Rest:  []Change{{"CONFIG_USB", "n", "m", ""}},
		Facts: []Change{{"CONFIG_GCC_VERSION", "1", "2", ""}},
	}
	if !reflect.DeepEqual(got, want) || got.Same() {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if d := Compare(Kernel{}, two(), a, a); !d.Same() || len(d.OnlyA) > 0 {
		t.Errorf("%+v", d)
	}
}

func TestForeignConfigurationsAreReadLeniently(t *testing.T) {
	c := config(t, "# CONFIG_X is what we want\r\n  CONFIG_A=y  \nCONFIG_A=n\nCONFIG_B=y # with a remark\n"+
		"CONFIG_EMPTY=\n# CONFIG_C is not set\nCONFIG_S=\"a # b\"\n")
	for symbol, want := range map[string]kconfig.Value{"A": "n", "B": "y", "C": "n", "S": `"a # b"`, "X": "n"} {
		if got := c.Get(symbol); got != want {
			t.Errorf("%s is %s, want %s", symbol, got, want)
		}
	}
	for _, bad := range []string{"NET=y\n", "CONFIG_A=maybe\n", "\x7fELF\n"} {
		if _, err := Read("f.config", []byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestWhatAConfigurationSaysItIsOf(t *testing.T) {
	head := "#\n# Automatically generated file; DO NOT EDIT.\n# Linux/arm64 6.12.1-rc1 Kernel Configuration\n#\n"
	x86 := Kernel{Arch: "x86_64", Version: "6.12"}
	if k := KernelOf([]byte(head), x86); k != (Kernel{"aarch64", "6.12.1-rc1"}) {
		t.Errorf("%+v", k)
	}
	if k := KernelOf([]byte("CONFIG_A=y\n"), x86); k != x86 {
		t.Errorf("%+v", k)
	}
	for want, files := range map[Form][][]byte{
		Whole: {[]byte(head)}, Saved: {[]byte("CONFIG_A=y\n")}, Fragments: {[]byte(head), []byte("CONFIG_A=y\n")},
	} {
		if got := FormOf(files); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("CONFIG_A=y # x\n# CONFIG_B is not set\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if settings, err := Read("f", b); err == nil {
			Final(settings)
		}
		KernelOf(b, Kernel{Arch: "x86_64"})
	})
}

func TestFeaturesCoverAConfiguration(t *testing.T) {
	k := Kernel{Arch: "x86_64", Version: "6.12.1"}
	more := append(two(), features.Feature{Name: "four", Fragment: features.Fragment{Settings: []kconfig.Setting{
		{Symbol: "A", Value: "y"}, {Symbol: "B", Value: "y"}, {Symbol: "C", Value: "y"}, {Symbol: "D", Value: "y"}}}},
		features.Feature{Name: "user", Requires: []string{"four"}, Fragment: features.Fragment{
			Settings: []kconfig.Setting{{Symbol: "USER", Value: "y"}}}})
	for _, c := range []struct {
		name, config string
		taken        []string
		aside        []kconfig.Setting
		near         []string
	}{
		{"all, by the set", "CONFIG_BLOCK=y\nCONFIG_NET=y\n", []string{"set"}, nil, nil},
		{"one", "CONFIG_BLOCK=y\n", []string{"disk"}, nil, nil},
		{"what is required is not there", "CONFIG_NET=y\nCONFIG_SCSI=y\n", nil, nil, []string{"net"}},
		{"of what is required, something is otherwise",
			"CONFIG_USER=y\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_D=m\n",
			[]string{"user"}, []kconfig.Setting{{Symbol: "D", Value: "m"}}, []string{"disk"}},
		{"of what is required, too much is otherwise", "CONFIG_USER=y\nCONFIG_A=y\n", nil, nil,
			[]string{"user", "disk"}},
	} {
		got := Cover(k, more, config(t, c.config))
		var near []string
		for _, n := range got.Near {
			near = append(near, n.Feature)
		}
		if !reflect.DeepEqual(got.Features, c.taken) || !reflect.DeepEqual(got.Aside, c.aside) ||
			!reflect.DeepEqual(near, c.near) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestMarkedFragmentsAreOfOthers(t *testing.T) {
	for text, want := range map[string]bool{"# !s390x !powerpc\nCONFIG_A=y\n": true, "#!powerpc\n": true,
		"# !riscv\n": false, "# powerpc\n": false, "CONFIG_A=y\n# !powerpc\n": false, "": false} {
		if got := Elsewhere([]byte(text), "ppc64le", "powerpc"); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
