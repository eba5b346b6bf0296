package kmodule

import (
	"reflect"
	"strings"
	"testing"
)

func TestAModuleIsItsNameAndItsParameters(t *testing.T) {
	for text, want := range map[string]Module{
		"dummy":                                  {"dummy", nil},
		"  dummy  numdummies=2 ":                 {"dummy", []string{"numdummies=2"}},
		"e1000e InterruptThrottleRate=3,3 EEE=1": {"e1000e", []string{"InterruptThrottleRate=3,3", "EEE=1"}},
		`hello whom="a  b" flag`:                 {"hello", []string{`whom="a  b"`, "flag"}},
		"nfs-v4 x.y=":                            {"nfs-v4", []string{"x.y="}},
	} {
		got, err := parse(text)
		if err != nil || got.Name != want.Name || strings.Join(got.Params, "|") != strings.Join(want.Params, "|") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	// Kata's runtime splits at every space.
	got, err := New("hello", []string{`whom="a`, `b"`, "x=1"})
	if err != nil || !reflect.DeepEqual(got.Params, []string{`whom="a b"`, "x=1"}) || got.Line() != `whom="a b" x=1` {
		t.Errorf("%+v, %v", got, err)
	}
	if m := (Module{Name: "nfs-v4"}); m.Loaded() != "nfs_v4" {
		t.Errorf("%q", m.Loaded())
	}
}

func TestWhatIsNoModuleIsNamed(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "without a name",
		"   ":                              "without a name",
		"../x":                             `kernel module "../x": want a name`,
		"a/b x=1":                          `kernel module "a/b": want a name`,
		"kernel/a.ko":                      "want a name",
		strings.Repeat("a", 56):            "at most 55",
		"a\x00":                            "control characters",
		"a\tb=1":                           "control characters",
		"a b=1\nc":                         "control characters",
		`a b="c`:                           "not closed",
		"a =1":                             `kernel module a: parameter "=1": want NAME=VALUE`,
		"a -- b=1":                         `kernel module a: parameter "--": want NAME=VALUE`,
		`a "b"=1`:                          "want NAME=VALUE",
		"a b;c":                            "want NAME=VALUE",
		"a b=" + strings.Repeat("x", 4095): "4097 bytes of parameters: want at most 4096",
	} {
		if m, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
	for _, c := range []struct {
		name   string
		params []string
	}{{"", nil}, {"a b", nil}, {`a"`, []string{`"`}}, {"a", []string{""}}, {"a", []string{" "}}, {"", []string{"a"}},
		{"a", []string{"b=\n"}}, {"a", []string{`b="c`}}} {
		if m, err := New(c.name, c.params); err == nil {
			t.Errorf("%q: %+v", c, m)
		}
	}
}

func TestAListHasABoundAndNoModuleTwice(t *testing.T) {
	got, err := ParseList([]string{"a", "b c=1"})
	if err != nil || len(got) != 2 || got[1].Line() != "c=1" {
		t.Errorf("%+v, %v", got, err)
	}
	for want, list := range map[string][]string{
		"entry 2: kernel module a_b stands twice": {"a-b", "a_b x=1"},
		"entry 2: a kernel module without a name": {"a", ""},
		"257 kernel modules: want at most 256":    make([]string, 257),
	} {
		if _, err := ParseList(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`hello whom="a b" x=1`)
	f.Add(`a -`)
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parse(text)
		if err != nil {
			return
		}
		again, err := New(m.Name, m.Params)
		if err != nil || again.Name != m.Name || again.Line() != m.Line() {
			t.Errorf("%q: %+v, read again %+v, %v", text, m, again, err)
		}
	})
}
