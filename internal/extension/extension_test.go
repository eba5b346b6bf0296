package extension

import (
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/dmverity"
)

var (
	hash = strings.Repeat("ab", 32)
	line = "root_hash=" + hash + ",salt=0123,data_blocks=7,data_block_size=4096,hash_block_size=4096"
)

func TestAWordIsReadAsItIsWritten(t *testing.T) {
	p, err := dmverity.ParseParams(line)
	if err != nil {
		t.Fatal(err)
	}
	e := Extension{Name: "gpu-1", Params: p}
	if e.Word() != "kata.extension.gpu-1.verity_params="+line || e.Serial() != "extension-gpu-1" ||
		e.MountPoint() != "/run/kata-extensions/gpu-1" {
		t.Error(e.Word(), e.Serial(), e.MountPoint())
	}
	if got, is, err := ParseWord(e.Word()); got != e || !is || err != nil {
		t.Error(got, is, err)
	}
	if _, err := dmverity.ParseParams(strings.Replace(line, "0123", "-", 1)); err != nil {
		t.Error("no salt:", err)
	}
	fields := strings.Split(line, ",")
	slices.Reverse(fields)
	if got, err := dmverity.ParseParams(strings.Join(fields, ",")); got != p || err != nil || got.String() != line {
		t.Error("in another order:", got, err)
	}
	if got, is, err := ParseWord("kata.extension.Tools_2.verity_params=" + line); got.Name != "Tools_2" || !is ||
		err != nil {
		t.Error("upper case and an underscore:", got, is, err)
	}
	for _, w := range []string{"", "quiet", "kata.extensions", "agent.log=debug"} {
		if _, is, err := ParseWord(w); is || err != nil {
			t.Error(w, is, err)
		}
	}
}

func TestOddWordsAreRefusedWithTheirCause(t *testing.T) {
	const start = "kata.extension.gpu.verity_params"
	for word, want := range map[string]string{
		start:                    "extension gpu: the kernel command line has its parameters without a value",
		start + "=":              "extension gpu: its parameters on the kernel command line: 1 fields",
		start + "=" + line + ",": "6 fields",
		start + "=" + line[1:]:   `field "oot_hash=`,
		start + "=" + strings.Replace(line, "salt=0123", "data_blocks=7", 1): "data_blocks is there twice",
		start + "=" + line + "\n": "hash_block_size",
		"kata.extension.gpu=" + line: `"kata.extension.gpu": ` +
			`want kata.extension.NAME.verity_params=VALUE`,
		"kata.extension.gpu.root=" + line:                  "want kata.extension.NAME.verity_params=VALUE",
		"kata.extension..verity_params=" + line:            `name of an extension ""`,
		"kata.extension.../x.verity_params=" + line:        "name of an extension",
		"kata.extension.abcdefghijk.verity_params=" + line: "11 bytes, want at most 10",
	} {
		if _, is, err := ParseWord(word); !is || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want %s", word, is, err, want)
		}
	}
	for _, c := range [][3]string{
		{hash, hash[2:], "want 64"}, {hash, strings.ToUpper(hash), "lower-case"}, {"0123", "012", "salt"},
		{"0123", "", "salt"},
		{"0123", strings.Repeat("00", 257), "salt"}, {"blocks=7", "blocks=07", "decimal"}, {"blocks=7", "blocks=0",
			"0 data blocks"},
		{"blocks=7", "blocks=-1", "-1 data blocks"}, {"blocks=7", "blocks=9223372036854775807", "data blocks"},
		{"data_block_size=4096", "data_block_size=512", "want 4096"},
		{"salt=", "slat=", `field "slat=0123": want root_hash, salt`},
	} {
		if _, err := dmverity.ParseParams(strings.Replace(line, c[0], c[1], 1)); err == nil ||
			!strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s for %s: %v", c[1], c[0], err)
		}
	}
}

func TestNamesFitASerial(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "coco-1": true, "abcdefghij": true, "abcdefghijk": false, "": false, "-a": false, "A": true,
		"_x-1": true, "a.b": false, "a/b": false, "..": false, "é": false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzParseWord(f *testing.F) {
	f.Add("kata.extension.gpu.verity_params=" + line)
	// no salt
	f.Add("kata.extension.gpu.verity_params=root_hash=" + hash +
		",salt=-,data_blocks=1,data_block_size=4096,hash_block_size=4096")
	f.Add("kata.extension..verity_params.verity_params=") // the suffix in the name
	f.Fuzz(func(t *testing.T, word string) {
		e, is, err := ParseWord(word)
		if !is || err != nil {
			return
		}
		// The order of the fields is the caller's, and nothing else.
		again, _, err := ParseWord(e.Word())
		if err != nil || again != e || len(e.Word()) != len(word) || CheckName(e.Name) != nil {
			t.Errorf("%q became %q, %v", word, e.Word(), err)
		}
	})
}
