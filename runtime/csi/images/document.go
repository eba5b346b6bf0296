package images

import (
	"fmt"

	"github.com/katabuild/katabuild/internal/document"
)

// Version is that of the document that this package writes, and the only one so far.
const Version = 1

// maxName is the longest name of a volume, in bytes. CSI 1.13, "Size Limits".
const maxName = 128

// Note is what lies beside an image and cannot be read from it.
type Note struct {
	Version int    `json:"version"`
	Name    string `json:"name"` // as whoever asked for the volume calls it
	FSType  string `json:"fstype"`
}

func encode(n *Note) ([]byte, error) { return document.Encode(n) }

// Decode reads a note.
func Decode(data []byte) (*Note, error) {
	var n Note
	if err := document.Decode("volume", data, &n); err != nil {
		return nil, err
	}
	switch {
	case n.Version != Version:
		return nil, fmt.Errorf("volume: version %d, want %d", n.Version, Version)
	case n.Name == "" || len(n.Name) > maxName:
		return nil, fmt.Errorf("volume: a name of %d bytes, want 1 to %d", len(n.Name), maxName)
	}
	if _, err := known(n.FSType); err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	return &n, nil
}
