package console

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode"
)

func TestConsoleKeepsTheLastBytes(t *testing.T) {
	r, w := io.Pipe()
	var all bytes.Buffer
	var lines []string
	first := 0
	c := New(r, Options{Copy: &all, OnLine: func(l string) { lines = append(lines, l) }, OnByte: func() { first++ }})
	var want bytes.Buffer
	for i := range 20_000 {
		fmt.Fprintf(io.MultiWriter(w, &want), "line %d of a long boot\r\n", i)
	}
	io.WriteString(w, "login: ")
	w.Close()
	<-c.Done()
	want.WriteString("login: ")
	if !bytes.Equal(all.Bytes(), want.Bytes()) {
		t.Error("the copy differs from what was written")
	}
	if got := c.Bytes(); !bytes.Equal(got, want.Bytes()[want.Len()-size:]) {
		t.Errorf("kept %d bytes, and not the last ones", len(got))
	}
	if got := c.Lines(2); !slices.Equal(got, []string{"line 19999 of a long boot", "login:"}) {
		t.Errorf("last lines %q", got)
	}
	if len(lines) != 20_001 || lines[7] != "line 7 of a long boot" || lines[20_000] != "login:" {
		t.Errorf("%d lines", len(lines))
	}
	if first != 1 {
		t.Errorf("%d first bytes", first)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	if len(c.Lines(1)) != 1 {
		t.Error("not readable after Close")
	}
}

func TestLongLineComesInPieces(t *testing.T) {
	var lines []string
	c := New(io.NopCloser(strings.NewReader(strings.Repeat("x", 2*maxLine+5)+"\nend\n")),
		Options{OnLine: func(l string) { lines = append(lines, l) }})
	<-c.Done()
	if len(lines) != 4 || len(lines[2]) != 5 || lines[3] != "end" {
		t.Errorf("%d lines", len(lines))
	}
}

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
