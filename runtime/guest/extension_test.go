package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/superblock"
)

// disk is as much of an extension's image as the host reads.
func disk(label string) []byte {
	b := make([]byte, 8192)
	binary.LittleEndian.PutUint32(b[446+8:], 8) // the first sector of the first partition
	binary.LittleEndian.PutUint32(b[8*512+superblock.At:], superblock.EROFS)
	copy(b[8*512+superblock.At+64:], label)
	return b
}

const hashLine = "root_hash=%s,salt=-,data_blocks=3,data_block_size=4096,hash_block_size=4096\n"

func extensionFolder(t *testing.T, line string, image []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{extension.HashName: []byte(line), extension.ImageName: image} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAnExtensionIsReadFromItsFolder(t *testing.T) {
	good := fmt.Sprintf(hashLine, strings.Repeat("ab", 32))
	dir := extensionFolder(t, good, disk("tools"))
	e, err := ReadExtension(dir)
	if err != nil || e.Name != "tools" || e.Dir != dir || e.Params.DataBlocks != 3 {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err = ReadExtension("gpu=" + dir); err != nil || e.Name != "gpu" || e.Dir != dir {
		t.Errorf("%+v, %v", e, err)
	}
	for name, c := range map[string]struct{ arg, want string }{
		"no folder": {filepath.Join(dir, "none"), "no such file"},
		"a long label": {extensionFolder(t, good, disk("abcdefghijklmnop")),
			"16 bytes, want at most 10, as a disk's serial has 20 and begins with \"extension-\"; name it with " +
				"NAME=FOLDER"},
		"no label":             {extensionFolder(t, good, disk("")), "name it with NAME=FOLDER"},
		"another file system":  {extensionFolder(t, good, make([]byte, 8192)), "not erofs"},
		"an empty image":       {extensionFolder(t, good, nil), "partition table: EOF"},
		"a name that is wrong": {"g.pu=" + dir, `name of an extension "g.pu"`},
		"a name that is long":  {"abcdefghijk=" + dir, "11 bytes, want at most 10"},
		"a hash cut short": {extensionFolder(t, fmt.Sprintf(hashLine, "ab"), disk("a")),
			"root_hash.txt: root_hash"},
		"no end of a hash": {extensionFolder(t, strings.Repeat("x", maxHashFile+1), disk("a")), "more than 4096 bytes"},
	} {
		if e, err := ReadExtension(c.arg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v, want %s", name, e, err, c.want)
		}
	}
}

func FuzzLabel(f *testing.F) {
	f.Add(disk("tools"))
	f.Add(disk("abcdefghijklmnop")) // no NUL at its end
	f.Add(make([]byte, 600))        // no file system
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := label(bytes.NewReader(b)); err == nil && (len(s) > 16 || strings.ContainsRune(s, 0)) {
			t.Errorf("label %q", s)
		}
	})
}
