package reapi_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/remote/reapi"
	"github.com/katabuild/katabuild/builder/remote/remotetest"
	"github.com/katabuild/katabuild/builder/remote/serve"
)

// wire counts and breaks what goes over streams.
type wire struct {
	read, written atomic.Int64 // bytes
	names         atomic.Int64 // of packed streams
	breaks        atomic.Int64 // that are still to come
}

type wired struct {
	grpc.ServerStream
	w *wire
	n int
}

func (s *wired) SendMsg(m any) error {
	if r, ok := m.(*bytestream.ReadResponse); ok {
		if s.n++; s.n > 20 && s.w.breaks.Add(-1) >= 0 {
			return status.Error(codes.Unavailable, "gone for a moment")
		}
		s.w.read.Add(int64(len(r.Data)))
	}
	return s.ServerStream.SendMsg(m)
}

func (s *wired) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	switch q := m.(type) {
	case *bytestream.WriteRequest:
		if strings.Contains(q.ResourceName, "compressed-blobs/zstd/") {
			s.w.names.Add(1)
		}
		if s.n++; s.n > 2 && s.w.breaks.Add(-1) >= 0 {
			return status.Error(codes.Unavailable, "gone for a moment")
		}
		s.w.written.Add(int64(len(q.Data)))
	case *bytestream.ReadRequest:
		if strings.Contains(q.ResourceName, "compressed-blobs/zstd/") {
			s.w.names.Add(1)
		}
	}
	return err
}

// noise is bytes that zstd packs to about a half: each stretch of them comes twice.
func noise(n int) string {
	const stretch = 32 << 10
	b := make([]byte, n)
	for i, x := 0, uint32(1); i < n; i++ {
		if i/stretch%2 == 1 {
			b[i] = b[i-stretch]
			continue
		}
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

func TestStreamsArePackedWhereTheServerOffersIt(t *testing.T) {
	outputs := map[string]string{"vmlinux": noise(12 << 20)}
	a, server := remotetest.New(t), remotetest.New(t)
	server.Trust(t, a.Writer)
	kernel := a.Make(t, "kernel", outputs)
	var w wire
	address := remotetest.Serve(t, serve.Options{Store: server.Store, Writable: true},
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo,
			next grpc.StreamHandler) error {
			return next(srv, &wired{ServerStream: s, w: &w})
		}))
	cache := remotetest.Client(t, address)
	reapi.Far(cache)
	w.breaks.Store(2) // a packed upload begins again
	a.Offer(t, kernel, cache)
	server.Check(t, kernel, outputs)
	if w.breaks.Load() > 0 || w.names.Load() != 3 || w.written.Load() > 14<<20 {
		t.Errorf("%d breaks left, %d packed streams, %d bytes", w.breaks.Load(), w.names.Load(), w.written.Load())
	}
	// A packed download goes on where the blob was.
	b := remotetest.New(t, a.Writer)
	w.names.Store(0)
	w.breaks.Store(3)
	var said remotetest.Said
	team := &remote.Team{Store: b.Store, From: []remote.Cache{cache}}
	if got, _ := team.Bring(context.Background(), kernel, said.Report); got == nil {
		t.Fatal(&said)
	}
	b.Check(t, kernel, outputs)
	if w.breaks.Load() > 0 || w.names.Load() != 4 || w.read.Load() > 10<<20 {
		t.Errorf("%d breaks left, %d packed streams, %d bytes", w.breaks.Load(), w.names.Load(), w.read.Load())
	}
}

func TestAStreamThatIsNotPackedAsItSaysIsRefused(t *testing.T) {
	outputs := map[string]string{"vmlinux": noise(2 << 20)}
	a := remotetest.New(t)
	kernel := a.Make(t, "kernel", outputs)
	for name, spoil := range map[string]func([]byte) []byte{
		"no zstd": func(b []byte) []byte { return []byte(strings.Repeat("x", len(b))) },
		// RFC 8878, section 3.1.1.1.2: a window of 2 TiB.
		"a window that is too large": func([]byte) []byte { return []byte("\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00") },
	} {
		t.Run(name, func(t *testing.T) {
			cache := remotetest.Client(t, remotetest.Serve(t, serve.Options{Store: a.Store},
				grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo,
					next grpc.StreamHandler) error {
					return next(srv, &spoiled{s, spoil})
				})))
			reapi.Far(cache)
			b := remotetest.New(t, a.Writer)
			var said remotetest.Said
			team := &remote.Team{Store: b.Store, From: []remote.Cache{cache}}
			if got, _ := team.Bring(context.Background(), kernel, said.Report); got != nil || said.String() == "" {
				t.Errorf("%v %s", got, &said)
			}
		})
	}
}

type spoiled struct {
	grpc.ServerStream
	spoil func([]byte) []byte
}

func (s *spoiled) SendMsg(m any) error {
	if r, ok := m.(*bytestream.ReadResponse); ok {
		r.Data = s.spoil(r.Data)
	}
	return s.ServerStream.SendMsg(m)
}
