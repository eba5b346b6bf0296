package mountinfo

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const text = `1 1 0:2 / / rw - rootfs none rw
21 1 254:0 / / ro,relatime shared:1 master:2 - ext4 /dev/dm-0 ro,data=ordered
30 21 0:20 /sub /run/a\040b\134 rw,nosuid - virtiofs my\011tag rw
31 21 0:21 / /empty rw - tmpfs  rw
`
	want := []Mount{
		{1, "0:2", "/", "/", "rootfs", "none", []string{"rw"}},
		{21, "254:0", "/", "/", "ext4", "/dev/dm-0", []string{"ro", "data=ordered"}},
		{30, "0:20", "/sub", `/run/a b\`, "virtiofs", "my\ttag", []string{"rw"}},
		{31, "0:21", "/", "/empty", "tmpfs", "", []string{"rw"}},
	}
	all, err := Parse(text)
	if err != nil || !reflect.DeepEqual(all, want) {
		t.Errorf("%+v, %v", all, err)
	}
	if m, err := At(all, "/"); err != nil || m.ID != 21 {
		t.Error(m, err)
	}
	if m, err := At(all, "/run"); err == nil || !strings.Contains(err.Error(), "/run") {
		t.Error(m, err)
	}
	for _, bad := range []string{"\n", "1 1 0:2 / /\n", "1 1 0:2 / / rw rootfs none rw\n",
		"1 1 0:2 / / rw - rootfs none", "x 1 0:2 / / rw - rootfs none rw\n", "1 1 0:2 / / rw -\n"} {
		if all, err := Parse(bad); err == nil {
			t.Errorf("%q: %+v, want an error", bad, all)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`a`: "a", `a\040b`: "a b", `\134040`: `\040`, `\04`: `\04`,
		`\999`: `\999`, `\777`: `\777`, `\`: `\`, ``: ``} {
		if got := Unescape(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestTheMountsOfThisProcess(t *testing.T) {
	all, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := At(all, "/proc"); err != nil || m.Type != "proc" {
		t.Errorf("%+v, %v", m, err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := File(missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1 1 0:2 / / rw - rootfs none rw\n21 1 254:0 / /a\\040b ro shared:1 - ext4 /dev/dm-0 ro\n")
	f.Fuzz(func(t *testing.T, s string) {
		all, err := Parse(s)
		if err != nil && all != nil {
			t.Error("mounts beside an error")
		}
		At(all, "/")
	})
}
