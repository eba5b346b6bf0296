package printable

import (
	"strings"
	"testing"
	"unicode"
)

func TestClean(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"plain text stays":            {"Linux 6.12 ☃", "Linux 6.12 ☃"},
		"colours go":                  {"\x1b[1;32m[  OK  ]\x1b[0m done\r", "[  OK  ] done"},
		"window titles go":            {"a\x1b]0;rm -rf\x07b\x1b]0;x\x1b\\c", "abc"},
		"clearing the screen goes":    {"\x1bc\x1b[2Jx", "x"},
		"unfinished sequences go":     {"x\x1b[12", "x"},
		"an unfinished title goes":    {"x\x1b]0;", "x"},
		"a last escape goes":          {"x\x1b", "x"},
		"broken UTF-8 goes":           {"a\xff\xfeb", "ab"},
		"C1 controls go":              {"a\u009b31mb", "a31mb"},
		"right-to-left overrides go":  {"a\u202egnp.exe", "agnp.exe"},
		"tabs become spaces":          {"a\tb", "a b"},
		"NUL and bell go":             {"\x00a\x07", "a"},
		"carriage returns inside too": {"old\rnew", "oldnew"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Clean([]byte(tc.in)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestWordsAreOneLineAndBounded(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"lines become one":      {"a\n\n b\r\n\tc ", "a b c"},
		"what is long is cut":   {strings.Repeat("x", 21), strings.Repeat("x", 20) + "..."},
		"sequences go":          {"a\x1b[2Jb", "ab"},
		"half a rune goes":      {strings.Repeat("x", 19) + "☃", strings.Repeat("x", 19) + "..."},
		"nothing stays nothing": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Words(tc.in, 20); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add([]byte("\x1b[1;32m[  OK  ]\x1b[0m done\r"))
	f.Add([]byte("\x1b]0;title\x1b\\"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range Clean(b) {
			if unicode.IsControl(r) {
				t.Fatalf("control character %U in the output", r)
			}
		}
	})
}
