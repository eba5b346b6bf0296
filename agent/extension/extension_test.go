package extension

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/extension"
)

func word(name string) string {
	return extension.Extension{Name: name, Params: dmverity.Params{RootHash: strings.Repeat("ab", 32), Salt: "-",
		DataBlocks: 7, DataBlockSize: 4096, HashBlockSize: 4096}}.Word()
}

func TestEachDiskIsPairedWithItsWord(t *testing.T) {
	disks := []disk{{"vda", ""}, {"vdb", "extension-net"}, {"vdc", "extension-gpu"}, {"vdd", "WD-123"}}
	got, err := decide(disks, []string{"quiet", word("gpu"), "root=/dev/dm-0", word("net")})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Name != "gpu" || got[0].disk != "vdc" || got[1].Name != "net" ||
		got[1].disk != "vdb" || got[0].Params.DataBlocks != 7 {
		t.Errorf("%+v", got)
	}
	if got, err := decide(disks[:1], []string{"quiet"}); got != nil || err != nil {
		t.Error("a guest without extensions:", got, err)
	}
}

func TestAnythingElseIsRefusedByName(t *testing.T) {
	gpu := disk{"vdb", "extension-gpu"}
	for name, c := range map[string]struct {
		disks []disk
		words []string
		want  string
	}{
		"parameters missing": {[]disk{gpu}, []string{"quiet"},
			"extension gpu: disk vdb holds it, but the kernel command line lacks its parameters"},
		"another's parameters": {[]disk{gpu}, []string{word("net")}, "extension gpu: disk vdb holds it"},
		"parameters without a value": {[]disk{gpu}, []string{"kata.extension.gpu.verity_params"},
			"extension gpu: the kernel command line has its parameters without a value"},
		"parameters cut short": {[]disk{gpu}, []string{word("gpu")[:60]},
			"extension gpu: its parameters on the kernel command line"},
		"parameters twice": {[]disk{gpu}, []string{word("gpu"), word("gpu")},
			"extension gpu: the kernel command line has its parameters twice"},
		"not attached": {nil, []string{word("gpu")},
			"extension gpu: the kernel command line has its parameters, but no disk has the serial extension-gpu"},
		"one of two not attached": {[]disk{gpu}, []string{word("gpu"), word("net")},
			"extension net: the kernel command line has its parameters, but no disk"},
		"two disks of one name": {[]disk{gpu, {"vdc", "extension-gpu"}}, []string{word("gpu")},
			"two disks are called so, vdb and vdc"},
		"a name that leads elsewhere": {[]disk{{"vdb", "extension-../x"}}, nil,
			`disk vdb: name of an extension "../x"`},
		"a name that is none": {[]disk{{"vdb", "extension-"}}, nil, "disk vdb: name of an extension"},
		"another word of ours": {[]disk{gpu}, []string{word("gpu"), "kata.extension.gpu.verity=off"},
			"want kata.extension.NAME.verity_params"},
	} {
		if got, err := decide(c.disks, c.words); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want %s", name, got, err, c.want)
		}
	}
}

func TestDisksAndPartitionsAreFoundInSysfs(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"sys/block/vda/serial": "\n", "sys/block/vdb/serial": "extension-gpu",
		"sys/block/vdb/vdb1/partition": "1\n", "sys/block/vdb/vdb1/dev": "254:17\n",
		"sys/block/vdb/vdb2/partition": "2\n", "sys/block/vdb/vdb2/dev": "254:18\n",
	} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	disks, err := findDisks(root)
	if err != nil || len(disks) != 2 || disks[1] != (disk{"vdb", "extension-gpu"}) {
		t.Errorf("%+v, %v", disks, err)
	}
	if d, err := partition(root, "vdb", hashPartition); err != nil || d != (devmapper.Device{Major: 254, Minor: 18}) {
		t.Error(d, err)
	}
	if _, err := partition(root, "vda", dataPartition); err == nil || !strings.Contains(err.Error(),
		"disk vda has no partition 1") {
		t.Error(err)
	}
	if _, err := Mount(root, []string{"quiet"}); err == nil || !strings.Contains(err.Error(),
		"extension gpu: disk vdb holds it") {
		t.Error(err)
	}
	if got, err := Mount(t.TempDir(), []string{"quiet"}); got != nil || err != nil {
		t.Error("a guest without disks:", got, err)
	}
}
