package tree

import "strings"

// Match is fnmatch(3) without flags, as POSIX.1-2017 2.13 describes patterns: a slash is a character like others.
func Match(pattern, s string) bool {
	star, from := -1, 0 // the last "*" and how far s was when it was tried last: it may always swallow one byte more
	for p, i := 0, 0; ; {
		if p < len(pattern) && pattern[p] == '*' {
			star, from = p, i
			p++
			continue
		}
		if p == len(pattern) && i == len(s) {
			return true
		}
		if p < len(pattern) && i < len(s) {
			if n, ok := matchOne(pattern[p:], s[i]); ok {
				p, i = p+n, i+1
				continue
			}
		}
		if star < 0 || from >= len(s) {
			return false
		}
		from++
		p, i = star+1, from
	}
}

// matchOne matches one byte with the beginning of a pattern and says how much of the pattern that is.
func matchOne(pattern string, c byte) (int, bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
	case '[':
		end := strings.IndexByte(pattern[min(2, len(pattern)):], ']') // the first character may be a "]"
		if end < 0 {
			break
		}
		set := pattern[1 : end+2]
		negated := set[0] == '!' || set[0] == '^'
		if negated && len(set) > 1 {
			set = set[1:]
		}
		in := false
		for i := 0; i < len(set); i++ {
			if i+2 < len(set) && set[i+1] == '-' {
				in = in || set[i] <= c && c <= set[i+2]
				i += 2
				continue
			}
			in = in || set[i] == c
		}
		return end + 3, in != negated
	}
	return 1, pattern[0] == c
}
