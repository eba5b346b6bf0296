package kconfig

import "testing"

func TestConditionsOfVersions(t *testing.T) {
	for _, c := range []struct {
		when    When
		version string
		want    bool
	}{
		{When{}, "", true},
		{When{Since: "6.15"}, "", false},
		{When{Since: "6.15"}, "6.14.99", false},
		{When{Since: "6.15"}, "6.15-rc1", true},
		{When{Since: "6.15"}, "6.15.0", true},
		{When{Since: "6.15"}, "7.0", true},
		{When{Since: "6.9"}, "6.12", true},
		{When{Until: "6.14"}, "6.14.99", true},
		{When{Until: "6.14"}, "6.15-rc1", false},
		{When{Until: "6.9"}, "6.12.1", false},
		{When{Until: "6.12.36"}, "6.12.36", true},
		{When{Until: "6.12.36"}, "6.12.37", false},
		{When{Since: "6.12.37"}, "6.12.36", false},
		{When{Since: "6.12.37"}, "6.13", true},
		{When{Since: "6.12", Until: "6.14"}, "6.13.2", true},
		{When{Since: "6.12", Until: "6.14"}, "6.11.9", false},
	} {
		if got := c.when.In(c.version); got != c.want {
			t.Errorf("%s in %q: %v", c.when, c.version, got)
		}
	}
	for _, v := range []string{"", "6", "6.", "6.x", "v6.1", "6.1.2.3", "6.01", "-6.1", "6.15-rc1", "99999.1", "6..1"} {
		if CheckVersion(v) == nil {
			t.Errorf("%q is a version", v)
		}
	}
}

func TestConditionsThatExcludeEachOther(t *testing.T) {
	all := []string{"x86_64", "aarch64", "s390x"}
	for _, c := range []struct {
		a, b When
		want bool
	}{
		{When{}, When{}, false},
		{When{Only: "x86_64"}, When{Except: "x86_64"}, true},
		{When{Only: "x86_64, s390x"}, When{Only: "aarch64, s390x"}, false},
		{When{Except: "x86_64"}, When{Except: "aarch64, s390x"}, true},
		{When{Until: "6.14"}, When{Since: "6.15"}, true},
		{When{Until: "6.14"}, When{Since: "6.14.3"}, false},
		{When{Until: "6.14"}, When{Since: "6.12"}, false},
		{When{Since: "6.14"}, When{Since: "6.15"}, false},
	} {
		if c.a.Apart(c.b, all) != c.want || c.b.Apart(c.a, all) != c.want {
			t.Errorf("%s and %s: %v", c.a, c.b, !c.want)
		}
	}
	if w, ok := (When{Only: "s390x"}).And(When{Since: "6.15"}); !ok || w != (When{Only: "s390x", Since: "6.15"}) {
		t.Errorf("%s", w)
	}
	if _, ok := (When{Since: "6.12"}).And(When{Since: "6.15"}); ok {
		t.Error("two first versions")
	}
}

func TestTheVersionOfAConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		"#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86 6.12.117 Kernel Configuration\n#\n": "6.12.117",
		"# Linux/riscv 7.3.0-rc1 Kernel Configuration\n":                                                  "7.3.0-rc1",
		"# Linux/x86 new Kernel Configuration\n":                                                          "",
		"CONFIG_A=y\n":                                                                                    "", "": "",
	} {
		if got := SourceVersion([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
