// Package changelog writes the page of changes from the notes: one file for each change that is not released yet, and
// one dated page for each release, into which its notes go.
//
// Nobody writes that page by hand: whoever adds a note writes it anew.
package changelog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/releases/index"
)

// The names in the folder of releases.
const (
	FileName = "CHANGELOG.md"
	notes    = "notes"
	dated    = "dated"
)

// maxNote bounds a note or a page of a release, in bytes.
const maxNote = 1 << 20

const head = `<!-- Written by "make changelog" from the notes. DO NOT EDIT. -->
# Changes

Newest first; each line is a page of its own, or a part of a release's.
`

// page is a note, or a page of a release.
type page struct {
	name  string // of its file
	title string
	text  string // without the title
}

// read reads all pages of a folder, sorted by name. No folder is no pages.
func read(fsys fs.FS, dir string) ([]page, error) {
	entries, err := fs.ReadDir(fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []page
	for _, e := range entries {
		if path.Ext(e.Name()) != ".md" {
			continue
		}
		text, err := fs.ReadFile(fsys, path.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		title, rest, _ := strings.Cut(string(text), "\n")
		title, ok := strings.CutPrefix(title, "# ")
		if !ok || title == "" || len(text) > maxNote {
			return nil, fmt.Errorf("%s/%s: want a title in its first line, and at most %d bytes", dir, e.Name(),
				maxNote)
		}
		out = append(out, page{e.Name(), title, strings.TrimSpace(rest)})
	}
	return out, nil
}

// heading is a line of a release's page that begins a note.
var heading = regexp.MustCompile(`(?m)^## (.*)$`)

// Write makes the page of changes of a folder of releases.
func Write(fsys fs.FS) ([]byte, error) {
	open, err1 := read(fsys, notes)
	done, err2 := read(fsys, dated)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString(head)
	if len(open) > 0 {
		b.WriteString("\n## Not released yet\n\n")
		for _, p := range open {
			fmt.Fprintf(&b, "- [%s](%s/%s)\n", p.title, notes, p.name)
		}
	}
	slices.Reverse(done) // their names begin with the day
	for _, p := range done {
		fmt.Fprintf(&b, "\n## [%s](%s/%s)\n\n", p.title, dated, p.name)
		for _, m := range heading.FindAllStringSubmatch(p.text, -1) {
			fmt.Fprintf(&b, "- %s\n", m[1])
		}
	}
	return []byte(b.String()), nil
}

// day is the form of a date.
var day = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)

// Release moves all notes of a folder of releases into the page of a version that is released on a day, such as
// 2026-11-30, and returns the name of that page.
func Release(dir, version, date string) (string, error) {
	if err := index.CheckVersion(version); err != nil {
		return "", err
	}
	if !day.MatchString(date) {
		return "", fmt.Errorf("day %q: want YEAR-MONTH-DAY, such as 2026-11-30", date)
	}
	list, err := read(os.DirFS(dir), notes)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", fmt.Errorf("there is no note in %s", filepath.Join(dir, notes))
	}
	if old, err := filepath.Glob(filepath.Join(dir, dated, "*-"+version+".md")); err != nil || len(old) > 0 {
		return "", fmt.Errorf("version %s has its page already: %v, %w", version, old, errors.Join(err, fs.ErrExist))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s, %s\n", version, date)
	for _, p := range list {
		// A note lies as deep as the page, so that its links lead where they led.
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", p.title, regexp.MustCompile(`(?m)^(#+ )`).ReplaceAllString(p.text, "#$1"))
	}
	to := filepath.Join(dir, dated, date+"-"+version+".md")
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", err
	}
	if err := atomicfile.Write(to, []byte(b.String()), 0o644); err != nil {
		return "", err
	}
	for _, p := range list {
		if err := os.Remove(filepath.Join(dir, notes, p.name)); err != nil {
			return "", err
		}
	}
	return to, nil
}
