package lock

import (
	"bytes"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/golden"
)

func sample() *Lock {
	return &Lock{Version: 1, Name: "sample", Time: 1700000000, Inputs: []Input{
		{Name: "kernel source", Kind: Debian, Digest: digest.Of([]byte("deb")), Size: 153474904,
			Package: &Package{Suite: "trixie", Name: "linux-source-6.12", Version: "6.12.117-1", Arch: "all", Filename: "pool/main/l/linux/linux-source-6.12_6.12.117-1_all.deb"}},
		{Name: "file motd", Kind: Local, Digest: digest.Of([]byte("hello")), Size: 5, Where: "motd"},
	}}
}

func TestTheLockKeepsItsForm(t *testing.T) {
	data, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "lock.json", data)
	l, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := l.Encode()
	if err != nil || !bytes.Equal(again, data) {
		t.Errorf("read and written again it differs: %v", err)
	}
	if l.Find("kernel source").Package.Version != "6.12.117-1" || l.Find("other") != nil {
		t.Error("Find finds the wrong input")
	}
}

func TestForeignLocksAreRefused(t *testing.T) {
	data, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, from, to, want string }{
		{"unknown field", `"name": "sample"`, `"name": "sample", "host": "x"`, "unknown field"},
		{"repeated field", `"name": "sample"`, `"name": "other", "name": "sample"`, "canonical form from line 3"},
		{"other case", `"name": "sample"`, `"Name": "sample"`, "canonical form from line 3"},
		{"other version", `"version": 1,`, `"version": 2,`, "version 2"},
		{"short digest", string(digest.Of([]byte("hello"))), "sha256:12", "64 lower-case"},
		{"no digest", string(digest.Of([]byte("hello"))), "", "no digest"},
		{"file that climbs", "pool/main/l", "../main/l", "leaves the archive"},
		{"option as a version", "6.12.117-1\"", "--root\"", "no suite, package, version"},
		{"unknown kind", `"kind": "local"`, `"kind": "lokal"`, "unknown kind"},
		{"out of order", "kernel source", "a source", "not in order"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(string(data), c.from, c.to, 1)
			if _, err := Decode([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	for n := range data {
		if _, err := Decode(data[:n]); err == nil {
			t.Fatalf("the first %d bytes are accepted", n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	data, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"inputs":null}`)) // a list that is null
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Decode(data)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("accepted bytes that are not written again: %v", err)
		}
	})
}
