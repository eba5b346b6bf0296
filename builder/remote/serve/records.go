package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	api "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/remote/reapi"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
)

// recordResults are the records of a store, as results of actions.
type recordResults struct {
	store   *store.Store
	uploads *uploads

	mu    sync.Mutex
	at    map[digest.Digest]digest.Digest // addresses of records that may be there, to the steps' keys
	known map[digest.Digest]bool          // keys whose addresses are in at
	data  map[digest.Digest]digest.Digest // digests of records that were served, to the steps' keys
}

// keyAt is the key of the step whose record has an address, by one of those whom the store's user trusts.
func (r *recordResults) keyAt(address digest.Digest) (digest.Digest, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.at[address]; ok {
		return k, true
	}
	keys, err := r.store.Keys()
	if err != nil {
		return "", false
	}
	for _, k := range keys {
		if r.known[k] {
			continue
		}
		r.known[k] = true
		for _, w := range r.store.Writers() {
			if a, err := remote.AddressOf(k, w); err == nil {
				r.at[a.Digest] = k
			}
		}
	}
	k, ok := r.at[address]
	return k, ok
}

// Result implements Results. A record whose outputs are not all there is none.
func (r *recordResults) Result(action digest.Digest) (*api.ActionResult, error) {
	key, ok := r.keyAt(action)
	if !ok {
		return nil, remote.ErrNone
	}
	if _, err := r.store.Complete(key); err != nil {
		return nil, remote.ErrNone
	}
	signed, err := r.store.Signed(key)
	if err != nil {
		return nil, remote.ErrNone
	}
	if a, err := remote.AddressOf(key, signed.Action.Writer); err != nil || a.Digest != action {
		return nil, remote.ErrNone
	}
	r.mu.Lock()
	r.data[digest.Of(signed.Data)] = key
	r.mu.Unlock()
	r.store.Touch(key, time.Now())
	return reapi.ResultOf(signed), nil
}

// dataOf is a record that was served, as a blob: records lie in a store by their keys. It is nil for other blobs.
func (r *recordResults) dataOf(b remote.Blob) []byte {
	r.mu.Lock()
	key, ok := r.data[b.Digest]
	r.mu.Unlock()
	if !ok {
		return nil
	}
	signed, err := r.store.Signed(key)
	if err != nil || remote.BlobOf(signed.Data) != b {
		return nil
	}
	return signed.Data
}

// Update implements Results: it takes a record that the store's user believes, once its outputs are there. A step whose
// record and outputs the store has keeps them.
func (r *recordResults) Update(action digest.Digest, result *api.ActionResult) error {
	b, err := reapi.RecordIn(result)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "this store takes the results of katabuild's steps only: %v", err)
	}
	data, err := r.uploads.read(b)
	if err != nil {
		return err
	}
	var names struct {
		Key digest.Digest `json:"key"`
	}
	if err := json.Unmarshal(data, &names); err != nil {
		return status.Errorf(codes.InvalidArgument, "record: %v", err)
	}
	a, err := r.store.Believe(names.Key, data)
	if err != nil {
		return status.Errorf(codes.PermissionDenied, "%v", err)
	}
	at, err := remote.AddressOf(a.Key, a.Writer)
	if err != nil || at.Digest != action {
		return status.Errorf(codes.InvalidArgument, "the record of %s is not that of the action %s", a.Step, action)
	}
	var missing error
	for _, o := range a.Outputs {
		if o.Size == 0 { // clients do not send it
			if _, _, err := r.store.Put(o.Name, bytes.NewReader(nil), o.Digest); err != nil {
				return storeStatus(err)
			}
		}
		if !r.store.HasSize(o.Digest, o.Size) {
			missing = errors.Join(missing, fmt.Errorf("output %s of %s is not in the store", o.Name, a.Step))
		}
	}
	if missing != nil {
		return status.Error(codes.FailedPrecondition, missing.Error())
	}
	if _, err := r.store.Complete(a.Key); err != nil {
		if _, err := r.store.Accept(a.Key, data); err != nil {
			return status.Error(codes.Internal, "the store cannot be written to")
		}
	}
	for _, o := range a.Outputs {
		r.uploads.claim(o.Digest)
	}
	r.uploads.claim(b.Digest)
	return nil
}
