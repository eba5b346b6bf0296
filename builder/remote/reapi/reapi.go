// Package reapi speaks the cache protocol of the Remote Execution API as a client: Capabilities, ActionCache,
// ContentAddressableStorage and ByteStream, over gRPC.
//
// Servers that speak it are bazel-remote, Buildbarn, BuildBuddy, NativeLink and katabuild's own ("katabuild store
// serve"). How a step's record becomes an ActionResult is in docs/formats/remote-cache.md.
package reapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"

	api "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/store"
)

// Options say where a server is and how it is reached.
type Options struct {
	Name     string      // for people
	Address  string      // HOST:PORT
	Instance string      // the name of the server's instance; many have one without a name
	TLS      *tls.Config // nil is without
	// Header goes with every call, such as an authorization. Its names are in lower case.
	Header map[string]string
}

// client is a cache of the Remote Execution API. It connects at the first call.
type client struct {
	o    Options
	conn *grpc.ClientConn
	home bool // the server is on this machine

	mu  sync.Mutex
	can *abilities // what the server can do, once it has said so
}

// abilities are what a server says of itself, as far as it counts here.
type abilities struct {
	update  bool  // it takes records
	batch   int64 // bytes of blobs that one call may have
	zstd    bool  // it packs streams
	maxBlob int64 // bytes of a blob; zero is any
}

// maxMessage bounds what a server may send in one message, in bytes.
const maxMessage = 8 << 20

// Bounds of what goes in one message, in bytes: gRPC's own bound is 4 MiB.
const (
	batchMax = 4<<20 - 64<<10 // of blobs in a batch, with room for their names
	small    = 1 << 20        // of a blob that goes in a batch
	chunk    = 512 << 10      // of a message of a stream
)

// New makes a client. It reaches nothing yet, and connects at the first call.
func New(o Options) (remote.Cache, error) {
	how := insecure.NewCredentials()
	if o.TLS != nil {
		how = credentials.NewTLS(o.TLS)
	}
	conn, err := grpc.NewClient("passthrough:///"+o.Address, grpc.WithTransportCredentials(how),
		grpc.WithDisableServiceConfig(), grpc.WithPerRPCCredentials(header(o.Header)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	ip := net.ParseIP(host)
	return &client{o: o, conn: conn, home: host == "localhost" || ip != nil && ip.IsLoopback()}, nil
}

// Name implements remote.Cache.
func (c *client) Name() string { return c.o.Name }

// Close implements remote.Cache.
func (c *client) Close() error { return c.conn.Close() }

// header goes with every call. It implements credentials.PerRPCCredentials.
type header map[string]string

// GetRequestMetadata is the header, for any call.
func (h header) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return h, nil
}

// RequireTransportSecurity is false: who has a header decides where it may go.
func (header) RequireTransportSecurity() bool { return false }

// explain makes the library's errors short, and names those that have a meaning here.
func explain(err error) error {
	s, ok := status.FromError(err)
	switch {
	case err == nil || !ok:
		return err
	case s.Code() == codes.NotFound:
		return remote.ErrNone
	case s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), "larger than max"):
		return &remote.Lie{Err: errors.New(s.Message())}
	}
	if s.Code() == codes.DeadlineExceeded { // the server's clock was the faster one
		return errors.New("the server gave no answer in time")
	}
	return fmt.Errorf("%s: %s", s.Code(), s.Message())
}

// able asks, once, what the server can do.
func (c *client) able(ctx context.Context) (*abilities, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.can != nil {
		return c.can, nil
	}
	got, err := api.NewCapabilitiesClient(c.conn).GetCapabilities(ctx,
		&api.GetCapabilitiesRequest{InstanceName: c.o.Instance})
	if err != nil {
		return nil, explain(err)
	}
	cache := got.GetCacheCapabilities()
	if !slices.Contains(cache.GetDigestFunctions(), api.DigestFunction_SHA256) {
		return nil, errors.New("the server has no cache by SHA-256")
	}
	if v := got.GetHighApiVersion(); v != nil && v.GetMajor() < 2 {
		return nil, fmt.Errorf("the server speaks version %d of the Remote Execution API; want 2", v.GetMajor())
	}
	can := &abilities{update: cache.GetActionCacheUpdateCapabilities().GetUpdateEnabled(), batch: batchMax,
		maxBlob: cache.GetMaxCasBlobSizeBytes()}
	if m := cache.GetMaxBatchTotalSizeBytes(); m > 0 {
		can.batch = min(can.batch, m)
	}
	// Between processes of one machine, packing takes longer than copying.
	can.zstd = !c.home && slices.Contains(cache.GetSupportedCompressors(), api.Compressor_ZSTD)
	c.can = can
	return can, nil
}

// The names of the files in an ActionResult.
const (
	recordFile    = "record.json"
	outputsFolder = "outputs/"
)

// ResultOf is the ActionResult for a step's record.
func ResultOf(r *store.Signed) *api.ActionResult {
	out := &api.ActionResult{OutputFiles: []*api.OutputFile{{Path: recordFile,
		Digest: remote.Proto(remote.BlobOf(r.Data))}}}
	for _, o := range r.Action.Outputs {
		out.OutputFiles = append(out.OutputFiles, &api.OutputFile{Path: outputsFolder + o.Name,
			Digest: remote.Proto(remote.Blob{Digest: o.Digest, Size: o.Size})})
	}
	return out
}

// RecordIn is where the record is that an ActionResult names. All else that it names is for servers, which keep what
// results name.
func RecordIn(r *api.ActionResult) (remote.Blob, error) {
	for _, f := range r.GetOutputFiles() {
		if f.GetPath() != recordFile {
			continue
		}
		b, err := remote.FromProto(f.GetDigest())
		if err != nil {
			return b, fmt.Errorf("%s: %w", recordFile, err)
		}
		if b.Size > store.MaxRecord {
			return b, fmt.Errorf("%s of %d bytes; want at most %d", recordFile, b.Size, store.MaxRecord)
		}
		return b, nil
	}
	return remote.Blob{}, fmt.Errorf("the result has no %s", recordFile)
}

// Record implements remote.Cache.
func (c *client) Record(ctx context.Context, a remote.Address) ([]byte, error) {
	if _, err := c.able(ctx); err != nil {
		return nil, err
	}
	r, err := api.NewActionCacheClient(c.conn).GetActionResult(ctx, &api.GetActionResultRequest{
		InstanceName: c.o.Instance, ActionDigest: remote.Proto(remote.BlobOf(a.Action)),
		DigestFunction: api.DigestFunction_SHA256})
	if err != nil {
		return nil, explain(err)
	}
	b, err := RecordIn(r)
	if err != nil {
		return nil, &remote.Lie{Err: err}
	}
	body, err := c.Open(ctx, b, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, b.Size+1))
	if err != nil {
		return nil, err
	}
	if got := remote.BlobOf(data); got != b {
		return nil, &remote.Lie{Err: fmt.Errorf("record: want %s of %d bytes, got %s of %d", b.Digest, b.Size,
			got.Digest, got.Size)}
	}
	return data, nil
}

// Open implements remote.Cache.
func (c *client) Open(ctx context.Context, b remote.Blob, offset int64) (io.ReadCloser, error) {
	can, err := c.able(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case b.Size == 0:
		return io.NopCloser(bytes.NewReader(nil)), nil
	case offset == 0 && b.Size <= min(small, can.batch):
		return c.readSmall(ctx, b)
	}
	return c.openStream(ctx, can, b, offset)
}

// readSmall reads a blob that fits into a message.
func (c *client) readSmall(ctx context.Context, b remote.Blob) (io.ReadCloser, error) {
	r, err := api.NewContentAddressableStorageClient(c.conn).BatchReadBlobs(ctx, &api.BatchReadBlobsRequest{
		InstanceName: c.o.Instance, Digests: []*api.Digest{remote.Proto(b)},
		AcceptableCompressors: []api.Compressor_Value{api.Compressor_IDENTITY},
		DigestFunction:        api.DigestFunction_SHA256})
	if err != nil {
		return nil, explain(err)
	}
	for _, a := range r.GetResponses() {
		if got, err := remote.FromProto(a.GetDigest()); err != nil || got != b {
			continue
		}
		if err := explain(status.FromProto(a.GetStatus()).Err()); err != nil {
			return nil, err
		}
		if a.GetCompressor() != api.Compressor_IDENTITY || int64(len(a.GetData())) != b.Size {
			return nil, &remote.Lie{Err: fmt.Errorf("%s: want %d bytes as they are, got %d (%s)", b.Digest, b.Size,
				len(a.GetData()), a.GetCompressor())}
		}
		return io.NopCloser(bytes.NewReader(a.GetData())), nil
	}
	return nil, &remote.Lie{Err: fmt.Errorf("the server's answer is not about %s", b.Digest)}
}

// Missing implements remote.Cache.
func (c *client) Missing(ctx context.Context, blobs []remote.Blob) ([]remote.Blob, error) {
	if _, err := c.able(ctx); err != nil {
		return nil, err
	}
	q := &api.FindMissingBlobsRequest{InstanceName: c.o.Instance, DigestFunction: api.DigestFunction_SHA256}
	for _, b := range blobs {
		q.BlobDigests = append(q.BlobDigests, remote.Proto(b))
	}
	r, err := api.NewContentAddressableStorageClient(c.conn).FindMissingBlobs(ctx, q)
	if err != nil {
		return nil, explain(err)
	}
	var out []remote.Blob
	for _, d := range r.GetMissingBlobDigests() {
		b, err := remote.FromProto(d)
		if err != nil {
			return nil, &remote.Lie{Err: err}
		}
		out = append(out, b)
	}
	return out, nil
}

// Publish implements remote.Cache.
func (c *client) Publish(ctx context.Context, a remote.Address, r *store.Signed) error {
	files := []remote.File{remote.Bytes(recordFile, r.Data), remote.Bytes("action", a.Action),
		remote.Bytes("command", a.Command), remote.Bytes("root", a.Root)}
	var blobs []remote.Blob
	for _, f := range files {
		blobs = append(blobs, f.Blob)
	}
	missing, err := c.Missing(ctx, blobs)
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f remote.File) bool { return !slices.Contains(missing, f.Blob) })
	if err := c.Put(ctx, files, func(int64) {}); err != nil {
		return err
	}
	_, err = api.NewActionCacheClient(c.conn).UpdateActionResult(ctx, &api.UpdateActionResultRequest{
		InstanceName: c.o.Instance, ActionDigest: remote.Proto(remote.BlobOf(a.Action)), ActionResult: ResultOf(r),
		DigestFunction: api.DigestFunction_SHA256})
	return explain(err)
}

// Put implements remote.Cache.
func (c *client) Put(ctx context.Context, files []remote.File, moved func(int64)) error {
	can, err := c.able(ctx)
	if err != nil {
		return err
	}
	if !can.update {
		return errors.New("the server takes no records") // without which nobody would find the files
	}
	var batch []remote.File
	var size int64
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := c.putBatch(ctx, batch)
		moved(size)
		batch, size = nil, 0
		return err
	}
	for _, f := range files {
		if can.maxBlob > 0 && f.Size > can.maxBlob {
			return fmt.Errorf("%s has %d bytes, and the server takes at most %d", f.Name, f.Size, can.maxBlob)
		}
		if f.Size > min(small, can.batch) {
			if err := c.putStream(ctx, can, f, moved); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
			continue
		}
		if size+f.Size > can.batch {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, f), size+f.Size
	}
	return flush()
}

func (c *client) putBatch(ctx context.Context, files []remote.File) error {
	q := &api.BatchUpdateBlobsRequest{InstanceName: c.o.Instance, DigestFunction: api.DigestFunction_SHA256}
	for _, f := range files {
		data, err := readAll(f)
		if err != nil {
			return err
		}
		q.Requests = append(q.Requests, &api.BatchUpdateBlobsRequest_Request{Digest: remote.Proto(f.Blob), Data: data})
	}
	r, err := api.NewContentAddressableStorageClient(c.conn).BatchUpdateBlobs(ctx, q)
	if err != nil {
		return explain(err)
	}
	took := map[remote.Blob]bool{}
	for _, a := range r.GetResponses() {
		b, err := remote.FromProto(a.GetDigest())
		if err == nil {
			err = explain(status.FromProto(a.GetStatus()).Err())
		}
		if err != nil {
			return err
		}
		took[b] = true
	}
	for _, f := range files {
		if !took[f.Blob] {
			return fmt.Errorf("the server did not say that it took %s", f.Name)
		}
	}
	return nil
}

func readAll(f remote.File) ([]byte, error) {
	r, err := f.Open(0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, f.Size+1))
	if err = errors.Join(err, r.Close()); err == nil && int64(len(data)) != f.Size {
		err = fmt.Errorf("%s has not %d bytes", f.Name, f.Size)
	}
	return data, err
}

func (c *client) stream() bytestream.ByteStreamClient { return bytestream.NewByteStreamClient(c.conn) }
