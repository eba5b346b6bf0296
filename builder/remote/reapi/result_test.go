package reapi

import (
	"strings"
	"testing"

	api "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
)

func TestAResultNamesItsRecord(t *testing.T) {
	r := &store.Signed{Data: []byte("record"), Action: &store.Action{Outputs: []store.Output{{Name: "vmlinux",
		Digest: digest.Of([]byte("v")), Size: 1}}}}
	result := ResultOf(r)
	b, err := RecordIn(result)
	if err != nil || b != remote.BlobOf(r.Data) {
		t.Errorf("%v %v", b, err)
	}
	if f := result.OutputFiles; len(f) != 2 || f[1].Path != "outputs/vmlinux" || f[1].Digest.SizeBytes != 1 {
		t.Errorf("%v", result)
	}
}

// FuzzRecordIn reads what a server sends as a result.
func FuzzRecordIn(f *testing.F) {
	for _, r := range []*api.ActionResult{{}, {OutputFiles: []*api.OutputFile{nil}},
		{OutputFiles: []*api.OutputFile{{Path: "record.json"}}},
		{OutputFiles: []*api.OutputFile{{Path: "record.json", Digest: &api.Digest{Hash: strings.Repeat("ab", 32),
			SizeBytes: 5}}}},
		{OutputFiles: []*api.OutputFile{{Path: "record.json", Digest: &api.Digest{Hash: "../..", SizeBytes: -1}}}}} {
		data, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r api.ActionResult
		if proto.Unmarshal(data, &r) != nil {
			return
		}
		b, err := RecordIn(&r)
		if err == nil && (len(b.Digest.Hex()) != 64 || b.Size < 0 || b.Size > store.MaxRecord) {
			t.Errorf("%v", b)
		}
	})
}
