package serve_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/remote/reapi"
	"github.com/katabuild/katabuild/builder/remote/remotetest"
	"github.com/katabuild/katabuild/builder/remote/serve"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
)

var big = strings.Repeat("0123456789abcdef", 200_000)

// dial connects to a server.
func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the server has gone
	return c
}

// read reads a stream.
func read(c *grpc.ClientConn, q *bytestream.ReadRequest) ([]byte, error) {
	s, err := bytestream.NewByteStreamClient(c).Read(context.Background(), q)
	if err != nil {
		return nil, err
	}
	var out []byte
	for {
		m, err := s.Recv()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, m.GetData()...)
	}
}

// write sends messages as they are, and closes the stream.
func write(c *grpc.ClientConn, messages ...*bytestream.WriteRequest) (int64, error) {
	s, err := bytestream.NewByteStreamClient(c).Write(context.Background())
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		if err := s.Send(m); err != nil {
			break // CloseAndRecv says why
		}
	}
	r, err := s.CloseAndRecv()
	return r.GetCommittedSize(), err
}

// wants fails t unless an error has a code.
func wants(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

func name(upload, text string) string {
	b := remote.BlobOf([]byte(text))
	return fmt.Sprintf("%sblobs/%s/%d", upload, b.Digest.Hex(), b.Size)
}

func TestReadingFromAStore(t *testing.T) {
	m := remotetest.New(t)
	m.Make(t, "kernel", map[string]string{"vmlinux": big, "config": "small"})
	c := dial(t, remotetest.Serve(t, serve.Options{Store: m.Store}))
	packed := func(name string) string { return strings.Replace(name, "blobs", "compressed-blobs/zstd", 1) }
	unpacked := func(b []byte) string {
		z, err := zstd.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		out, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	for _, q := range []struct {
		q    *bytestream.ReadRequest
		want string
		zstd bool
	}{
		{&bytestream.ReadRequest{ResourceName: name("", big)}, big, false},
		{&bytestream.ReadRequest{ResourceName: name("some/instance/", big)}, big, false},
		{&bytestream.ReadRequest{ResourceName: name("", big), ReadOffset: 3_000_000}, big[3_000_000:], false},
		{&bytestream.ReadRequest{ResourceName: name("", big), ReadOffset: 5, ReadLimit: 7}, big[5:12], false},
		{&bytestream.ReadRequest{ResourceName: name("", big), ReadOffset: int64(len(big))}, "", false},
		{&bytestream.ReadRequest{ResourceName: name("", "")}, "", false},
		{&bytestream.ReadRequest{ResourceName: packed(name("", big))}, big, true},
		{&bytestream.ReadRequest{ResourceName: packed(name("", big)), ReadOffset: 3_000_000}, big[3_000_000:], true},
	} {
		got, err := read(c, q.q)
		if err != nil {
			t.Errorf("%v: %v", q.q, err)
			continue
		}
		if q.zstd {
			if len(got) > len(q.want)/2 {
				t.Errorf("%v: %d bytes are not packed", q.q, len(got))
			}
			got = []byte(unpacked(got))
		}
		if string(got) != q.want {
			t.Errorf("%v: %d bytes, want %d", q.q, len(got), len(q.want))
		}
	}
	hash := digest.Of([]byte(big)).Hex()
	for q, want := range map[string]codes.Code{
		"":                             codes.InvalidArgument,
		"blobs/" + hash:                codes.InvalidArgument,
		"blobs/" + hash + "/-1":        codes.InvalidArgument,
		"blobs/" + hash + "/+5":        codes.InvalidArgument,
		"blobs/" + hash + "/5/more":    codes.InvalidArgument,
		"blobs/" + hash + "/5":         codes.NotFound, // another size
		"blobs/../../actions/5":        codes.InvalidArgument,
		"blobs/" + hash[:62] + "../5":  codes.InvalidArgument,
		"uploads/u/blobs/" + hash[:64]: codes.InvalidArgument,
		name("", "another"):            codes.NotFound,
		"compressed-blobs/deflate/" + hash + "/3200000": codes.InvalidArgument,
		strings.Repeat("x/", 10_000) + name("", big):    codes.InvalidArgument,
	} {
		_, err := read(c, &bytestream.ReadRequest{ResourceName: q})
		wants(t, q, err, want)
	}
	_, err := read(c, &bytestream.ReadRequest{ResourceName: name("", big), ReadOffset: int64(len(big)) + 1})
	wants(t, "an offset beyond", err, codes.OutOfRange)
	_, err = read(c, &bytestream.ReadRequest{ResourceName: name("", big), ReadOffset: -1})
	wants(t, "a negative offset", err, codes.OutOfRange)

	ctx := context.Background()
	cas := api.NewContentAddressableStorageClient(c)
	_, err = cas.BatchReadBlobs(ctx, &api.BatchReadBlobsRequest{Digests: []*api.Digest{
		{Hash: hash, SizeBytes: 1 << 62}, {Hash: hash, SizeBytes: 1 << 62}}})
	wants(t, "too many bytes", err, codes.InvalidArgument)
	_, err = cas.FindMissingBlobs(ctx, &api.FindMissingBlobsRequest{DigestFunction: api.DigestFunction_SHA1,
		BlobDigests: []*api.Digest{{Hash: hash}}})
	wants(t, "another function", err, codes.InvalidArgument)
	// Nothing is taken.
	_, err = write(c, &bytestream.WriteRequest{ResourceName: name("uploads/u/", "new"), Data: []byte("new"),
		FinishWrite: true})
	wants(t, "a write", err, codes.PermissionDenied)
	_, err = cas.BatchUpdateBlobs(ctx, &api.BatchUpdateBlobsRequest{})
	wants(t, "a batch", err, codes.PermissionDenied)
	_, err = api.NewActionCacheClient(c).UpdateActionResult(ctx, &api.UpdateActionResultRequest{})
	wants(t, "an update", err, codes.PermissionDenied)
	_, err = bytestream.NewByteStreamClient(c).QueryWriteStatus(ctx, &bytestream.QueryWriteStatusRequest{
		ResourceName: name("uploads/u/", "new")})
	wants(t, "a question", err, codes.PermissionDenied)
}

func TestABlobThatRotInTheStoreIsNotServed(t *testing.T) {
	m := remotetest.New(t)
	m.Make(t, "kernel", map[string]string{"vmlinux": big})
	path, err := m.Get(digest.Of([]byte(big)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ToUpper(big)), 0o600); err != nil {
		t.Fatal(err)
	}
	c := dial(t, remotetest.Serve(t, serve.Options{Store: m.Store}))
	_, err = read(c, &bytestream.ReadRequest{ResourceName: name("", big)})
	wants(t, "a rotten blob", err, codes.NotFound)
}

func TestWritingToAStore(t *testing.T) {
	m := remotetest.New(t)
	c := dial(t, remotetest.Serve(t, serve.Options{Store: m.Store, Writable: true, MaxBlob: 4e6, MaxPending: 5e6,
		Stall: 200 * time.Millisecond}))
	one := func(upload, text string, data string, offset int64, last bool) *bytestream.WriteRequest {
		return &bytestream.WriteRequest{ResourceName: name("uploads/"+upload+"/", text), Data: []byte(data),
			WriteOffset: offset, FinishWrite: last}
	}
	for what, c2 := range map[string]struct {
		messages []*bytestream.WriteRequest
		want     codes.Code
	}{
		"other bytes":    {[]*bytestream.WriteRequest{one("a", "12345", "54321", 0, true)}, codes.InvalidArgument},
		"too few":        {[]*bytestream.WriteRequest{one("b", "12345", "123", 0, true)}, codes.InvalidArgument},
		"too many":       {[]*bytestream.WriteRequest{one("c", "12345", "1234567", 0, true)}, codes.InvalidArgument},
		"a wrong offset": {[]*bytestream.WriteRequest{one("d", "12345", "12345", 3, true)}, codes.InvalidArgument},
		"no upload": {[]*bytestream.WriteRequest{{ResourceName: name("", "12345"), Data: []byte("12345"),
			FinishWrite: true}}, codes.InvalidArgument},
		"another name": {[]*bytestream.WriteRequest{one("e", "12345", "123", 0, false), one("f", "12345", "45", 3,
			true)}, codes.InvalidArgument},
		"too large": {[]*bytestream.WriteRequest{{ResourceName: "uploads/g/blobs/" + strings.Repeat("0", 64) +
			"/4000001"}}, codes.ResourceExhausted},
		"no zstd": {[]*bytestream.WriteRequest{{ResourceName: strings.Replace(name("uploads/h/", "12345"), "blobs",
			"compressed-blobs/zstd", 1), Data: []byte("12345"), FinishWrite: true}}, codes.InvalidArgument},
	} {
		_, err := write(c, c2.messages...)
		wants(t, what, err, c2.want)
	}
	if u, err := m.DU(); err != nil || u.Blobs != 0 {
		t.Errorf("%+v %v", u, err)
	}
	// A client that says nothing more is given up, and may go on later.
	ctx := context.Background()
	s, err := bytestream.NewByteStreamClient(c).Write(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(one("i", big, big[:1000], 0, false)); err != nil {
		t.Fatal(err)
	}
	err = s.RecvMsg(&bytestream.WriteResponse{})
	wants(t, "silence", err, codes.DeadlineExceeded)
	q, err := bytestream.NewByteStreamClient(c).QueryWriteStatus(ctx, &bytestream.QueryWriteStatusRequest{
		ResourceName: name("uploads/i/", big)})
	if err != nil || q.GetCommittedSize() != 1000 || q.GetComplete() {
		t.Fatalf("%v %v", q, err)
	}
	// While it waits, there is room for so much more only.
	_, err = write(c, one("j", big+".", "", 0, false))
	wants(t, "no room", err, codes.ResourceExhausted)
	if n, err := write(c, one("i", big, big[1000:], 1000, true)); err != nil || n != int64(len(big)) {
		t.Fatalf("%d %v", n, err)
	}
	if got, err := read(c, &bytestream.ReadRequest{ResourceName: name("", big)}); err != nil || string(got) != big {
		t.Errorf("%d bytes %v", len(got), err)
	}
	// Packed, and again.
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("packed", 10_000)
	for _, want := range []int64{int64(len(z.EncodeAll([]byte(text), nil))), -1} {
		n, err := write(c, &bytestream.WriteRequest{ResourceName: strings.Replace(name("uploads/k/", text), "blobs",
			"compressed-blobs/zstd", 1), Data: z.EncodeAll([]byte(text), nil), FinishWrite: true})
		if err != nil || n != want {
			t.Errorf("packed: %d %v, want %d", n, err, want)
		}
	}
	m.Check(t, m.Make(t, "x", map[string]string{"t": text}), map[string]string{"t": text})
	// Small ones.
	cas := api.NewContentAddressableStorageClient(c)
	r, err := cas.BatchUpdateBlobs(ctx, &api.BatchUpdateBlobsRequest{Requests: []*api.BatchUpdateBlobsRequest_Request{
		{Digest: remote.Proto(remote.BlobOf([]byte("a"))), Data: []byte("a")},
		{Digest: remote.Proto(remote.BlobOf([]byte("b"))), Data: []byte("x")},
		{Digest: remote.Proto(remote.BlobOf([]byte("c"))), Data: z.EncodeAll([]byte("c"), nil),
			Compressor: api.Compressor_ZSTD},
		{Digest: remote.Proto(remote.BlobOf([]byte("d"))), Data: z.EncodeAll(make([]byte, 1<<20), nil),
			Compressor: api.Compressor_ZSTD}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []codes.Code
	for _, one := range r.GetResponses() {
		got = append(got, codes.Code(one.GetStatus().GetCode()))
	}
	if want := fmt.Sprint([]codes.Code{codes.OK, codes.InvalidArgument, codes.OK, codes.InvalidArgument}); want !=
		fmt.Sprint(got) {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestResultsThatAreNotTaken(t *testing.T) {
	m, user, stranger := remotetest.New(t), remotetest.New(t), remotetest.New(t)
	m.Trust(t, user.Writer)
	c := dial(t, remotetest.Serve(t, serve.Options{Store: m.Store, Writable: true}))
	ctx := context.Background()
	put := func(text string) remote.Blob {
		b := remote.BlobOf([]byte(text))
		_, err := api.NewContentAddressableStorageClient(c).BatchUpdateBlobs(ctx, &api.BatchUpdateBlobsRequest{
			Requests: []*api.BatchUpdateBlobsRequest_Request{{Digest: remote.Proto(b), Data: []byte(text)}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	update := func(action digest.Digest, r *api.ActionResult) error {
		_, err := api.NewActionCacheClient(c).UpdateActionResult(ctx, &api.UpdateActionResultRequest{
			ActionDigest: &api.Digest{Hash: action.Hex()}, ActionResult: r})
		return err
	}
	of := func(of *remotetest.Machine, step string) (digest.Digest, *api.ActionResult) {
		s := of.Make(t, step, map[string]string{"out": step})
		r, err := of.Signed(s.Key)
		if err != nil {
			t.Fatal(err)
		}
		put(string(r.Data))
		a, err := remote.AddressOf(s.Key, of.Writer)
		if err != nil {
			t.Fatal(err)
		}
		return a.Digest, reapi.ResultOf(r)
	}
	action, result := of(user, "kernel")
	wants(t, "without outputs", update(action, result), codes.FailedPrecondition)
	put("kernel")
	other, _ := of(user, "initrd")
	wants(t, "at another address", update(other, result), codes.InvalidArgument)
	foreign, theirs := of(stranger, "kernel")
	wants(t, "a stranger's", update(foreign, theirs), codes.PermissionDenied)
	wants(t, "somebody else's", update(action, theirs), codes.PermissionDenied)
	wants(t, "of another kind", update(action, &api.ActionResult{StdoutRaw: []byte("x")}), codes.InvalidArgument)
	wants(t, "without a record", update(action, &api.ActionResult{OutputFiles: []*api.OutputFile{{Path: "record.json",
		Digest: remote.Proto(remote.BlobOf([]byte("no")))}}}), codes.FailedPrecondition)
	junk := put("no record")
	wants(t, "no record", update(action, &api.ActionResult{OutputFiles: []*api.OutputFile{{Path: "record.json",
		Digest: remote.Proto(junk)}}}), codes.InvalidArgument)
	if u, err := m.DU(); err != nil || u.Actions != 0 {
		t.Errorf("%+v %v", u, err)
	}
	wants(t, "whole", update(action, result), codes.OK)
	got, err := api.NewActionCacheClient(c).GetActionResult(ctx, &api.GetActionResultRequest{
		ActionDigest: &api.Digest{Hash: action.Hex()}})
	if err != nil || !proto.Equal(got, result) {
		t.Errorf("%v %v", got, err)
	}
}

func TestAServerEndsAndKeepsNoUploads(t *testing.T) {
	m := remotetest.New(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- serve.New(serve.Options{Store: m.Store, Writable: true, MaxConnections: 1}).Serve(ctx, l)
	}()
	c := dial(t, l.Addr().String())
	s, err := bytestream.NewByteStreamClient(c).Write(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	begun := &bytestream.WriteRequest{ResourceName: name("uploads/a/", big), Data: []byte(big[:10])}
	if err := s.Send(begun); err != nil {
		t.Fatal(err)
	}
	// The answer to another question says that the first message has come.
	for {
		if _, err := api.NewCapabilitiesClient(c).GetCapabilities(ctx, &api.GetCapabilitiesRequest{}); err != nil {
			t.Fatal(err)
		}
		if u, err := m.DU(); err != nil || u.Temp > 0 {
			break
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(m.Dir(), "tmp", "*")); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
}

// memory keeps results of any kind.
type memory struct {
	mu sync.Mutex
	at map[digest.Digest]*api.ActionResult
}

func (m *memory) Result(action digest.Digest) (*api.ActionResult, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.at[action]; r != nil {
		return r, nil
	}
	return nil, remote.ErrNone
}

func (m *memory) Update(action digest.Digest, r *api.ActionResult) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at[action] = r
	return nil
}

// TestBazelUsesTheServer has somebody else's client judge the server: what one Bazel built, another one takes. Bazel
// takes half a minute to start twice.
func TestBazelUsesTheServer(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_E2E", "test-e2e"), testenv.Tool("bazel"))
	results := &memory{at: map[digest.Digest]*api.ActionResult{}}
	m := remotetest.New(t)
	address := remotetest.Serve(t, serve.Options{Store: m.Store, Writable: true, Results: results})
	dir := t.TempDir()
	for file, text := range map[string]string{"WORKSPACE": "", "BUILD": `
genrule(name = "small", outs = ["small.txt"], cmd = "echo small > $@")
genrule(name = "large", srcs = ["small.txt"], outs = ["large.txt"], cmd = "cat $< > $@; seq 1000000 >> $@")
`} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bazel := func(root string) string {
		t.Helper()
		cmd := exec.Command("bazel", "--batch", "--output_user_root="+filepath.Join(t.TempDir(), root), "build",
			"//:large", "--remote_cache=grpc://"+address, "--remote_instance_name=team", "--spawn_strategy=standalone",
			"--genrule_strategy=standalone", "--symlink_prefix="+filepath.Join(dir, root+"-"), "--color=no")
		cmd.Dir = dir
		// It finds its Java and writes below HOME.
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "USER=nobody"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	first := bazel("first")
	if n := len(results.at); n != 2 || strings.Contains(first, "WARNING") {
		t.Fatalf("%d results: %s", n, first)
	}
	if second := bazel("second"); !strings.Contains(second, "2 remote cache hit") {
		t.Errorf("the second built: %s", second)
	}
	var texts [2][]byte
	for i, root := range []string{"first", "second"} {
		var err error
		if texts[i], err = os.ReadFile(filepath.Join(dir, root+"-bin", "large.txt")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(texts[0], texts[1]) || len(texts[0]) < 6_000_000 {
		t.Errorf("%d and %d bytes", len(texts[0]), len(texts[1]))
	}
}
