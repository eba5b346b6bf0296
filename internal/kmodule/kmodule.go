// Package kmodule says how a loadable module of the guest's kernel is asked for: a name, and parameters for it. The
// host writes it into CreateSandbox, and the agent obeys; both refuse the same.
package kmodule

import (
	"errors"
	"fmt"
	"strings"
)

// The most of what is asked for. A name has at most 55 bytes (Linux: include/linux/module.h, MODULE_NAME_LEN on 64
// bits, without its NUL). Of parameters there are at most 4096 bytes, although Linux itself has no bound.
const (
	Most      = 256 // modules
	maxName   = 55
	maxParams = 4096
)

// Module is one module to load. ParseList and New make right ones.
type Module struct {
	Name   string   // as it was asked for
	Params []string // NAME=VALUE, or the NAME alone of one that is true or false
}

// parse reads NAME PARAMETER=VALUE ..., with spaces between. White space inside double quotes belongs to a value, as in
// Linux: lib/cmdline.c, next_arg.
func parse(text string) (Module, error) {
	for _, r := range text {
		if r < ' ' || r == 0x7f {
			return Module{}, fmt.Errorf("kernel module %q: it has control characters", text)
		}
	}
	quoted := false
	words := strings.FieldsFunc(text, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
	switch {
	case quoted:
		return Module{}, fmt.Errorf("kernel module %q: a quotation mark is not closed", text)
	case len(words) == 0:
		return Module{}, errors.New("a kernel module without a name: want NAME, then a PARAMETER=VALUE or more")
	}
	m := Module{Name: words[0], Params: words[1:]}
	return m, m.check()
}

// New is a module that a call asks for, whose parameters may have been split within quotation marks.
func New(name string, params []string) (Module, error) {
	if name == "" || strings.ContainsAny(name, ` "`) {
		return Module{}, nameError(name)
	}
	for _, p := range params {
		if strings.TrimSpace(p) == "" {
			return Module{}, paramError(name, p)
		}
	}
	return parse(strings.Join(append([]string{name}, params...), " "))
}

// ParseList reads texts that are each NAME PARAMETER=VALUE ..., as Kata Containers' kernel_modules has them. No module
// stands twice, whatever its parameters.
func ParseList(texts []string) ([]Module, error) {
	if len(texts) > Most {
		return nil, fmt.Errorf("%d kernel modules: want at most %d", len(texts), Most)
	}
	var out []Module
	seen := map[string]bool{}
	for i, text := range texts {
		m, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		if seen[m.Loaded()] {
			return nil, fmt.Errorf("entry %d: kernel module %s stands twice", i+1, m.Name)
		}
		seen[m.Loaded()] = true
		out = append(out, m)
	}
	return out, nil
}

// Loaded is the name that the kernel has for the module: - and _ are the same to it.
func (m Module) Loaded() string { return strings.ReplaceAll(m.Name, "-", "_") }

// Line is the parameters as the kernel takes them.
func (m Module) Line() string { return strings.Join(m.Params, " ") }

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
)

func (m Module) check() error {
	if m.Name == "" || len(m.Name) > maxName || strings.Trim(m.Name, letters+digits+"_-") != "" {
		return nameError(m.Name)
	}
	for _, p := range m.Params {
		name, _, _ := strings.Cut(p, "=")
		// "--" would end the kernel's reading of parameters.
		if name == "" || strings.Trim(name, letters+digits+"_-.") != "" || strings.HasPrefix(name, "-") {
			return paramError(m.Name, p)
		}
	}
	if n := len(m.Line()); n > maxParams {
		return fmt.Errorf("kernel module %s: %d bytes of parameters: want at most %d", m.Name, n, maxParams)
	}
	return nil
}

func nameError(name string) error {
	return fmt.Errorf("kernel module %q: want a name of at most %d letters, digits, - and _", name, maxName)
}

func paramError(module, p string) error {
	return fmt.Errorf("kernel module %s: parameter %q: want NAME=VALUE", module, p)
}
