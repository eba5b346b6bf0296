package control

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestRelationsAreRead(t *testing.T) {
	for s, want := range map[string]string{
		"":                                    "[]",
		"aa":                                  "[aa]",
		"aa,bb":                               "[aa bb]",
		"aa | bb , cc":                        "[aa | bb cc]",
		"aa(>=1:2-3~x) |b+.1-:any ( << 9 ), ": "[aa (>= 1:2-3~x) | b+.1-:any (<< 9)]",
		"aa:amd64 (= 1)":                      "[aa:amd64 (= 1)]",
		"aa (> 1)":                            "error",
		"aa (1)":                              "error",
		"aa (>= )":                            "error",
		"aa (>= 1":                            "error",
		"aa [amd64]":                          "error",
		"aa <!nocheck>":                       "error",
		"aa | ":                               "error",
		"aa:":                                 "error",
		"aa bb":                               "error",
		"AA":                                  "error",
	} {
		got, err := ParseRelations(s)
		if (err != nil) != (want == "error") || err == nil && fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v; want %s", s, got, err, want)
		}
	}
}

func FuzzControl(f *testing.F) {
	f.Add([]byte("Package: hello\nVersion: 1:2.0-1\nArchitecture: amd64\n" +
		"Description: greets\n the world\n .\n politely\n"))
	f.Add([]byte("# comment\nA: b\n c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		var b strings.Builder
		for _, f := range c {
			fmt.Fprintln(&b, f)
		}
		again, err := Parse([]byte(b.String()))
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Errorf("%q came back as %q, %v", c, again, err)
		}
	})
}
