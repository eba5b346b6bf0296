// Package control reads what Debian's packages say of themselves: stanzas of fields, versions and their order, and
// relations between packages. It is hostile text until it has been read here. Formats are deb-control(5),
// deb-version(7), and the Debian Policy Manual, chapters 5 and 7.
package control

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Stanza is fields in the order they stand in.
type Stanza []Field

// Field is one field. A value of several lines keeps its line breaks and the blanks that begin its lines.
type Field struct{ Name, Value string }

// String is the line, or the lines, that the field is in a stanza, without the last line break.
func (f Field) String() string {
	// A value of several lines begins on the field's own line, or on the next.
	if f.Value == "" || f.Value[0] == '\n' {
		return f.Name + ":" + f.Value
	}
	return f.Name + ": " + f.Value
}

// Get is a field's value, or "". Names are compared without regard to case. Debian Policy 5.1.
func (c Stanza) Get(name string) string {
	for _, f := range c {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// maxFields bounds the fields of a stanza: Get looks through them, and the largest of Debian's has some thirty.
const maxFields = 1000

// Parse reads one stanza.
func Parse(data []byte) (Stanza, error) {
	var c Stanza
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

// CheckName keeps names that end up in paths and in lists to what Debian Policy 5.6.1 allows.
func CheckName(s string) error {
	if len(s) < 2 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.") != "" || strings.ContainsRune("+-.",
		rune(s[0])) {
		return fmt.Errorf("%q is no name of a package", s)
	}
	return nil
}

// CheckArch does so for architectures. Debian Policy 5.6.8.
func CheckArch(s string) error {
	if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || s[0] == '-' {
		return fmt.Errorf("%q is no name of an architecture", s)
	}
	return nil
}
