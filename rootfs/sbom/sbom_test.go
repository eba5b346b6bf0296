package sbom

import (
	"bytes"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/tree"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"
)

func sample(t *testing.T) (*tree.Tree, Document) {
	t.Helper()
	tr := tree.New()
	put := func(p, origin, text string) {
		if err := tr.Put(p, &tree.Node{Kind: tree.File, Mode: 0o644, Content: tree.Bytes([]byte(text)),
			Origin: origin}); err != nil {
			t.Fatal(err)
		}
	}
	put("/usr/bin/bash", "package bash 5.2", "binary")
	put("/usr/share/doc/bash/copyright", "package bash 5.2",
		"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-3+\n "+
			"text\n\nFiles: x\nLicense: odd one\n")
	put("/etc/motd", "recipe", "hello")
	if err := tr.Link("/usr/bin/bash", "/usr/bin/sh"); err != nil {
		t.Fatal(err)
	}
	return tr, Document{
		Name: "sample", Digest: digest.Of([]byte("sample")), Time: 1700000000, Creator: "katabuild",
		Components: []Component{
			{Name: "linux", Version: "6.12.117", License: "GPL-2.0-only", Digest: digest.Of([]byte("linux"))},
			{Name: "bash", Version: "5.2", Arch: "amd64", PURL: "pkg:deb/debian/bash@5.2?arch=amd64",
				Origin: "package bash 5.2", Digest: digest.Of([]byte("deb")), Supplier: "Debian"},
		},
	}
}

func TestTheBillIsAValidDocumentAndTheSameEachTime(t *testing.T) {
	tr, d := sample(t)
	var a, b bytes.Buffer
	if err := d.Write(t.Context(), &a, tr); err != nil {
		t.Fatal(err)
	}
	d.Components[0], d.Components[1] = d.Components[1], d.Components[0]
	if err := d.Write(t.Context(), &b, tr); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the order in which components are given shows")
	}
	doc, err := spdxjson.Read(&a)
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	if len(doc.Packages) != 3 || len(doc.Files) != 4 {
		t.Errorf("%d packages and %d files, want 3 and 4", len(doc.Packages), len(doc.Files))
	}
	text := b.String()
	for _, want := range []string{"GPL-3.0-or-later AND LicenseRef-odd-one", "pkg:deb/debian/bash@5.2?arch=amd64",
		digest.Of([]byte("binary")).Hex(), `"created": "2023-11-14T22:13:20Z"`} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %s", want)
		}
	}
}

// The document is written record by record, and is the one that the library would write in one piece.
func TestTheStreamIsTheLibrarysDocument(t *testing.T) {
	tr, d := sample(t)
	for _, name := range []string{"quote\"", "back\\slash", "line\nfeed\x01", "<html>&", "\u2028\u00fc\U0001f600"} {
		if err := tr.Put("/odd/"+name, &tree.Node{Kind: tree.File, Origin: name}); err != nil {
			t.Fatal(err)
		}
	}
	for what, tr := range map[string]*tree.Tree{"a tree": tr, "an empty tree": tree.New()} {
		var got, want bytes.Buffer
		if err := d.Write(t.Context(), &got, tr); err != nil {
			t.Fatal(err)
		}
		doc, err := spdxjson.Read(bytes.NewReader(got.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if err := spdxjson.Write(doc, &want, spdxjson.Indent(" "), spdxjson.EscapeHTML(false)); err != nil {
			t.Fatal(err)
		}
		if got.String() != want.String() {
			t.Errorf("%s: written as\n%s\nbut the library writes\n%s", what, got.String(), want.String())
		}
	}
}

func TestAFileThatCannotBeReadIsNamed(t *testing.T) {
	tr, d := sample(t)
	if err := tr.Put("/gone", &tree.Node{Kind: tree.File, Content: &tree.Section{Path: t.TempDir() + "/none",
		Length: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(t.Context(), &bytes.Buffer{}, tr); err == nil || !strings.Contains(err.Error(), "/gone") {
		t.Error(err)
	}
}
