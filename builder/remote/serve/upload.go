package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
)

// uploads are blobs that come, or have come and that no record names yet. There is a bound on their bytes: whoever can
// reach the server could otherwise fill the disk.
type uploads struct {
	store   *store.Store
	max     int64
	maxBlob int64

	mu      sync.Mutex
	dir     string // in the store's temporary folder; empty before the first upload
	remove  func() error
	next    int
	parts   map[string]*part // by the name of the upload
	waiting map[digest.Digest]arrived
	bytes   int64 // of parts and waiting
}

// part is an upload that has begun. One call at a time writes to it.
type part struct {
	blob    remote.Blob
	file    *os.File
	written int64
	busy    bool
	used    time.Time
}

// arrived is a blob that no record names yet.
type arrived struct {
	size int64
	at   time.Time
}

const (
	maxParts  = 256
	partIdle  = 10 * time.Minute // after which an upload that broke off is forgotten
	unclaimed = 24 * time.Hour   // after which a gc may take a blob that no record names
)

func newUploads(o Options) *uploads {
	return &uploads{store: o.Store, max: o.MaxPending, maxBlob: o.MaxBlob, parts: map[string]*part{},
		waiting: map[digest.Digest]arrived{}}
}

func (u *uploads) close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range u.parts {
		_ = p.file.Close() // it goes away
	}
	if u.remove == nil {
		return nil
	}
	return u.remove()
}

// room makes room for a blob, or returns a status. The caller holds mu.
func (u *uploads) room(b remote.Blob) error {
	if b.Size > u.maxBlob {
		return status.Errorf(codes.ResourceExhausted, "%d bytes; want at most %d", b.Size, u.maxBlob)
	}
	now := time.Now()
	for name, p := range u.parts {
		if !p.busy && now.Sub(p.used) > partIdle {
			u.drop(name, p)
		}
	}
	for d, a := range u.waiting {
		if now.Sub(a.at) > unclaimed {
			delete(u.waiting, d)
			u.bytes -= a.size
		}
	}
	if u.bytes+b.Size > u.max || len(u.parts) >= maxParts {
		return status.Errorf(codes.ResourceExhausted,
			"%d bytes, in %d uploads, wait for records that name them; there is no room for %d more", u.bytes,
			len(u.parts), b.Size)
	}
	return nil
}

// drop forgets an upload. The caller holds mu.
func (u *uploads) drop(name string, p *part) {
	_ = errors.Join(p.file.Close(), os.Remove(p.file.Name())) // the folder goes away with the server
	delete(u.parts, name)
	u.bytes -= p.blob.Size
}

// wait counts a blob that has come. The caller holds mu.
func (u *uploads) wait(b remote.Blob) {
	if old, ok := u.waiting[b.Digest]; ok {
		u.bytes -= old.size
	}
	u.waiting[b.Digest] = arrived{b.Size, time.Now()}
	u.bytes += b.Size
}

// claim says that a record names a blob now.
func (u *uploads) claim(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a, ok := u.waiting[d]; ok {
		delete(u.waiting, d)
		u.bytes -= a.size
	}
}

// whole takes a blob that came in one piece, whose digest is right.
func (u *uploads) whole(b remote.Blob, data []byte) error {
	if b == empty || u.store.HasSize(b.Digest, b.Size) {
		return nil
	}
	u.mu.Lock()
	err := u.room(b)
	if err == nil {
		u.wait(b)
	}
	u.mu.Unlock()
	if err != nil {
		return err
	}
	if _, _, err := u.store.Put("upload", bytes.NewReader(data), b.Digest); err != nil {
		u.claim(b.Digest)
		return storeStatus(err)
	}
	return nil
}

// storeStatus is what clients are told of an error of the store: nothing of paths on this machine.
func storeStatus(err error) error {
	if _, full := errors.AsType[*store.Full](err); full {
		return status.Error(codes.ResourceExhausted, "no room left in the store")
	}
	return status.Error(codes.Internal, "the store cannot be written to")
}

// read reads a small blob of the store.
func (u *uploads) read(b remote.Blob) ([]byte, error) {
	path, err := u.store.Get(b.Digest)
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "%s is not in the store", b.Digest)
	}
	data, err := os.ReadFile(path)
	if err != nil || int64(len(data)) != b.Size {
		return nil, status.Errorf(codes.FailedPrecondition, "%s of %d bytes is not in the store", b.Digest, b.Size)
	}
	return data, nil
}

// begin goes on with the upload called name, or begins one. The caller calls end.
func (u *uploads) begin(name string, b remote.Blob) (*part, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if p := u.parts[name]; p != nil {
		if p.busy || p.blob != b {
			return nil, status.Errorf(codes.Aborted, "upload %s is under way", name)
		}
		p.busy = true
		return p, nil
	}
	if err := u.room(b); err != nil {
		return nil, err
	}
	if u.dir == "" {
		var err error
		if u.dir, u.remove, err = u.store.Temp("upload"); err != nil {
			return nil, storeStatus(err)
		}
	}
	u.next++
	f, err := os.OpenFile(filepath.Join(u.dir, strconv.Itoa(u.next)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, storeStatus(err)
	}
	p := &part{blob: b, file: f, busy: true}
	u.parts[name] = p
	u.bytes += b.Size
	return p, nil
}

// end is called when nobody writes to an upload any more. It stays for a while, to be gone on with, unless it is to be
// forgotten.
func (u *uploads) end(name string, p *part, forget bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p.busy, p.used = false, time.Now()
	if forget {
		u.drop(name, p)
	}
}

// adopt puts a whole upload into the store. It is verified there.
func (u *uploads) adopt(p *part) error {
	_, _, err := u.store.PutFile(p.file.Name(), p.blob.Digest)
	if wrong, ok := errors.AsType[*digest.Mismatch](err); ok {
		return status.Errorf(codes.InvalidArgument, "want %s, got %s", wrong.Want, wrong.Got)
	}
	if err != nil {
		return storeStatus(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wait(p.blob)
	return nil
}

// committed is how many bytes of an upload there are.
func (u *uploads) committed(name string) (int64, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.parts[name]
	if p == nil || p.busy {
		return 0, false
	}
	return p.written, true
}

// maxWindow bounds what unpacking keeps in memory, in bytes.
const maxWindow = 32 << 20

// unpack unpacks what must have a size.
func unpack(data []byte, size int64) ([]byte, error) {
	z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	out, err := io.ReadAll(io.LimitReader(z, size+1))
	if err == nil && int64(len(out)) != size {
		err = fmt.Errorf("not %d bytes", size)
	}
	return out, err
}
