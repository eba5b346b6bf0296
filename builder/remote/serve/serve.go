// Package serve is a server of the cache protocol of the Remote Execution API: what a store holds, for other machines.
//
// It serves blobs by their digest, and as results of actions the records of steps, as package reapi asks for them. It
// takes blobs and records only where it is told to, and of records only those that the store's user believes. Clients
// are not trusted: what they send is bounded in size, number and time, and verified.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"

	api "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/bazelbuild/remote-apis/build/bazel/semver"
	"golang.org/x/net/netutil"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
)

// Results keeps what actions made.
type Results interface {
	// Result is what the action with a digest made, or remote.ErrNone.
	Result(action digest.Digest) (*api.ActionResult, error)
	// Update remembers it. Clients are told its errors, those of gRPC with their codes.
	Update(action digest.Digest, r *api.ActionResult) error
}

// Options say what is served, and to how many. Zero limits mean the defaults.
type Options struct {
	Store    *store.Store
	Results  Results     // nil is the store's records
	Writable bool        // blobs and records are taken
	TLS      *tls.Config // nil is without
	// Refused is told of what was not taken, and why; nil is nobody. Any goroutine calls it.
	Refused func(error)

	MaxBlob        int64         // bytes of a blob that is taken; 16 GiB
	MaxPending     int64         // bytes of blobs that were taken and that no record names yet; 64 GiB
	MaxConnections int           // 64
	Stall          time.Duration // for the next message of an upload; 30 s
}

func (o Options) orDefault() Options {
	if o.MaxBlob == 0 {
		o.MaxBlob = 16 << 30
	}
	if o.MaxPending == 0 {
		o.MaxPending = 64 << 30
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = 64
	}
	if o.Stall == 0 {
		o.Stall = 30 * time.Second
	}
	if o.Refused == nil {
		o.Refused = func(error) {}
	}
	return o
}

// Bounds of messages, in bytes: gRPC's own is 4 MiB, and clients send no larger ones.
const (
	batchMax   = 4<<20 - 64<<10 // of blobs in a batch
	maxMessage = 4 << 20
	chunk      = 512 << 10 // of a message of a stream
)

const (
	maxStreams    = 64 // of a connection
	maxHeader     = 64 << 10
	maxBatchNames = 10_000 // digests in a question
	handshake     = 10 * time.Second
	idle          = 10 * time.Minute // of a connection that is closed then
	ping          = time.Minute      // without a sign of life, after which a connection is tried
	goodbye       = time.Second      // for calls that run when the server is to end
)

// Server serves a store.
type Server struct {
	o       Options
	results Results
	records *recordResults // the records of the store
	uploads *uploads
}

// New makes a server.
func New(o Options) *Server {
	o = o.orDefault()
	s := &Server{o: o, uploads: newUploads(o)}
	s.records = &recordResults{store: o.Store, uploads: s.uploads, at: map[digest.Digest]digest.Digest{},
		known: map[digest.Digest]bool{}, data: map[digest.Digest]digest.Digest{}}
	if s.results = o.Results; s.results == nil {
		s.results = s.records
	}
	return s
}

// Serve answers until ctx ends, and closes l. Calls that run then have a few seconds to end.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	how := []grpc.ServerOption{grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeader), grpc.ConnectionTimeout(handshake),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idle, Time: ping})}
	if s.o.TLS != nil {
		how = append(how, grpc.Creds(credentials.NewTLS(s.o.TLS)))
	}
	g := grpc.NewServer(how...)
	s.Register(g)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		late := time.AfterFunc(goodbye, g.Stop)
		g.GracefulStop()
		late.Stop()
	})
	err := g.Serve(netutil.LimitListener(l, s.o.MaxConnections))
	if !stop() {
		<-stopped
	}
	return errors.Join(err, s.uploads.close())
}

// Register adds the services to a server of gRPC, for those who have one.
func (s *Server) Register(g *grpc.Server) {
	api.RegisterCapabilitiesServer(g, &capabilities{s: s})
	api.RegisterActionCacheServer(g, &actionCache{s: s})
	api.RegisterContentAddressableStorageServer(g, &blobs{s: s})
	bytestream.RegisterByteStreamServer(g, &streams{s: s})
}

// capabilities is the service Capabilities.
type capabilities struct {
	api.UnimplementedCapabilitiesServer
	s *Server
}

// GetCapabilities says what the server does.
func (c *capabilities) GetCapabilities(context.Context, *api.GetCapabilitiesRequest) (*api.ServerCapabilities, error) {
	sha := []api.DigestFunction_Value{api.DigestFunction_SHA256}
	packed := []api.Compressor_Value{api.Compressor_ZSTD}
	return &api.ServerCapabilities{
		LowApiVersion: &semver.SemVer{Major: 2}, HighApiVersion: &semver.SemVer{Major: 2, Minor: 3},
		CacheCapabilities: &api.CacheCapabilities{
			DigestFunctions:               sha,
			ActionCacheUpdateCapabilities: &api.ActionCacheUpdateCapabilities{UpdateEnabled: c.s.o.Writable},
			MaxBatchTotalSizeBytes:        batchMax, MaxCasBlobSizeBytes: c.s.o.MaxBlob,
			SupportedCompressors: packed,
		}}, nil
}

// actionCache is the service ActionCache.
type actionCache struct {
	api.UnimplementedActionCacheServer
	s *Server
}

// sha256Only refuses other digest functions; servers of old know no field for it.
func sha256Only(f api.DigestFunction_Value) error {
	if f != api.DigestFunction_UNKNOWN && f != api.DigestFunction_SHA256 {
		return status.Errorf(codes.InvalidArgument, "digest function %s: want SHA256", f)
	}
	return nil
}

// blobIn reads the name of a blob.
func blobIn(d *api.Digest, f api.DigestFunction_Value) (remote.Blob, error) {
	b, err := remote.FromProto(d)
	if err != nil {
		return b, status.Errorf(codes.InvalidArgument, "%v", err)
	}
	return b, sha256Only(f)
}

var errNotFound = status.Error(codes.NotFound, "not in the store")

// writable refuses what only a writable server does.
func (s *Server) writable() error {
	if !s.o.Writable {
		return status.Error(codes.PermissionDenied, "this store is served for reading only")
	}
	return nil
}

// GetActionResult looks a result up.
func (a *actionCache) GetActionResult(ctx context.Context, q *api.GetActionResultRequest) (*api.ActionResult, error) {
	b, err := blobIn(q.GetActionDigest(), q.GetDigestFunction())
	if err != nil {
		return nil, err
	}
	done, err := a.s.o.Store.Use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := a.s.results.Result(b.Digest)
	if errors.Is(err, remote.ErrNone) {
		return nil, errNotFound
	}
	return r, err
}

// UpdateActionResult takes a result.
func (a *actionCache) UpdateActionResult(ctx context.Context,
	q *api.UpdateActionResultRequest) (*api.ActionResult, error) {
	if err := a.s.writable(); err != nil {
		return nil, err
	}
	b, err := blobIn(q.GetActionDigest(), q.GetDigestFunction())
	if err != nil {
		return nil, err
	}
	done, err := a.s.o.Store.Use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := a.s.results.Update(b.Digest, q.GetActionResult()); err != nil {
		a.s.o.Refused(err)
		return nil, err
	}
	return q.GetActionResult(), nil
}

// open opens a blob, which is verified; or returns a status.
func (s *Server) open(b remote.Blob) (*os.File, error) {
	path, err := s.o.Store.Get(b.Digest)
	if errors.Is(err, store.ErrMissing) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, status.Error(codes.Internal, "the store cannot be read")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, status.Error(codes.Internal, "the store cannot be read")
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != b.Size {
		_ = f.Close() // nothing was written
		return nil, errNotFound
	}
	return f, nil
}

// empty is the blob without bytes, which every cache has.
var empty = remote.BlobOf(nil)

// has says whether a blob is there, without reading it.
func (s *Server) has(b remote.Blob) bool {
	return b == empty || s.records.dataOf(b) != nil || s.o.Store.HasSize(b.Digest, b.Size)
}

// blobs is the service ContentAddressableStorage.
type blobs struct {
	api.UnimplementedContentAddressableStorageServer
	s *Server
}

// FindMissingBlobs says which blobs the store lacks.
func (c *blobs) FindMissingBlobs(ctx context.Context,
	q *api.FindMissingBlobsRequest) (*api.FindMissingBlobsResponse, error) {
	if len(q.GetBlobDigests()) > maxBatchNames {
		return nil, status.Errorf(codes.InvalidArgument, "more than %d digests", maxBatchNames)
	}
	r := &api.FindMissingBlobsResponse{}
	for _, d := range q.GetBlobDigests() {
		b, err := blobIn(d, q.GetDigestFunction())
		if err != nil {
			return nil, err
		}
		if !c.s.has(b) {
			r.MissingBlobDigests = append(r.MissingBlobDigests, d)
		}
	}
	return r, nil
}

// BatchReadBlobs reads small blobs.
func (c *blobs) BatchReadBlobs(ctx context.Context,
	q *api.BatchReadBlobsRequest) (*api.BatchReadBlobsResponse, error) {
	var total int64
	var all []remote.Blob
	for _, d := range q.GetDigests() {
		b, err := blobIn(d, q.GetDigestFunction())
		if err != nil {
			return nil, err
		}
		all = append(all, b)
		if total += min(b.Size, batchMax+1); total > batchMax || len(all) > maxBatchNames {
			return nil, status.Errorf(codes.InvalidArgument, "more than %d bytes, or than %d blobs", batchMax,
				maxBatchNames)
		}
	}
	done, err := c.s.o.Store.Use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r := &api.BatchReadBlobsResponse{}
	for i, b := range all {
		data, err := c.s.read(b)
		r.Responses = append(r.Responses, &api.BatchReadBlobsResponse_Response{Digest: q.GetDigests()[i], Data: data,
			Status: status.Convert(err).Proto()})
	}
	return r, nil
}

// read reads a small blob, or returns a status.
func (s *Server) read(b remote.Blob) ([]byte, error) {
	if b == empty {
		return nil, nil
	}
	if data := s.records.dataOf(b); data != nil {
		return data, nil
	}
	f, err := s.open(b)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, b.Size)
	if _, err := f.ReadAt(data, 0); err != nil {
		return nil, status.Error(codes.Internal, "the store cannot be read")
	}
	return data, nil
}

// BatchUpdateBlobs takes small blobs.
func (c *blobs) BatchUpdateBlobs(ctx context.Context,
	q *api.BatchUpdateBlobsRequest) (*api.BatchUpdateBlobsResponse, error) {
	if err := c.s.writable(); err != nil {
		return nil, err
	}
	done, err := c.s.o.Store.Use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r := &api.BatchUpdateBlobsResponse{}
	for _, one := range q.GetRequests() {
		b, err := blobIn(one.GetDigest(), q.GetDigestFunction())
		if err == nil {
			err = c.s.take(b, one)
		}
		r.Responses = append(r.Responses, &api.BatchUpdateBlobsResponse_Response{Digest: one.GetDigest(),
			Status: status.Convert(err).Proto()})
	}
	return r, nil
}

func (s *Server) take(b remote.Blob, one *api.BatchUpdateBlobsRequest_Request) error {
	data := one.GetData()
	switch one.GetCompressor() {
	case api.Compressor_IDENTITY:
	case api.Compressor_ZSTD:
		if b.Size > batchMax {
			return status.Errorf(codes.InvalidArgument, "%d bytes in a batch; want at most %d", b.Size, batchMax)
		}
		var err error
		if data, err = unpack(data, b.Size); err != nil {
			return status.Errorf(codes.InvalidArgument, "zstd: %v", err)
		}
	default:
		return status.Errorf(codes.InvalidArgument, "compressor %s", one.GetCompressor())
	}
	if remote.BlobOf(data) != b {
		return status.Errorf(codes.InvalidArgument, "the bytes are not %s of %d bytes", b.Digest, b.Size)
	}
	return s.uploads.whole(b, data)
}
