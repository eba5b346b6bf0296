package objcache

import (
	"bytes"
	"slices"
	"strings"
)

// text is what of a file's text decides whether, and on what else, an object made from it depends.
type text struct {
	options   []string // names of options that occur in it, without CONFIG_; sorted, each once
	quoted    []string // what it includes in quotes
	assembled []string // what the assembler includes
	computed  bool     // it includes something whose name a macro makes
	refused   bool     // it reads what no dependency file lists, or the clock
}

// scan reads a source file without its preprocessor: what stands in comments and in parts that are left out counts
// too, since it is cheaper to depend on too much.
func scan(data []byte) *text {
	t := &text{}
	for _, w := range []string{"__DATE__", "__TIME__", "__TIMESTAMP__", "__has_include", "__has_embed", ".incbin",
		"system_header", "#embed", "# embed", "include_alias"} {
		if bytes.Contains(data, []byte(w)) {
			t.refused = true
		}
	}
	t.refused = t.refused || gccDependency(data)
	t.scanAssembler(data)
	t.scanOptions(data)
	t.scanIncludes(data)
	return t
}

// scanAssembler collects the files of the assembler's own `.include "file"`, in assembly or in a string of C. In angle
// brackets, it takes none.
func (t *text) scanAssembler(data []byte) {
	for at := data; ; {
		i := bytes.Index(at, []byte(".include"))
		if i < 0 {
			return
		}
		at = at[i+len(".include"):]
		name, ok := bytes.CutPrefix(bytes.TrimLeft(at, " \t\\"), []byte{'"'})
		if !ok {
			continue
		}
		if end := bytes.IndexAny(name, "\"\\\n"); end > 0 && name[end] != '\n' {
			t.assembled = append(t.assembled, string(name[:end]))
		} else {
			t.refused = true
		}
	}
}

// gccDependency finds `#pragma GCC dependency`, which looks at the time of a file.
func gccDependency(data []byte) bool {
	for at := data; ; {
		i := bytes.Index(at, []byte("pragma"))
		if i < 0 {
			return false
		}
		at = at[i+len("pragma"):]
		f := bytes.Fields(at[:min(len(at), 64)])
		if len(f) >= 2 && string(f[0]) == "GCC" && bytes.HasPrefix(f[1], []byte("dependency")) {
			return true
		}
	}
}

func isWord(b byte) bool {
	return b == '_' || '0' <= b && b <= '9' || 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z'
}

// scanOptions collects the names behind CONFIG_, as Linux's scripts/basic/fixdep.c does for make. A name with _MODULE
// stands for the option itself too.
func (t *text) scanOptions(data []byte) {
	const prefix = "CONFIG_"
	pasted := func(b []byte) bool { return bytes.HasPrefix(bytes.TrimLeft(b, " \t\\\n"), []byte("##")) }
	for pos := 0; ; {
		i := bytes.Index(data[pos:], []byte(prefix))
		if i < 0 {
			break
		}
		start := pos + i + len(prefix)
		end := start
		for end < len(data) && isWord(data[end]) {
			end++
		}
		if end > start {
			name := string(data[start:end])
			t.options = append(t.options, name)
			if base := strings.TrimSuffix(name, moduleSuffix); base != name && base != "" {
				t.options = append(t.options, base)
			}
		}
		// A name that the preprocessor puts together could be any.
		if pasted(data[end:]) || bytes.HasSuffix(bytes.TrimRight(data[:start-len(prefix)], " \t\\\n"), []byte("##")) {
			t.refused = true
		}
		pos = end
	}
	slices.Sort(t.options)
	t.options = slices.Compact(t.options)
}

// scanIncludes collects what is included in quotes. A line that goes on behind a backslash is taken as it stands: the
// kernel has none in front of an include.
func (t *text) scanIncludes(data []byte) {
	for pos := 0; ; {
		i := bytes.Index(data[pos:], []byte("include"))
		if i < 0 {
			return
		}
		at := pos + i
		pos = at + len("include")
		before := bytes.TrimRight(data[:at], " \t")
		if len(before) == 0 || before[len(before)-1] != '#' {
			continue
		}
		rest := bytes.TrimPrefix(data[pos:], []byte("_next"))
		if len(rest) > 0 && isWord(rest[0]) {
			continue
		}
		rest = bytes.TrimLeft(rest, " \t")
		switch {
		case len(rest) == 0 || rest[0] == '<':
		case rest[0] == '"':
			if end := bytes.IndexAny(rest[1:], "\"\n"); end > 0 && rest[1+end] == '"' && rest[1] != '/' {
				t.quoted = append(t.quoted, string(rest[1:1+end]))
			}
		default:
			t.computed = true
		}
	}
}

// moduleSuffix is what kconfig.h puts behind an option's name to ask whether it is =m.
const moduleSuffix = "_MODULE"

// autoconf is the header that holds the configuration.
const autoconf = "include/generated/autoconf.h"

// isAutoconf says whether a dependency is the configuration.
func isAutoconf(dep string) bool { return strings.TrimPrefix(dep, "./") == autoconf }

// parseAutoconf reads the configuration's header: option without CONFIG_ → value. It takes what Kconfig writes, and
// nothing that would make one option's value depend on another.
func parseAutoconf(data []byte) (map[string]string, bool) {
	values := map[string]string{}
	comment := false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case comment:
			if i := strings.Index(line, "*/"); i >= 0 {
				if i+2 != len(line) {
					return nil, false
				}
				comment = false
			}
		case line == "":
		case strings.HasPrefix(line, "/*"):
			if i := strings.Index(line, "*/"); i < 0 {
				comment = true
			} else if i+2 != len(line) {
				return nil, false
			}
		default:
			rest, ok := strings.CutPrefix(line, "#define CONFIG_")
			name, value, found := strings.Cut(rest, " ")
			if !ok || !found || name == "" || strings.ContainsFunc(name, func(r rune) bool {
				return r > 127 || !isWord(byte(r))
			}) || strings.Contains(value, "CONFIG_") || strings.HasSuffix(value, "\\") {
				return nil, false
			}
			if _, twice := values[name]; twice {
				return nil, false
			}
			values[name] = value
		}
	}
	return values, !comment
}
