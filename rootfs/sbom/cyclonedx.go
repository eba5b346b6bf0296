package sbom

import (
	"context"
	"encoding/hex"
	"io"
	"slices"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// WriteCycloneDX writes the bill as CycloneDX 1.6 in JSON: the components, which scanners for vulnerabilities ask for,
// but not the files of each, which only the SPDX document lists. A component has the same identifier in both. The tree
// is read for licences.
func (d Document) WriteCycloneDX(_ context.Context, w io.Writer, t *tree.Tree) error {
	const image = "Image"
	components, files := d.sorted(), d.files()
	ids := make([]string, len(components))
	byName := map[string]string{}
	for i, c := range components {
		ids[i] = packageID(i, c)
		byName[c.Name] = ids[i]
	}
	list := []cdx.Component{}
	// A component that is not listed in the graph has unknown needs, which is not the same as none; so those without
	// any are left out, as nobody tells the two apart here.
	graph := []cdx.Dependency{{Ref: image, Dependencies: &ids}}
	for i, c := range components {
		one, err := c.cycloneDX(ids[i], t, files)
		if err != nil {
			return err
		}
		list = append(list, one)
		var needs []string
		for _, n := range c.Needs {
			if other := byName[n]; other != "" && other != ids[i] && !slices.Contains(needs, other) {
				needs = append(needs, other)
			}
		}
		if len(needs) > 0 {
			slices.Sort(needs)
			graph = append(graph, cdx.Dependency{Ref: ids[i], Dependencies: &needs})
		}
	}
	bom := cdx.NewBOM()
	bom.SerialNumber = serialNumber(d.Digest)
	bom.Metadata = &cdx.Metadata{
		Timestamp: time.Unix(d.Time, 0).UTC().Format(time.RFC3339),
		Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication,
			Name: d.Creator}}},
		Component: &cdx.Component{BOMRef: image, Type: cdx.ComponentTypeOS, Name: d.Name},
	}
	bom.Components, bom.Dependencies = &list, &graph
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom,
		cdx.SpecVersion1_6)
}

func (c Component) cycloneDX(id string, t *tree.Tree, files *tree.Opener) (cdx.Component, error) {
	// The specification wants "library" where nobody knows better.
	out := cdx.Component{BOMRef: id, Type: cdx.ComponentTypeLibrary, Name: c.Name, Version: c.Version,
		PackageURL: c.PURL}
	if c.Supplier != "" {
		out.Supplier = &cdx.OrganizationalEntity{Name: c.Supplier}
	}
	if c.Digest != "" {
		out.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: c.Digest.Hex()}}
	}
	if c.Homepage != "" {
		out.ExternalReferences = &[]cdx.ExternalReference{{Type: cdx.ERTypeWebsite, URL: c.Homepage}}
	}
	license, err := licenseOf(c, t, files)
	if err != nil || len(license) == 0 {
		return out, err
	}
	var extracted extractedLicenses
	declared := cdx.LicenseAcknowledgementDeclared
	out.Licenses = &cdx.Licenses{{Expression: extracted.expression(license), Acknowledgement: &declared}}
	// CycloneDX has no place for what a LicenseRef stands for. Without the name, odd ones could not be looked up.
	var odd []cdx.Property
	for _, l := range extracted.list() {
		odd = append(odd, cdx.Property{Name: "katabuild:license:" + l.LicenseIdentifier, Value: l.LicenseName})
	}
	if len(odd) > 0 {
		out.Properties = &odd
	}
	return out, nil
}

// serialNumber is a UUID of version 8 (RFC 9562: made by rules of one's own) of the document's digest.
func serialNumber(d digest.Digest) string {
	sum := digest.Of([]byte("serial number of the CycloneDX document " + d)).Hex()
	b, err := hex.DecodeString(sum[:32])
	if err != nil {
		panic(err) // digest.Of writes hexadecimal digits
	}
	b[6] = b[6]&0x0f | 8<<4
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b)
	return "urn:uuid:" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
