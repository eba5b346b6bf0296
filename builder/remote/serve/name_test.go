package serve

import (
	"fmt"
	"strings"
	"testing"
)

// FuzzResource reads the names that clients give streams.
func FuzzResource(f *testing.F) {
	hash := strings.Repeat("ab", 32)
	for _, s := range []string{"", "blobs/" + hash + "/5", "team/a/blobs/" + hash + "/5",
		"uploads/u/blobs/" + hash + "/5/file", "x/uploads/u/compressed-blobs/zstd/" + hash + "/0",
		"compressed-blobs/zstd/sha256/" + hash + "/9", "blobs/sha256/" + hash + "/1", "uploads//blobs/" + hash + "/1",
		"blobs/../" + hash + "/1", "uploads/blobs/" + hash + "/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseResource(s)
		if err != nil {
			return
		}
		// What is read names a blob, and the same one when it is written down.
		short := fmt.Sprintf("blobs/%s/%d", r.blob.Digest.Hex(), r.blob.Size)
		again, err := parseResource(short)
		if err != nil || again.blob != r.blob || len(r.blob.Digest.Hex()) != 64 || r.blob.Size < 0 {
			t.Errorf("%q: %+v, again %+v %v", s, r, again, err)
		}
	})
}
