package remote

import (
	"encoding/hex"

	reapi "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
)

// Address is where one writer's record of one step lies, in every cache: the digest of an Action of the Remote
// Execution API that says which step and which writer. Each writer has a place, so that nobody's record stands in the
// way of another's.
type Address struct {
	Digest digest.Digest // of Action
	// Action, Command and Root are the messages that the digest is made of, for caches that want to hold them.
	Action, Command, Root []byte
}

// AddressOf is the address of a writer's record of the step with a key.
func AddressOf(key digest.Digest, w store.Writer) (Address, error) {
	salt, err := hex.DecodeString(string(w))
	if err != nil {
		return Address{}, err
	}
	// Protocol buffers' encoding of these messages is one: each field once, in the order of its number, no maps.
	encode := func(m proto.Message) []byte {
		b, e := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if e != nil {
			err = e
		}
		return b
	}
	a := Address{Root: encode(&reapi.Directory{}),
		Command: encode(&reapi.Command{Arguments: []string{"katabuild", "step", string(key)}})}
	a.Action = encode(&reapi.Action{CommandDigest: Proto(BlobOf(a.Command)), InputRootDigest: Proto(BlobOf(a.Root)),
		Salt: salt})
	a.Digest = digest.Of(a.Action)
	return a, err
}

// BlobOf names bytes.
func BlobOf(b []byte) Blob { return Blob{Digest: digest.Of(b), Size: int64(len(b))} }

// Proto is a blob's name as the Remote Execution API has it.
func Proto(b Blob) *reapi.Digest { return &reapi.Digest{Hash: b.Digest.Hex(), SizeBytes: b.Size} }

// FromProto reads a blob's name, which must be of SHA-256.
func FromProto(d *reapi.Digest) (Blob, error) {
	h, err := digest.Parse("sha256:" + d.GetHash())
	if err == nil && d.GetSizeBytes() < 0 {
		err = errNegative
	}
	return Blob{Digest: h, Size: d.GetSizeBytes()}, err
}
