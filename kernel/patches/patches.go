// Package patches applies unified diffs to a source tree, strictly: every line of context must be there.
//
// A patch may be compressed. A hunk may have moved by whole lines when its place is still unmistakable, and that is
// reported; no line of context is ever ignored.
package patches

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// Patch is one patch file.
type Patch struct {
	Name string // for people
	Data []byte
}

// Moved is a hunk that applied at another line than it said.
type Moved struct {
	Patch, File string
	Hunk        int // counted from 1 in its file
	From, To    int // lines, counted from 1
}

func (m Moved) String() string {
	return fmt.Sprintf("%s: %s: hunk %d applies at line %d instead of %d", m.Patch, m.File, m.Hunk, m.To, m.From)
}

// Error is a patch that does not apply.
type Error struct {
	Patch, File string
	Hunk        int // counted from 1; 0 when the whole file is meant
	Line        int // line of the patch file
	Why         string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("patch %s:%d: ", e.Patch, e.Line)
	if e.File != "" {
		s += e.File + ": "
	}
	if e.Hunk > 0 {
		s += fmt.Sprintf("hunk %d: ", e.Hunk)
	}
	return s + e.Why
}

// fileDiff is what a patch does to one file.
type fileDiff struct {
	old, new string // paths in the tree; "" for /dev/null
	line     int    // of the patch
	hunks    []hunk
	mode     string // new mode, "100755" or "100644", or "" for unchanged
	renamed  bool   // old goes away although new is another file
	copied   bool
}

type hunk struct {
	line               int // of the patch
	oldStart, newStart int
	lines              []diffLine
}

type diffLine struct {
	op    byte // ' ', '-' or '+'
	text  string
	noEnd bool // the line has no newline at its end
}

var hunkHead = regexp.MustCompile(`^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@`)

// Parse reads a patch. Text before, between and after the diffs, such as a mail's, is ignored, but a diff itself must
// be whole.
func Parse(p Patch) error {
	_, err := parse(p)
	return err
}

// Files lists the files of the tree that the patch changes, makes or reads, by their names there.
func (p Patch) Files() ([]string, error) {
	diffs, err := parse(p)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, d := range diffs {
		for _, name := range []string{d.old, d.new} {
			if name != "" {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

func parse(p Patch) ([]fileDiff, error) {
	data, err := plain(p.Data)
	if err != nil {
		return nil, fmt.Errorf("patch %s: %w", p.Name, err)
	}
	lines := strings.SplitAfter(string(data), "\n")
	if n := len(lines); lines[n-1] == "" {
		lines = lines[:n-1]
	}
	var diffs []fileDiff
	var cur *fileDiff
	fail := func(i int, why string, args ...any) ([]fileDiff, error) {
		e := &Error{Patch: p.Name, Line: i + 1, Why: fmt.Sprintf(why, args...)}
		if cur != nil {
			e.File = cur.name()
		}
		return nil, e
	}
	git := false // inside the header of a git diff
	for i := 0; i < len(lines); {
		line := strings.TrimSuffix(lines[i], "\n")
		switch {
		case strings.HasPrefix(line, "diff --git "):
			diffs = append(diffs, fileDiff{line: i + 1})
			cur, git = &diffs[len(diffs)-1], true
			a, b, ok := gitNames(line)
			if !ok {
				return fail(i, "file names that we cannot read")
			}
			cur.old, cur.new = a, b
			i++
		case git && strings.HasPrefix(line, "new file mode "):
			cur.old, cur.mode = "", strings.TrimPrefix(line, "new file mode ")
			i++
		case git && strings.HasPrefix(line, "deleted file mode "):
			cur.new = ""
			i++
		case git && strings.HasPrefix(line, "new mode "):
			cur.mode = strings.TrimPrefix(line, "new mode ")
			i++
		case git && strings.HasPrefix(line, "rename from "):
			cur.renamed = true
			i++
		case git && strings.HasPrefix(line, "copy from "):
			cur.copied = true
			i++
		case git && (strings.HasPrefix(line, "GIT binary patch") || strings.HasPrefix(line, "Binary files ")):
			return fail(i, "binary patches are not supported")
		case strings.HasPrefix(line, "--- ") && i+1 < len(lines) && strings.HasPrefix(lines[i+1], "+++ "):
			old, err1 := headName(line[4:])
			new, err2 := headName(strings.TrimSuffix(lines[i+1], "\n")[4:])
			if err := errors.Join(err1, err2); err != nil {
				return fail(i, "%v", err)
			}
			if !git {
				diffs = append(diffs, fileDiff{line: i + 1})
				cur = &diffs[len(diffs)-1]
				cur.old, cur.new = old, new
				if m := hunkHead.FindStringSubmatch(next(lines, i+2)); m != nil && isEpoch(line) && m[1] == "0" &&
					m[2] == "0" {
					cur.old = ""
				} else if m != nil && isEpoch(lines[i+1]) && m[3] == "0" && m[4] == "0" {
					cur.new = ""
				}
			} else if old != cur.old || new != cur.new {
				return fail(i, "the names %q and %q contradict the diff --git line", old, new)
			}
			git = false
			i += 2
			if i == len(lines) || !hunkHead.MatchString(lines[i]) {
				return fail(i, "no hunk after the file names")
			}
		case strings.HasPrefix(line, "@@ -"):
			if cur == nil {
				return fail(i, "a hunk without a file")
			}
			h, after, why := parseHunk(lines, i)
			if why != "" {
				return fail(after, "%s", why)
			}
			cur.hunks = append(cur.hunks, h)
			i = after
		default:
			i++
		}
	}
	if len(diffs) == 0 {
		return fail(len(lines)-1, "holds no diff")
	}
	for i := range diffs {
		cur = &diffs[i]
		for _, n := range []string{cur.old, cur.new} {
			if n != "" && (!fs.ValidPath(n) || n == ".") {
				return fail(cur.line-1, "the name %q leaves the tree", n)
			}
		}
		if cur.old == "" && cur.new == "" {
			return fail(cur.line-1, "neither an old nor a new file")
		}
		switch cur.mode {
		case "", "100644", "100755":
		default:
			return fail(cur.line-1, "mode %s: only plain files are supported", cur.mode)
		}
	}
	return diffs, nil
}

// next is line i, or nothing behind the last.
func next(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// isEpoch says whether the time behind a file's name is the first second of 1970, by which `diff -N` says that the file
// is not there. GNU diffutils manual, "Detailed Description of Unified Format".
func isEpoch(line string) bool {
	_, stamp, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "\t")
	for _, layout := range []string{"2006-01-02 15:04:05 -0700", time.ANSIC} {
		if t, err := time.Parse(layout, strings.TrimSpace(stamp)); err == nil {
			return t.Unix() == 0
		}
	}
	return false
}

// maxPlain bounds what a compressed patch unpacks to, in bytes.
const maxPlain = 256 << 20

// plain is the text of a patch: unpacked where it is compressed with gzip, xz, zstd or bzip2, and with Unix ends of
// lines where every line has the other ones. A patch to a file with such ends of its own has lines of both kinds, and
// stays as it is.
func plain(data []byte) ([]byte, error) {
	var r io.Reader
	var err error
	switch in := bytes.NewReader(data); {
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		r, err = gzip.NewReader(in)
	case bytes.HasPrefix(data, []byte("\xfd7zXZ\x00")):
		r, err = xz.NewReader(in, xz.DefaultDictMax)
	case bytes.HasPrefix(data, []byte("BZh")):
		r = bzip2.NewReader(in)
	case bytes.HasPrefix(data, []byte("\x28\xb5\x2f\xfd")):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(maxPlain)); err == nil {
			defer z.Close()
			r = z
		}
	}
	if err == nil && r != nil {
		data, err = io.ReadAll(io.LimitReader(r, maxPlain+1))
	}
	if err != nil {
		return nil, fmt.Errorf("decompress it: %w", err)
	}
	if len(data) > maxPlain {
		return nil, fmt.Errorf("it unpacks to more than %d bytes", maxPlain)
	}
	if n := bytes.Count(data, []byte("\r\n")); n > 0 && n == bytes.Count(data, []byte("\n")) {
		data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	}
	return data, nil
}

func (d *fileDiff) name() string {
	if d.new != "" {
		return d.new
	}
	return d.old
}

// gitNames reads "diff --git a/x b/x". A name with a space is ambiguous there unless both are the same, which is what
// git means then.
func gitNames(line string) (string, string, bool) {
	rest := strings.TrimPrefix(line, "diff --git ")
	if strings.Contains(rest, `"`) {
		return "", "", false
	}
	if a, b, ok := strings.Cut(rest, " "); ok && !strings.Contains(b, " ") {
		return stripFirst(a), stripFirst(b), true
	}
	half := len(rest) / 2
	if len(rest)%2 == 1 && rest[half] == ' ' && stripFirst(rest[:half]) == stripFirst(rest[half+1:]) {
		return stripFirst(rest[:half]), stripFirst(rest[half+1:]), true
	}
	return "", "", false
}

// stripFirst is what `patch -p1` does.
func stripFirst(name string) string {
	_, rest, _ := strings.Cut(name, "/")
	return rest
}

// headName reads the name behind --- or +++: up to a tab, without its first folder.
func headName(s string) (string, error) {
	name, _, _ := strings.Cut(s, "\t")
	name = strings.TrimRight(name, " \r")
	if name == "/dev/null" {
		return "", nil
	}
	if strings.HasPrefix(name, `"`) {
		return "", fmt.Errorf("quoted file names are not supported: %s", name)
	}
	if name = stripFirst(name); name == "" {
		return "", errors.New("a file name without a leading folder such as a/")
	}
	return name, nil
}

// parseHunk reads the hunk whose head is line i; on failure why is set and next is the line to blame.
func parseHunk(lines []string, i int) (h hunk, next int, why string) {
	m := hunkHead.FindStringSubmatch(lines[i])
	if m == nil {
		return h, i, "malformed hunk head"
	}
	var n [4]int
	for j, s := range m[1:] {
		if s == "" {
			s = "1"
		}
		var err error
		if n[j], err = strconv.Atoi(s); err != nil || n[j] > 1<<30 {
			return h, i, "malformed hunk head"
		}
	}
	h = hunk{line: i + 1, oldStart: n[0], newStart: n[2]}
	oldLeft, newLeft := n[1], n[3]
	i++
	for oldLeft > 0 || newLeft > 0 {
		if i == len(lines) {
			return h, i - 1, "the hunk ends too early"
		}
		line := strings.TrimSuffix(lines[i], "\n")
		op := byte(' ')
		if line != "" { // mail programs cut the space of an empty context line
			op, line = line[0], line[1:]
		}
		switch op {
		case ' ':
			oldLeft--
			newLeft--
		case '-':
			oldLeft--
		case '+':
			newLeft--
		case '\\':
			if len(h.lines) == 0 {
				return h, i, "no line that could lack its newline"
			}
			h.lines[len(h.lines)-1].noEnd = true
			i++
			continue
		default:
			return h, i, fmt.Sprintf("a line of a hunk begins with %q", op)
		}
		if oldLeft < 0 || newLeft < 0 {
			return h, i, "the hunk has more lines than its head says"
		}
		h.lines = append(h.lines, diffLine{op: op, text: line})
		i++
	}
	if i < len(lines) && strings.HasPrefix(lines[i], `\`) && len(h.lines) > 0 {
		h.lines[len(h.lines)-1].noEnd = true
		i++
	}
	return h, i, ""
}

// maxFile bounds a file that is patched, in bytes: the tree may be foreign programs' work. The largest text file of
// Linux 6.12 has 22 MB.
const maxFile = 256 << 20

// Apply applies a patch to the tree in dir, or returns an *Error and leaves that tree half patched.
func Apply(dir string, p Patch) ([]Moved, error) {
	diffs, err := parse(p)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var moved []Moved
	for _, d := range diffs {
		m, err := d.apply(root, p.Name)
		if err != nil {
			return nil, err
		}
		moved = append(moved, m...)
	}
	return moved, nil
}

func (d *fileDiff) apply(root *os.Root, patch string) ([]Moved, error) {
	fail := func(h, line int, why string, args ...any) ([]Moved, error) {
		return nil, &Error{Patch: patch, File: d.name(), Hunk: h, Line: line, Why: fmt.Sprintf(why, args...)}
	}
	var data []byte
	mode := fs.FileMode(0o644)
	// A diff without times can only say so that it makes a file.
	if d.old == d.new && len(d.hunks) == 1 && d.hunks[0].oldStart == 0 {
		if _, err := root.Lstat(d.new); errors.Is(err, fs.ErrNotExist) {
			d.old = ""
		}
	}
	if d.old == "" {
		if _, err := root.Lstat(d.new); err == nil {
			return fail(0, d.line, "is new in the patch but exists")
		}
	} else {
		fi, err := root.Lstat(d.old)
		if err != nil || !fi.Mode().IsRegular() {
			return fail(0, d.line, "no such file in the tree")
		}
		if fi.Size() > maxFile {
			return fail(0, d.line, "has more than %d bytes, which is more than a patch is for", maxFile)
		}
		mode = fi.Mode().Perm()
		if data, err = root.ReadFile(d.old); err != nil {
			return fail(0, d.line, "%v", err)
		}
	}
	switch d.mode {
	case "100755":
		mode = 0o755
	case "100644":
		mode = 0o644
	}
	lines := splitLines(data)
	var moved []Moved
	shift, from := 0, 0 // how far earlier hunks moved the rest, and the first line that is still free
	for i, h := range d.hunks {
		at, want, why := h.place(lines, shift, from)
		if why != "" {
			return fail(i+1, h.line, "%s", why)
		}
		if at != want {
			moved = append(moved, Moved{Patch: patch, File: d.name(), Hunk: i + 1, From: want + 1, To: at + 1})
		}
		before, after := h.sides()
		lines = append(lines[:at:at], append(after, lines[at+len(before):]...)...)
		from = at + len(after)
		shift += len(after) - len(before) + at - want
	}
	out := []byte(strings.Join(lines, ""))
	if d.new == "" {
		if len(out) > 0 {
			return fail(len(d.hunks), d.line, "is deleted by the patch but has more lines than the patch knows")
		}
		if err := root.Remove(d.old); err != nil {
			return fail(0, d.line, "%v", err)
		}
		return moved, nil
	}
	if d.new != d.old && d.old != "" {
		if !d.renamed && !d.copied && len(d.hunks) > 0 {
			return fail(0, d.line, "the old name is %s, but it is neither renamed nor copied", d.old)
		}
		if _, err := root.Lstat(d.new); err == nil {
			return fail(0, d.line, "exists already")
		}
	}
	if err := write(root, d.new, out, mode); err != nil {
		return fail(0, d.line, "%v", err)
	}
	if d.renamed {
		if err := root.Remove(d.old); err != nil {
			return fail(0, d.line, "%v", err)
		}
	}
	return moved, nil
}

// write replaces a file, so that a hard link to the old content keeps it.
func write(root *os.Root, name string, data []byte, mode fs.FileMode) error {
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(filepath.FromSlash(dir), 0o755); err != nil {
			return err
		}
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.WriteFile(name, data, mode); err != nil {
		return err
	}
	return root.Chmod(name, mode)
}

func splitLines(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	lines := strings.SplitAfter(string(data), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// sides are the lines the hunk wants to find and those it leaves, with their newlines.
func (h *hunk) sides() (before, after []string) {
	for _, l := range h.lines {
		text := l.text
		if !l.noEnd {
			text += "\n"
		}
		if l.op != '+' {
			before = append(before, text)
		}
		if l.op != '-' {
			after = append(after, text)
		}
	}
	return before, after
}

// place finds where the hunk applies: where it says, given that earlier hunks moved things by shift, else the only
// place after from where all its lines are. Lines count from 0 here.
func (h *hunk) place(lines []string, shift, from int) (at, want int, why string) {
	before, _ := h.sides()
	want = h.oldStart - 1 + shift
	if len(before) == 0 {
		want++ // "-5,0" means after line 5
		if want < from || want > len(lines) {
			return 0, 0, "the file has fewer lines than the patch expects"
		}
		if h.oldStart == 0 && len(lines) > 0 {
			return 0, 0, "the file is not empty, as the patch expects"
		}
		return want, want, ""
	}
	matches := func(at int) bool {
		if at < from || at+len(before) > len(lines) {
			return false
		}
		for i, b := range before {
			if lines[at+i] != b {
				return false
			}
		}
		return true
	}
	if matches(want) {
		return want, want, ""
	}
	var places []int
	for at := from; at+len(before) <= len(lines); at++ {
		if matches(at) {
			places = append(places, at)
		}
	}
	switch len(places) {
	case 0:
		return 0, 0, "does not apply: " + h.mismatch(lines, want, before)
	case 1:
		return places[0], want, ""
	}
	return 0, 0, fmt.Sprintf("applies at %d places, none of them line %d", len(places), want+1)
}

// mismatch shows the first line that is not what the hunk wants.
func (h *hunk) mismatch(lines []string, want int, before []string) string {
	for i, b := range before {
		switch at := want + i; {
		case at < 0 || at >= len(lines):
			return fmt.Sprintf("line %d should be %q, but the file has %d lines", at+1, trim(b), len(lines))
		case lines[at] != b:
			return fmt.Sprintf("line %d should be %q, but is %q", at+1, trim(b), trim(lines[at]))
		}
	}
	return "earlier hunks have changed these lines"
}

func trim(s string) string {
	const most = 100
	s = strings.TrimSuffix(s, "\n")
	if len(s) > most {
		s = string(bytes.ToValidUTF8([]byte(s[:most]), nil)) + "…"
	}
	return s
}
