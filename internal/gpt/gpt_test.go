package gpt

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
)

const (
	linux = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	one   = "11111111-2233-4455-8677-8899aabbccdd"
	two   = "22222222-2233-4455-8677-8899aabbccdd"
)

// sample is a table of two partitions with a free entry between them, and its disk.
func sample() (Table, []byte) {
	t := Table{Disk: MustGUID("01234567-89ab-4def-8123-456789abcdef"), Sectors: 4096, First: 34, Last: 4096 - 34,
		Entries: make([]Entry, Entries)}
	t.Entries[0] = Entry{Type: MustGUID(linux), ID: MustGUID(one), First: 40, Last: 99, Attributes: 1 << 60,
		Name: "é one"}
	t.Entries[2] = Entry{Type: MustGUID(linux), ID: MustGUID(two), First: 100, Last: 4062}
	start, end := t.Bytes()
	disk := make([]byte, t.Sectors*SectorSize)
	copy(disk, start)
	copy(disk[len(disk)-len(end):], end)
	return t, disk
}

func TestSizesAreThoseOfTheSpecification(t *testing.T) {
	if headerSize != 92 || entrySize != 128 || arraySize != 16<<10 || FirstUsable != 34 || StartSize != 34*512 ||
		EndSize != 33*512 || RecordsAt+Records*RecordSize != markAt || entryName+2*nameLength != entrySize {
		t.Error("constants of the format")
	}
	if g := MustGUID(one); g.String() != one || g.OnDisk().OnDisk() != g || g.OnDisk()[0] != g[3] ||
		g.OnDisk()[15] != g[15] {
		t.Error("a GUID changes")
	}
	for sector, want := range map[int64]string{0: "\x00\x01\x00", 1: "\x00\x02\x00", 63: "\x01\x01\x00",
		255 * 63: "\x00\x01\x01", 256 * 255 * 63: "\x00\x41\x00", maxCHS: "\xfe\xff\xff"} {
		if got := chs(sector); string(got) != want {
			t.Errorf("sector %d is % x, want % x", sector, got, want)
		}
	}
}

func TestATableIsReadAsItIsWritten(t *testing.T) {
	want, disk := sample()
	got, err := Read(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	if got.Disk != want.Disk || got.Sectors != want.Sectors || got.First != want.First || got.Last != want.Last ||
		len(got.Entries) != len(want.Entries) {
		t.Errorf("got %+v", got)
	}
	for i, e := range got.Entries {
		if e != want.Entries[i] {
			t.Errorf("entry %d: %+v, want %+v", i, e, want.Entries[i])
		}
	}
	if !Marked(disk) || Marked(disk[512:]) || Marked(disk[:511]) || FirstSector(disk) != 1 {
		t.Error("the protective table is none")
	}
	for _, at := range []int{512, 512 + 20, 512 + 60, 1024 + 32, len(disk) - 512 + 24, len(disk) - 512 - 100} {
		disk[at] ^= 1
		if _, err := Read(bytes.NewReader(disk), int64(len(disk))); !errors.Is(err, ErrTable) {
			t.Errorf("a bit at %d: %v", at, err)
		}
		disk[at] ^= 1
	}
}

func TestSfdiskReadsTheSame(t *testing.T) {
	testenv.Require(t, testenv.Tool("sfdisk"))
	_, disk := sample()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sfdisk", "--json", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		PartitionTable struct {
			Label, ID         string
			FirstLBA, LastLBA int64
			Partitions        []struct {
				Node, Type, UUID, Name string
				Start, Size            int64
			}
		}
	}
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatal(err)
	}
	p := said.PartitionTable
	if p.Label != "gpt" || p.FirstLBA != 34 || p.LastLBA != 4062 || len(p.Partitions) != 2 ||
		p.Partitions[0].Start != 40 || p.Partitions[0].Size != 60 || p.Partitions[0].Name != "é one" ||
		p.Partitions[1].Node != path+"3" {
		t.Errorf("%s", out)
	}
}

func FuzzRead(f *testing.F) {
	_, disk := sample()
	f.Add(disk[:StartSize], disk[len(disk)-EndSize:])
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, start, end []byte) {
		disk := bytes.Clone(disk)
		copy(disk, start)
		copy(disk[max(0, len(disk)-len(end)):], end)
		table, err := Read(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			return
		}
		for i, e := range table.Entries {
			if !e.Free() && (e.First < table.First || e.Last > table.Last || e.First > e.Last) {
				t.Errorf("partition %d is outside: %+v", i+1, e)
			}
		}
	})
}
