package elfnote

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

// note is one ELF note.
func note(order binary.ByteOrder, name string, kind uint32, desc string) []byte {
	b := make([]byte, headerSize)
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
			note(order, "GNU\x00", 5, "property"),
			note(order, "GNU\x00", buildID, "a build-id, 20 bytes"),
		}, nil)
		n, err := Parse(notes, order)
		if err != nil || len(n) != 4 || n[0].Name != "Xen" || string(n[0].Desc) != "12345" {
			t.Fatalf("%s: %v, %v", name, n, err)
		}
		if id := n.BuildID(); id != hex.EncodeToString([]byte("a build-id, 20 bytes")) || !n.PVH() {
			t.Errorf("%s: got %v, PVH %v", name, id, n.PVH())
		}
	}
	le := binary.LittleEndian
	unpadded := note(le, "GNU\x00", buildID, "12345")
	if n, err := Parse(unpadded[:len(unpadded)-3], le); err != nil ||
		n.BuildID() != hex.EncodeToString([]byte("12345")) {
		t.Errorf("without padding at the end: %v, %v", n, err)
	}
	for name, notes := range map[string][]byte{
		"nothing":           nil,
		"other notes only":  note(le, "Xen\x00", 3, "x"),
		"an empty build-id": note(le, "GNU\x00", buildID, ""),
	} {
		if n, err := Parse(notes, le); err != nil || n.BuildID() != "" || n.PVH() {
			t.Errorf("%s: got %v, %v", name, n, err)
		}
	}
	for name, tc := range map[string]struct {
		notes []byte
		want  string
	}{
		"a header cut short":    {make([]byte, 11), "less than its header"},
		"a descriptor of 4 GiB": {[]byte("\x04\x00\x00\x00\xff\xff\xff\xff\x03\x00\x00\x00GNU\x00"), "behind the last"},
		"a name of 4 GiB":       {[]byte("\xff\xff\xff\xff\x04\x00\x00\x00\x03\x00\x00\x00GNU\x00"), "behind the last"},
	} {
		if n, err := Parse(tc.notes, le); err == nil || !strings.Contains(err.Error(), tc.want) || n.BuildID() != "" {
			t.Errorf("%s: got %v, %v, want an error with %q", name, n, err, tc.want)
		}
		before := append(note(le, "GNU\x00", buildID, "ab"), tc.notes...)
		if n, err := Parse(before, le); err == nil || n.BuildID() != "6162" {
			t.Errorf("%s behind a build-id: got %v, %v", name, n, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(note(binary.LittleEndian, "GNU\x00", buildID, "12345"), false)
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x03\x00\x00\x00"), true)
	f.Fuzz(func(t *testing.T, notes []byte, big bool) {
		var order binary.ByteOrder = binary.LittleEndian
		if big {
			order = binary.BigEndian
		}
		all, _ := Parse(notes, order)
		for _, n := range all {
			if !bytes.Contains(notes, n.Desc) {
				t.Errorf("a description that is not there: %x", n.Desc)
			}
		}
		if all.BuildID() == "" && len(notes) == 20 && bytes.Contains(notes, note(order, "GNU\x00", buildID, "sure")) {
			t.Error("a build-id was overlooked")
		}
	})
}
