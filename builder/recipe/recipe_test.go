package recipe

import (
	"strings"
	"testing"
)

var vocabulary = Vocabulary{Features: []string{"tiny", "default", "vsock", "containers", "virtio"}}

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
		r.Initrd.Compression != "zstd" || r.Boot.Machine != "microvm" || r.Boot.CPUs != 1 || r.Boot.MemoryMiB() != 1024 {
		t.Errorf("defaults: %+v", r)
	}
	if m := r.Initrd.Files[0].FileMode(); m != 0o600 {
		t.Errorf("an unquoted mode reads as %o, want 600", m)
	}
}

func TestMistakesAreBlamedOnTheirPlace(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"unknown key", "  features:", "  featurs:", "r.yaml:6:3: unknown key \"featurs\" in kernel; did you mean \"features\"?\n    6 |   featurs: [tiny, vsock]\n      |   ^"},
		{"unknown key at the top", "boot:", "boots:", "r.yaml:10:1: unknown key \"boots\" in a recipe; did you mean \"boot\"?"},
		{"unknown key in a flow mapping", "{package:", "{pakage:", "r.yaml:5:14: unknown key \"pakage\" in kernel.source.debian; did you mean \"package\"?"},
		{"duplicate key", "name: sample", "name: a\nname: b", "r.yaml:3:1: mapping key \"name\" already defined at [2:1]"},
		{"wrong type, text for a list", "[tiny, vsock]", "tiny", "r.yaml:6:13: want a list, got text"},
		{"wrong type, list for text", "name: sample", "name: [sample]", "r.yaml:2:7: want text, got a list"},
		{"wrong type, text for a number", "version: 1", "version: one", "r.yaml:1:10: want a whole number, got text"},
		{"wrong type, mapping for text", "memory: 1GiB", "memory: {a: 1}", "want text, got a mapping"},
		{"wrong type, number for text", "name: sample", "name: 12", "r.yaml:2:7: want text, got a whole number"},
		{"unknown feature", "[tiny, vsock]", "[tiny, vsok]", "r.yaml:6:20: unknown kernel feature \"vsok\"; did you mean \"vsock\"?"},
		{"repeated feature", "[tiny, vsock]", "[tiny, tiny]", "feature \"tiny\" stands twice"},
		{"future version", "version: 1", "version: 2", "r.yaml:1:10: version is 2, this katabuild reads version 1"},
		{"bad memory", "1GiB", "1GB", "r.yaml:11:11: memory \"1GB\": want a number and MiB or GiB"},
		{"too little memory", "1GiB", "1MiB", "too little to boot in"},
		{"two sources", "debian: {package: linux-source-6.12}", "debian: {package: linux-source-6.12}\n    tree: linux", "want exactly one of debian, tarball and tree, got 2"},
		{"unsigned address", "debian: {package: linux-source-6.12}", "tarball: {from: \"http://127.0.0.1/x.tar.xz\"}", "needs sha256, signature or both"},
		{"path that climbs", "/etc/motd", "/etc/../motd", "want a clean absolute path"},
		{"init taken", "/etc/motd", "/init", "/init is the agent"},
		{"two contents", "text: \"hello\"", "text: a, link: b", "want exactly one of from, text, link and folder, got 2"},
		{"no value", "memory: 1GiB", "memory:", "no value"},
		{"anchor", "name: sample", "name: &a sample", "anchors"},
		{"option as a package", "linux-source-6.12}", "-o}", "no package name"},
		{"two documents", "version: 1", "a: 1\n---\nversion: 1", "want one YAML document, got 2"},
		{"broken YAML", "[tiny, vsock]", "[tiny, vsock", "r.yaml:7:1: ',' or ']' must be specified"},
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
	if i := r.Image; i.FileSystem != "erofs" || i.Compression != "zstd" || i.Layout != "mbr" || !i.WithVerity() || i.Label != "gpu" || len(r.LocalFiles()) != 0 {
		t.Errorf("%+v", i)
	}
	for _, c := range []struct{ name, from, to, want string }{
		{"kernel", "image:", "kernel: {source: {tree: linux}, features: [tiny]}\nimage:", "r.yaml:8:1: an extension has no kernel; it is attached to a guest that has one"},
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
		{"long name", "name: gpu", "name: abcdefghijk", "r.yaml:2:7: name of an extension \"abcdefghijk\": 11 bytes, want at most 10, as a disk's serial has 20"},
		{"nothing in it", "  layers:\n    - files:\n        - {path: /bin/tool, text: \"x\", mode: 0755}", "  remove: [/x]", "r.yaml:4:1: an extension without rootfs.layers holds nothing"},
		{"modules", "- files:\n        - {path: /bin/tool, text: \"x\", mode: 0755}", "- modules: true", "an extension has no kernel whose modules it could hold"},
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
