package mistake

import (
	"strings"
	"testing"
)

func TestTheCaretStandsBelowThePlace(t *testing.T) {
	e := &Error{File: "f", Line: 3, Column: 4, Message: "wrong", Source: "\tüx = y"}
	if want := "f:3:4: wrong\n    3 | \tüx = y\n      | \t  ^"; e.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", e, want)
	}
	e.Column = 99
	if !strings.HasSuffix(e.Error(), "^") {
		t.Errorf("a column behind the line: %s", e)
	}
	e.Source = ""
	if e.Error() != "f:3:99: wrong" {
		t.Error(e)
	}
}

func TestTheNearestWordIsFound(t *testing.T) {
	words := []string{"kernel", "initrd", "rootfs"}
	for got, want := range map[string]string{"kernal": "kernel", "KERNEL": "kernel", "intird": "initrd",
		"rotfs": "rootfs", "banana": "", "": "", strings.Repeat("k", 1000): ""} {
		if n := Nearest(got, words, 3); n != want {
			t.Errorf("%.20q: %q, want %q", got, n, want)
		}
	}
}
