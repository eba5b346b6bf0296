package katabuild_test

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// facts are what several components must agree on, and the one package where each is written down. Components may not
// import each other, so such a fact lies below internal/.
var facts = []struct {
	what string
	home string // the package, from the root
	// has says whether a literal is a copy: a number by its value, a string by its content.
	number func(n uint64) bool
	text   func(s string) bool
}{
	{what: "a port of the guest API", home: "internal/agentapi",
		// 1024 is many things; as a port it stands in no second place either, which reviewers must see.
		number: func(n uint64) bool { return n == 1025 || n == 1026 || n == 1027 || n == 1031 || n == 1032 }},
	{what: "the agent's name on the console", home: "internal/agentapi",
		text: func(s string) bool { return strings.Contains(s, "katabuild-agent: ") }},
	{what: "the line that says that the agent serves", home: "internal/agentapi",
		text: func(s string) bool { return s == "ready\n" }},
	{what: "a word that Linux is told about its clock", home: "internal/arch",
		text: func(s string) bool { return strings.Contains(s, "tsc_") }},
	{what: "the word that clears memory", home: "internal/bootwords",
		text: func(s string) bool { return strings.Contains(s, "init_on_alloc") }},
	{what: "the word that opens dm-verity at boot", home: "internal/dmverity",
		text: func(s string) bool {
			return strings.Contains(s, "dm-mod.create") || strings.Contains(s, "dm-verity,,")
		}},
	{what: "the arguments of a dm-verity table", home: "internal/dmverity",
		text: func(s string) bool { return strings.Contains(s, "%d %d sha256") || strings.Contains(s, " verity 1 ") }},
	{what: "the line of dm-verity's parameters", home: "internal/dmverity",
		text: func(s string) bool {
			return strings.Contains(s, "hash_block_size=") || strings.Contains(s, "root_hash=")
		}},
	{what: "the signature of a dm-verity superblock", home: "internal/dmverity",
		text: func(s string) bool { return strings.HasPrefix(s, "verity\x00") }},
	{what: "the signature of a GPT", home: "internal/gpt", text: func(s string) bool { return s == "EFI PART" }},
	{what: "the mark of a partition table", home: "internal/gpt",
		text:   func(s string) bool { return s == "\x55\xaa" },
		number: func(n uint64) bool { return n == 0xaa55 || n == 0x55aa }},
	{what: "the number of EROFS", home: "internal/superblock",
		number: func(n uint64) bool { return n == 0xe0f5e1e2 }},
	{what: "the number of ext4", home: "internal/superblock", number: func(n uint64) bool { return n == 0xef53 }},
	{what: "the word of an extension", home: "internal/extension",
		text: func(s string) bool { return strings.HasPrefix(s, "kata.extension.") }},
	{what: "a disk's layout", home: "internal/manifest", text: func(s string) bool { return s == "mbr-dax" }},
}

// elsewhere are literals that look like a fact of another package and are not, with the reason.
var elsewhere = map[string]string{
	"runtime/guest/kernelfile.go \x55\xaa": "a bzImage has a boot sector's mark of its own",
}

func TestEveryFactIsWrittenDownOnce(t *testing.T) {
	for _, s := range sources(t) {
		if strings.HasSuffix(s.name, "_test.go") || component(s.dir) == "ci" || component(s.dir) == "." ||
			strings.Contains(s.dir, "test") {
			continue // a test writes down again what it expects
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if _, is := n.(*ast.ImportSpec); is {
				return false
			}
			l, is := n.(*ast.BasicLit)
			if !is {
				return true
			}
			for _, f := range facts {
				if s.dir == f.home || !copies(l, f.number, f.text) {
					continue
				}
				text, _ := strconv.Unquote(l.Value)
				if _, known := elsewhere[s.dir+"/"+s.name+" "+text]; !known {
					t.Errorf("%s/%s has %s, %s: it is written down in %s, and a second copy would go its own way",
						s.dir, s.name, f.what, l.Value, f.home)
				}
			}
			return true
		})
	}
}

func copies(l *ast.BasicLit, number func(uint64) bool, text func(string) bool) bool {
	switch l.Kind {
	case token.INT:
		n, err := strconv.ParseUint(l.Value, 0, 64)
		return err == nil && number != nil && number(n)
	case token.STRING:
		s, err := strconv.Unquote(l.Value)
		return err == nil && text != nil && text(s)
	}
	return false
}

func TestEveryHomeOfAFactIsThere(t *testing.T) {
	var dirs []string
	for _, s := range sources(t) {
		dirs = append(dirs, s.dir)
	}
	for _, f := range facts {
		if !slices.Contains(dirs, f.home) {
			t.Errorf("%s is to be written down in %s, which is not there", f.what, f.home)
		}
	}
}
