// Package hardening compares a kernel's final configuration with what the Kernel Self Protection Project recommends.
//
// rules.txt has what is recommended, a reason a line; exceptions.txt what we do not follow, and why not. It knows
// configurations and features' settings, and no trees.
package hardening

import (
	_ "embed" // rules.txt and exceptions.txt
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/kernel/kconfig"
)

//go:embed rules.txt
var rulesText string

//go:embed exceptions.txt
var exceptionsText string

// rule is one recommendation.
type rule struct {
	Symbol string
	Value  kconfig.Value
	When   kconfig.When
	If     string // a symbol that must be on for the rule to matter; empty is none
	Reason string
	Line   int // of rules.txt
}

// exception is a rule that is not followed.
type exception struct {
	Symbol  string
	Only    string // an architecture; empty is all
	Feature string // only where this feature is asked for; empty is everywhere
	Reason  string
	Line    int // of exceptions.txt
}

// readRules reads the table.
func readRules() ([]rule, error) { return parseRules("kernel/hardening/rules.txt", rulesText) }

// readExceptions reads what is not followed.
func readExceptions() ([]exception, error) {
	return parseExceptions("kernel/hardening/exceptions.txt", exceptionsText)
}

// entries calls each for the lines that are neither blank nor comments: the words, and the reason behind ": ".
func entries(name, text string, each func(line int, words []string, reason string) error) error {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		head, reason, ok := strings.Cut(line, ": ")
		words := strings.Fields(head)
		err := errors.New(`want words, ": " and a reason`)
		if ok && len(words) > 0 {
			err = each(n, words, strings.TrimSpace(reason))
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	return nil
}

func parseRules(name, text string) ([]rule, error) {
	var out []rule
	err := entries(name, text, func(line int, words []string, reason string) error {
		if len(words) < 2 || len(words)%2 != 0 {
			return errors.New("want SYMBOL VALUE, and pairs of a word and a value")
		}
		symbol, value, ok, err := kconfig.ParseLine("CONFIG_" + words[0] + "=" + words[1])
		if err != nil || !ok {
			return fmt.Errorf("%s %s: no symbol and value: %w", words[0], words[1], err)
		}
		r := rule{Symbol: symbol, Value: value, Reason: reason, Line: line}
		for i := 2; i < len(words); i += 2 {
			switch w := words[i+1]; words[i] {
			case "only":
				r.When.Only = strings.ReplaceAll(w, ",", ", ")
			case "since":
				r.When.Since = w
			case "until":
				r.When.Until = w
			case "if":
				r.If = w
			default:
				return fmt.Errorf("unknown word %q (known: only, since, until, if)", words[i])
			}
		}
		out = append(out, r)
		return nil
	})
	return out, err
}

func parseExceptions(name, text string) ([]exception, error) {
	var out []exception
	err := entries(name, text, func(line int, words []string, reason string) error {
		e := exception{Symbol: words[0], Reason: reason, Line: line}
		if len(words)%2 != 1 {
			return errors.New("want SYMBOL, and pairs of a word and a value")
		}
		for i := 1; i < len(words); i += 2 {
			switch words[i] {
			case "only":
				e.Only = words[i+1]
			case "feature":
				e.Feature = words[i+1]
			default:
				return fmt.Errorf("unknown word %q (known: feature, only)", words[i])
			}
		}
		out = append(out, e)
		return nil
	})
	return out, err
}

// Finding is a rule that a configuration does not follow.
type Finding struct {
	Option string `json:"option"`
	Want   string `json:"want"`
	Got    string `json:"got"`
	Rule   string `json:"rule"`             // why it is recommended
	Except string `json:"except,omitempty"` // why it is not followed; empty is a violation
}

// Result is what a comparison found.
type Result struct {
	Followed int       `json:"followed"` // rules
	Findings []Finding `json:"findings"`
}

// Violations counts the findings without an exception.
func (r *Result) Violations() int {
	n := 0
	for _, f := range r.Findings {
		if f.Except == "" {
			n++
		}
	}
	return n
}

// Check compares a final configuration with the rules that apply to an architecture, by its name in recipes, and a
// version of Linux. features are those that were asked for, with all that they require; their exceptions count.
func Check(arch, version string, features []string, final *kconfig.Config) (*Result, error) {
	rules, err := readRules()
	if err != nil {
		return nil, err
	}
	exceptions, err := readExceptions()
	if err != nil {
		return nil, err
	}
	out := &Result{Findings: []Finding{}}
	for _, r := range rules {
		if !r.When.On(arch) || !r.When.In(version) || r.If != "" && final.Get(r.If) == kconfig.No {
			continue
		}
		got := final.Get(r.Symbol)
		if got == r.Value {
			out.Followed++
			continue
		}
		f := Finding{Option: "CONFIG_" + r.Symbol, Want: string(r.Value), Got: string(got), Rule: r.Reason}
		if e := find(exceptions, r.Symbol, arch, features); e != nil {
			f.Except = e.Reason
		}
		out.Findings = append(out.Findings, f)
	}
	return out, nil
}

// find is the exception that counts for a symbol.
func find(all []exception, symbol, arch string, features []string) *exception {
	for i, e := range all {
		if e.Symbol == symbol && (e.Only == "" || e.Only == arch) &&
			(e.Feature == "" || slices.Contains(features, e.Feature)) {
			return &all[i]
		}
	}
	return nil
}
