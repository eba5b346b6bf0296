package measure

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// note is one ELF note.
func note(order binary.ByteOrder, name string, kind uint32, desc string) []byte {
	b := make([]byte, noteHeaderSize)
	order.PutUint32(b, uint32(len(name)))
	order.PutUint32(b[4:], uint32(len(desc)))
	order.PutUint32(b[8:], kind)
	for _, s := range []string{name, desc} {
		b = append(b, s...)
		b = append(b, make([]byte, pad(uint64(len(s)))-uint64(len(s)))...)
	}
	return b
}

func TestBuildID(t *testing.T) {
	for name, order := range map[string]binary.ByteOrder{"little endian": binary.LittleEndian,
		"big endian": binary.BigEndian} {
		notes := bytes.Join([][]byte{
			note(order, "Xen\x00", 18, "12345"),
			note(order, "Linux\x00", 0x101, "\x01"),
			note(order, gnu, 5, "property"),
			note(order, gnu, ntGNUBuildID, "a build-id, 20 bytes"),
		}, nil)
		if id, err := buildID(notes, order); err != nil || string(id) != "a build-id, 20 bytes" {
			t.Errorf("%s: got %q, %v", name, id, err)
		}
	}
	le := binary.LittleEndian
	unpadded := note(le, gnu, ntGNUBuildID, "12345")
	if id, err := buildID(unpadded[:len(unpadded)-3], le); err != nil || string(id) != "12345" {
		t.Errorf("without padding at the end: %q, %v", id, err)
	}
	for name, tc := range map[string]struct {
		notes []byte
		want  string
	}{
		"nothing":               {nil, errNoBuildID.Error()},
		"other notes only":      {note(le, "Xen\x00", 3, "x"), errNoBuildID.Error()},
		"an empty build-id":     {note(le, gnu, ntGNUBuildID, ""), errNoBuildID.Error()},
		"a header cut short":    {make([]byte, 11), "less than its header"},
		"a descriptor of 4 GiB": {[]byte("\x04\x00\x00\x00\xff\xff\xff\xff\x03\x00\x00\x00GNU\x00"), "behind the last"},
		"a name of 4 GiB":       {[]byte("\xff\xff\xff\xff\x04\x00\x00\x00\x03\x00\x00\x00GNU\x00"), "behind the last"},
	} {
		if id, err := buildID(tc.notes, le); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %q, %v, want an error with %q", name, id, err, tc.want)
		}
	}
}

func FuzzBuildID(f *testing.F) {
	f.Add(note(binary.LittleEndian, gnu, ntGNUBuildID, "12345"), false)
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x03\x00\x00\x00"), true)
	f.Fuzz(func(t *testing.T, notes []byte, big bool) {
		var order binary.ByteOrder = binary.LittleEndian
		if big {
			order = binary.BigEndian
		}
		id, err := buildID(notes, order)
		if (err == nil) != (len(id) > 0) || err == nil && !bytes.Contains(notes, id) {
			t.Errorf("%x, %v", id, err)
		}
		if err != nil && errors.Is(err, errNoBuildID) && bytes.Contains(notes, note(order, gnu, ntGNUBuildID,
			"sure")) && len(notes) == 20 {
			t.Error("a build-id was overlooked")
		}
	})
}
