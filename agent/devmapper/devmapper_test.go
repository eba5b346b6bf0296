package devmapper

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/dmverity"
)

// answer is what the kernel leaves in the buffer for a table of targets.
func answer(kind, params string, targets uint32) []byte {
	b := make([]byte, bufferSize)
	binary.NativeEndian.PutUint32(b[offsetStart:], headerSize)
	binary.NativeEndian.PutUint32(b[offsetTargets:], targets)
	copy(b[headerSize+specType:], kind)
	copy(b[headerSize+specSize:], params)
	return b
}

const sampleTable = "1 254:1 254:2 4096 4096 64000 1 sha256 " +
	"4392712ba01368efdf14b05c76f9e4df0d53664630b5d48632ed17a137f39076 aee087a5be3b"

func parseRootHash(b []byte) (string, error) {
	t, err := parseTable(b)
	if err != nil {
		return "", err
	}
	return rootHash(t)
}

func TestTheRootHashIsReadFromARunningTable(t *testing.T) {
	h, err := parseRootHash(answer("verity", sampleTable, 1))
	if err != nil || !strings.HasPrefix(h, "4392712ba013") {
		t.Fatal(h, err)
	}
	for name, b := range map[string][]byte{
		"another target": answer("linear", "254:1 0", 1),
		"two targets":    answer("verity", sampleTable, 2),
	} {
		if h, err := parseRootHash(b); h != "" || err != nil {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
	full := answer("verity", sampleTable, 1)
	binary.NativeEndian.PutUint32(full[offsetFlags:], flagBufferFull)
	far := answer("verity", sampleTable, 1)
	binary.NativeEndian.PutUint32(far[offsetStart:], bufferSize)
	for name, b := range map[string][]byte{
		"a table that did not fit": full,
		"a table outside":          far,
		"too few words":            answer("verity", "1 254:1", 1),
		"a hash that is none":      answer("verity", strings.Replace(sampleTable, "4392", "none", 1), 1),
		"parameters without an end": append(answer("verity", "", 1)[:headerSize+specSize],
			[]byte(strings.Repeat("x", 100))...),
	} {
		if h, err := parseRootHash(b); err == nil {
			t.Errorf("%s: %v", name, h)
		}
	}
}

// A table that is loaded is the table that is read: the kernel's answer has the form of the request.
func TestAVerityTableIsWrittenAsTheKernelReadsIt(t *testing.T) {
	v := dmverity.Params{DataBlocks: 7, DataBlockSize: 4096, HashBlockSize: 4096, RootHash: strings.Repeat("ab", 32),
		Salt: "-"}
	target := VerityTarget(v.Table(0), Device{254, 17}, Device{254, 18})
	b, err := loadRequest("extension-x", target)
	if err != nil {
		t.Fatal(err)
	}
	if n := int(binary.NativeEndian.Uint32(b[offsetSize:])); n != len(b) ||
		binary.NativeEndian.Uint32(b[offsetFlags:])&flagReadOnly == 0 {
		t.Errorf("%d of %d bytes, flags %x", n, len(b), b[offsetFlags])
	}
	if name := string(b[offsetName : offsetName+12]); name != "extension-x\x00" {
		t.Errorf("name %q", name)
	}
	got, err := parseTable(b)
	if err != nil || *got != target || got.Params != "1 254:17 254:18 4096 4096 7 0 sha256 "+v.RootHash+" -" ||
		got.Size != 28672 {
		t.Errorf("%+v, %v", got, err)
	}
	for name, target := range map[string]Target{
		"no size": {Type: "verity"}, "half a sector": {Type: "verity", Size: 256},
		"a long type": {Type: strings.Repeat("x", 16), Size: 512},
		"a NUL":       {Type: "verity", Size: 512, Params: "\x00"},
	} {
		if _, err := loadRequest("x", target); err == nil {
			t.Errorf("%s passes", name)
		}
	}
	for _, name := range []string{"", "a/b", strings.Repeat("x", nameSize)} {
		if _, err := loadRequest(name, target); err == nil {
			t.Errorf("the name %q passes", name)
		}
	}
}

func TestDeviceNumbersAreEncodedAsTheKernelWants(t *testing.T) {
	for _, c := range []struct {
		device Device
		want   uint64
	}{{Device{254, 0}, 0xfe00}, {Device{254, 3}, 0xfe03}, {Device{259, 300}, 0x11032c}} {
		if got := c.device.huge(); got != c.want || fromHuge(got) != c.device {
			t.Errorf("%s is %#x, want %#x, and back %s", c.device, got, c.want, fromHuge(got))
		}
		if d, err := ParseDevice(c.device.String()); err != nil || d != c.device {
			t.Error(d, err)
		}
	}
	for _, s := range []string{"", "1", "1:", ":1", "1:2:3", "-1:2", "5000:1", "1:1048576"} {
		if d, err := ParseDevice(s); err == nil {
			t.Errorf("%q is %s", s, d)
		}
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add(answer("verity", sampleTable, 1)[:headerSize+specSize+len(sampleTable)+1])
	f.Add(answer("verity", "", 1)[:headerSize+specSize]) // no room for an end
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headerSize { // the buffer is ours
			_, _ = parseRootHash(b)
		}
	})
}

func TestTargetsAreListed(t *testing.T) {
	b := request(400)
	at := headerSize
	for _, target := range []struct {
		next int
		name string
	}{{32, "verity"}, {0, "error"}} {
		binary.NativeEndian.PutUint32(b[at:], uint32(target.next))
		copy(b[at+versionName:], target.name)
		at += target.next
	}
	if got, err := parseTargets(b); err != nil || !slices.Equal(got, []string{"verity", "error"}) {
		t.Errorf("%v, %v", got, err)
	}
	for name, spoil := range map[string]func([]byte){
		"a start before the header": func(b []byte) { binary.NativeEndian.PutUint32(b[offsetStart:], 0) },
		"a start behind the end":    func(b []byte) { binary.NativeEndian.PutUint32(b[offsetStart:], 400) },
		"a next one behind the end": func(b []byte) { binary.NativeEndian.PutUint32(b[headerSize:], 1<<32-1) },
		"a name without an end": func(b []byte) {
			copy(b[headerSize+32+versionName:], bytes.Repeat([]byte("x"),
				100))
		},
		"a full buffer": func(b []byte) { binary.NativeEndian.PutUint32(b[offsetFlags:], flagBufferFull) },
	} {
		c := bytes.Clone(b)
		spoil(c)
		if got, err := parseTargets(c); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// FuzzParseTargets: whatever the answer holds, it is read within its bounds and to its end.
func FuzzParseTargets(f *testing.F) {
	b := request(400)
	copy(b[headerSize+versionName:], "verity")
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			return
		}
		if got, err := parseTargets(b); err == nil && len(got) > len(b) {
			t.Error(len(got))
		}
	})
}
