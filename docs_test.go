package katabuild_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/releases/changelog"
)

// link matches a link of a document to a file, without what is behind #.
var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// documents are all pages that people read, from the root.
func documents(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "releases/*.md", "releases/notes/*.md",
		"releases/dated/*.md"} {
		m, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m...)
	}
	return out
}

// links are the files that a document links to, from the root.
func links(t *testing.T, page string) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, m := range link.FindAllStringSubmatch(string(b), -1) {
		out[filepath.Join(filepath.Dir(page), m[1])] = true
	}
	return out
}

func TestEveryPageIsInTheIndex(t *testing.T) {
	index := links(t, "docs/README.md")
	for _, p := range documents(t) {
		if strings.HasPrefix(p, "docs/") && p != "docs/README.md" && !index[p] {
			t.Errorf("docs/README.md has no line for %s", p)
		}
	}
}

func TestTheChangelogIsCurrent(t *testing.T) {
	want, err1 := changelog.Write(os.DirFS("releases"))
	got, err2 := os.ReadFile(filepath.Join("releases", changelog.FileName))
	if err := errors.Join(err1, err2); err != nil || string(got) != string(want) {
		t.Errorf("releases/CHANGELOG.md is not what the notes make: run make changelog (%v)", err)
	}
}

func TestEveryLinkOfADocumentLeadsSomewhere(t *testing.T) {
	for _, p := range documents(t) {
		for l := range links(t, p) {
			if _, err := os.Stat(l); err != nil {
				t.Errorf("%s: %v", p, err)
			}
		}
	}
}

// Each row of a table of tests ends with a package and the name of its test.
var testCell = regexp.MustCompile("^\\| .* \\| `([a-z/0-9]+)` (Test[A-Za-z0-9]+) \\|$")

func TestWhatAGuestMaySayIsTested(t *testing.T) {
	const page, kinds = "docs/hostile-guests.md", 20
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for l := range strings.Lines(string(b)) {
		l = strings.TrimSpace(l)
		if !strings.HasPrefix(l, "| ") || strings.HasPrefix(l, "| what the guest does") {
			continue
		}
		m := testCell.FindStringSubmatch(l)
		if m == nil {
			t.Errorf("%s: no test in %q", page, l)
			continue
		}
		rows++
		if !hasTest(t, m[1], m[2]) {
			t.Errorf("%s: %s has no %s", page, m[1], m[2])
		}
	}
	if rows < kinds {
		t.Errorf("%s has %d kinds, want %d", page, rows, kinds)
	}
}

// hasTest says whether a folder has a test of a name.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\nfunc "+name+"(t *testing.T) {") {
			return true
		}
	}
	return false
}
