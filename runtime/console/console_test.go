package console

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
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
