package measure

import (
	"encoding/binary"
	"strings"
	"testing"
)

// answer is what the kernel leaves in the buffer for a table of targets.
func answer(kind, params string, targets uint32) []byte {
	b := make([]byte, dmBuffer)
	binary.NativeEndian.PutUint32(b[dmOffsetStart:], dmHeader)
	binary.NativeEndian.PutUint32(b[dmOffsetTargets:], targets)
	copy(b[dmHeader+dmSpecType:], kind)
	copy(b[dmHeader+dmSpec:], params)
	return b
}

const sampleTable = "1 254:1 254:2 4096 4096 64000 1 sha256 4392712ba01368efdf14b05c76f9e4df0d53664630b5d48632ed17a137f39076 aee087a5be3b"

func TestTheRootHashIsReadFromARunningTable(t *testing.T) {
	v, err := parseTable(answer("verity", sampleTable, 1))
	if err != nil || v == nil || !strings.HasPrefix(v.RootHash, "4392712ba013") {
		t.Fatal(v, err)
	}
	for name, b := range map[string][]byte{
		"another target": answer("linear", "254:1 0", 1),
		"two targets":    answer("verity", sampleTable, 2),
	} {
		if v, err := parseTable(b); v != nil || err != nil {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
	full := answer("verity", sampleTable, 1)
	binary.NativeEndian.PutUint32(full[dmOffsetFlags:], dmBufferFull)
	far := answer("verity", sampleTable, 1)
	binary.NativeEndian.PutUint32(far[dmOffsetStart:], dmBuffer)
	for name, b := range map[string][]byte{
		"a table that did not fit":  full,
		"a table outside":           far,
		"too few words":             answer("verity", "1 254:1", 1),
		"a hash that is none":       answer("verity", strings.Replace(sampleTable, "4392", "none", 1), 1),
		"parameters without an end": append(answer("verity", "", 1)[:dmHeader+dmSpec], []byte(strings.Repeat("x", 100))...),
	} {
		if v, err := parseTable(b); err == nil {
			t.Errorf("%s: %v", name, v)
		}
	}
}

func TestDeviceNumbersAreEncodedAsTheKernelWants(t *testing.T) {
	for _, c := range []struct{ major, minor, want uint64 }{{254, 0, 0xfe00}, {254, 3, 0xfe03}, {259, 300, 0x11032c}} {
		if got := hugeDev(c.major, c.minor); got != c.want {
			t.Errorf("%d:%d is %#x, want %#x", c.major, c.minor, got, c.want)
		}
	}
}
