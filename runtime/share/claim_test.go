package share

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/katabuild/katabuild/internal/mountinfo"
	"golang.org/x/sys/unix"
)

func TestTheFirstThatMayWriteHasTheLocks(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	for _, d := range []string{data + "/sub/deep", dir + "/other"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	pods := map[string]*Claims{}
	for _, name := range []string{"a", "b", "c"} {
		c, err := NewClaims(filepath.Join(dir, "run", "claims"))
		if err != nil {
			t.Fatal(err)
		}
		pods[name] = c
	}
	for _, step := range []struct {
		pod, path string
		access    Access
		foreign   bool
	}{
		{"c", data, ReadOnly, false}, // nobody may write yet, and who reads is in nobody's way
		{"a", data + "/sub", Writable, false},
		{"a", data + "/sub", Writable, false},
		{"a", data + "/sub/deep", Writable, false},
		{"b", data + "/sub", Writable, true},
		{"b", data + "/sub/deep", Writable, true}, // also what only a shorter path claims
		{"b", data, Writable, true},               // and what holds it
		{"c", data, ReadOnly, true},
		{"c", data + "/sub/deep", ReadOnlyAll, true},
		{"b", dir + "/other", Writable, false}, // what could not be claimed is in nobody's way
		{"c", dir + "/other", Writable, true},
		{"a", data, Writable, false}, // by the same pod, a folder above
		{"c", data + "/third", Writable, true},
	} {
		if step.path == data+"/third" {
			if err := os.MkdirAll(step.path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		foreign, err := pods[step.pod].Claim(step.path, step.access)
		if err != nil || foreign != step.foreign {
			t.Errorf("%+v: foreign %v, %v", step, foreign, err)
		}
	}
	if err := pods["a"].Close(); err != nil {
		t.Fatal(err)
	}
	if foreign, err := pods["b"].Claim(data, Writable); err != nil || foreign {
		t.Errorf("after the first pod's end: %v, %v", foreign, err)
	}
}

// One file system has one claim, by whatever path it is reached.
func TestAClaimIsOnAPathWithinAFileSystem(t *testing.T) {
	mounts := []mountinfo.Mount{
		{Device: "8:1", Root: "/", Point: "/"}, {Device: "8:2", Root: "/", Point: "/data"},
		{Device: "8:2", Root: "/a/b", Point: "/bound"},
		{Device: "0:9", Root: "/", Point: "/data/a/memory"},
	}
	at := func(list []lockedByte, device, path string) int16 {
		i := slices.IndexFunc(list, func(b lockedByte) bool { return b.at == byteOf(device, path) })
		if i < 0 {
			return unix.F_UNLCK
		}
		return list[i].how
	}
	for _, c := range []struct {
		source, device, path string
		want                 int16
	}{
		{"/bound/c", "8:2", "/a/b/c", unix.F_WRLCK},
		{"/data/a/b/c", "8:2", "/a/b/c", unix.F_WRLCK},
		{"/data/a/b/c", "8:2", "/a", unix.F_RDLCK},
		{"/data/a/b/c", "8:1", "/data", unix.F_UNLCK},
		{"/data/a", "0:9", "/", unix.F_WRLCK},
		{"/", "8:2", "/a/b", unix.F_WRLCK},
		{"/", "8:2", "/", unix.F_WRLCK},
		{"/database", "8:1", "/database", unix.F_WRLCK},
	} {
		if got := at(bytesOf(mounts, c.source), c.device, c.path); got != c.want {
			t.Errorf("%s: %s %s is %d, want %d", c.source, c.device, c.path, got, c.want)
		}
	}
}
