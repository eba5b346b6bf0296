package katabuild_test

import (
	"fmt"
	"os"
	"testing"

	ociRecord "github.com/katabuild/katabuild/agent/oci/record"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/releases/accepted"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/roles"
	"github.com/katabuild/katabuild/runtime/csi/images"
	"github.com/katabuild/katabuild/runtime/record"
)

// outliving are the documents that outlive the program which wrote them: a guest that was built before an upgrade, a
// pod that runs through one. What writes one version reads that and the one before. The example of a version is kept
// for ever: NAME.json is of the newest, NAME-vN.json of version N before it.
var outliving = []struct {
	example string // path without .json
	version int    // the newest
	decode  func([]byte) error
}{
	{"agent/oci/record/testdata/state", ociRecord.Version,
		func(b []byte) error { _, err := ociRecord.Decode(b); return err }},
	{"builder/lock/testdata/lock", lock.Version, func(b []byte) error { _, err := lock.Decode(b); return err }},
	{"internal/manifest/testdata/manifest", manifest.Version,
		func(b []byte) error { _, err := manifest.Decode(b); return err }},
	{"internal/report/testdata/report", report.Version,
		func(b []byte) error { _, err := report.Decode(b); return err }},
	{"releases/accepted/testdata/accepted", accepted.Version,
		func(b []byte) error { _, err := accepted.Decode(b); return err }},
	{"releases/index/testdata/index", index.Version,
		func(b []byte) error { _, err := index.Decode(b); return err }},
	{"releases/roles/testdata/memory", roles.MemoryVersion,
		func(b []byte) error { _, err := roles.DecodeMemory(b); return err }},
	{"releases/roles/testdata/set", roles.SetVersion,
		func(b []byte) error { _, err := roles.DecodeSet(b); return err }},
	{"runtime/csi/images/testdata/volume", images.Version,
		func(b []byte) error { _, err := images.Decode(b); return err }},
	{"runtime/record/testdata/state", record.Version,
		func(b []byte) error { _, err := record.Decode(b); return err }},
}

func TestADocumentOfTheVersionBeforeIsRead(t *testing.T) {
	for _, p := range outliving {
		for v := 1; v <= p.version; v++ {
			path := p.example + ".json"
			if v < p.version {
				path = fmt.Sprintf("%s-v%d.json", p.example, v)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Errorf("version %d has no example: %v", v, err)
				continue
			}
			if err := p.decode(b); err != nil && v >= p.version-1 {
				t.Errorf("%s, version %d of %d: %v", path, v, p.version, err)
			}
		}
	}
}
