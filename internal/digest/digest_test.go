package digest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hello is what `printf hello | sha256sum` prints.
const hello = Digest("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")

func TestDigestsAgreeWithSha256sum(t *testing.T) {
	if d := Of([]byte("hello")); d != hello {
		t.Errorf("got %s", d)
	}
	p := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(p, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, n, err := File(p); d != hello || n != 5 || err != nil {
		t.Error(d, n, err)
	}
	w := New()
	_, _ = w.Write([]byte("hel"))
	_, _ = w.Write([]byte("lo"))
	for range 2 { // asking does not change it
		if d := w.Digest(); d != hello {
			t.Errorf("a digest written in parts is %s, want %s", d, hello)
		}
	}
}

func TestOnlyOneSpellingIsADigest(t *testing.T) {
	for _, s := range []string{"", "sha256:", string(hello)[:70], string(hello) + "0", strings.ToUpper(string(hello)),
		"sha512:" + hello.Hex(), "sha256:" + strings.Repeat("g", 64), hello.Hex()} {
		if _, err := Parse(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
	if d, err := Parse(string(hello)); d != hello || err != nil {
		t.Error(d, err)
	}
}

func TestCheckNamesBothDigests(t *testing.T) {
	p := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(p, []byte("hellO"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Check(p, hello)
	var m *Mismatch
	if !errors.As(err, &m) || !strings.Contains(err.Error(), p) || !strings.Contains(err.Error(), string(hello)) ||
		!strings.Contains(err.Error(), string(Of([]byte("hellO")))) {
		t.Errorf("got %v", err)
	}
}
