package control

import (
	"fmt"
	"strings"
)

// Relation is one package that a field such as Depends names, and which of its versions count. Debian Policy 7.1.
type Relation struct {
	Name string
	Arch string // behind a colon: "any", an architecture, or "" for the package's own
	Op   string // "<<", "<=", "=", ">=", ">>", or "" for every version
	Version
}

func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + string(r.Version) + ")"
	}
	return s
}

// Holds says whether a version is one that counts.
func (r Relation) Holds(v Version) bool {
	c := 0
	if r.Op != "" {
		c = v.Compare(r.Version)
	}
	switch r.Op {
	case "":
		return true
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	}
	return c > 0
}

// Clause is alternatives, of which one is enough, the preferred first.
type Clause []Relation

func (c Clause) String() string {
	var s []string
	for _, r := range c {
		s = append(s, r.String())
	}
	return strings.Join(s, " | ")
}

// ParseRelations reads the value of a field of a binary package: clauses between commas. Restrictions in [] and <>,
// which only source packages have, are an error.
func ParseRelations(s string) ([]Clause, error) {
	var out []Clause
	for part := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		var c Clause
		for alt := range strings.SplitSeq(part, "|") {
			r, err := parseRelation(strings.TrimSpace(alt))
			if err != nil {
				return nil, err
			}
			c = append(c, r)
		}
		out = append(out, c)
	}
	return out, nil
}

func parseRelation(s string) (Relation, error) {
	var r Relation
	name, in, versioned := strings.Cut(s, "(")
	if versioned {
		in, ok := strings.CutSuffix(strings.TrimSpace(in), ")")
		n := len(in) - len(strings.TrimLeft(in, "<=>"))
		r.Op, r.Version = in[:n], Version(strings.TrimSpace(in[n:]))
		switch r.Op {
		case "<<", "<=", "=", ">=", ">>":
		default:
			ok = false
		}
		if !ok {
			return r, fmt.Errorf("relation %q: want (<<, <=, =, >= or >> and a version)", s)
		}
		if err := r.Version.Check(); err != nil {
			return r, fmt.Errorf("relation %q: %w", s, err)
		}
	}
	var qualified bool
	r.Name, r.Arch, qualified = strings.Cut(strings.TrimSpace(name), ":")
	if err := CheckName(r.Name); err != nil {
		return r, fmt.Errorf("relation %q: %w", s, err)
	}
	if qualified {
		if err := CheckArch(r.Arch); err != nil {
			return r, fmt.Errorf("relation %q: %w", s, err)
		}
	}
	return r, nil
}
