// Package document reads and writes the JSON documents that components pass to each other: one canonical form, read
// strictly.
//
// A document is machine-written, so the reader accepts the writer's bytes and nothing else: an unknown or repeated
// field, a field in other letters' case, missing values, trailing bytes and other white space are all errors.
package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxSize bounds what Decode reads: documents are kilobytes, and some come from a guest.
const maxSize = 16 << 20

// Encode is the canonical form: fields in the order of the struct, two spaces a level, no HTML escapes, one newline at
// the end. Maps, whose keys encoding/json sorts, keep it canonical; interface values do not belong in a document.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Decode fills v from its canonical form. kind ("manifest") begins every error.
func Decode(kind string, data []byte, v any) error {
	if len(data) > maxSize {
		return fmt.Errorf("%s: %d bytes, more than the %d a document may have", kind, len(data), maxSize)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%s: truncated after %d bytes", kind, len(data))
		}
		return fmt.Errorf("%s: %w", kind, err)
	}
	again, err := Encode(v)
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	if bytes.Equal(again, data) {
		return nil
	}
	line := 1
	for i := 0; i < len(again) && i < len(data) && again[i] == data[i]; i++ {
		if data[i] == '\n' {
			line++
		}
	}
	return fmt.Errorf("%s: not in canonical form from line %d on (changed by hand, a field twice, or bytes lost)",
		kind, line)
}
