package kconfig

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestConfigIsReadAsTheKernelWritesIt(t *testing.T) {
	c, err := ParseConfig(".config", []byte(`#
# Automatically generated file; DO NOT EDIT.
# Linux/x86 6.12.117 Kernel Configuration
#
CONFIG_CC_VERSION_TEXT="gcc (Debian 14.2.0-19) 14.2.0"
CONFIG_NET=y
# CONFIG_MODULES is not set

CONFIG_FAT=m
CONFIG_HZ=100
CONFIG_OFFSET=-1
CONFIG_PHYSICAL_START=0x1000000
CONFIG_CMDLINE="a \"b\" \\"
CONFIG_3C515=y
`))
	if err != nil {
		t.Fatal(err)
	}
	for symbol, want := range map[string]Value{
		"CC_VERSION_TEXT": `"gcc (Debian 14.2.0-19) 14.2.0"`, "NET": "y", "MODULES": No, "FAT": "m", "HZ": "100",
		"OFFSET":         "-1",
		"PHYSICAL_START": "0x1000000", "CMDLINE": `"a \"b\" \\"`, "3C515": "y", "NOT_MENTIONED": No,
	} {
		if got := c.Get(symbol); got != want {
			t.Errorf("%s is %s, want %s", symbol, got, want)
		}
	}
	want := []string{"CC_VERSION_TEXT", "NET", "MODULES", "FAT", "HZ", "OFFSET", "PHYSICAL_START", "CMDLINE", "3C515"}
	if got := c.Symbols(); !slices.Equal(got, want) {
		t.Errorf("symbols %v, want %v", got, want)
	}
}

func TestMalformedLinesAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"a word":              {"hello\n", `.config:1: "hello": want CONFIG_NAME=value`},
		"no value":            {"\nCONFIG_A\n", `.config:2: "CONFIG_A": want CONFIG_NAME=value`},
		"an empty value":      {"CONFIG_A=\n", `.config:1: "CONFIG_A=": want y, m, n`},
		"no name":             {"CONFIG_=y\n", "want CONFIG_NAME=value"},
		"a strange name":      {"CONFIG_Ä=y\n", "want CONFIG_NAME=value"},
		"an indented setting": {" CONFIG_A=y\n", "want CONFIG_NAME=value"},
		"spaces around =":     {"CONFIG_A = y\n", "want CONFIG_NAME=value"},
		"capital Y":           {"CONFIG_A=Y\n", "want y, m, n"},
		"yes":                 {"CONFIG_A=yes\n", "want y, m, n"},
		"a comment behind":    {"CONFIG_A=y # why\n", "want y, m, n"},
		"CRLF":                {"CONFIG_A=y\r\n", `.config:1: "CONFIG_A=y\r": want y, m, n`},
		"no closing quote":    {"CONFIG_A=\"a\n", "string in double quotes"},
		"an escaped quote":    {"CONFIG_A=\"a\\\"\n", "string in double quotes"},
		"a quote inside":      {"CONFIG_A=\"a\"b\"\n", "string in double quotes"},
		"hex without digits":  {"CONFIG_A=0x\n", "0x number"},
		"a lone minus":        {"CONFIG_A=-\n", "decimal"},
		"hex without 0x":      {"CONFIG_A=ff\n", "0x number"},
		"something is not set": {"# CONFIG_A is unset\n",
			`.config:1: "# CONFIG_A is unset": want "# CONFIG_NAME is not set"`},
		"set twice":               {"CONFIG_A=y\nCONFIG_B=y\nCONFIG_A=y\n", ".config:3: CONFIG_A is set twice"},
		"set and not set":         {"CONFIG_A=y\n# CONFIG_A is not set\n", ".config:2: CONFIG_A is set twice"},
		"two strings on one line": {"CONFIG_A=\"a\" CONFIG_B=\"b\"\n", "string in double quotes"},
	} {
		if _, err := ParseConfig(".config", []byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func TestASettingIsReadBackFromItsText(t *testing.T) {
	for _, v := range []Value{"y", "m", No, "17", "-3", "0xFF", `"text \"in\" quotes"`, `""`} {
		s := Setting{Symbol: "A", Value: v}.Text()
		if symbol, got, ok, err := ParseLine(s); err != nil || !ok || symbol != "A" || got != v {
			t.Errorf("%s reads as %s=%s (%v, %v)", s, symbol, got, ok, err)
		}
	}
}

// setting is CONFIG_symbol=value on a line of its own.
func setting(file string, line int, symbol string, v Value) Setting {
	return Setting{Symbol: symbol, Value: v, File: file, Line: line}
}

func TestMergeKeepsWhatAgrees(t *testing.T) {
	merged, conflicts := Merge([]Setting{
		setting("b.config", 7, "NET", "y"), setting("a.config", 3, "HZ", "100"), setting("a.config", 9, "NET", "y"),
		setting("a.config", 10, "START", "0xAB"), setting("b.config", 1, "START", "0xab"),
	})
	if len(conflicts) > 0 {
		t.Errorf("conflicts: %v", conflicts)
	}
	want := []Setting{setting("a.config", 3, "HZ", "100"), setting("b.config", 7, "NET", "y"),
		setting("a.config", 10, "START", "0xAB")}
	if !slices.Equal(merged, want) {
		t.Errorf("merged %v\nwant   %v", merged, want)
	}
}

func TestContradictionsNameBothPlaces(t *testing.T) {
	_, conflicts := Merge([]Setting{
		setting("net.config", 4, "NET", "y"), setting("user.config", 2, "NET", No),
		setting("more.config", 8, "NET", "m"),
		setting("net.config", 5, "HZ", "100"), setting("user.config", 3, "HZ", "0x64"),
	})
	want := []string{
		"user.config:2: CONFIG_NET=n contradicts CONFIG_NET=y at net.config:4",
		"more.config:8: CONFIG_NET=m contradicts CONFIG_NET=y at net.config:4",
		"user.config:3: CONFIG_HZ=0x64 contradicts CONFIG_HZ=100 at net.config:5",
	}
	var got []string
	for _, c := range conflicts {
		got = append(got, c.Error())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAskedAndGot(t *testing.T) {
	final, err := ParseConfig(
		".config", []byte("CONFIG_Y=y\nCONFIG_M=m\n# CONFIG_N is not "+
			"set\nCONFIG_I=100\nCONFIG_H=0xaB\nCONFIG_S=\"s\"\nCONFIG_E=\"\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		symbol string
		asked  Value
		got    Value // "" when it is as asked
	}{
		{"Y", "y", ""}, {"Y", "m", "y"}, {"Y", No, "y"},
		{"M", "m", ""}, {"M", "y", "m"}, {"M", No, "m"},
		{"N", No, ""}, {"N", "y", "n"}, {"N", "m", "n"},
		{"I", "100", ""}, {"I", "250", "100"}, {"I", "0x64", "100"},
		{"H", "0xAB", ""}, {"H", "0xac", "0xaB"},
		{"S", `"s"`, ""}, {"S", `"S"`, `"s"`}, {"S", "s", `"s"`}, {"E", `""`, ""},
		{"ABSENT", No, ""}, {"ABSENT", "y", "n"}, {"ABSENT", "7", "n"}, {"ABSENT", `""`, "n"},
	} {
		unmet := Compare([]Setting{setting("f.config", 1, c.symbol, c.asked)}, final)
		if c.got == "" {
			if len(unmet) > 0 {
				t.Errorf("%s=%s is as asked, yet %v", c.symbol, c.asked, unmet[0])
			}
			continue
		}
		want := "f.config:1: asked for CONFIG_" + c.symbol + "=" + string(c.asked) + ", got " + string(c.got)
		var u *Unmet
		if len(unmet) != 1 || !errors.As(error(unmet[0]), &u) || u.Error() != want {
			t.Errorf("got %v\nwant %s", unmet, want)
		}
	}
}

func TestTheCaretStandsBelowWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ source, symbol, value string }{
		{"CONFIG_A=y", "^", "         ^"},
		{"# CONFIG_A is not set", "  ^", "           ^"},
		{`CONFIG_A="value: x"`, "^", "         ^"},
		{"  override: [{option: CONFIG_A, value: 99, reason: why=99}]", "                      ^",
			"                                       ^"},
		{"    - {reason: größer, value: 1, option: CONFIG_A}", "                                         ^",
			"                              ^"},
		{"    - option: CONFIG_A", "              ^", "              ^"},
		{"    - option: *alias", "^", "^"},
	} {
		w := Setting{Symbol: "A", File: "f", Line: 3, Source: c.source}
		for _, of := range []struct {
			value bool
			caret string
		}{{false, c.symbol}, {true, c.value}} {
			want := fmt.Sprintf(":%d: bad\n    3 | %s\n      | %s", len(of.caret), c.source, of.caret)
			if got := w.Wrong("bad", of.value).Error(); got != "f:3"+want {
				t.Errorf("got\n%s\nwant\nf:3%s", got, want)
			}
		}
	}
}
