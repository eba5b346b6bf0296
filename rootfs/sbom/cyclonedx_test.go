package sbom

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/tree"
)

func TestTheCycloneDXBillIsReadByTheLibraryAndTheSameEachTime(t *testing.T) {
	tr, d := sample(t)
	d.Components[1].Needs = []string{"nobody", "linux", "bash", "linux"}
	var a, b bytes.Buffer
	if err := d.WriteCycloneDX(t.Context(), &a, tr); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(d.Components)
	slices.Reverse(d.Components[0].Needs)
	if err := d.WriteCycloneDX(t.Context(), &b, tr); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the order in which components are given shows")
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(&a, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.SpecVersion != cdx.SpecVersion1_6 || bom.BOMFormat != cdx.BOMFormat || bom.Version != 1 {
		t.Errorf("%s %v, version %d", bom.BOMFormat, bom.SpecVersion, bom.Version)
	}
	// RFC 9562: version 8, the usual variant.
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(bom.SerialNumber) {
		t.Errorf("serial number %s", bom.SerialNumber)
	}
	if bom.Metadata.Timestamp != "2023-11-14T22:13:20Z" || bom.Metadata.Component.Name != "sample" {
		t.Errorf("metadata %+v", bom.Metadata)
	}
	if len(*bom.Components) != 2 {
		t.Fatalf("%d components, want 2", len(*bom.Components))
	}
	bash, linux := (*bom.Components)[0], (*bom.Components)[1]
	if bash.Name != "bash" || bash.Version != "5.2" || bash.PackageURL != "pkg:deb/debian/bash@5.2?arch=amd64" ||
		bash.Supplier.Name != "Debian" ||
		(*bash.Licenses)[0].Expression != "GPL-3.0-or-later AND LicenseRef-odd-one" ||
		(*bash.Hashes)[0].Value != digest.Of([]byte("deb")).Hex() {
		t.Errorf("bash: %+v", bash)
	}
	if p := *bash.Properties; len(p) != 1 || p[0].Name != "katabuild:license:LicenseRef-odd-one" ||
		p[0].Value != "odd one" {
		t.Errorf("properties of bash: %+v", p)
	}
	if linux.Version != "6.12.117" || (*linux.Licenses)[0].Expression != "GPL-2.0-only" || linux.Properties != nil {
		t.Errorf("linux: %+v", linux)
	}
	refs := []string{bom.Metadata.Component.BOMRef, bash.BOMRef, linux.BOMRef}
	var graph []string
	for _, d := range *bom.Dependencies {
		graph = append(graph, d.Ref+": "+strings.Join(*d.Dependencies, " "))
	}
	if want := []string{refs[0] + ": " + refs[1] + " " + refs[2], refs[1] + ": " + refs[2]}; !slices.Equal(graph,
		want) {
		t.Errorf("dependencies %q, want %q", graph, want)
	}
}

func TestAnotherImageHasAnotherSerialNumber(t *testing.T) {
	if a, b := serialNumber(digest.Of([]byte("a"))), serialNumber(digest.Of([]byte("b"))); a == b {
		t.Errorf("both %s", a)
	}
}

func TestACycloneDXBillOfNothingIsOne(t *testing.T) {
	var b bytes.Buffer
	if err := (Document{Name: "empty", Digest: digest.Of(nil), Creator: "katabuild"}).WriteCycloneDX(t.Context(), &b,
		tree.New()); err != nil {
		t.Fatal(err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(&b, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
}
