// Package menu answers what people ask of a kernel's options: what one is, why it has its value, what would switch it
// on, and which settings make one configuration of another.
//
// It takes a tree's Kconfig files, a final configuration and the settings it was made of, all read by package kconfig,
// and gives values for people and programs. It runs nothing and reads no files. What it says of a configuration that
// there is, is what that configuration holds; what it says of one that there could be, it has worked out by the rules
// of the language, which only the kernel's own configurator decides for good.
package menu

import (
	"slices"
	"strings"

	"github.com/katabuild/katabuild/kernel/kconfig"
)

// Account is all that there is to say of one option of a kernel. Options have their CONFIG_ here.
type Account struct {
	Option string `json:"option"`
	// Known is false where the tree has no such option; of the other fields, only Nearest and Asked count then.
	Known   bool     `json:"known"`
	Nearest []string `json:"nearest,omitempty"` // options with a name like it
	Value   string   `json:"value,omitempty"`   // in the final configuration
	Type    string   `json:"type,omitempty"`
	Asked   []Asked  `json:"asked,omitempty"`
	// Definitions are the places that define it; most options have one.
	Definitions []Definition `json:"definitions,omitempty"`
	SelectedBy  []By         `json:"selected_by,omitempty"` // those that select it, active ones first
	ImpliedBy   []By         `json:"implied_by,omitempty"`
	// Wish is what to ask for beside what is asked for already, so that it is on; only for one that is off and can be
	// on. The last line is the option's own where it has a prompt.
	Wish []Line `json:"wish,omitempty"`
	// Also is what else the Wish would change, with the values then.
	Also []Member `json:"also,omitempty"`
	// Unreachable says that no Wish was found.
	Unreachable bool `json:"unreachable,omitempty"`
}

// Asked is a line that asks for the option.
type Asked struct {
	Line       string `json:"line"` // as in a .config
	File       string `json:"file"`
	At         int    `json:"at"` // the line's number
	Feature    string `json:"feature,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Preference bool   `json:"preference,omitempty"` // it gives way to what others ask for
}

// Definition is a place in the Kconfig files.
type Definition struct {
	File    string      `json:"file"`
	Line    int         `json:"line"`
	Menu    []string    `json:"menu,omitempty"`
	Prompt  string      `json:"prompt,omitempty"` // empty where nobody can ask for it by this definition
	Help    []string    `json:"help,omitempty"`
	Depends []Condition `json:"depends,omitempty"`
	Visible []Condition `json:"visible,omitempty"` // what the prompt needs beside
	Default []Default   `json:"default,omitempty"`
	Range   []string    `json:"range,omitempty"`
	Choice  []Member    `json:"choice,omitempty"` // all of the choice that it is one of
}

// Condition is an expression with its value, and those of its parts.
type Condition struct {
	Text  string      `json:"text"`
	Value string      `json:"value"` // y, m or n; "tool-chain" for what only that can answer
	Parts []Condition `json:"parts,omitempty"`
}

// Default is a value where nobody asks for one.
type Default struct {
	Value string     `json:"value"`
	If    *Condition `json:"if,omitempty"`
}

// By is an option that selects or implies the one that is explained.
type By struct {
	Option string     `json:"option"`
	Value  string     `json:"value"`
	If     *Condition `json:"if,omitempty"`
	Active bool       `json:"active"`
}

// Member is one of a choice, or of what changes.
type Member struct {
	Option string `json:"option"`
	Value  string `json:"value"`
}

// Line is a setting of a wish.
type Line struct {
	Line   string `json:"line"` // as in a .config
	Prompt string `json:"prompt,omitempty"`
	// Against are lines that ask otherwise: the recipe has to put them aside.
	Against []Asked `json:"against,omitempty"`
}

// Kernel is a configuration and what it was made of.
type Kernel struct {
	Tree     *kconfig.Tree
	Final    *kconfig.Config
	Settings []kconfig.Setting
	Feature  func(file string) string // which feature a setting's file is of; "" where none
}

const prefix = "CONFIG_"

// nearby is how many options are named that are spelt like one that there is not.
const nearby = 3

// Explain is the account of an option, with or without CONFIG_ before its name.
func (k Kernel) Explain(option string) *Account {
	name := strings.TrimPrefix(option, prefix)
	a := &Account{Option: prefix + name, Asked: k.asked(name)}
	s := k.Tree.Symbol(name)
	if s == nil {
		for _, n := range k.Tree.Nearest(strings.ToUpper(name), nearby) {
			a.Nearest = append(a.Nearest, prefix+n)
		}
		return a
	}
	a.Known, a.Value, a.Type = true, string(k.Final.Get(name)), s.Type
	for _, d := range s.Definitions {
		v := Definition{File: d.File, Line: d.Line, Menu: d.Menu, Prompt: d.Prompt, Help: trimmed(d.Help)}
		v.Depends, v.Visible = k.conditions(d.Depends), k.conditions(d.Visible)
		for _, x := range d.Defaults {
			v.Default = append(v.Default, Default{Value: x.Value.String(), If: k.condition(x.If)})
		}
		for _, r := range d.Ranges {
			text := r.Low.Scalar(k.Final) + " to " + r.High.Scalar(k.Final)
			if r.If != nil {
				text += " if " + r.If.String()
			}
			v.Range = append(v.Range, text)
		}
		if d.Choice != nil {
			for _, o := range d.Choice.Members {
				v.Choice = append(v.Choice, Member{prefix + o, string(k.Final.Get(o))})
			}
		}
		a.Definitions = append(a.Definitions, v)
	}
	a.SelectedBy, a.ImpliedBy = k.by(s.SelectedBy), k.by(s.ImpliedBy)
	if (s.Type == "bool" || s.Type == "tristate") && k.Final.Get(name) == kconfig.No {
		lines := wish(k.Tree, k.Final, k.Settings, name)
		for _, w := range lines {
			a.Wish = append(a.Wish, k.line(w))
		}
		a.Unreachable = len(a.Wish) == 0
		a.Also = k.also(lines)
	}
	return a
}

// also is what else than they themselves changes by lines of a wish.
func (k Kernel) also(lines []kconfig.Setting) []Member {
	if len(lines) == 0 {
		return nil
	}
	before, after := k.Foresee(k.Settings), k.Foresee(slices.Concat(k.Settings, lines))
	var out []Member
	for _, name := range k.Tree.Names() {
		if v := after.Get(name); v != before.Get(name) && !slices.ContainsFunc(lines,
			func(w kconfig.Setting) bool { return w.Symbol == name }) {
			out = append(out, Member{prefix + name, string(v)})
		}
	}
	return out
}

// line is a setting of a wish with what is against it.
func (k Kernel) line(w kconfig.Setting) Line {
	l := Line{Line: w.Text()}
	if s := k.Tree.Symbol(w.Symbol); s != nil {
		for _, d := range s.Definitions {
			if l.Prompt == "" {
				l.Prompt = d.Prompt
			}
		}
	}
	others := rivals(k.Tree, w)
	for _, o := range k.Settings {
		if !o.Preference && (o.Symbol == w.Symbol && o.Value != w.Value ||
			o.Value == "y" && slices.Contains(others, o.Symbol)) {
			l.Against = append(l.Against, k.say(o))
		}
	}
	return l
}

func (k Kernel) asked(name string) []Asked {
	var out []Asked
	for _, w := range k.Settings {
		if w.Symbol == name {
			out = append(out, k.say(w))
		}
	}
	return out
}

func (k Kernel) say(w kconfig.Setting) Asked {
	return Asked{Line: w.Text(), File: w.File, At: w.Line, Feature: k.Feature(w.File), Reason: w.Reason,
		Preference: w.Preference}
}

// by lists those that select or imply, active ones first, then those that are on, then by name.
func (k Kernel) by(all []kconfig.By) []By {
	var out []By
	for _, b := range all {
		v := k.Final.Get(b.Symbol)
		active := v != kconfig.No && (b.If == nil || b.If.Value(k.Final) != kconfig.No)
		out = append(out, By{Option: prefix + b.Symbol, Value: string(v), If: k.condition(b.If), Active: active})
	}
	rank := func(b By) int {
		switch {
		case b.Active:
			return 0
		case b.Value != string(kconfig.No):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(out, func(a, b By) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a.Option, b.Option)
	})
	return out
}

func (k Kernel) conditions(es []*kconfig.Expr) []Condition {
	var out []Condition
	for _, e := range es {
		out = append(out, *k.condition(e))
	}
	return out
}

func (k Kernel) condition(e *kconfig.Expr) *Condition {
	if e == nil {
		return nil
	}
	c := &Condition{Text: e.String(), Value: string(e.Value(k.Final))}
	switch e.Op {
	case "$":
		c.Value = "tool-chain"
	case "!", "&&", "||":
		for _, a := range e.Args {
			p := k.condition(a)
			if e.Op != "!" && a.Op == e.Op { // A || B || C is one list
				c.Parts = append(c.Parts, p.Parts...)
				continue
			}
			c.Parts = append(c.Parts, *p)
		}
	case "":
	default:
		for _, a := range e.Args {
			if a.Symbol != "" {
				c.Parts = append(c.Parts, Condition{Text: a.Symbol, Value: string(k.Final.Get(a.Symbol))})
			}
		}
	}
	return c
}

// trimmed is a help text without blank lines around it.
func trimmed(lines []string) []string {
	for len(lines) > 0 && lines[0] == "" {
		lines = lines[1:]
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}
