package pcipath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPathsReadAsTheHostWritesThem(t *testing.T) {
	for in, want := range map[string]Path{
		"02":       {Slots: []Slot{{2, 0}}},
		"02/01":    {Slots: []Slot{{2, 0}, {1, 0}}},
		"1f/1f.7":  {Slots: []Slot{{31, 0}, {31, 7}}},
		"20/00/02": {Root: 0x20, Slots: []Slot{{0, 0}, {2, 0}}},
	} {
		got, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != want.String() || got.Root != want.Root || len(got.Slots) != len(want.Slots) {
			t.Errorf("%s is %+v, want %+v", in, got, want)
		}
		if got.String() != in {
			t.Errorf("%s is written %s", in, got)
		}
	}
}

func TestWhatIsNoPathIsRefused(t *testing.T) {
	for name, in := range map[string]string{
		"empty":                            "",
		"a slot above 1f":                  "02/20",
		"a function above 7":               "02.8",
		"three digits":                     "002",
		"a root bus without a device":      "20",
		"a function of a root bus":         "20.1/00/00",
		"a trailing slash":                 "02/",
		"a leading slash":                  "/02",
		"a way out":                        "../02",
		"a domain":                         "0000:00:02.0",
		"more bridges than any of ours":    strings.Repeat("00/", 16) + "00",
		"digits of another script":         "０2",
		"a line after it":                  "02\n",
		"a sign":                           "+2",
		"a function without a slot before": ".1",
	} {
		if p, err := Parse(in); err == nil {
			t.Errorf("%s: %q is read as %s", name, in, p)
		}
	}
}

func tree(t *testing.T, folders ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, f := range folders {
		if err := os.MkdirAll(filepath.Join(root, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestADeviceIsFoundBehindBridgesAndOnOtherRoots(t *testing.T) {
	const q35, arm = "sys/devices/pci0000:00", "sys/devices/platform/4010000000.pcie/pci0000:00"
	for name, c := range map[string]struct{ folder, path string }{
		"on the root bus":           {q35 + "/0000:00:03.0", "03"},
		"a function":                {q35 + "/0000:00:1f.2", "1f.2"},
		"behind a bridge":           {q35 + "/0000:00:02.0/0000:01:01.0", "02/01"},
		"behind two":                {q35 + "/0000:00:02.0/0000:01:01.0/0000:05:00.0", "02/01/00"},
		"below a platform device":   {arm + "/0000:00:03.0", "03"},
		"on another root complex":   {"sys/devices/pci0000:20/0000:20:00.0/0000:21:02.0", "20/00/02"},
		"on an expander's own slot": {"sys/devices/pci0000:20/0000:20:03.0", "20/03"},
	} {
		folders := []string{c.folder}
		// Each bridge on the way names the bus behind it.
		for d := filepath.Dir(c.folder); strings.HasPrefix(filepath.Base(d), "0000:"); d = filepath.Dir(d) {
			child := c.folder[len(d)+1:]
			folders = append(folders, d+"/pci_bus/"+child[:len("0000:00")])
		}
		root := tree(t, folders...)
		p, err := Parse(c.path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Find(root)
		if err != nil || got != filepath.Join(root, c.folder) {
			t.Errorf("%s: %s is at %s (%v), want %s", name, p, got, err, c.folder)
		}
	}
}

func TestADeviceThatIsNotThereMayComeYet(t *testing.T) {
	root := tree(t, "sys/devices/pci0000:00/0000:00:02.0", "sys/devices/pci0000:00/0000:00:04.0/pci_bus/0000:01")
	for _, in := range []string{"03", "02/01", "04/01", "20/00/01"} {
		p, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Find(root); !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %s, %v; want ErrNotFound", in, got, err)
		}
	}
}

func TestSlotsOfACallAreAPath(t *testing.T) {
	p, err := FromSlots([]uint32{2, 17})
	if err != nil || p.String() != "02/11" {
		t.Errorf("got %s, %v", p, err)
	}
	for _, bad := range [][]uint32{nil, {32}, {1, 256}, {1, 32}, make([]uint32, 17)} {
		if p, err := FromSlots(bad); err == nil {
			t.Errorf("%v is read as %s", bad, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"02/01", "20/00/02", "1f.7", "", "2/../1", "20"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(p.String())
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q is written %s, which is read as %s (%v)", s, p, again, err)
		}
		for _, w := range p.Slots {
			if w.Slot > maxSlot || w.Function > maxFunction {
				t.Fatalf("%q has slot %+v", s, w)
			}
		}
	})
}
