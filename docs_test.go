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
