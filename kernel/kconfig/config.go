// Package kconfig reads kernel configurations and the Kconfig language, compares what was asked with what came out, and
// says why a setting came out otherwise.
//
// It takes bytes and folders of a kernel tree and gives values and errors. It does not know where settings come from,
// and does not run the kernel's own configurator: it explains that program's verdict, it does not replace it.
package kconfig

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/katabuild/katabuild/internal/mistake"
)

// Value is a symbol's value as .config spells it: y, m, n, a number, or a string in double quotes.
type Value string

// No is the value of a symbol that is not set.
const No Value = "n"

// Config is one .config.
type Config struct {
	values map[string]Value
	order  []string
}

// Get is the value of a symbol named without CONFIG_; No when the configuration does not set it.
func (c *Config) Get(symbol string) Value {
	if v, ok := c.values[symbol]; ok {
		return v
	}
	return No
}

// On is the value of a symbol as Makefiles see it: empty where it is off.
func (c *Config) On(symbol string) string {
	if v := c.Get(symbol); v != No {
		return string(v)
	}
	return ""
}

// Symbols lists what the configuration mentions, in its order.
func (c *Config) Symbols() []string { return slices.Clone(c.order) }

// ParseConfig reads a .config strictly: every line is a setting, "# CONFIG_X is not set", a comment or blank, and no
// symbol comes twice.
func ParseConfig(name string, data []byte) (*Config, error) {
	c := &Config{values: map[string]Value{}}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		symbol, value, ok, err := ParseLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		if !ok {
			continue
		}
		if _, twice := c.values[symbol]; twice {
			return nil, fmt.Errorf("%s:%d: CONFIG_%s is set twice", name, n, symbol)
		}
		c.values[symbol] = value
		c.order = append(c.order, symbol)
	}
	return c, nil
}

const (
	prefix = "CONFIG_"
	notSet = " is not set"
)

// ParseLine reads one line of a .config or a fragment; ok is false for a blank line or a comment.
func ParseLine(line string) (symbol string, value Value, ok bool, err error) {
	if rest, found := strings.CutPrefix(line, "# "+prefix); found {
		if symbol, found = strings.CutSuffix(rest, notSet); found && isSymbol(symbol) {
			return symbol, No, true, nil
		}
		return "", "", false, fmt.Errorf("%q: want \"# %sNAME%s\", or a comment that does not begin with %s", line,
			prefix, notSet, prefix)
	}
	if trimmed := strings.TrimSpace(line); trimmed == "" || trimmed[0] == '#' {
		return "", "", false, nil
	}
	rest, found := strings.CutPrefix(line, prefix)
	if !found {
		return "", "", false, fmt.Errorf("%q: want %sNAME=value, \"# %sNAME%s\", a comment or a blank line", line,
			prefix, prefix, notSet)
	}
	symbol, v, found := strings.Cut(rest, "=")
	if !found || !isSymbol(symbol) {
		return "", "", false, fmt.Errorf("%q: want %sNAME=value", line, prefix)
	}
	if !validValue(v) {
		return "", "", false, fmt.Errorf(
			"%q: want y, m, n, a decimal or 0x number, or a string in double quotes as the value", line)
	}
	return symbol, Value(v), true, nil
}

// isSymbol says whether s can name a symbol.
func isSymbol(s string) bool {
	for _, r := range s {
		if (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' {
			return false
		}
	}
	return s != ""
}

func validValue(v string) bool {
	if v == "y" || v == "m" || v == "n" {
		return true
	}
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		in := v[1 : len(v)-1]
		for i := 0; i < len(in); i++ {
			switch in[i] {
			case '\\':
				if i++; i == len(in) {
					return false // the closing quote is escaped
				}
			case '"', 0:
				return false
			}
		}
		return true
	}
	digits, hex := v, false
	if d, ok := strings.CutPrefix(v, "0x"); ok {
		digits, hex = d, true
	} else {
		digits = strings.TrimPrefix(v, "-")
	}
	for _, r := range digits {
		if (r < '0' || r > '9') && (!hex || ((r < 'a' || r > 'f') && (r < 'A' || r > 'F'))) {
			return false
		}
	}
	return digits != ""
}

// Setting is the value that somebody asked of one symbol.
type Setting struct {
	Symbol string // without CONFIG_
	Value  Value
	File   string // the fragment, as shown to people
	Line   int
	Reason string // why it is wanted; may be empty
	// Preference makes it give way to every other setting: to one for the same symbol, and to those whose consequences
	// exclude it.
	Preference bool
	When       When   // where it applies; the zero value is everywhere
	Source     string // the line as it is written; empty when nobody knows
}

func (w Setting) where() string { return fmt.Sprintf("%s:%d", w.File, w.Line) }

// Text is the setting as a line of a .config.
func (w Setting) Text() string {
	if w.Value == No {
		return "# " + prefix + w.Symbol + notSet
	}
	return prefix + w.Symbol + "=" + string(w.Value)
}

// Wrong is what is wrong with a setting: its place and the message, and where its line is known, the line and a caret
// below the symbol, or below the value when that is what is wrong.
func (w Setting) Wrong(message string, value bool) error {
	if w.Source == "" {
		return fmt.Errorf("%s: %s", w.where(), message)
	}
	at := max(strings.Index(w.Source, prefix), 0)
	if value {
		at = w.valueAt(at)
	}
	return &mistake.Error{File: w.File, Line: w.Line, Column: utf8.RuneCountInString(w.Source[:at]) + 1,
		Message: message, Source: w.Source}
}

// valueAt is where the value begins in the line, in bytes: a fragment's CONFIG_X=y or # CONFIG_X is not set, or a
// recipe's {option: CONFIG_X, value: y}. It is where the symbol begins when the value stands in another line.
func (w Setting) valueAt(symbol int) int {
	if at := strings.Index(w.Source, inRecipe); at >= 0 && !strings.HasPrefix(w.Source, prefix) {
		at += len(inRecipe)
		return at + len(w.Source[at:]) - len(strings.TrimLeft(w.Source[at:], " "))
	}
	if at := strings.IndexByte(w.Source, '='); at >= 0 {
		return at + 1
	}
	if at := strings.Index(w.Source, notSet); at >= 0 {
		return at + 1
	}
	return symbol
}

// inRecipe stands before the value of an option that a recipe overrides.
const inRecipe = "value:"

// Conflict is two settings that exclude each other.
type Conflict struct {
	First, Second Setting
	Fix           string // a way out, for people; may be empty
}

func (c *Conflict) Error() string {
	s := fmt.Sprintf("%s%s=%s contradicts %s%s=%s at %s", prefix, c.Second.Symbol, c.Second.Value,
		prefix, c.First.Symbol, c.First.Value, c.First.where())
	if c.First.Reason != "" {
		s += fmt.Sprintf(" (%q)", c.First.Reason)
	}
	if c.Fix != "" {
		s += "; " + c.Fix
	}
	return c.Second.Wrong(s, true).Error()
}

// Merge makes one list, sorted by symbol, of settings that agree; it names every pair that does not. A preference is
// left out where there is a setting for its symbol that is none.
func Merge(settings []Setting) ([]Setting, []*Conflict) {
	firm := map[string]bool{}
	for _, w := range settings {
		if !w.Preference {
			firm[w.Symbol] = true
		}
	}
	first := map[string]Setting{}
	var conflicts []*Conflict
	var merged []Setting
	for _, w := range settings {
		if w.Preference && firm[w.Symbol] {
			continue
		}
		f, ok := first[w.Symbol]
		if !ok {
			first[w.Symbol] = w
			merged = append(merged, w)
			continue
		}
		if !sameValue(f.Value, w.Value) {
			conflicts = append(conflicts, &Conflict{First: f, Second: w})
		}
	}
	slices.SortFunc(merged, func(a, b Setting) int { return strings.Compare(a.Symbol, b.Symbol) })
	return merged, conflicts
}

// sameValue compares values; hexadecimal digits may be of either case, as the configurator does not change them.
func sameValue(a, b Value) bool {
	return a == b || strings.HasPrefix(string(a), "0x") && strings.EqualFold(string(a), string(b))
}

// Unmet is a setting that came out otherwise, or whose symbol the tree does not have.
type Unmet struct {
	Setting Setting
	Got     Value
	Why     string // from Tree.Explain; empty when not asked
	Value   bool   // the value is what is wrong, not the wish
	Fix     string // a way out, for people; may be empty
}

// Short is one line that names the place.
func (u *Unmet) Short() string { return u.Setting.where() + ": " + u.message() }

func (u *Unmet) message() string {
	s := fmt.Sprintf("asked for %s%s=%s", prefix, u.Setting.Symbol, u.Setting.Value)
	if !sameValue(u.Setting.Value, u.Got) {
		s += ", got " + string(u.Got)
	}
	for _, more := range []struct{ before, text string }{{": ", u.Why}, {"; ", u.Fix}} {
		if more.text != "" {
			s += more.before + more.text
		}
	}
	return s
}

func (u *Unmet) Error() string { return u.Setting.Wrong(u.message(), u.Value).Error() }

// Compare finds the settings that the final configuration does not fulfil, preferences among them, in the order of the
// settings.
func Compare(settings []Setting, final *Config) []*Unmet {
	var unmet []*Unmet
	for _, w := range settings {
		if got := final.Get(w.Symbol); !sameValue(w.Value, got) {
			unmet = append(unmet, &Unmet{Setting: w, Got: got})
		}
	}
	return unmet
}
