package katabuild_test

import (
	"bytes"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// columns is the width that code, comments and documents keep to, with a tab as four columns.
const columns = 120

// exempt are starts of lines of a document that may be wide: tables, links, headings and indented code have
// no place to break at.
var exempt = regexp.MustCompile(`^(\s*(\||#|\[[^\]]*\]:|<)|    )`)

func TestLinesAreAtMost120ColumnsWide(t *testing.T) {
	err := filepath.WalkDir(".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n := e.Name()
		if e.IsDir() {
			if p != "." && (strings.HasPrefix(n, ".") || n == "testdata" || n == "out" || n == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		ext := filepath.Ext(n)
		if ext != ".go" && ext != ".md" && ext != ".sh" && n != "Makefile" {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		skip := map[int]bool{} // lines that cannot be broken, or are somebody else's words
		switch ext {
		case ".go":
			if bytes.Contains(b[:min(len(b), 4096)], []byte("// Code generated ")) {
				return nil
			}
			if strings.HasSuffix(n, "_test.go") { // which quote other programs
				skip = rawStrings(b)
			}
		case ".md":
			skip = fences(b)
		}
		for i, l := range strings.Split(string(b), "\n") {
			if ext == ".md" && exempt.MatchString(l) {
				continue
			}
			if w := utf8.RuneCountInString(l) + 3*strings.Count(l, "\t"); w > columns && !skip[i+1] {
				t.Errorf("%s:%d: %d columns, want at most %d", p, i+1, w, columns)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// rawStrings are the lines that a raw string literal has a part in: it is text that is kept as it is.
func rawStrings(src []byte) map[int]bool {
	set := token.NewFileSet()
	f := set.AddFile("", -1, len(src))
	var s scanner.Scanner
	s.Init(f, src, nil, 0)
	lines := map[int]bool{}
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			return lines
		}
		if tok == token.STRING && lit[0] == '`' {
			for i := range strings.Count(lit, "\n") + 1 {
				lines[set.Position(pos).Line+i] = true
			}
		}
	}
}

// fences are the lines of a document between ``` and ```: commands and what programs print.
func fences(doc []byte) map[int]bool {
	lines := map[int]bool{}
	in := false
	for i, l := range strings.Split(string(doc), "\n") {
		if strings.HasPrefix(strings.TrimLeft(l, " "), "```") {
			in = !in
		}
		lines[i+1] = in
	}
	return lines
}
