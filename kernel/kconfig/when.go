package kconfig

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// When says on which architectures and in which versions of Linux a setting applies. The zero value is everywhere.
type When struct {
	Only   string // architectures, by their names in recipes, with ", " between them; empty is all
	Except string // architectures likewise; empty is none
	Since  string // the first version, such as 6.15; empty is the first of all
	Until  string // the last version, and all that begin with it; empty is the last of all
}

// On says whether a setting applies on an architecture.
func (w When) On(arch string) bool {
	if w.Only != "" && !slices.Contains(strings.Split(w.Only, ", "), arch) {
		return false
	}
	return !slices.Contains(strings.Split(w.Except, ", "), arch)
}

// In says whether a setting applies in a version of Linux, such as 6.12.117 or 6.15-rc3. In an empty version, which
// nobody knows yet, only that applies which does in all.
func (w When) In(version string) bool {
	if version == "" {
		return !w.versioned()
	}
	v := numbers(version)
	if s := numbers(w.Since); w.Since != "" && slices.Compare(v, s) < 0 {
		return false
	}
	u := numbers(w.Until)
	return w.Until == "" || slices.Compare(v[:min(len(v), len(u))], u) <= 0
}

// versioned says whether the version matters.
func (w When) versioned() bool { return w.Since != "" || w.Until != "" }

// And is where both apply; false where both say one thing, such as the first version.
func (w When) And(o When) (When, bool) {
	ok := true
	for _, f := range []struct {
		to   *string
		more string
	}{{&w.Only, o.Only}, {&w.Except, o.Except}, {&w.Since, o.Since}, {&w.Until, o.Until}} {
		if f.more != "" {
			ok = ok && *f.to == ""
			*f.to = f.more
		}
	}
	return w, ok
}

// Apart says whether no kernel of the named architectures has settings of both.
func (w When) Apart(o When, architectures []string) bool {
	before := func(a, b When) bool { // a ends before b begins
		return a.Until != "" && b.Since != "" && !a.In(b.Since)
	}
	return before(w, o) || before(o, w) ||
		!slices.ContainsFunc(architectures, func(a string) bool { return w.On(a) && o.On(a) })
}

// String is for people: "only aarch64, riscv64; since 6.15"; empty where a setting applies everywhere.
func (w When) String() string {
	var all []string
	for _, p := range []struct{ word, value string }{{"only", w.Only}, {"except", w.Except}, {"since", w.Since},
		{"until", w.Until}} {
		if p.value != "" {
			all = append(all, p.word+" "+p.value)
		}
	}
	return strings.Join(all, "; ")
}

// CheckVersion says what is wrong with the version of a condition: it has two or three numbers, 6.15 or 6.12.37.
func CheckVersion(v string) error {
	parts := strings.Split(v, ".")
	for _, p := range parts {
		if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 999 || strconv.Itoa(n) != p {
			parts = nil
			break
		}
	}
	if len(parts) < 2 || len(parts) > 3 {
		return fmt.Errorf("%q: want a version of Linux, such as 6.15 or 6.12.37", v)
	}
	return nil
}

// numbers are those a version begins with: 6.15-rc3 is 6, 15. What is no number ends them.
func numbers(version string) []int {
	var all []int
	for p := range strings.SplitSeq(version, ".") {
		digits := len(p) - len(strings.TrimLeft(p, "0123456789"))
		n, err := strconv.Atoi(p[:digits])
		if err != nil {
			break
		}
		all = append(all, n)
		if digits < len(p) {
			break
		}
	}
	return all
}

// SourceVersion is the version of Linux that wrote a .config, from its heading; empty where it has none.
// Linux: scripts/kconfig/confdata.c writes the text of "mainmenu" there.
func SourceVersion(config []byte) string {
	for line := range strings.Lines(string(config[:min(len(config), maxHeading)])) {
		// "# Linux/x86 6.12.117 Kernel Configuration"
		if f := strings.Fields(line); len(f) == 5 && f[0] == "#" && strings.HasPrefix(f[1], "Linux/") &&
			f[3] == "Kernel" && len(numbers(f[2])) >= 2 {
			return f[2]
		}
	}
	return ""
}

// maxHeading is where the heading of a .config lies, in bytes from its beginning: the third line.
const maxHeading = 1024
