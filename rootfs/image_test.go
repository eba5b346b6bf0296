package rootfs

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/rootfs/erofs"
	"github.com/katabuild/katabuild/rootfs/partition"
)

func TestACycloneDXBillIsThereWhereItIsAskedForAndTheSameEachTime(t *testing.T) {
	a := agent(t, manifest.InitAgent)
	var first []byte
	for range 2 {
		dir := t.TempDir()
		r := Request{Arch: x86(t), Name: "guest", Agent: a, Time: 1700000000}
		d := Disk{FileSystem: manifest.EROFS, Compression: erofs.None, Layout: partition.Bare, Verity: true,
			CycloneDX: true}
		res, err := r.WriteImage(context.Background(), d, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(res.Outputs, func(o artifact.Output) bool {
			return o.Name == CycloneDXName && o.Path == filepath.Join(dir, CycloneDXName)
		}) {
			t.Fatalf("outputs %+v", res.Outputs)
		}
		bill, err := os.ReadFile(filepath.Join(dir, CycloneDXName))
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(bill, first) {
			t.Errorf("another time, another bill:\n%s\n%s", first, bill)
		}
		first = bill
	}
	if !bytes.Contains(first, []byte(`"kata-agent"`)) {
		t.Errorf("the agent is not in the bill: %s", first)
	}
}

// The keys of guests that were built before there was this choice stay what they were.
func TestAChoiceThatIsNotMadeIsNotInTheKey(t *testing.T) {
	without, with := Disk{}.Inputs(), Disk{CycloneDX: true}.Inputs()
	if len(with) != len(without)+1 || !slices.Equal(with[:len(without)], without) ||
		with[len(without)].Name != "cyclonedx" {
		t.Errorf("%+v and %+v", without, with)
	}
}
