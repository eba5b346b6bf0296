package control

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is a package's version, [epoch:]upstream[-revision], as deb-version(7) has it.
type Version string

func (v Version) split() (epoch, upstream, revision string) {
	upstream = string(v)
	if e, rest, ok := strings.Cut(upstream, ":"); ok {
		epoch, upstream = e, rest
	}
	if i := strings.LastIndexByte(upstream, '-'); i >= 0 {
		upstream, revision = upstream[:i], upstream[i+1:]
	}
	return epoch, upstream, revision
}

// Check says what keeps v from being a version.
func (v Version) Check() error {
	epoch, upstream, revision := v.split()
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	if strings.Contains(string(v), ":") {
		if _, err := strconv.ParseUint(epoch, 10, 31); err != nil {
			return fmt.Errorf("version %q: the epoch is no number", string(v))
		}
	}
	if upstream == "" || !digit(upstream[0]) || strings.Trim(upstream, alnum+".+-~:") != "" {
		return fmt.Errorf("version %q: want an upstream part of letters, digits and .+-~: that begins with a digit",
			string(v))
	}
	if strings.HasSuffix(string(v), "-") || strings.Trim(revision, alnum+".+~") != "" {
		return fmt.Errorf("version %q: want a revision of letters, digits and .+~", string(v))
	}
	return nil
}

// Compare is negative when v is older than w, 0 when neither is, positive when v is newer. It has an answer for
// anything.
func (v Version) Compare(w Version) int {
	e1, u1, r1 := v.split()
	e2, u2, r2 := w.split()
	if c := compareNumbers(e1, e2); c != 0 {
		return c
	}
	if c := comparePart(u1, u2); c != 0 {
		return c
	}
	// No revision is revision 0, which an empty part equals.
	return comparePart(r1, r2)
}

// comparePart is the sorting algorithm of deb-version(7): parts without digits and numbers in turn.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		i, j := 0, 0
		for i < len(a) && !digit(a[i]) || j < len(b) && !digit(b[j]) {
			x, y := 0, 0
			if i < len(a) {
				x = order(a[i])
			}
			if j < len(b) {
				y = order(b[j])
			}
			if x != y {
				return x - y
			}
			i, j = i+1, j+1
		}
		a, b = a[min(i, len(a)):], b[min(j, len(b)):]
		i, j = digits(a), digits(b)
		if c := compareNumbers(a[:i], b[:j]); c != 0 {
			return c
		}
		a, b = a[i:], b[j:]
	}
	return 0
}

// order ranks a character in a part without digits: a tilde before the end of the part, which is 0 as a digit is, then
// letters, then the rest.
func order(c byte) int {
	switch {
	case c == '~':
		return -1
	case digit(c):
		return 0
	case c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z':
		return int(c)
	}
	return int(c) + 256
}

// compareNumbers compares strings of digits of any length; none at all is 0.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func digits(s string) int {
	i := 0
	for i < len(s) && digit(s[i]) {
		i++
	}
	return i
}
