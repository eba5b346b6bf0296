package partition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/gpt"
	"github.com/katabuild/katabuild/internal/testenv"
)

// identity has other bytes everywhere, so that a swap shows.
var identity = func() (id Identity) {
	for i := range id {
		id[i] = byte(0xa0 + i)
	}
	return id
}()

// disk is an image in memory, zeros where nothing is written.
type disk []byte

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(*d) {
		*d = append(*d, make([]byte, need-len(*d))...)
	}
	return copy((*d)[off:], p), nil
}

func mustPlan(t testing.TB, k Kind, o Options) Layout {
	t.Helper()
	l, err := Plan(k, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func image(t testing.TB, l Layout) []byte {
	t.Helper()
	var d disk
	if err := l.Write(&d, identity); err != nil {
		t.Fatal(err)
	}
	// A partition that reaches to the end gives the file its length.
	if parts := l.partitions(); int64(len(d)) != l.Size && parts[len(parts)-1].end() != l.Size {
		t.Fatalf("%v: %d bytes, want %d", l.Kind, len(d), l.Size)
	}
	return append(d, make([]byte, l.Size-int64(len(d)))...)
}

func TestSizesAndOffsets(t *testing.T) {
	if gpt.EndSize != 33*512 || gpt.FirstUsable != 34 || gpt.RecordsAt+gpt.Records*gpt.RecordSize != 510 ||
		pfnSum != 4088 {
		t.Error("constants of the formats")
	}
	const k, m = 1 << 10, 1 << 20
	for _, c := range []struct {
		name string
		kind Kind
		o    Options
		want Layout
	}{
		{"the file system alone", Bare, Options{DataSize: 4 * k}, Layout{Size: 4 * k, Data: Extent{0, 4 * k}}},
		{"the tree right behind it", Bare, Options{DataSize: 12 * k, HashSize: 4 * k},
			Layout{Size: 16 * k, Data: Extent{0, 12 * k}, Hash: Extent{12 * k, 4 * k}}},
		{"MBR", MBR, Options{DataSize: 4 * k}, Layout{Size: 2 * m, Data: Extent{1 * m, 4 * k}}},
		{"MBR, just full", MBR, Options{DataSize: 1 * m}, Layout{Size: 2 * m, Data: Extent{1 * m, 1 * m}}},
		{"MBR with a tree", MBR, Options{DataSize: 5*m + 4*k, HashSize: 48 * k},
			Layout{Size: 8 * m, Data: Extent{1 * m, 5*m + 4*k}, Hash: Extent{7 * m, 48 * k}}},
		{"MBR as long as Kata's", MBR, Options{DataSize: 4 * k, Align: 128 * m},
			Layout{Size: 128 * m, Data: Extent{1 * m, 4 * k}}},
		{"DAX", MBRDAX, Options{DataSize: 4 * k}, Layout{Size: 4 * m, Data: Extent{3 * m, 4 * k}}},
		{"DAX with a tree", MBRDAX, Options{DataSize: 5 * m, HashSize: 8 * k},
			Layout{Size: 10 * m, Data: Extent{3 * m, 5 * m}, Hash: Extent{8 * m, 8 * k}}},
		{"GPT", GPT, Options{DataSize: 4 * k, Arch: "x86_64"}, Layout{Arch: "x86_64", Size: 2 * m,
			Data: Extent{1 * m, 4 * k}}},
		{"GPT whose backup needs room", GPT, Options{DataSize: 1 * m, Arch: "s390x"},
			Layout{Arch: "s390x", Size: 3 * m, Data: Extent{1 * m, 1 * m}}},
		{"GPT whose backup just fits", GPT, Options{DataSize: 1*m - 20*k, Arch: "s390x"},
			Layout{Arch: "s390x", Size: 2 * m, Data: Extent{1 * m, 1*m - 20*k}}},
	} {
		c.want.Kind = c.kind
		if got := mustPlan(t, c.kind, c.o); got != c.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		kind Kind
		o    Options
	}{
		"no file system":                   {MBR, Options{}},
		"half a block":                     {MBR, Options{DataSize: 512}},
		"half a hash block":                {MBR, Options{DataSize: 4096, HashSize: 100}},
		"less than nothing":                {Bare, Options{DataSize: 4096, HashSize: -4096}},
		"GPT of no architecture":           {GPT, Options{DataSize: 4096}},
		"GPT of an unknown architecture":   {GPT, Options{DataSize: 4096, Arch: "vax"}},
		"MBR of an architecture":           {MBR, Options{DataSize: 4096, Arch: "x86_64"}},
		"bare, rounded":                    {Bare, Options{DataSize: 4096, Align: mib}},
		"rounded to no power of two":       {MBR, Options{DataSize: 4096, Align: 3 * mib}},
		"DAX in halves of a huge page":     {MBRDAX, Options{DataSize: 4096, Align: mib}},
		"more than a DOS table can say":    {MBR, Options{DataSize: maxMBR}},
		"more than anybody can say":        {GPT, Options{DataSize: 1 << 62, Arch: "x86_64"}},
		"a kind that is none":              {Kind(9), Options{DataSize: 4096}},
		"so large that a sum would wrap":   {Bare, Options{DataSize: 4096, HashSize: 1<<63 - 4096}},
		"an alignment that nothing can be": {MBR, Options{DataSize: 4096, Align: 1 << 62}},
	} {
		if l, err := Plan(c.kind, c.o); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if k, err := ParseKind("mbr-dax"); k != MBRDAX || err != nil {
		t.Errorf("%v, %v", k, err)
	}
	if _, err := ParseKind("lvm"); err == nil {
		t.Error("lvm is a layout")
	}
}

// samples are one of each, small enough to look at.
func samples(t testing.TB) map[string]Layout {
	out := map[string]Layout{
		"mbr":     mustPlan(t, MBR, Options{DataSize: 3<<20 + 4096, HashSize: 32 << 10}),
		"mbr-one": mustPlan(t, MBR, Options{DataSize: 1 << 20}),
		"mbr-dax": mustPlan(t, MBRDAX, Options{DataSize: 3<<20 + 4096, HashSize: 32 << 10}),
		"gpt-one": mustPlan(t, GPT, Options{DataSize: 1 << 20, Arch: "x86_64"}),
	}
	for _, arch := range []string{"aarch64", "ppc64le", "riscv64", "s390x", "x86_64"} {
		out["gpt-"+arch] = mustPlan(t, GPT, Options{DataSize: 3<<20 + 4096, HashSize: 32 << 10, Arch: arch})
	}
	return out
}

func TestDevicesAreNamedAsTheKernelNamesThem(t *testing.T) {
	for _, c := range []struct {
		kind       Kind
		hashSize   int64
		disk, want string
	}{
		{Bare, 0, "/dev/vda", "/dev/vda  0"},
		{Bare, 4096, "/dev/vda", "/dev/vda /dev/vda 8192"},
		{MBR, 0, "/dev/vda", "/dev/vda1  0"},
		{MBR, 4096, "/dev/vda", "/dev/vda1 /dev/vda2 0"},
		{MBRDAX, 4096, "/dev/pmem0", "/dev/pmem0p1 /dev/pmem0p2 0"},
	} {
		data, hash, at := mustPlan(t, c.kind, Options{DataSize: 8192, HashSize: c.hashSize}).Devices(c.disk)
		if got := fmt.Sprint(data, " ", hash, " ", at); got != c.want {
			t.Errorf("%v, tree of %d bytes: %q, want %q", c.kind, c.hashSize, got, c.want)
		}
	}
}

func TestReadFindsWhatWriteWrote(t *testing.T) {
	for name, l := range samples(t) {
		b := image(t, l)
		if !bytes.Equal(b, image(t, l)) {
			t.Errorf("%s: written twice, two images", name)
		}
		got, err := Read(bytes.NewReader(b), l.Size)
		if err != nil || got.Kind != l.Kind || len(got.Partitions) != len(l.partitions()) {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		for i, p := range l.partitions() {
			if q := got.Partitions[i]; q.Extent != p || q.Number != i+1 {
				t.Errorf("%s: partition %d: %+v, want %+v", name, i+1, q, p)
			}
		}
	}
	bare := mustPlan(t, Bare, Options{DataSize: 4096, HashSize: 4096})
	if d, err := Read(bytes.NewReader(image(t, bare)), bare.Size); err != nil || d.Kind != Bare || d.ID != "" ||
		d.Partitions != nil {
		t.Errorf("bare: %+v, %v", d, err)
	}
}

// Discoverable Partitions Specification: the text of the UUIDs are the root hash's digits.
func TestPartitionsAreFoundByTheRootHash(t *testing.T) {
	l := samples(t)["gpt-x86_64"]
	d, err := Read(bytes.NewReader(image(t, l)), l.Size)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Partition{
		{l.Data, 1, "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf", "root-x86-64",
			1 << 60},
		{l.Hash, 2, "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", "b0b1b2b3-b4b5-b6b7-b8b9-babbbcbdbebf",
			"root-x86-64-verity", 1 << 60},
	} {
		if d.Partitions[i] != want {
			t.Errorf("got  %+v\nwant %+v", d.Partitions[i], want)
		}
	}
}

// Linux: drivers/nvdimm/pfn.h, in its order, and Kata's tool nsdax for the values.
func TestDAXHeader(t *testing.T) {
	b := image(t, samples(t)["mbr-dax"])
	h := b[4096:8192]
	for _, f := range []struct {
		name string
		at   int
		want string
	}{
		{"signature", 0, "NVDIMM_PFN_INFO\x00"}, {"uuid", 16, strings.Repeat("\x00", 16)},
		{"parent_uuid", 32, strings.Repeat("\x00", 16)},
		{"flags", 48, "\x00\x00\x00\x00"}, {"version_major", 52, "\x00\x00"}, {"version_minor", 54, "\x02\x00"},
		{"dataoff", 56, "\x00\x00\x20\x00\x00\x00\x00\x00"}, {"npfns", 64, strings.Repeat("\x00", 8)},
		{"mode", 72, "\x01\x00\x00\x00"},
		{"start_pad", 76, "\x00\x00\x00\x00"}, {"end_trunc", 80, "\x00\x00\x00\x00"},
		{"align", 84, "\x00\x00\x20\x00"}, {"padding", 88, strings.Repeat("\x00", 4000)},
	} {
		if got := string(h[f.at : f.at+len(f.want)]); got != f.want {
			t.Errorf("%s at %d: % x, want % x", f.name, f.at, got, f.want)
		}
	}
	// The sum once more, another way: every word adds to the low half once, and to the high half once for itself and
	// each that follows.
	var lo, hi uint64
	for i := range uint64(1022) {
		w := uint64(le.Uint32(h[4*i:]))
		lo, hi = lo+w, hi+w*(1024-i)
	}
	if lo>>32 != 0 {
		t.Fatal("the low half wraps, and this way of summing does not")
	}
	if got, want := le.Uint64(h[4088:]), hi<<32|lo; got != want {
		t.Errorf("checksum %016x, want %016x", got, want)
	}
	// From 2 MiB on, the image is one without the header.
	inner, err := Read(bytes.NewReader(b[2<<20:]), int64(len(b)-2<<20))
	if err != nil || inner.Kind != MBR || inner.Partitions[0].Offset != 1<<20 {
		t.Errorf("behind the header: %+v, %v", inner, err)
	}
}

func save(t *testing.T, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSfdiskAgrees(t *testing.T) {
	testenv.Require(t, testenv.Tool("sfdisk"))
	for name, l := range samples(t) {
		p := save(t, image(t, l))
		out, err := exec.Command("sfdisk", "--verify", p).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No errors detected") && !strings.Contains(string(out),
			"Remaining") {
			t.Errorf("%s: sfdisk --verify: %v\n%s", name, err, out)
		}
		js, err := exec.Command("sfdisk", "--json", p).Output()
		if err != nil {
			t.Fatal(err)
		}
		got := strings.ReplaceAll(string(js), p, "disk.img")
		golden.Check(t, "sfdisk-"+name+".json", []byte(got))
		var table struct {
			PartitionTable struct {
				ID         string
				Partitions []struct {
					Start, Size      int64
					Type, UUID, Name string
				}
			}
		}
		if err := json.Unmarshal(js, &table); err != nil {
			t.Fatal(err)
		}
		d, err := Read(bytes.NewReader(image(t, l)), l.Size)
		if err != nil || len(table.PartitionTable.Partitions) != len(d.Partitions) {
			t.Fatalf("%s: %v, sfdisk has %d partitions", name, err, len(table.PartitionTable.Partitions))
		}
		for i, q := range table.PartitionTable.Partitions {
			r := d.Partitions[i]
			uuid := q.UUID == "" || strings.EqualFold(q.UUID, r.UUID) // a DOS table has none
			if q.Start*512 != r.Offset || q.Size*512 != r.Size || !strings.EqualFold(q.Type, r.Type) || !uuid ||
				q.Name != r.Name {
				t.Errorf("%s: sfdisk sees %+v, we %+v", name, q, r)
			}
		}
		if id := strings.TrimPrefix(table.PartitionTable.ID, "0x"); !strings.EqualFold(id, d.ID) {
			t.Errorf("%s: sfdisk sees %s, we %s", name, id, d.ID)
		}
	}
}

// The names that sfdisk has for the types are the judge of our table of architectures.
func TestSfdiskKnowsTheTypes(t *testing.T) {
	testenv.Require(t, testenv.Tool("sfdisk"))
	for arch, name := range map[string]string{
		"aarch64": "ARM-64", "ppc64le": "PPC64LE", "riscv64": "RISC-V-64", "s390x": "S390X", "x86_64": "x86-64",
	} {
		cmd := exec.Command("sfdisk", "--list", "--output", "type", save(t, image(t, samples(t)["gpt-"+arch])))
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.Output()
		for _, want := range []string{"Linux root (" + name + ")", "Linux root verity (" + name + ")"} {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("%s: want %q: %v\n%s", arch, want, err, out)
			}
		}
	}
}

func TestSgdiskAgrees(t *testing.T) {
	testenv.Require(t, testenv.Tool("sgdisk"))
	for name, l := range samples(t) {
		if l.Kind != GPT {
			continue
		}
		out, err := exec.Command("sgdisk", "-v", save(t, image(t, l))).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No problems found") {
			t.Errorf("%s: sgdisk -v: %v\n%s", name, err, out)
		}
	}
}

func TestDamageIsFound(t *testing.T) {
	flip := func(name string, at int64) error {
		b := image(t, samples(t)[name])
		b[at] ^= 1
		_, err := Read(bytes.NewReader(b), int64(len(b)))
		return err
	}
	gptSize := samples(t)["gpt-x86_64"].Size
	for _, c := range []struct {
		name string
		at   int64
	}{
		{"mbr", 446 + 8 + 3},          // starts behind the end
		{"mbr", 446 + 16 + 12 + 3},    // ends behind the end
		{"mbr", 446},                  // status
		{"mbr-dax", 4096 + 100},       // padding of the header
		{"mbr-dax", 8191},             // its checksum
		{"mbr-dax", 2<<20 + 510},      // the second table's mark
		{"mbr-dax", 2<<20 + 446 + 12}, // its first length
		{"gpt-x86_64", 512},           // signature
		{"gpt-x86_64", 512 + 20},      // reserved, which the checksum covers
		{"gpt-x86_64", 512 + 40},      // first usable
		{"gpt-x86_64", 1024 + 5000},   // an unused entry
		{"gpt-x86_64", gptSize - 512},
		{"gpt-x86_64", gptSize - 512 - 100},
		{"gpt-x86_64", gptSize - 33*512},
	} {
		if err := flip(c.name, c.at); !errors.Is(err, gpt.ErrTable) {
			t.Errorf("%s: a bit at %d: %v", c.name, c.at, err)
		}
	}
	for name, l := range samples(t) {
		b := image(t, l)
		for _, n := range []int64{512, 1024, 4096, l.Size - 4096} {
			if _, err := Read(bytes.NewReader(b[:n]), n); err == nil && l.Hash.end() != 0 && n < l.Hash.end() {
				t.Errorf("%s cut to %d bytes: no error", name, n)
			}
		}
		if _, err := Read(bytes.NewReader(b[:l.Size-4096]), l.Size); err == nil && l.Kind == GPT {
			t.Errorf("%s shorter than said: no error", name)
		}
	}
}

type noSpace struct{}

func (noSpace) WriteAt([]byte, int64) (int, error) { return 0, errors.New("no space") }

func TestAWriterThatFailsIsNamed(t *testing.T) {
	for name, l := range samples(t) {
		if err := l.Write(noSpace{}, identity); err == nil || !strings.Contains(err.Error(), "no space") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever the tables say, no partition leaves the image or lies in another. Inputs are changes to one of three disks,
// three bytes of where and four of what each, with GPT's checksums put right again: whole images are too long for the
// fuzzer to get anywhere.
func FuzzRead(f *testing.F) {
	var bases [][]byte
	for _, l := range []Layout{
		mustPlan(f, MBR, Options{DataSize: 4096, HashSize: 4096}),
		mustPlan(f, MBRDAX, Options{DataSize: 4096, HashSize: 4096}),
		mustPlan(f, GPT, Options{DataSize: 4096, HashSize: 4096, Arch: "x86_64"}),
	} {
		b := image(f, l)
		bases = append(bases, b)
		for _, at := range []int{
			gpt.RecordsAt + 4, gpt.RecordsAt + 8, gpt.RecordsAt + 12, gpt.RecordsAt + 16 + 8,
			daxOffset + gpt.RecordsAt + 8, pfnOffset,
			512 + 32, 512 + 40, 512 + 48, 512 + 72, 512 + 80, 1024 + 32, 1024 + 40,
		} {
			f.Add(byte(len(bases)-1), []byte{byte(at), byte(at >> 8), byte(at >> 16), 1, 2, 3, 4}, int64(len(b)))
		}
	}
	f.Add(byte(0), []byte{}, int64(0))
	const gptArray = 128 * 128 // UEFI 2.10, section 5.3: entries of 128 bytes, behind a header of 92
	f.Fuzz(func(t *testing.T, base byte, changes []byte, size int64) {
		b := bytes.Clone(bases[int(base)%len(bases)])
		for ; len(changes) >= 7; changes = changes[7:] {
			if at := int(changes[0]) | int(changes[1])<<8 | int(changes[2])<<16; at+4 <= len(b) {
				copy(b[at:], changes[3:7])
			}
		}
		for _, at := range []int{512, len(b) - 512} {
			h := b[at:][:512]
			if array := int64(le.Uint64(h[72:])); array >= 0 && array < int64(len(b)-gptArray)/512 {
				le.PutUint32(h[88:], crc32.ChecksumIEEE(b[array*512:][:gptArray]))
			}
			le.PutUint32(h[16:], 0)
			le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		}
		if size < 0 || size > int64(len(b)) {
			size = int64(len(b))
		}
		d, err := Read(bytes.NewReader(b), size)
		if err != nil {
			return
		}
		for i, p := range d.Partitions {
			if p.Offset < 512 || p.Size <= 0 || p.end() > size {
				t.Errorf("%+v in %d bytes", p, size)
			}
			for _, q := range d.Partitions[:i] {
				if p.Offset < q.end() && q.Offset < p.end() {
					t.Errorf("%+v and %+v", p, q)
				}
			}
		}
	})
}
