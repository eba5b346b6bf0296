package kbuild

import (
	"errors"
	"path"
	"slices"
	"strings"
)

// word is one word of a variable, and what must be on for it to be there.
type word struct {
	text string
	need Need
}

// part is a piece of a text that was expanded.
type part struct {
	text string
	need Need
}

// variable is what a Makefile has assigned. vague says that nobody can tell its value: it was assigned under a
// condition that only a build can decide, or from what only a build has.
type variable struct {
	words []word
	vague bool
}

// Bounds of one value, against Makefiles that were made to be large.
const (
	maxDepth = 24
	maxWords = 20_000
	maxText  = 256 << 10
)

var errLarge = errors.New("a value grows too large")

// expansion expands texts of one Makefile.
type expansion struct {
	*makefile
	depth int
	vague bool // something only a build knows was asked for
	steps int
}

// text expands to one string, all of whose parts' needs must be met.
func (x *expansion) text(s string) (string, Need, error) {
	parts, err := x.parts(s)
	if err != nil {
		return "", nil, err
	}
	need, out := always(), strings.Builder{}
	for _, p := range parts {
		out.WriteString(p.text)
		need = need.and(p.need)
	}
	return out.String(), need, nil
}

// parts expands to the pieces that references and the text between them are.
func (x *expansion) parts(s string) ([]part, error) {
	if x.depth++; x.depth > maxDepth {
		return nil, errLarge
	}
	defer func() { x.depth-- }()
	if x.steps++; x.steps > maxWords {
		return nil, errLarge
	}
	var out []part
	total := 0
	for s != "" {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			out = append(out, part{s, always()})
			break
		}
		if i > 0 {
			out = append(out, part{s[:i], always()})
		}
		ref, rest, ok := reference(s[i:])
		s = rest
		if !ok {
			continue
		}
		ws, err := x.resolve(ref)
		if err != nil {
			return nil, err
		}
		p := part{need: always()}
		for j, w := range ws {
			if j > 0 {
				p.text += " "
			}
			p.text += w.text
			p.need = p.need.and(w.need)
			if total += len(w.text) + 1; total > maxText {
				return nil, errLarge
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// reference cuts $(NAME), ${NAME} or $X off the front; ok is false for $$ and what has no end.
func reference(s string) (inner, rest string, ok bool) {
	if len(s) < 2 || s[1] == '$' {
		return "", s[min(2, len(s)):], false
	}
	if s[1] != '(' && s[1] != '{' {
		return s[1:2], s[2:], true
	}
	end := closing(s, 1)
	if end < 0 {
		return "", "", false
	}
	return s[2:end], s[end+1:], true
}

// closing is where the bracket at open is closed; below 0 where it is not.
func closing(s string, open int) int {
	opens, closes := s[open], byte(')')
	if opens == '{' {
		closes = '}'
	}
	depth := 0
	for i := open; i < len(s); i++ {
		switch s[i] {
		case opens:
			depth++
		case closes:
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// words expands to words, each with what it needs itself.
func (x *expansion) words(s string) ([]word, error) {
	var out []word
	for _, f := range fields(s) {
		if ref, rest, ok := reference(f); ok && rest == "" && f[0] == '$' {
			ws, err := x.resolve(ref)
			if err != nil {
				return nil, err
			}
			out = append(out, ws...)
		} else {
			text, need, err := x.text(f)
			if err != nil {
				return nil, err
			}
			for _, t := range strings.Fields(text) {
				out = append(out, word{t, need})
			}
		}
		if len(out) > maxWords {
			return nil, errLarge
		}
	}
	return out, nil
}

// fields splits at blanks outside of references.
func fields(s string) []string {
	var out []string
	depth, start := 0, -1
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '(' || c == '{':
			depth++
		case (c == ')' || c == '}') && depth > 0:
			depth--
		case (c == ' ' || c == '\t') && depth == 0:
			if start >= 0 {
				out, start = append(out, s[start:i]), -1
			}
			continue
		}
		if start < 0 {
			start = i
		}
	}
	if start >= 0 {
		out = append(out, s[start:])
	}
	return out
}

// configPrefix begins the variables that are options.
const configPrefix = "CONFIG_"

// resolve is what stands for a reference: an option's value, a variable, or what a function makes.
func (x *expansion) resolve(ref string) ([]word, error) {
	if x.depth++; x.depth > maxDepth {
		return nil, errLarge
	}
	defer func() { x.depth-- }()
	if name, args, ok := strings.Cut(ref, " "); ok && isFunction(name) {
		return x.function(name, arguments(args))
	}
	name, from, to := ref, "", ""
	if n, pattern, ok := strings.Cut(ref, ":"); ok {
		name = n
		from, to, _ = strings.Cut(pattern, "=")
	}
	name, need, err := x.text(name)
	if err != nil {
		return nil, err
	}
	ws := x.value(name)
	out := make([]word, 0, len(ws))
	for _, w := range ws {
		w.need = need.and(w.need)
		if from != "" || to != "" {
			w.text = substitute("%"+from, "%"+to, w.text)
		}
		out = append(out, w)
	}
	return out, nil
}

// value is a variable's.
func (x *expansion) value(name string) []word {
	if symbol, ok := strings.CutPrefix(name, configPrefix); ok {
		v := x.tree.config(symbol)
		if v == "" {
			return nil
		}
		return []word{{v, one(symbol)}}
	}
	switch name {
	case "SRCARCH":
		return []word{{x.tree.arch, always()}}
	case "obj", "src":
		return []word{{x.dir, always()}}
	case "srctree", "objtree":
		return []word{{".", always()}}
	}
	v, ok := x.variables[name]
	if !ok {
		v, ok = x.tree.exported[name]
	}
	if !ok || v.vague {
		x.vague = true
	}
	if !ok {
		return nil
	}
	return v.words
}

func isFunction(name string) bool {
	switch name {
	case "subst", "patsubst", "addprefix", "addsuffix", "filter", "filter-out", "sort", "strip", "notdir", "dir",
		"basename", "if", "or", "and", "firstword", "lastword", "findstring",
		"call", "shell", "wildcard", "foreach", "eval", "error", "warning", "info", "abspath", "realpath", "origin",
		"word", "words", "wordlist", "join", "value", "flavor", "suffix", "file", "let":
		return true
	}
	return false
}

// arguments splits at commas outside of references.
func arguments(s string) []string {
	var out []string
	depth, start := 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '(', '{':
			depth++
		case ')', '}':
			depth--
		case ',':
			if depth == 0 {
				out, start = append(out, s[start:i]), i+1
			}
		}
	}
	return append(out, s[start:])
}

// function works out the functions of make that Makefiles make lists of objects with. GNU make manual: "Functions for
// Transforming Text". What others make, only a build can say.
func (x *expansion) function(name string, args []string) ([]word, error) {
	at := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch name {
	case "if", "or", "and":
		return x.choose(name, args)
	case "addprefix", "addsuffix", "filter", "filter-out":
		return x.each(name, at(0), "", at(1))
	case "patsubst":
		return x.each(name, at(0), at(1), at(2))
	case "sort", "strip", "notdir", "dir", "basename":
		return x.each(name, "", "", at(0))
	case "firstword", "lastword":
		ws, err := x.words(at(0))
		if err != nil || len(ws) == 0 {
			return nil, err
		}
		if name == "firstword" {
			return ws[:1], nil
		}
		return ws[len(ws)-1:], nil
	case "subst", "findstring":
		var texts [3]string
		need := always()
		for i := range texts {
			t, n, err := x.text(at(i))
			if err != nil {
				return nil, err
			}
			texts[i], need = t, need.and(n)
		}
		out := ""
		switch {
		case name == "subst" && texts[0] != "":
			if strings.Count(texts[2], texts[0])*len(texts[1]) > maxText {
				return nil, errLarge
			}
			out = strings.ReplaceAll(texts[2], texts[0], texts[1])
		case name == "findstring" && strings.Contains(texts[1], texts[0]):
			out = texts[0]
		}
		return []word{{out, need}}, nil
	}
	x.vague = true
	return nil, nil
}

// choose is one of the functions that look whether a text is empty.
func (x *expansion) choose(name string, args []string) ([]word, error) {
	need := always()
	for i, a := range args {
		a = strings.TrimSpace(a)
		if name == "if" && i > 0 {
			break
		}
		met, n, err := x.nonEmpty(a)
		switch {
		case err != nil:
			return nil, err
		case name == "if" && !met:
			if len(args) < 3 {
				return nil, nil
			}
			return x.words(args[2])
		case name == "if":
			ws, err := x.words(append(args, "")[1])
			return needing(ws, n), err
		case name == "or" && met:
			return x.words(a)
		case name == "and" && !met:
			return nil, nil
		case name == "and" && i == len(args)-1:
			ws, err := x.words(a)
			return needing(ws, need), err
		}
		need = need.and(n)
	}
	return nil, nil
}

// nonEmpty says whether a text is more than blanks, and what is needed for it: one of its parts that are.
func (x *expansion) nonEmpty(s string) (bool, Need, error) {
	parts, err := x.parts(s)
	if err != nil {
		return false, nil, err
	}
	var need Need
	for _, p := range parts {
		if strings.TrimSpace(p.text) != "" {
			need = need.or(p.need)
		}
	}
	if need == nil {
		return false, always(), nil
	}
	return true, need, nil
}

func needing(ws []word, need Need) []word {
	out := make([]word, len(ws))
	for i, w := range ws {
		out[i] = word{w.text, need.and(w.need)}
	}
	return out
}

// each is one of the functions that take each word by itself.
func (x *expansion) each(name, a, b, list string) ([]word, error) {
	first, need, err := x.text(a)
	if err != nil {
		return nil, err
	}
	second, more, err := x.text(b)
	if err != nil {
		return nil, err
	}
	ws, err := x.words(list)
	if err != nil {
		return nil, err
	}
	need = need.and(more)
	first, second = strings.TrimSpace(first), strings.TrimSpace(second)
	patterns := strings.Fields(first)
	total := 0
	var out []word
	for _, w := range ws {
		w.need = need.and(w.need)
		switch name {
		case "addprefix":
			w.text = first + w.text
		case "addsuffix":
			w.text += first
		case "patsubst":
			w.text = substitute(first, second, w.text)
		case "notdir":
			w.text = path.Base(w.text)
		case "dir":
			w.text = path.Dir(w.text) + "/"
		case "basename":
			w.text = strings.TrimSuffix(w.text, path.Ext(w.text))
		case "filter", "filter-out":
			if slices.ContainsFunc(patterns, func(p string) bool { return matches(p, w.text) }) != (name == "filter") {
				continue
			}
		}
		if total += len(w.text); total > maxText {
			return nil, errLarge
		}
		out = append(out, w)
	}
	return out, nil
}

// matches compares a word with a pattern, whose first % stands for anything.
func matches(pattern, s string) bool {
	before, after, ok := strings.Cut(pattern, "%")
	if !ok {
		return pattern == s
	}
	return len(s) >= len(before)+len(after) && strings.HasPrefix(s, before) && strings.HasSuffix(s, after)
}

// substitute is patsubst for one word.
func substitute(pattern, to, s string) string {
	if !matches(pattern, s) {
		return s
	}
	before, after, ok := strings.Cut(pattern, "%")
	if !ok {
		return to
	}
	return strings.Replace(to, "%", s[len(before):len(s)-len(after)], 1)
}
