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
			Package: &Package{Suite: "trixie", Name: "linux-source-6.12", Version: "6.12.117-1", Arch: "all",
				Filename: "pool/main/l/linux/linux-source-6.12_6.12.117-1_all.deb"}},
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

func TestALockMayHoldSingleFilesAndOwnArchives(t *testing.T) {
	d := digest.Of([]byte("x"))
	one := func(in Input) error {
		in.Name, in.Digest = "x", d
		l := &Lock{Version: Version, Name: "x", Inputs: []Input{in},
			Sets: []Set{{Name: "s", Asked: d, Inputs: []string{"x"}}}}
		data, err := l.Encode()
		if err == nil {
			_, err = Decode(data)
		}
		return err
	}
	deb := Package{Name: "app", Version: "1", Arch: "all"}
	there := Package{Archive: "own", Suite: "stable", Name: "app", Version: "1", Arch: "all", Filename: "app.deb"}
	climbs, option := there, there
	climbs.Filename, option.Archive = "../app.deb", "-o"
	for _, c := range []struct {
		name, want string
		in         Input
	}{
		{"a file", "", Input{Kind: Local, Where: "app.deb", Package: &deb}},
		{"a file at an address", "", Input{Kind: URL, Where: "https://x/app.deb", Package: &deb}},
		{"a package of an archive of its own", "", Input{Kind: Debian, Package: &there}},
		{"a file in an archive", "stands in no archive", Input{Kind: Local, Where: "app.deb", Package: &there}},
		{"a package of no suite", `"" is no suite`, Input{Kind: Debian, Package: &Package{Name: "app", Version: "1",
			Arch: "all", Filename: "x"}}},
		{"a file that climbs", "leaves the archive", Input{Kind: Debian, Package: &climbs}},
		{"an archive that is an option", "is no suite", Input{Kind: Debian, Package: &option}},
		{"a folder that is a package", "a package goes with", Input{Kind: Tree, Where: "x", Package: &deb}},
		{"a package that is none", `no package "x"`, Input{Kind: Local, Where: "x"}},
	} {
		if err := one(c.in); (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}
