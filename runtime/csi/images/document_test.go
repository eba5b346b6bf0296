package images

import (
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/golden"
)

func TestTheNoteIsCanonical(t *testing.T) {
	want := &Note{Version: Version, Name: "pvc-4711", FSType: "ext4"}
	b, err := encode(want)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "volume.json", b)
	if got, err := Decode(b); err != nil || *got != *want {
		t.Errorf("%+v, %v", got, err)
	}
	for what, change := range map[string][2]string{
		"another version": {`"version": 1`, `"version": 2`}, "an unknown field": {`"fstype"`, `"fs"`},
		"another file system": {`"ext4"`, `"ntfs"`}, "no name": {`"pvc-4711"`, `""`}, "cut": {"}\n", ""},
		"a long name": {"pvc-4711", strings.Repeat("n", maxName+1)},
	} {
		if _, err := Decode([]byte(strings.Replace(string(b), change[0], change[1], 1))); err == nil {
			t.Errorf("%s is read", what)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, err := encode(&Note{Version: Version, Name: "pvc-4711", FSType: "xfs"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)              // as it is written
	f.Add(b[:len(b)/2])   // half of it
	f.Add([]byte("{}\n")) // nothing in it
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := Decode(data)
		if err != nil {
			return
		}
		if again, err := encode(n); err != nil || string(again) != string(data) {
			t.Errorf("%q becomes %q, %v", data, again, err)
		}
	})
}
