package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/internal/digest"
)

// streams is the service ByteStream.
type streams struct {
	bytestream.UnimplementedByteStreamServer
	s *Server
}

// resource is what the name of a stream says.
type resource struct {
	blob   remote.Blob
	packed bool   // by zstd
	upload string // its UUID; empty for reading
}

// maxName bounds the name of a stream, in bytes.
const maxName = 1 << 10

// parseResource reads [INSTANCE/][uploads/UUID/](blobs|compressed-blobs/zstd)[/sha256]/HASH/SIZE[/ANYTHING], where
// ANYTHING stands behind uploads only.
func parseResource(name string) (resource, error) {
	var r resource
	wrong := status.Errorf(codes.InvalidArgument,
		"name %.100q: want [INSTANCE/][uploads/UUID/]blobs/HASH/SIZE, or compressed-blobs/zstd in the place of blobs",
		name)
	if len(name) > maxName {
		return r, wrong
	}
	parts := strings.Split(name, "/")
	for i, p := range parts {
		if p == "uploads" || p == "blobs" || p == "compressed-blobs" { // no part of an instance's name
			parts = parts[i:]
			break
		}
	}
	if len(parts) > 2 && parts[0] == "uploads" {
		r.upload, parts = parts[1], parts[2:]
		if r.upload == "" {
			return r, wrong
		}
	}
	switch {
	case len(parts) >= 3 && parts[0] == "blobs":
		parts = parts[1:]
	case len(parts) >= 4 && parts[0] == "compressed-blobs" && parts[1] == "zstd":
		r.packed, parts = true, parts[2:]
	default:
		return r, wrong
	}
	if parts[0] == "sha256" {
		parts = parts[1:]
	}
	if len(parts) < 2 || r.upload == "" && len(parts) > 2 {
		return r, wrong
	}
	d, err1 := digest.Parse("sha256:" + parts[0])
	size, err2 := strconv.ParseInt(parts[1], 10, 64)
	if err1 != nil || err2 != nil || size < 0 || strconv.FormatInt(size, 10) != parts[1] {
		return r, wrong
	}
	r.blob = remote.Blob{Digest: d, Size: size}
	return r, nil
}

// Read sends a blob.
func (b *streams) Read(q *bytestream.ReadRequest, out bytestream.ByteStream_ReadServer) error {
	r, err := parseResource(q.GetResourceName())
	if err != nil {
		return err
	}
	from, limit := q.GetReadOffset(), q.GetReadLimit()
	switch {
	case r.upload != "":
		return status.Error(codes.InvalidArgument, "an upload cannot be read")
	case from < 0 || from > r.blob.Size:
		return status.Errorf(codes.OutOfRange, "offset %d of %d bytes", from, r.blob.Size)
	case limit < 0 || limit > 0 && r.packed:
		return status.Errorf(codes.InvalidArgument, "limit %d", limit)
	}
	done, err := b.s.o.Store.Use(out.Context())
	if err != nil {
		return err
	}
	defer done()
	body, err := b.s.section(r.blob, from, limit)
	if err != nil {
		return err
	}
	defer body.Close()
	to := &sender{out}
	if !r.packed {
		_, err = io.CopyBuffer(to, struct{ io.Reader }{body}, make([]byte, chunk))
		return err
	}
	z, err := zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{z}, struct{ io.Reader }{body}, make([]byte, chunk))
	return errors.Join(err, z.Close())
}

// section reads a part of a blob; a limit of zero is none.
func (s *Server) section(b remote.Blob, from, limit int64) (io.ReadCloser, error) {
	n := b.Size - from
	if limit > 0 {
		n = min(n, limit)
	}
	if b == empty {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if data := s.records.dataOf(b); data != nil {
		return io.NopCloser(bytes.NewReader(data[from : from+n])), nil
	}
	f, err := s.open(b)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, from, n), f}, nil
}

// sender writes messages of a stream.
type sender struct {
	out bytestream.ByteStream_ReadServer
}

func (s *sender) Write(p []byte) (int, error) {
	for n := 0; n < len(p); n += chunk {
		if err := s.out.Send(&bytestream.ReadResponse{Data: p[n:min(n+chunk, len(p))]}); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// QueryWriteStatus says how much of an upload there is.
func (b *streams) QueryWriteStatus(_ context.Context,
	q *bytestream.QueryWriteStatusRequest) (*bytestream.QueryWriteStatusResponse, error) {
	if err := b.s.writable(); err != nil {
		return nil, err
	}
	r, err := parseResource(q.GetResourceName())
	if err != nil {
		return nil, err
	}
	if b.s.has(r.blob) {
		return &bytestream.QueryWriteStatusResponse{CommittedSize: r.blob.Size, Complete: true}, nil
	}
	n, ok := b.s.uploads.committed(q.GetResourceName())
	if !ok {
		return nil, status.Error(codes.NotFound, "no such upload")
	}
	return &bytestream.QueryWriteStatusResponse{CommittedSize: n}, nil
}

// Write takes a blob.
func (b *streams) Write(in bytestream.ByteStream_WriteServer) error {
	if err := b.s.writable(); err != nil {
		return err
	}
	from := receive(in, b.s.o.Stall)
	first, err := from.next()
	if err != nil {
		return err
	}
	name := first.GetResourceName()
	r, err := parseResource(name)
	if err != nil {
		return err
	}
	if r.upload == "" {
		return status.Error(codes.InvalidArgument, "want the name of an upload: uploads/UUID/blobs/HASH/SIZE")
	}
	answer := &bytestream.WriteResponse{CommittedSize: r.blob.Size}
	if b.s.has(r.blob) {
		if r.packed {
			answer.CommittedSize = -1
		}
		return in.SendAndClose(answer)
	}
	done, err := b.s.o.Store.Use(in.Context())
	if err != nil {
		return err
	}
	defer done()
	p, err := b.s.uploads.begin(name, r.blob)
	if err != nil {
		b.s.o.Refused(err)
		return err
	}
	from.name, from.first, from.at = name, first, p.written
	whole, err := from.into(p, r.packed)
	if err == nil && whole {
		if err = b.s.uploads.adopt(p); err == nil && r.packed {
			answer.CommittedSize = from.at
		}
	} else if err == nil {
		err = status.Errorf(codes.InvalidArgument, "%d of %d bytes", p.written, r.blob.Size)
	}
	// What breaks off may go on later, but for a packed stream, whose state is gone.
	b.s.uploads.end(name, p, whole || r.packed || status.Code(err) == codes.InvalidArgument)
	if err != nil {
		return err
	}
	return in.SendAndClose(answer)
}

// receiver reads the messages of an upload, as bytes.
type receiver struct {
	messages <-chan message
	stall    time.Duration
	name     string
	first    *bytestream.WriteRequest
	at       int64 // of the next message
	left     []byte
	last     bool
}

type message struct {
	m   *bytestream.WriteRequest
	err error
}

// receive starts to receive. It ends when the call ends.
func receive(in bytestream.ByteStream_WriteServer,
	stall time.Duration) *receiver {
	c := make(chan message)
	go func() {
		for {
			m, err := in.Recv()
			select {
			case c <- message{m, err}:
			case <-in.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return &receiver{messages: c, stall: stall}
}

func (r *receiver) next() (*bytestream.WriteRequest, error) {
	t := time.NewTimer(r.stall)
	defer t.Stop()
	select {
	case m := <-r.messages:
		if errors.Is(m.err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		return m.m, m.err
	case <-t.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "nothing came for %v", r.stall)
	}
}

// Read implements io.Reader, to the message that says it is the last.
func (r *receiver) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		if r.last {
			return 0, io.EOF
		}
		m := r.first
		if r.first = nil; m == nil {
			var err error
			if m, err = r.next(); err != nil {
				return 0, err
			}
		}
		if n := m.GetResourceName(); n != "" && n != r.name {
			return 0, status.Errorf(codes.InvalidArgument, "the name changed to %.100q", n)
		}
		if m.GetWriteOffset() != r.at {
			return 0, status.Errorf(codes.InvalidArgument, "offset %d, want %d", m.GetWriteOffset(), r.at)
		}
		r.left, r.last = m.GetData(), m.GetFinishWrite()
		r.at += int64(len(r.left))
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// into writes to an upload, and says whether all of it is there.
func (r *receiver) into(p *part, packed bool) (whole bool, err error) {
	var from io.Reader = r
	if packed {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return false, err
		}
		defer z.Close()
		from = z
	}
	room := p.blob.Size - p.written
	n, err := io.Copy(p.file, io.LimitReader(from, room+1))
	p.written += min(n, room)
	switch {
	case n > room:
		return false, status.Errorf(codes.InvalidArgument, "more than %d bytes", p.blob.Size)
	case err != nil && packed && status.Code(err) == codes.Unknown:
		return false, status.Error(codes.InvalidArgument, fmt.Sprintf("zstd: %v", err))
	case err != nil:
		return false, err
	}
	return p.written == p.blob.Size, nil
}
