package kbuild

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// makefile is one Makefile with what it includes, as far as assignments go.
type makefile struct {
	tree      *reader
	dir       string // below the tree's root
	variables map[string]variable
	exports   map[string]bool
	size      int // words that were assigned
}

// branch is a conditional that is open.
type branch struct {
	taken yesNo
	need  Need
	done  yesNo // a branch before this one was taken
	line  int
}

// yesNo is an answer, or that only a build can give one.
type yesNo int

const (
	no yesNo = iota
	perhaps
	yes
)

// scan reads one file's lines.
type scan struct {
	*makefile
	name   string
	stack  []branch
	inRule bool // lines that begin with a tab are commands
	define int  // open definitions of several lines
}

// maxNesting bounds conditionals within each other, and files that include each other.
const maxNesting = 32

// read reads a file's lines.
func (m *makefile) read(name string, data []byte, depth int) error {
	s := &scan{makefile: m, name: name}
	lines := strings.Split(string(data), "\n")
	for i := 0; i < len(lines); i++ {
		line, at := lines[i], i+1
		var joined strings.Builder
		for strings.HasSuffix(line, "\\") && i+1 < len(lines) {
			joined.WriteString(strings.TrimSuffix(line, "\\") + " ")
			i++
			line = lines[i]
		}
		joined.WriteString(line)
		if err := s.line(joined.String(), at, depth); err != nil {
			return fmt.Errorf("%s:%d: %w", name, at, err)
		}
	}
	if len(s.stack) > 0 {
		return fmt.Errorf("%s:%d: no endif", name, s.stack[len(s.stack)-1].line)
	}
	return nil
}

func (s *scan) line(line string, at, depth int) error {
	if strings.HasPrefix(line, "\t") && s.inRule {
		return nil
	}
	line = strings.TrimSpace(uncomment(line))
	key, rest, _ := strings.Cut(line, " ")
	if tab := strings.IndexByte(key, '\t'); tab >= 0 {
		key, rest = key[:tab], key[tab:]+" "+rest
	} else if i := strings.IndexByte(key, '('); i > 0 && (key[:i] == "ifeq" || key[:i] == "ifneq") {
		key, rest = key[:i], line[i:]
	}
	rest = strings.TrimSpace(rest)
	switch {
	case line == "":
		return nil
	case key == "define":
		s.define++
		return nil
	case key == "endef":
		s.define = max(0, s.define-1)
		return nil
	case s.define > 0:
		return nil
	case key == "ifeq", key == "ifneq", key == "ifdef", key == "ifndef":
		if len(s.stack) == maxNesting {
			return errors.New("conditionals are nested too deep")
		}
		b := branch{line: at}
		var err error
		b.taken, b.need, err = s.condition(key, rest)
		s.stack = append(s.stack, b)
		return err
	case key == "else":
		return s.otherwise(rest)
	case key == "endif":
		if len(s.stack) == 0 {
			return errors.New("endif without a conditional")
		}
		s.stack = s.stack[:len(s.stack)-1]
		return nil
	}
	if taken, _ := s.here(); taken == no {
		return nil
	}
	if key == "include" || key == "-include" || key == "sinclude" {
		return s.include(rest, depth)
	}
	if key == "export" {
		for _, name := range exported(rest) {
			s.exports[name] = true
		}
	}
	if key == "export" || key == "override" {
		line = rest
	}
	return s.assignOrRule(line)
}

// exported lists the variables of an export: names, or one that is assigned.
func exported(rest string) []string {
	if i, op := operator(rest); i >= 0 && op != "" {
		rest = rest[:i]
	}
	return strings.Fields(rest)
}

// uncomment takes away what stands behind a #.
func uncomment(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] == '#' && (i == 0 || s[i-1] != '\\') {
			return s[:i]
		}
	}
	return s
}

// here says whether lines count now, and what is needed for it.
func (s *scan) here() (yesNo, Need) {
	taken, need := yes, always()
	for _, b := range s.stack {
		taken = min(taken, b.taken)
		if b.taken == yes {
			need = need.and(b.need)
		}
	}
	return taken, need
}

// otherwise turns to the next branch of a conditional.
func (s *scan) otherwise(rest string) error {
	if len(s.stack) == 0 {
		return errors.New("else without a conditional")
	}
	b := &s.stack[len(s.stack)-1]
	b.done = max(b.done, b.taken)
	b.taken, b.need = yes, always()
	if key, condition, ok := strings.Cut(rest, " "); ok {
		var err error
		if b.taken, b.need, err = s.condition(key, strings.TrimSpace(condition)); err != nil {
			return err
		}
	}
	b.taken = min(b.taken, yes-b.done)
	return nil
}

// condition works out whether a branch is taken, and by which options.
func (s *scan) condition(key, rest string) (yesNo, Need, error) {
	if key == "ifdef" || key == "ifndef" {
		rest = "$(" + rest + ")"
		key = map[string]string{"ifdef": "ifneq", "ifndef": "ifeq"}[key]
		return s.compare(key, rest, "")
	}
	a, b, ok := operands(rest)
	if !ok || key != "ifeq" && key != "ifneq" {
		return perhaps, always(), nil
	}
	return s.compare(key, a, b)
}

func (s *scan) compare(key, a, b string) (yesNo, Need, error) {
	x := &expansion{makefile: s.makefile}
	left, n, err := x.text(a)
	if err != nil {
		return no, nil, err
	}
	right, m, err := x.text(b)
	switch {
	case err != nil:
		return no, nil, err
	case x.vague:
		return perhaps, always(), nil
	case (strings.TrimSpace(left) == strings.TrimSpace(right)) != (key == "ifeq"):
		return no, always(), nil
	case key == "ifeq":
		return yes, n.and(m), nil
	}
	// "Other than nothing" holds by any of the options; "other than y" by none.
	switch {
	case strings.TrimSpace(right) == "":
		_, n, err = x.nonEmpty(a)
	case strings.TrimSpace(left) == "":
		_, n, err = x.nonEmpty(b)
	default:
		n = n.and(m)
	}
	return yes, n, err
}

// operands are the two sides of (A,B), or of 'A' 'B' with either quotes.
func operands(s string) (a, b string, ok bool) {
	if strings.HasPrefix(s, "(") {
		end := closing(s, 0)
		if end < 0 {
			return "", "", false
		}
		args := arguments(s[1:end])
		if len(args) < 2 {
			return "", "", false
		}
		return args[0], strings.Join(args[1:], ","), true
	}
	cut := func(s string) (string, string, bool) {
		if s == "" || s[0] != '"' && s[0] != '\'' {
			return "", "", false
		}
		return strings.Cut(s[1:], s[:1])
	}
	a, rest, ok := cut(s)
	if !ok {
		return "", "", false
	}
	b, _, ok = cut(strings.TrimSpace(rest))
	return a, b, ok
}

// include reads further files; one that only a build makes is left out.
func (s *scan) include(rest string, depth int) error {
	if depth == maxNesting {
		return errors.New("files include each other too deep")
	}
	x := &expansion{makefile: s.makefile}
	names, err := x.words(rest)
	if err != nil {
		return err
	}
	for _, w := range names {
		name := path.Clean(strings.TrimPrefix(w.text, "./"))
		data, err := s.tree.file(name)
		if err != nil {
			return err
		}
		if data != nil {
			if err := s.read(name, data, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// assignOrRule reads a line that is neither a conditional nor a directive.
func (s *scan) assignOrRule(line string) error {
	i, op := operator(line)
	if i < 0 {
		s.inRule = s.inRule || strings.Contains(line, ":")
		return nil
	}
	s.inRule = false
	x := &expansion{makefile: s.makefile}
	name, need, err := x.text(strings.TrimSpace(line[:i]))
	if err != nil {
		return err
	}
	name = strings.TrimSpace(name)
	ws, err := x.words(line[i+len(op):])
	if err != nil {
		return err
	}
	taken, outer := s.here()
	ws = needing(ws, outer.and(need))
	if s.size += len(ws) + 1; s.size > maxWords {
		return errLarge
	}
	v, there := s.variables[name]
	switch {
	case op == "+=", taken == perhaps:
		v.words = append(v.words[:len(v.words):len(v.words)], ws...)
	case op == "?=" && there:
	default:
		v = variable{words: ws}
	}
	v.vague = v.vague || x.vague || taken == perhaps
	s.variables[name] = v
	return nil
}

// operator finds what assigns in a line, outside of references: its place, below 0 where the line is a rule or nothing.
func operator(line string) (int, string) {
	depth := 0
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '(', '{':
			depth++
			continue
		case ')', '}':
			depth--
			continue
		}
		if depth > 0 {
			continue
		}
		for _, op := range []string{":::=", "::=", ":=", "+=", "?=", "="} {
			if strings.HasPrefix(line[i:], op) {
				return i, op
			}
		}
		if line[i] == ':' {
			return -1, ""
		}
	}
	return -1, ""
}
