package superblock

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

func erofs(label string) []byte {
	b := make([]byte, 4096)
	binary.LittleEndian.PutUint32(b[1024:], EROFS)
	copy(b[1024+64:], label)
	return b
}

func TestFileSystemsAreKnownByTheirNumbers(t *testing.T) {
	ext4 := make([]byte, 4096)
	binary.LittleEndian.PutUint16(ext4[1024+0x38:], Ext4)
	for want, b := range map[string][]byte{"erofs": erofs(""), "ext4": ext4, "": make([]byte, 4096)} {
		if got := Kind(b); got != want {
			t.Errorf("%q is taken for %q", want, got)
		}
		if got := Kind(b[:HeadSize-1]); got != "" {
			t.Errorf("too little of %q is taken for %q", want, got)
		}
	}
}

func TestALabelIsReadWhereTheFileSystemBegins(t *testing.T) {
	disk := append(make([]byte, 512), erofs("tools")...)
	if got, err := EROFSLabel(bytes.NewReader(disk), 512); got != "tools" || err != nil {
		t.Error(got, err)
	}
	if got, err := EROFSLabel(bytes.NewReader(erofs(strings.Repeat("x", 20))), 0); got != strings.Repeat("x", 16) ||
		err != nil {
		t.Error(got, err)
	}
	for at, want := range map[int64]string{0: "not erofs", 4096: "file system at 4096"} {
		if got, err := EROFSLabel(bytes.NewReader(disk), at); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("at %d: %q, %v", at, got, err)
		}
	}
}
