// Package debian makes a root file system of Debian's binary packages without running anything of theirs: it reads
// package lists, chooses what a wish needs, unpacks packages into a tree, and does by declaration what their maintainer
// scripts would have done.
//
// Lists and .deb files come in as bytes that someone has checked; a tree goes out. It knows no network, no apt and no
// dpkg. Formats are deb(5), deb-control(5), deb-version(7) and the Debian Policy Manual, chapters 5 and 7.
// docs/formats/debian.md says what is not done.
package debian

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Control is a stanza: fields in the order they stand in.
type Control []Field

// Field is one field. A value of several lines keeps its line breaks and the blanks that begin its lines.
type Field struct{ Name, Value string }

// Get is a field's value, or "". Names are compared without regard to case. Debian Policy 5.1.
func (c Control) Get(name string) string {
	for _, f := range c {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// maxFields bounds the fields of a stanza: Get looks through them, and the largest of Debian's has some thirty.
const maxFields = 1000

// ParseControl reads one stanza.
func ParseControl(data []byte) (Control, error) {
	var c Control
	seen := map[string]bool{}
	var value strings.Builder // of the last field, which may go over many lines
	end := func() {
		if len(c) > 0 {
			c[len(c)-1].Value = value.String()
		}
		value.Reset()
	}
	for line := range bytes.SplitSeq(bytes.Trim(data, "\n"), []byte("\n")) {
		s := strings.TrimRight(string(line), " \t\r")
		switch {
		case s == "":
			return nil, errors.New("an empty line inside a stanza")
		case s[0] == '#':
			continue
		case s[0] == ' ' || s[0] == '\t':
			if len(c) == 0 {
				return nil, errors.New("a continuation line without a field")
			}
			value.WriteString("\n" + s)
		default:
			name, first, ok := strings.Cut(s, ":")
			if !ok || name == "" || strings.ContainsAny(name, " \t\x00") {
				return nil, fmt.Errorf("line %.40q is no field", s)
			}
			if seen[strings.ToLower(name)] {
				return nil, fmt.Errorf("field %s stands twice", name)
			}
			seen[strings.ToLower(name)] = true
			if len(c) == maxFields {
				return nil, fmt.Errorf("more than %d fields", maxFields)
			}
			end()
			c = append(c, Field{Name: name})
			value.WriteString(strings.TrimLeft(first, " \t"))
		}
	}
	end()
	if len(c) == 0 {
		return nil, errors.New("no field at all")
	}
	return c, nil
}

// checkName keeps names that end up in paths and in lists to what Debian Policy 5.6.1 allows.
func checkName(s string) error {
	if len(s) < 2 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.") != "" || strings.ContainsRune("+-.",
		rune(s[0])) {
		return fmt.Errorf("%q is no name of a package", s)
	}
	return nil
}

// checkArch does so for architectures. Debian Policy 5.6.8.
func checkArch(s string) error {
	if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || s[0] == '-' {
		return fmt.Errorf("%q is no name of an architecture", s)
	}
	return nil
}
