package recipe

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var (
	kernelKey    = regexp.MustCompile(`^kernel:[ \t]*(#.*)?$`)
	fragmentsKey = regexp.MustCompile(`^([ \t]+)fragments:[ \t]*(.*)$`)
	flowList     = regexp.MustCompile(`^\[(.*)\]([ \t]*(?:#.*)?)$`)
	listItem     = regexp.MustCompile(`^([ \t]*)-[ \t]+(.*)$`)
)

// AddFragment names one more file in kernel.fragments of a recipe's text, and changes no other line. It says whether
// the text changed: a file that is named already is not named again. Where the text has a form that it does not know,
// the error says what to write.
func AddFragment(text []byte, file string) ([]byte, bool, error) {
	lines := strings.SplitAfter(string(text), "\n")
	bare := func(i int) string { return strings.TrimRight(lines[i], "\r\n") }
	unknown := fmt.Errorf("write %q into the recipe yourself, below kernel: its lines have a form that is not "+
		"edited here",
		"fragments: ["+file+"]")
	at := slices.IndexFunc(lines, func(l string) bool { return kernelKey.MatchString(strings.TrimRight(l, "\r\n")) })
	if at < 0 {
		return nil, false, unknown
	}
	names := func(s string) []string {
		var out []string
		for n := range strings.SplitSeq(s, ",") {
			if n = strings.Trim(strings.TrimSpace(n), `"'`); n != "" {
				out = append(out, n)
			}
		}
		return out
	}
	done := func(at int, line string) ([]byte, bool, error) {
		return []byte(strings.Join(slices.Insert(slices.Clone(lines), at, line), "")), true, nil
	}
	indent := ""
	for i := at + 1; i < len(lines); i++ {
		line := bare(i)
		trimmed := strings.TrimLeft(line, " \t")
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		own := line[:len(line)-len(trimmed)]
		if own == "" {
			break
		}
		if indent == "" {
			indent = own
		}
		m := fragmentsKey.FindStringSubmatch(line)
		if m == nil || m[1] != indent {
			continue
		}
		if flow := flowList.FindStringSubmatch(m[2]); flow != nil {
			have := names(flow[1])
			if slices.Contains(have, file) {
				return text, false, nil
			}
			lines[i] = indent + "fragments: [" + strings.Join(append(have, file), ", ") + "]" + flow[2] + "\n"
			return []byte(strings.Join(lines, "")), true, nil
		}
		if m[2] != "" && m[2][0] != '#' {
			return nil, false, unknown
		}
		last, item := -1, ""
		for j := i + 1; j < len(lines); j++ {
			n := listItem.FindStringSubmatch(bare(j))
			if n == nil || len(n[1]) < len(indent) {
				break
			}
			if slices.Contains(names(n[2]), file) {
				return text, false, nil
			}
			last, item = j, n[1]
		}
		if last < 0 {
			return nil, false, unknown
		}
		return done(last+1, item+"- "+file+"\n")
	}
	if indent == "" {
		return nil, false, unknown
	}
	return done(at+1, indent+"fragments: ["+file+"]\n")
}
