package dmverity

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
)

// The words are those of Kata Containers: root_hash_<variant>.txt, and the parameter its runtime makes of it.
func TestLinesReadAsKataWritesThem(t *testing.T) {
	line := "root_hash=768cd7e848f6cb7eb4f59467b26ee5c5e45ece570cb96a5c952d97dbc89bb150," +
		"salt=63f8dacc786bd19f307be8668c7792a8fe07818df4aae55b63e76c4931d35c76,data_blocks=96512," +
		"data_block_size=4096,hash_block_size=4096"
	p, err := ParseParams(line)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.String(); got != line {
		t.Errorf("got  %s\nwant %s", got, line)
	}
	if got := hex.EncodeToString(p.SaltBytes()); got != p.Salt || SaltText(p.SaltBytes()) != p.Salt {
		t.Errorf("salt %s", got)
	}
	fields := strings.Split(line, ",")
	slices.Reverse(fields)
	if got, err := ParseParams(strings.Join(fields, ",")); got != p || err != nil {
		t.Error("in another order:", got, err)
	}
	got, err := p.Table(0).CreateWord("/dev/vda1", "/dev/vda2")
	want := `dm-mod.create="dm-verity,,,ro,0 772096 verity 1 /dev/vda1 /dev/vda2 4096 4096 96512 0 sha256 ` +
		`768cd7e848f6cb7eb4f59467b26ee5c5e45ece570cb96a5c952d97dbc89bb150 63f8dacc786bd19f307be8668c7792a8fe07818df4aae55b63e76c4931d35c76"`
	if got != want || err != nil {
		t.Errorf("got  %s\nwant %s (%v)", got, want, err)
	}
	p.Salt = NoSalt
	if len(p.SaltBytes()) != 0 || SaltText(nil) != NoSalt {
		t.Errorf("no salt is %x", p.SaltBytes())
	}
	got, err = p.Table(96513).line("253:0", "253:0")
	if want := "0 772096 verity 1 253:0 253:0 4096 4096 96512 96513 sha256 " +
		"768cd7e848f6cb7eb4f59467b26ee5c5e45ece570cb96a5c952d97dbc89bb150 -"; got != want || err != nil {
		t.Errorf("got  %s\nwant %s (%v)", got, want, err)
	}
	if root, err := RootHashOf(p.Table(7).Arguments("253:0", "253:1")); root != p.RootHash || err != nil {
		t.Error("the root hash of the table:", root, err)
	}
	for _, d := range [][2]string{{}, {"a", "b c"}, {"a;b", "b"}, {"a", `"`}} {
		if s, err := p.Table(0).line(d[0], d[1]); err == nil {
			t.Errorf("%q gave %s", d, s)
		}
	}
}

func TestAnOddLineIsRefused(t *testing.T) {
	good := "root_hash=" + strings.Repeat("ab", 32) +
		",salt=0102,data_blocks=7,data_block_size=4096,hash_block_size=4096"
	if _, err := ParseParams(good); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{"abab", "ABAB"}, {"abab", "ab"}, {"0102", "010"}, {"0102", ""}, {"0102", strings.Repeat("00", 257)},
		{"=7", "=07"}, {"=7", "=+7"}, {"=7", "=0"},
		{"=7", "=-7"}, {"=7", "=9999999999999999999"}, {"=7", "=99999999999999999"}, {"size=4096,", "size=1024,"},
		{"salt=", "salt= "}, {",salt", ", salt"},
		{"data_blocks", "blocks"}, {"root_hash=", ""}, {"4096,", "4096,x=1,"}, {"data_block_size=4096,", ""},
		{"salt=0102", "data_blocks=7"},
	} {
		if p, err := ParseParams(strings.Replace(good, c[0], c[1], 1)); err == nil {
			t.Errorf("%q for %q: got %+v", c[1], c[0], p)
		}
	}
	if _, err := ParseParams(good + "\n"); err == nil {
		t.Error("a line break")
	}
}

// superblock is one by the offsets of cryptsetup's wiki, page DMVerity.
func superblock() []byte {
	b := make([]byte, 512)
	copy(b, "verity\x00\x00")
	binary.LittleEndian.PutUint32(b[8:], 1)
	binary.LittleEndian.PutUint32(b[12:], 1)
	copy(b[16:], "0123456789abcdef")
	copy(b[32:], "sha256")
	binary.LittleEndian.PutUint32(b[64:], 4096)
	binary.LittleEndian.PutUint32(b[68:], 4096)
	binary.LittleEndian.PutUint64(b[72:], 16)
	binary.LittleEndian.PutUint16(b[80:], 2)
	b[88] = 0xab
	return b
}

func TestASuperblockIsReadAsVeritysetupWritesIt(t *testing.T) {
	s, err := ParseSuperblock(superblock())
	if err != nil || s != (Superblock{1, 4096, 4096, 16, [16]byte([]byte("0123456789abcdef")), "sha256", "ab00"}) {
		t.Errorf("%+v, %v", s, err)
	}
	if !bytes.Equal(s.Bytes(), superblock()) {
		t.Errorf("it is written as % x", s.Bytes())
	}
	testenv.Require(t, testenv.Tool("veritysetup"))
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 8*4096), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("veritysetup", "format", "--salt=00ff", "--hash-offset=32768", path,
		path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = ParseSuperblock(b[32768:]); err != nil || s.DataBlocks != 8 && s.DataBlocks != 9 || s.Salt != "00ff" ||
		s.Algorithm != "sha256" {
		t.Errorf("veritysetup's: %+v, %v", s, err)
	}
	if !bytes.Equal(s.Bytes(), b[32768:32768+512]) {
		t.Error("veritysetup's is written otherwise")
	}
}

func TestASuperblockThatIsNoneIsRefused(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"too short":              func(b []byte) []byte { return b[:511] },
		"another signature":      func(b []byte) []byte { b[0] = 'V'; return b },
		"another version":        func(b []byte) []byte { b[8] = 2; return b },
		"a name without an end":  func(b []byte) []byte { copy(b[32:], strings.Repeat("a", 32)); return b },
		"bytes behind the name":  func(b []byte) []byte { b[50] = 1; return b },
		"a salt of 257 bytes":    func(b []byte) []byte { b[80], b[81] = 1, 1; return b },
		"more blocks than a int": func(b []byte) []byte { b[79] = 0x80; return b },
	} {
		if s, err := ParseSuperblock(change(superblock())); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// Whatever a line holds, it is refused or says the same again.
func FuzzParseParams(f *testing.F) {
	f.Add("root_hash=" + strings.Repeat("ab", 32) +
		",salt=0102,data_blocks=7,data_block_size=4096,hash_block_size=4096")
	f.Add("root_hash=" + strings.Repeat("00", 32) + ",salt=-,data_blocks=1,data_block_size=4096,hash_block_size=4096")
	f.Add("")
	f.Fuzz(func(t *testing.T, line string) {
		p, err := ParseParams(line)
		if err != nil {
			return
		}
		if again, err := ParseParams(p.String()); err != nil || again != p || len(p.String()) != len(line) {
			t.Errorf("%q became %q", line, p)
		}
	})
}

// Superblocks come from disks.
func FuzzParseSuperblock(f *testing.F) {
	f.Add(superblock())
	f.Add([]byte("verity\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSuperblock(b)
		if err != nil {
			return
		}
		if len(s.Salt) > 2*MaxSalt || s.DataBlocks < 0 || s.DataBlocks > MaxBlocks {
			t.Fatalf("%+v", s)
		}
		if again, err := ParseSuperblock(s.Bytes()); err != nil || again != s {
			t.Errorf("%+v became %+v, %v", s, again, err)
		}
	})
}
