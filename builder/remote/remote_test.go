package remote_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	api "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/remote/reapi"
	"github.com/katabuild/katabuild/builder/remote/remotetest"
	"github.com/katabuild/katabuild/builder/remote/serve"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
)

// outputs are what the step of most tests made: a small one, one that comes in a stream, and an empty one.
var outputs = map[string]string{"config": "CONFIG_VIRTIO=y\n", "vmlinux": strings.Repeat("0123456789abcdef", 200_000),
	"empty": ""}

// limits are short for caches that are to be given up; others end by themselves.
func limits(want string) remote.Limits {
	if strings.Contains(want, "slow") || strings.Contains(want, "gave no answer") {
		return remote.Limits{Answer: 2 * time.Second, Stall: 2 * time.Second}
	}
	return remote.Limits{}
}

func TestAStepComesFromTheFirstCacheThatHasIt(t *testing.T) {
	a, b := remotetest.New(t), remotetest.New(t)
	kernel, image := a.Make(t, "kernel", outputs), b.Make(t, "image", map[string]string{"image.img": "disk"})
	c := remotetest.New(t, a.Writer, b.Writer)
	team := &remote.Team{Store: c.Store, From: []remote.Cache{
		remotetest.Client(t, remotetest.Serve(t, serve.Options{Store: a.Store})),
		remotetest.Client(t, remotetest.Serve(t, serve.Options{Store: b.Store}))}}
	var said remotetest.Said
	for i, s := range []struct {
		step    string
		outputs map[string]string
	}{{"kernel", outputs}, {"image", map[string]string{"image.img": "disk"}}} {
		step := kernel
		if s.step == "image" {
			step = image
		}
		got, from := team.Bring(context.Background(), step, said.Report)
		if got == nil || from != team.From[i].Name() {
			t.Fatalf("%s: from %q: %s", s.step, from, &said)
		}
		c.Check(t, step, s.outputs)
	}
	if a.Writer == c.Writer || said.String() != "" {
		t.Errorf("said: %s", &said)
	}
	// The record is as its writer signed it.
	if r, err := c.Signed(kernel.Key); err != nil || r.Action.Writer != a.Writer {
		t.Errorf("%v %v", r, err)
	}
	if problems, err := c.Verify(); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	// Nobody else is asked to believe it.
	stranger := remotetest.New(t)
	team = &remote.Team{Store: stranger.Store, From: team.From}
	if got, _ := team.Bring(context.Background(), kernel, said.Report); got != nil || said.String() != "" {
		t.Errorf("a stranger got %v: %s", got, &said)
	}
}

func TestWhatWasGivenAwayIsFoundByOthers(t *testing.T) {
	a, server := remotetest.New(t), remotetest.New(t)
	kernel := a.Make(t, "kernel", outputs)
	server.Trust(t, a.Writer)
	cache := remotetest.Client(t, remotetest.Serve(t, serve.Options{Store: server.Store, Writable: true}))
	a.Offer(t, kernel, cache)
	server.Check(t, kernel, outputs)
	a.Offer(t, kernel, cache) // again is as good
	c := remotetest.New(t, a.Writer)
	team := &remote.Team{Store: c.Store, From: []remote.Cache{cache}}
	if got, _ := team.Bring(context.Background(), kernel, nil); got == nil {
		t.Fatal("not found")
	}
	c.Check(t, kernel, outputs)
}

// liar changes what a server says.
type liar struct {
	unary  func(method string, answer any, err error) (any, error)
	stream func(ctx context.Context, sent int, m *bytestream.ReadResponse) error
	// before is called before the server is; an error is the answer.
	before func(ctx context.Context, method string) error
}

func (l *liar) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, q any, info *grpc.UnaryServerInfo,
			next grpc.UnaryHandler) (any, error) {
			if l.before != nil {
				if err := l.before(ctx, info.FullMethod); err != nil {
					return nil, err
				}
			}
			r, err := next(ctx, q)
			if l.unary != nil {
				r, err = l.unary(info.FullMethod, r, err)
			}
			return r, err
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo,
			next grpc.StreamHandler) error {
			if l.before != nil {
				if err := l.before(s.Context(), info.FullMethod); err != nil {
					return err
				}
			}
			return next(srv, &lyingStream{ServerStream: s, l: l})
		})}
}

type lyingStream struct {
	grpc.ServerStream
	l    *liar
	sent int
}

func (s *lyingStream) SendMsg(m any) error {
	if r, ok := m.(*bytestream.ReadResponse); ok && s.l.stream != nil {
		before := len(r.Data)
		if err := s.l.stream(s.Context(), s.sent, r); err != nil {
			return err
		}
		s.sent += before
	}
	return s.ServerStream.SendMsg(m)
}

// small changes the answer to BatchReadBlobs for blobs of at least some bytes.
func small(change func(*api.BatchReadBlobsResponse_Response)) func(string, any, error) (any, error) {
	return func(_ string, answer any, err error) (any, error) {
		if r, ok := answer.(*api.BatchReadBlobsResponse); ok {
			for _, one := range r.Responses {
				if string(one.Data) == outputs["config"] { // not a record
					change(one)
				}
			}
		}
		return answer, err
	}
}

// hang waits until nobody waits for the answer.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestServersThatLieCostAWarning(t *testing.T) {
	a := remotetest.New(t)
	kernel := a.Make(t, "kernel", outputs)
	other := a.Make(t, "initrd", map[string]string{"initrd": "other"})
	foreign := remotetest.New(t)
	foreign.Make(t, "kernel", map[string]string{"vmlinux": "poison"})
	result := func(m *remotetest.Machine, key string) *api.ActionResult {
		of := kernel.Key
		if key == "initrd" {
			of = other.Key
		}
		r, err := m.Signed(of)
		if err != nil {
			t.Fatal(err)
		}
		return reapi.ResultOf(r)
	}
	// substitute answers another result, with its record.
	substitute := func(r *api.ActionResult, record []byte) func(string, any, error) (any, error) {
		return func(method string, answer any, err error) (any, error) {
			switch {
			case strings.HasSuffix(method, "GetActionResult"):
				return r, nil
			case strings.HasSuffix(method, "BatchReadBlobs"):
				return &api.BatchReadBlobsResponse{Responses: []*api.BatchReadBlobsResponse_Response{{
					Digest: r.OutputFiles[0].Digest, Data: record}}}, nil
			}
			return answer, err
		}
	}
	record := func(m *remotetest.Machine, initrd bool) []byte {
		of := kernel.Key
		if initrd {
			of = other.Key
		}
		r, err := m.Signed(of)
		if err != nil {
			t.Fatal(err)
		}
		return r.Data
	}
	unsigned := []byte(strings.Split(string(record(a, false)), `"writer"`)[0])
	changed := []byte(strings.Replace(string(record(a, false)), `"vmlinux"`, `"vmlinuz"`, 1))
	var truncated atomic.Int64
	only := func(b []byte) *api.ActionResult {
		return &api.ActionResult{OutputFiles: []*api.OutputFile{{Path: "record.json",
			Digest: remote.Proto(remote.BlobOf(b))}}}
	}
	for name, c := range map[string]struct {
		liar liar
		want string // of the warning; "-" for none
	}{
		"wrong bytes of a stream": {liar{stream: func(_ context.Context, _ int, m *bytestream.ReadResponse) error {
			m.Data = []byte(strings.ToUpper(string(m.Data)))
			return nil
		}}, "want sha256:"},
		"wrong bytes of a small blob": {liar{unary: small(func(r *api.BatchReadBlobsResponse_Response) {
			r.Data[0] = 'X'
		})}, "want sha256:"},
		"too short a small blob": {liar{unary: small(func(r *api.BatchReadBlobsResponse_Response) {
			r.Data = r.Data[:3]
		})}, "want 16 bytes as they are, got 3"},
		"another small blob": {liar{unary: small(func(r *api.BatchReadBlobsResponse_Response) {
			r.Digest = remote.Proto(remote.BlobOf(nil))
		})}, "the server's answer is not about"},
		"a packed small blob": {liar{unary: small(func(r *api.BatchReadBlobsResponse_Response) {
			r.Compressor = api.Compressor_DEFLATE
		})}, "DEFLATE"},
		"a truncated stream": {liar{stream: func(_ context.Context, _ int, m *bytestream.ReadResponse) error {
			if truncated.Add(int64(len(m.Data))) > 1<<20 {
				m.Data = nil
			}
			return nil
		}}, "it ends after"},
		"an endless stream": {liar{stream: func(_ context.Context, _ int, m *bytestream.ReadResponse) error {
			m.Data = make([]byte, 4<<20)
			return nil
		}}, "want sha256:"},
		"a message that is too large": {liar{stream: func(_ context.Context, _ int, m *bytestream.ReadResponse) error {
			m.Data = make([]byte, 9<<20)
			return nil
		}}, "larger than max"},
		"a record of another step": {liar{unary: substitute(result(a, "initrd"), record(a, true))},
			"its record is damaged"},
		"a record that a stranger signed": {liar{unary: substitute(result(foreign, "kernel"), record(foreign, false))},
			"which is not trusted"},
		"a record that nobody signed": {liar{unary: substitute(only(unsigned), unsigned)}, "damaged"},
		"a record that was changed":   {liar{unary: substitute(only(changed), changed)}, "its signature is wrong"},
		"a record with other bytes than its digest": {liar{unary: substitute(result(a, "kernel"), changed)},
			"record: want"},
		"names that lead out": {liar{unary: substitute(&api.ActionResult{OutputFiles: []*api.OutputFile{{
			Path: "../../record.json", Digest: remote.Proto(remote.BlobOf(unsigned))}}}, unsigned)}, "no record.json"},
		"a record without end": {liar{unary: substitute(&api.ActionResult{OutputFiles: []*api.OutputFile{{
			Path: "record.json", Digest: &api.Digest{Hash: strings.Repeat("0", 64), SizeBytes: 1 << 40}}}}, nil)},
			"record.json of 1099511627776 bytes"},
		"no digest": {liar{unary: substitute(&api.ActionResult{OutputFiles: []*api.OutputFile{{
			Path: "record.json", Digest: &api.Digest{Hash: "../../../etc/passwd", SizeBytes: 1}}}}, nil)},
			"record.json"},
		"no capabilities": {liar{unary: func(_ string, answer any, err error) (any, error) {
			if _, ok := answer.(*api.ServerCapabilities); ok {
				return &api.ServerCapabilities{}, nil
			}
			return answer, err
		}}, "no cache by SHA-256"},
		"an output that is gone": {liar{before: func(_ context.Context, method string) error {
			if strings.HasSuffix(method, "ByteStream/Read") {
				return status.Error(codes.NotFound, "gone")
			}
			return nil
		}}, "-"},
		"an error": {liar{before: func(context.Context, string) error {
			return status.Error(codes.Internal, "out of order")
		}}, "out of order; going on without it"},
		"nobody is let in": {liar{before: func(context.Context, string) error {
			return status.Error(codes.Unauthenticated, "who are you?")
		}}, "Unauthenticated: who are you?"},
		"no answer": {liar{before: func(ctx context.Context, _ string) error { return hang(ctx) }},
			"gave no answer"},
		"no answer about a record": {liar{before: func(ctx context.Context, method string) error {
			if strings.HasSuffix(method, "GetActionResult") {
				return hang(ctx)
			}
			return nil
		}}, "gave no answer"},
		"a stream that stops": {liar{stream: func(ctx context.Context, sent int, _ *bytestream.ReadResponse) error {
			if sent > 1<<20 {
				return hang(ctx)
			}
			return nil
		}}, "is too slow: less than 262144 bytes in 2s"},
		"a stream of single bytes": {liar{stream: func(_ context.Context, _ int, m *bytestream.ReadResponse) error {
			m.Data = m.Data[:1]
			time.Sleep(100 * time.Millisecond) // the server's pace
			return nil
		}}, "is too slow"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			honest := remotetest.Client(t, remotetest.Serve(t, serve.Options{Store: a.Store}))
			bad := remotetest.Client(t, remotetest.Serve(t, serve.Options{Store: a.Store}, c.liar.options()...))
			alone := remotetest.New(t, a.Writer)
			var said remotetest.Said
			team := &remote.Team{Store: alone.Store, From: []remote.Cache{bad}, Limits: limits(c.want)}
			if got, from := team.Bring(context.Background(), kernel, said.Report); got != nil {
				t.Fatalf("got %v from %s", got, from)
			}
			if c.want == "-" && said.String() != "" || c.want != "-" && (!strings.Contains(said.String(), c.want) ||
				strings.Count(said.String(), "\n") != 1) {
				t.Errorf("said %q, want one line with %q", &said, c.want)
			}
			if _, err := alone.Signed(kernel.Key); !errors.Is(err, store.ErrMissing) {
				t.Errorf("a record stayed: %v", err)
			}
			// What lies behind such a cache is found.
			team = &remote.Team{Store: alone.Store, From: []remote.Cache{bad, honest}, Limits: limits(c.want)}
			if got, from := team.Bring(context.Background(), kernel, nil); got == nil || from != honest.Name() {
				t.Fatalf("nothing from the honest one; %q", from)
			}
			alone.Check(t, kernel, outputs)
		})
	}
}

func TestAStreamThatBreaksOffGoesOnWhereItWas(t *testing.T) {
	a := remotetest.New(t)
	kernel := a.Make(t, "kernel", outputs)
	var breaks, bytes atomic.Int64
	l := liar{stream: func(_ context.Context, sent int, m *bytestream.ReadResponse) error {
		if sent > 0 && breaks.Add(1) <= 4 {
			return status.Error(codes.Unavailable, "gone for a moment")
		}
		bytes.Add(int64(len(m.Data)))
		return nil
	}}
	b := remotetest.New(t, a.Writer)
	cache := remotetest.Client(t, remotetest.Serve(t, serve.Options{Store: a.Store}, l.options()...))
	team := &remote.Team{Store: b.Store, From: []remote.Cache{cache}}
	var said remotetest.Said
	if got, _ := team.Bring(context.Background(), kernel, said.Report); got == nil {
		t.Fatal(&said)
	}
	b.Check(t, kernel, outputs)
	// What the client has not seen of the last message before a break comes again, and no more.
	if n := bytes.Load(); breaks.Load() < 4 || n > int64(len(outputs["vmlinux"]))+4*512<<10 {
		t.Errorf("%d bytes sent, after %d breaks", n, breaks.Load())
	}
}

func TestACacheThatIsAwayIsAskedOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	a := remotetest.New(t)
	kernel, initrd := a.Make(t, "kernel", outputs), a.Make(t, "initrd", nil)
	cache := remotetest.Client(t, address)
	team := &remote.Team{Store: a.Store, From: []remote.Cache{cache}, To: []remote.Cache{cache}}
	var said remotetest.Said
	for range 2 {
		if got, _ := team.Bring(context.Background(), kernel, said.Report); got != nil {
			t.Error(got)
		}
	}
	made, err := a.Complete(initrd.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := team.Offer(context.Background(), made, said.Report); err != nil {
		t.Error(err)
	}
	if strings.Count(said.String(), "\n") != 1 || !strings.Contains(said.String(), "connection refused") {
		t.Errorf("said %q", &said)
	}
	// Only who asks for it has a build fail.
	team.Required = true
	if err := team.Offer(context.Background(), made, said.Report); err == nil ||
		!strings.Contains(err.Error(), "connection refused") {
		t.Error(err)
	}
}

func TestUploadsThatFailAreWarnings(t *testing.T) {
	a := remotetest.New(t)
	kernel := a.Make(t, "kernel", outputs)
	made, err := a.Complete(kernel.Key)
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]struct {
		o serve.Options
		l liar
	}{
		"the server takes no records": {o: serve.Options{Store: remotetest.New(t).Store}},
		"which is not trusted":        {o: serve.Options{Store: remotetest.New(t).Store, Writable: true}},
		"takes at most 1000000":       {o: serve.Options{Store: remotetest.New(t).Store, Writable: true, MaxBlob: 1e6}},
		"no room for 3200000 more": {o: serve.Options{Store: remotetest.New(t).Store, Writable: true,
			MaxPending: 2e6}},
		"is too slow": {o: serve.Options{Store: remotetest.New(t).Store, Writable: true},
			l: liar{before: func(ctx context.Context, method string) error {
				if strings.HasSuffix(method, "ByteStream/Write") {
					return hang(ctx)
				}
				return nil
			}}},
		"gave no answer": {o: serve.Options{Store: remotetest.New(t).Store, Writable: true},
			l: liar{before: func(ctx context.Context, method string) error {
				if strings.HasSuffix(method, "FindMissingBlobs") {
					return hang(ctx)
				}
				return nil
			}}},
	} {
		t.Run(want, func(t *testing.T) {
			cache := remotetest.Client(t, remotetest.Serve(t, c.o, c.l.options()...))
			var said remotetest.Said
			team := &remote.Team{Store: a.Store, To: []remote.Cache{cache}, Limits: limits(want)}
			if err := team.Offer(context.Background(), made, said.Report); err != nil {
				t.Error(err)
			}
			if !strings.Contains(said.String(), want) {
				t.Errorf("said %q", &said)
			}
			team = &remote.Team{Store: a.Store, To: []remote.Cache{cache}, Limits: limits(want), Required: true}
			if err := team.Offer(context.Background(), made, nil); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("required: %v", err)
			}
		})
	}
}

func TestAnUploadThatBreaksOffGoesOnWhereItWas(t *testing.T) {
	a, server := remotetest.New(t), remotetest.New(t)
	kernel := a.Make(t, "kernel", outputs)
	server.Trust(t, a.Writer)
	var tries, received atomic.Int64
	how := grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo,
		next grpc.StreamHandler) error {
		return next(srv, &breaking{ServerStream: s, tries: &tries, received: &received})
	})
	cache := remotetest.Client(t, remotetest.Serve(t, serve.Options{Store: server.Store, Writable: true}, how))
	a.Offer(t, kernel, cache)
	server.Check(t, kernel, outputs)
	if n := received.Load(); tries.Load() == 0 || n >= 2*int64(len(outputs["vmlinux"])) {
		t.Errorf("%d bytes, %d breaks", n, tries.Load())
	}
}

// breaking breaks the first stream off after its fourth message.
type breaking struct {
	grpc.ServerStream
	tries, received *atomic.Int64
	messages        int
}

func (b *breaking) RecvMsg(m any) error {
	if b.messages++; b.messages > 4 && b.tries.Add(1) == 1 {
		return status.Error(codes.Unavailable, "gone for a moment")
	}
	err := b.ServerStream.RecvMsg(m)
	if w, ok := m.(*bytestream.WriteRequest); ok && err == nil {
		b.received.Add(int64(len(w.Data)))
	}
	return err
}

func TestAStoreThatSignsNothingSharesNothing(t *testing.T) {
	a := remotetest.New(t)
	kernel := a.Make(t, "kernel", outputs)
	cache := remotetest.Client(t, remotetest.Serve(t, serve.Options{Store: a.Store}))
	s, err := store.Open(t.TempDir()+"/store", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var said remotetest.Said
	team := &remote.Team{Store: s, From: []remote.Cache{cache}}
	if got, _ := team.Bring(context.Background(), kernel, said.Report); got != nil ||
		!strings.Contains(said.String(), "signs nothing") {
		t.Errorf("%v %s", got, &said)
	}
}

func TestTheAddressOfARecord(t *testing.T) {
	// Every version of katabuild must find what another has put there.
	a, err := remote.AddressOf(digest.Digest("sha256:"+digestOf("1")), store.Writer(digestOf("2")))
	if err != nil {
		t.Fatal(err)
	}
	if want := "sha256:0c6a4b9ff430b82a1dfe97251790ca8478733c4b862e4aa87dd8bbc1b488f917"; string(a.Digest) != want {
		t.Errorf("got %s, want %s", a.Digest, want)
	}
	if len(a.Root) != 0 {
		t.Error("the root is not the empty folder")
	}
}

func digestOf(digit string) string { return strings.Repeat(digit, 64) }
