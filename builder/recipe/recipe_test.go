package recipe

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var vocabulary = Vocabulary{Features: []string{"tiny", "default", "vsock", "containers", "virtio"},
	ImageCompressions: []string{"none", "lz4", "lz4hc", "zstd", "deflate"}}

const good = `version: 1
name: sample
kernel:
  source:
    debian: {package: linux-source-6.12}
  features: [tiny, vsock]
initrd:
  files:
    - {path: /etc/motd, text: "hello", mode: 0600}
boot:
  memory: 1GiB
`

func TestParseFillsDefaults(t *testing.T) {
	r, err := Parse("recipe.yaml", []byte(good), vocabulary)
	if err != nil {
		t.Fatal(err)
	}
	if r.Arch != "x86_64" || r.Kernel.Source.Debian.Suite != "trixie" || r.Initrd.Agent != AgentBuiltin ||
		r.Initrd.Compression != "zstd" || r.Boot.Machine != "microvm" || r.Boot.CPUs != 1 ||
		r.Boot.MemoryMiB() != 1024 {
		t.Errorf("defaults: %+v", r)
	}
	if m := r.Initrd.Files[0].FileMode(); m != 0o600 {
		t.Errorf("an unquoted mode reads as %o, want 600", m)
	}
}

func TestAMarkOfUTF8AndTheEndsOfLinesOfDOSAreTaken(t *testing.T) {
	text := "\ufeff" + strings.ReplaceAll(good, "\n", "\r\n")
	if r, err := Parse("r.yaml", []byte(text), vocabulary); err != nil || r.Boot.MemoryMiB() != 1024 {
		t.Errorf("%v", err)
	}
}

func TestQuotedWordsOfTheCommandLineAreTaken(t *testing.T) {
	r, err := Parse("r.yaml", []byte(strings.Replace(good, "memory: 1GiB",
		`command_line: ['dyndbg="file drivers/virtio/* +p"', "a-b=c"]`, 1)), vocabulary)
	if err != nil || r.Boot.CommandLine[0] != `dyndbg="file drivers/virtio/* +p"` {
		t.Errorf("%v", err)
	}
}

func TestOverridesAreTakenAsAConfigSpellsThem(t *testing.T) {
	for text, want := range map[string]string{
		"y": "y", "n": "n", "m": "m", `"y"`: "y", "'n'": "n", "7": "7", "-1": "-1", "0x1F": "0x1F", `"0x1f"`: "0x1f",
		"010":         "010",
		`"some text"`: `"some text"`, "plain": `"plain"`, `'"own quotes"'`: `"own quotes"`, `""`: `""`,
		`'a"b\c'`: `"a\"b\\c"`,
	} {
		r, err := Parse("r.yaml", []byte(strings.Replace(good, "initrd:",
			"  override: [{option: CONFIG_A_1, value: "+text+", reason: because}]\ninitrd:", 1)), vocabulary)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := r.Kernel.Override[0]; got != (Override{"CONFIG_A_1", OptionValue(want), "because"}) {
			t.Errorf("%s: got %+v, want %s", text, got, want)
		}
		if file, line, source := r.Line("kernel.override[0].option"); file != "r.yaml" || line != 7 ||
			!strings.HasPrefix(source, "  override: [{option: CONFIG_A_1, ") {
			t.Errorf("at %s:%d: %s", file, line, source)
		}
	}
}

func TestAKernelMayHaveNoFeatures(t *testing.T) {
	r, err := Parse("r.yaml", []byte(strings.Replace(good, "[tiny, vsock]", "[]", 1)), vocabulary)
	if err != nil || len(r.Kernel.Features) != 0 {
		t.Errorf("%v", err)
	}
	_, err = Parse("r.yaml", []byte(strings.Replace(good, "features: [tiny, vsock]", "modules: false", 1)), vocabulary)
	if err == nil || !strings.Contains(err.Error(), "features: [] leaves all to the fragments") {
		t.Errorf("no key at all: %v", err)
	}
}

func TestMistakesAreBlamedOnTheirPlace(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"unknown key", "  features:", "  featurs:",
			"r.yaml:6:3: unknown key \"featurs\" in kernel; did you mean \"features\"?\n    6 |   featurs: [tiny, " +
				"vsock]\n      |   ^"},
		{"unknown key at the top", "boot:", "boots:",
			"r.yaml:10:1: unknown key \"boots\" in a recipe; did you mean \"boot\"?"},
		{"unknown key in a flow mapping", "{package:", "{pakage:",
			"r.yaml:5:14: unknown key \"pakage\" in kernel.source.debian; did you mean \"package\"?"},
		{"duplicate key", "name: sample", "name: a\nname: b",
			"r.yaml:3:1: mapping key \"name\" already defined at [2:1]"},
		{"wrong type, text for a list", "[tiny, vsock]", "tiny", "r.yaml:6:13: want a list, got text"},
		{"wrong type, list for text", "name: sample", "name: [sample]", "r.yaml:2:7: want text, got a list"},
		{"wrong type, text for a number", "version: 1", "version: one", "r.yaml:1:10: want a whole number, got text"},
		{"wrong type, mapping for text", "memory: 1GiB", "memory: {a: 1}", "want text, got a mapping"},
		{"wrong type, number for text", "name: sample", "name: 12", "r.yaml:2:7: want text, got a whole number"},
		{"unknown feature", "[tiny, vsock]", "[tiny, vsok]",
			"r.yaml:6:20: unknown kernel feature \"vsok\"; did you mean \"vsock\"?"},
		{"repeated feature", "[tiny, vsock]", "[tiny, tiny]", "feature \"tiny\" stands twice"},
		{"future version", "version: 1", "version: 2", "r.yaml:1:10: version is 2, this katabuild reads version 1"},
		{"bad memory", "1GiB", "1GB", "r.yaml:11:11: memory \"1GB\": want a number and MiB or GiB"},
		{"two words", "memory: 1GiB", "command_line: [a b]", "want one word; a value with spaces stands in quotes"},
		{"an open quote", "memory: 1GiB", "command_line: ['a=\"b']", "r.yaml:11:"},
		{"words for init", "memory: 1GiB", "command_line: [\"--\", a]", "what stands behind it is for init"},
		{"a word of the boot", "memory: 1GiB", "command_line: [a, root=/dev/vdb]", "the boot says where the root is"},
		{"a quoted word of the boot", "memory: 1GiB", "command_line: ['\"init=/x\"']",
			"the boot says which program is the first"},
		{"a word of the command line twice", "memory: 1GiB", "command_line: [a, b, a]",
			"\"a\" stands twice; the first is boot.command_line[0]"},
		{"too little memory", "1GiB", "1MiB", "too little to boot in"},
		{"two sources", "debian: {package: linux-source-6.12}",
			"debian: {package: linux-source-6.12}\n    tree: linux",
			"want exactly one of debian, tarball and tree, got 2"},
		{"unsigned address", "debian: {package: linux-source-6.12}", "tarball: {from: \"http://127.0.0.1/x.tar.xz\"}",
			"needs sha256, signature or both"},
		{"path that climbs", "/etc/motd", "/etc/../motd", "want a clean absolute path"},
		{"init taken", "/etc/motd", "/init", "/init is the agent"},
		{"two contents", "text: \"hello\"", "text: a, link: b",
			"want exactly one of from, text, link and folder, got 2"},
		{"no value", "memory: 1GiB", "memory:", "no value"},
		{"anchor", "name: sample", "name: &a sample", "anchors"},
		{"option as a package", "linux-source-6.12}", "-o}", "no package name"},
		{"two documents", "version: 1", "a: 1\n---\nversion: 1", "want one YAML document, got 2"},
		{"broken YAML", "[tiny, vsock]", "[tiny, vsock", "r.yaml:7:1: ',' or ']' must be specified"},
		{"override of no option", "initrd:", "  override: [{option: NET, value: n, reason: r}]\ninitrd:",
			"r.yaml:7:23: option \"NET\": want the name of a kernel option"},
		{"override without a reason", "initrd:", "  override: [{option: CONFIG_NET, value: n}]\ninitrd:",
			"r.yaml:7:14: no reason"},
		{"override without a value", "initrd:", "  override: [{option: CONFIG_NET, reason: r}]\ninitrd:",
			"r.yaml:7:14: no value: want y, m, n"},
		{"override with true", "initrd:", "  override: [{option: CONFIG_NET, value: true, reason: r}]\ninitrd:",
			"want y, m, n, a whole number or text, got true or false"},
		{"override twice", "initrd:", "  override: [{option: CONFIG_A, value: n, reason: r}, {option: CONFIG_A, " +
			"value: y, reason: r}]\ninitrd:", "CONFIG_A stands twice; the first is kernel.override[0]"},
		{"override of two lines", "initrd:", "  override: [{option: CONFIG_A, value: \"a\\nb\", reason: r}]\ninitrd:",
			"want a string of one line"},
		{"unknown key of an override", "initrd:", "  override: [{option: CONFIG_A, valeu: n, reason: r}]\ninitrd:",
			"did you mean \"value\"?"},
		{"unknown machine", "memory: 1GiB", "machine: q36", "unknown machine \"q36\"; did you mean \"q35\"?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(good, c.from, c.to, 1)
			if text == good {
				t.Fatalf("%q is not in the sample", c.from)
			}
			_, err := Parse("r.yaml", []byte(text), vocabulary)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// layers is an extension's recipe with these layers.
func layers(text string) string {
	return "version: 1\nname: gpu\nextension: true\nrootfs:\n  layers:\n    - " + strings.ReplaceAll(text, "\n",
		"\n    - ") + "\n"
}

func TestMistakesOfLayersAreBlamedOnTheirPlace(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"negative uid", "files: [{path: /a, text: x, uid: -1}]",
			"r.yaml:6:40: uid is -1: want a number from 0 to 4294967294"},
		{"largest uid", "files: [{path: /a, text: x, uid: 4294967295}]",
			"uid is 4294967295: want a number from 0 to 4294967294"},
		{"huge gid", "files: [{path: /a, text: x, gid: 99999999999999999999}]", "r.yaml:6:40: "},
		{"mode beyond", "files: [{path: /a, text: x, mode: 10000}]",
			`mode "10000": want octal digits from 0000 to 7777`},
		{"mode in letters", "files: [{path: /a, text: x, mode: rwx}]", `r.yaml:6:41: mode "rwx": want octal`},
		{"mode of a link", "files: [{path: /a, link: x, mode: 0644}]", "r.yaml:6:41: a link has no mode"},
		{"absolute from", "files: [{path: /a, from: /etc/hostname}]",
			"r.yaml:6:32: /etc/hostname is an absolute path: want one relative to the recipe"},
		{"another kind of address", "tar: ftp://127.0.0.1/x",
			"r.yaml:6:12: ftp://127.0.0.1/x: want a path relative to the recipe, or an address"},
		{"absolute folder", "folder: /srv", "r.yaml:6:15: /srv is an absolute path"},
		{"absolute tar", "tar: /srv/a.tar", "r.yaml:6:12: /srv/a.tar is an absolute path"},
		{"absolute layout", "oci: {layout: /srv}", "r.yaml:6:21: /srv is an absolute path"},
		{"file below a file", "files: [{path: /a, text: x}, {path: /a/b/c, text: x}]",
			"r.yaml:6:36: /a/b/c lies below /a, which is a file (r.yaml:6)"},
		{"path twice", "files: [{path: /a, text: x}, {path: /a, text: x}]",
			`r.yaml:6:36: path "/a" stands twice; the first is at r.yaml:6`},
		{"long name", "files: [{path: /" + strings.Repeat("x", 256) + ", text: x}]",
			"a name of 256 bytes in it: Linux has names of at most 255"},
		{"long path", "files: [{path: " + strings.Repeat("/x", 2048) + ", text: x}]",
			"4096 bytes: Linux has paths of at most 4095"},
		{"long link", "files: [{path: /a, link: " + strings.Repeat("x", 4096) + "}]",
			"a link to 4096 bytes: want 1 to 4095"},
		{"no command", "uroot: []", "want at least one command, such as gosh"},
		{"commands twice", "uroot: [gosh]\nuroot: [ls]",
			"r.yaml:7:7: the commands of u-root are one program, so one layer has them all; the first is at r.yaml:6"},
		{"no uid", "accounts: {users: [{name: app}]}", `r.yaml:6:26: user "app": no uid: give a number`},
		{"no group", "accounts: {users: [{name: app, uid: 7}]}", "no primary group"},
		{"two groups", "accounts: {users: [{name: app, uid: 7, gid: 7, group: app}]}", "both gid and group"},
		{"name twice", "accounts: {users: [{name: a, uid: 7, gid: 7}, {name: a, uid: 8, gid: 8}]}",
			"r.yaml:6:53: user a stands twice; the first is at r.yaml:6"},
		{"name twice, in two layers", "accounts: {users: [{name: a, uid: 7, gid: 7}]}\naccounts: {users: [{name: a, " +
			"uid: 8, gid: 8}]}", "r.yaml:7:26: user a stands twice; the first is at r.yaml:6"},
		{"uid twice", "accounts: {users: [{name: a, uid: 7, gid: 7}, {name: b, uid: 7, gid: 8}]}",
			"uid 7 stands twice"},
		{"group twice", "accounts: {groups: [{name: a, gid: 7}, {name: a, gid: 8}]}",
			"r.yaml:6:46: group a stands twice"},
		{"gid twice", "accounts: {groups: [{name: a, gid: 7}, {name: b, gid: 7}]}", "gid 7 stands twice"},
		{"no accounts", "accounts: {}", "neither users nor groups"},
		{"name of a registry's image", "oci: {image: x, name: y}",
			"name and digest choose an image of a layout or an archive"},
		{"digest of a layout", "oci: {layout: x, digest: y}", `digest "y": want sha256: and 64`},
		{"image at a relative path", "oci: {layout: x, at: y}", `r.yaml:6:28: path "y": want a clean absolute path`},
		{"permissions of nothing", "permissions: [{path: /a}]", "/a: want mode, uid, gid or several of them"},
		{"permissions with another mode", "permissions: [{path: /a, mode: 9}]", `mode "9": want octal`},
	} {
		_, err := Parse("r.yaml", []byte(layers(c.text)), vocabulary)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got  %v\nwant %s", c.name, err, c.want)
		}
	}
}

func TestGoodLayersAreTaken(t *testing.T) {
	r, err := Parse("r.yaml", []byte(layers(`files: [{path: /a, text: ""}, {path: /b, text: x, mode: 0000}, {path: /c, text: x, mode: "0o600"}, {path: /d, text: x, mode: 4755}, {path: /l, link: d}, {path: /l/x, text: x}]
permissions: [{path: /a, mode: "0", uid: 0}]
accounts: {users: [{name: a, uid: 0, group: wheel}], groups: [{name: wheel, members: [a]}]}
oci: {layout: x, name: v1, at: /srv}`)), vocabulary)
	if err != nil {
		t.Fatal(err)
	}
	f := r.Rootfs.Layers[0].Files
	if f[0].Text == nil || *f[0].Text != "" || f[0].FileMode() != 0o644 || f[1].FileMode() != 0 ||
		f[2].FileMode() != 0o600 || f[3].FileMode() != 0o4755 {
		t.Errorf("%+v", f)
	}
	if p := r.Rootfs.Layers[1].Permissions[0]; *p.Bits() != 0 || p.UID == nil || p.GID != nil {
		t.Errorf("%+v", p)
	}
}

func TestAllMistakesAreToldInTheOrderOfTheirLines(t *testing.T) {
	text := strings.NewReplacer("[tiny, vsock]", "[tiny, vsok]", "1GiB", "1GB", "/etc/motd", "motd").Replace(good)
	_, err := Parse("r.yaml", []byte(text), vocabulary)
	if err == nil {
		t.Fatal("accepted")
	}
	at := 0
	for _, want := range []string{"r.yaml:6:20:", "r.yaml:9:", "r.yaml:11:11:"} {
		i := strings.Index(err.Error(), want)
		if i < at {
			t.Errorf("%s is missing, or not in order: %v", want, err)
		}
		at = i
	}
	_, err = Parse("r.yaml", []byte(strings.Replace(text, "boot:", "boots: {}\nboot:", 1)), vocabulary)
	if err == nil || !strings.Contains(err.Error(), `unknown key "boots"`) {
		t.Error(err)
	}
}

// Each took the parser minutes or gigabytes.
func TestHostileTextEndsSoon(t *testing.T) {
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "k%d: 1\n", i)
		}
		return b.String()
	}
	nested := ""
	for i := range 700 {
		nested += strings.Repeat("  ", i) + "a:\n"
	}
	for name, text := range map[string]string{
		"lists in lists":              strings.Repeat("[", 450_000),
		"mappings in mappings":        strings.Repeat("{a: ", 100_000),
		"entries in entries":          strings.Repeat("- ", 200_000),
		"blocks in blocks":            nested,
		"values in values":            strings.Repeat("a: ", 200_000),
		"keys of keys":                strings.Repeat("? ", 200_000),
		"many keys":                   keys(80_000),
		"many anchors":                "z: [" + strings.Repeat("&a 1,", 100_000) + "]",
		"many quotes":                 strings.Repeat("\"", 500_000),
		"a text that does not end":    "a: \"" + strings.Repeat("A", 1_000_000),
		"many lines of text":          "a: |\n" + strings.Repeat("  x\n", 200_000),
		"many lists, one deeper each": strings.Repeat("[]\n", 300_000),
	} {
		began := time.Now()
		_, err := Parse("r.yaml", []byte(text), vocabulary)
		if took := time.Since(began); err == nil || took > 5*time.Second || len(err.Error()) > 64<<10 {
			t.Errorf("%s: %v, %d bytes of errors", name, took, len(fmt.Sprint(err)))
		}
	}
}

func TestEmptyRecipesAreRefused(t *testing.T) {
	for _, s := range []string{"", "# nothing\n", "[]", "text", "\xff"} {
		if _, err := Parse("r.yaml", []byte(s), vocabulary); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

const goodExtension = `version: 1
name: gpu
extension: true
rootfs:
  layers:
    - files:
        - {path: /bin/tool, text: "x", mode: 0755}
image:
  compression: zstd
`

func TestAnExtensionIsAnImageAndNothingElse(t *testing.T) {
	r, err := Parse("r.yaml", []byte(goodExtension), vocabulary)
	if err != nil {
		t.Fatal(err)
	}
	if i := r.Image; i.FileSystem != "erofs" || i.Compression != "zstd" || i.Layout != "mbr" || !i.WithVerity() ||
		i.Label != "gpu" {
		t.Errorf("%+v", i)
	}
	for _, c := range []struct{ name, from, to, want string }{
		{"kernel", "image:", "kernel: {source: {tree: linux}, features: [tiny]}\nimage:",
			"r.yaml:8:1: an extension has no kernel; it is attached to a guest that has one"},
		{"empty kernel", "image:", "kernel: {}\nimage:", "r.yaml:8:1: an extension has no kernel"},
		{"initrd", "image:", "initrd: {compression: none}\nimage:", "r.yaml:8:1: an extension has no initrd"},
		{"boot", "image:", "boot: {cpus: 2}\nimage:", "r.yaml:8:1: an extension does not boot"},
		{"agent", "rootfs:", "rootfs:\n  agent: mine", "r.yaml:5:10: an extension has no agent"},
		{"init", "rootfs:", "rootfs:\n  init: systemd", "r.yaml:5:9: an extension has no init"},
		{"file system", "compression: zstd", "filesystem: erofs", "r.yaml:9:15: an extension is always erofs"},
		{"layout", "compression: zstd", "layout: gpt", "r.yaml:9:11: an extension's layout is always mbr"},
		{"no verity", "compression: zstd", "verity: false", "r.yaml:9:11: an extension always has dm-verity"},
		{"label", "compression: zstd", "label: x", "r.yaml:9:10: an extension's label is its name"},
		{"journal", "compression: zstd", "journal: false", "r.yaml:9:12: an extension is read-only"},
		{"free space", "compression: zstd", "free_space: 1MiB", "r.yaml:9:15: an extension is read-only"},
		{"compression", "compression: zstd", "compression: zst", "unknown compression \"zst\"; did you mean \"zstd\"?"},
		{"long name", "name: gpu", "name: abcdefghijk",
			"r.yaml:2:7: name of an extension \"abcdefghijk\": 11 bytes, want at most 10, as a disk's serial has 20"},
		{"nothing in it", "  layers:\n    - files:\n        - {path: /bin/tool, text: \"x\", mode: 0755}",
			"  remove: [/x]", "r.yaml:4:1: an extension without rootfs.layers holds nothing"},
		{"modules", "- files:\n        - {path: /bin/tool, text: \"x\", mode: 0755}", "- modules: true",
			"an extension has no kernel whose modules it could hold"},
		{"not said", "extension: true", "extension: false", "want exactly one of debian, tarball and tree, got 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(goodExtension, c.from, c.to, 1)
			if text == goodExtension {
				t.Fatalf("%q is not in the sample", c.from)
			}
			_, err := Parse("r.yaml", []byte(text), vocabulary)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(goodExtension))
	f.Add([]byte("a: &a [*a]"))            // an alias to itself
	f.Add([]byte("? [a]\n: b"))            // a key that is not text
	f.Add([]byte("version: 1\nname: |\n")) // an empty block
	f.Add([]byte("<<: {version: 1}"))      // a merge key
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse("r.yaml", data, vocabulary)
		if err == nil && (r.Name == "" || !r.Extension && r.Boot.MemoryMiB() < 64) {
			t.Errorf("accepted without a name or memory: %q", data)
		}
		_ = (&Error{}).Error()
		if err != nil {
			_ = err.Error()
		}
	})
}
