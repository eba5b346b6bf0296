package kconfig

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// FuzzConfig: what is read can be written and read again, and is then the same.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("# Linux/x86\nCONFIG_A=y\n# CONFIG_B is not set\n\nCONFIG_C=0x1f\nCONFIG_D=\"a " +
		"\\\"b\\\"\"\nCONFIG_E=-7"))
	f.Add([]byte("CONFIG_A=y\r\n"))
	f.Add([]byte("CONFIG_A=\"\\\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig("f", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("%v names no place", err)
			}
			return
		}
		var out bytes.Buffer
		var settings []Setting
		for _, s := range c.Symbols() {
			w := Setting{Symbol: s, Value: c.Get(s)}
			settings = append(settings, w)
			fmt.Fprintln(&out, w.Text())
		}
		again, err := ParseConfig("again", out.Bytes())
		if err != nil {
			t.Fatalf("%v\nwritten:\n%s", err, &out)
		}
		if unmet := Compare(settings, again); len(unmet) > 0 || len(again.order) != len(c.order) {
			t.Errorf("written and read again: %v\n%s", unmet, &out)
		}
		if _, conflicts := Merge(append(settings, settings...)); len(conflicts) > 0 {
			t.Errorf("the same twice: %v", conflicts[0])
		}
	})
}

// FuzzKconfig: a tree of two files, which may source each other, is read in bounded time, and every setting has an
// explanation.
func FuzzKconfig(f *testing.F) {
	for _, name := range []string{"Kconfig", "arch/x86/Kconfig", "fs/Kconfig", "drivers/Kconfig"} {
		data, err := os.ReadFile("testdata/tree/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, []byte("config A\n\tbool \"a\"\n"), "A", "y", []byte("CONFIG_B=y\n"))
	}
	f.Add([]byte("source \"b\"\n"), []byte("source \"Kconfig\"\nsource \"b\"\n"), "A", "y", []byte(""))
	f.Add([]byte("config A\n\tbool \"a\" if (B && !C) || D=y\n\trange 1 0xff if E\nsource \"$(V)\"\n"),
		[]byte("if B\nchoice\nconfig C\nendchoice\nendif\n"),
		"C", "17", []byte("CONFIG_B=m\n"))
	f.Fuzz(func(t *testing.T, root, other []byte, symbol, value string, config []byte) {
		tree, err := ReadTree(fstest.MapFS{"Kconfig": {Data: root}, "b": {Data: other}}, "Kconfig",
			map[string]string{"V": "b"})
		if err != nil {
			return
		}
		c, err := ParseConfig("c", config)
		if err != nil {
			c = &Config{}
		}
		if symbols := tree.names(); len(tree.symbols[symbol]) == 0 && len(symbols) > 0 {
			symbol = symbols[0]
		}
		if !isSymbol(symbol) {
			return // no setting has such a name
		}
		if !validValue(value) {
			value = "y"
		}
		var others []Setting
		for i, s := range tree.names() {
			others = append(others, Setting{Symbol: s, Value: []Value{"y", "n"}[i%2], File: "f", Line: i})
		}
		for _, v := range []Value{Value(value), "n", "m", "1", `""`} {
			if s := tree.Explain(Setting{Symbol: symbol, Value: v}, c, others); s == "" || strings.Contains(s, "\n") {
				t.Errorf("%s=%s: explained as %q", symbol, v, s)
			}
		}
	})
}
