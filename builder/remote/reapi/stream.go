package reapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"

	"github.com/katabuild/katabuild/builder/remote"
)

// The names of a blob in ByteStream, behind the name of the instance. Remote Execution API,
// ContentAddressableStorage: "/blobs/", "/compressed-blobs/zstd/", both with "uploads/UUID" before them for writing.
func (c *client) resource(packed bool, b remote.Blob, upload string) string {
	name := c.o.Instance
	if name != "" {
		name += "/"
	}
	if upload != "" {
		name += "uploads/" + upload + "/"
	}
	kind := "blobs"
	if packed {
		kind = "compressed-blobs/zstd"
	}
	return fmt.Sprintf("%s%s/%s/%d", name, kind, b.Digest.Hex(), b.Size)
}

// maxWindow bounds what unpacking a stream keeps in memory, in bytes.
const maxWindow = 32 << 20

// openStream begins to read a blob at an offset, which is of the blob also where it comes packed.
func (c *client) openStream(ctx context.Context, can *abilities, b remote.Blob, offset int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := c.stream().Read(ctx, &bytestream.ReadRequest{ResourceName: c.resource(can.zstd, b, ""),
		ReadOffset: offset})
	if err != nil {
		cancel()
		return nil, explain(err)
	}
	in := &incoming{stream: s, cancel: cancel}
	if !can.zstd {
		return in, nil
	}
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return &unpacked{z, in}, nil
}

// incoming reads a stream.
type incoming struct {
	stream grpc.ServerStreamingClient[bytestream.ReadResponse]
	cancel context.CancelFunc
	left   []byte // of the last message
}

func (i *incoming) Read(p []byte) (int, error) {
	for len(i.left) == 0 {
		m, err := i.stream.Recv()
		if err != nil {
			return 0, explain(err)
		}
		i.left = m.GetData()
	}
	n := copy(p, i.left)
	i.left = i.left[n:]
	return n, nil
}

func (i *incoming) Close() error {
	i.cancel()
	return nil
}

// unpacked reads a packed stream.
type unpacked struct {
	*zstd.Decoder
	in *incoming
}

func (u *unpacked) Close() error {
	u.Decoder.Close()
	return u.in.Close()
}

// uploadID draws the name of an upload, a random UUID. RFC 9562, section 5.4.
func uploadID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// attempts is how often an upload is tried that breaks off.
const attempts = 3

// putStream writes a file, and goes on where the server has it when the stream breaks off.
func (c *client) putStream(ctx context.Context, can *abilities, f remote.File, moved func(int64)) error {
	id, err := uploadID()
	if err != nil {
		return err
	}
	name := c.resource(can.zstd, f.Blob, id)
	var at int64
	for range attempts {
		if err = c.write(ctx, can.zstd, name, f, at, moved); err == nil || ctx.Err() != nil {
			return err
		}
		if can.zstd { // the server's offset would be of packed bytes
			if id, e := uploadID(); e == nil {
				name = c.resource(true, f.Blob, id)
			}
			continue
		}
		at = 0
		if s, e := c.stream().QueryWriteStatus(ctx, &bytestream.QueryWriteStatusRequest{ResourceName: name}); e == nil {
			if s.GetComplete() {
				return nil
			}
			at = min(max(s.GetCommittedSize(), 0), f.Size)
		}
	}
	return err
}

// write sends a file from an offset on.
func (c *client) write(ctx context.Context, packed bool, name string, f remote.File, at int64,
	moved func(int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, err := f.Open(at)
	if err != nil {
		return err
	}
	defer from.Close()
	s, err := c.stream().Write(ctx)
	if err != nil {
		return explain(err)
	}
	out := &outgoing{stream: s, name: name, at: at}
	if packed {
		err = pack(out, from, moved)
	} else {
		err = out.copy(from, moved)
	}
	if err == nil {
		err = out.finish()
	}
	// A server that has the blob by now answers before it has read all.
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	r, err := s.CloseAndRecv()
	if err != nil {
		return explain(err)
	}
	// A packed blob that the server has already is answered by -1.
	if n := r.GetCommittedSize(); !packed && n != f.Size {
		return fmt.Errorf("the server has taken %d of %d bytes", n, f.Size)
	}
	return nil
}

// outgoing writes a stream.
type outgoing struct {
	stream grpc.ClientStreamingClient[bytestream.WriteRequest, bytestream.WriteResponse]
	name   string // of the resource; only the first message has it
	at     int64
}

func (o *outgoing) send(data []byte, last bool) error {
	err := o.stream.Send(&bytestream.WriteRequest{ResourceName: o.name, WriteOffset: o.at, FinishWrite: last,
		Data: data})
	o.name = ""
	o.at += int64(len(data))
	return err
}

func (o *outgoing) finish() error { return o.send(nil, true) }

// Write implements io.Writer, for packing.
func (o *outgoing) Write(p []byte) (int, error) {
	for n := 0; n < len(p); n += chunk {
		if err := o.send(p[n:min(n+chunk, len(p))], false); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (o *outgoing) copy(from io.Reader, moved func(int64)) error {
	for {
		b := make([]byte, chunk) // a message keeps it
		n, err := io.ReadFull(from, b)
		if n > 0 {
			if err := o.send(b[:n], false); err != nil {
				return err
			}
			moved(int64(n))
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// pack sends from packed by zstd.
func pack(o *outgoing, from io.Reader, moved func(int64)) error {
	z, err := zstd.NewWriter(o, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	b := make([]byte, chunk)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if _, err := z.Write(b[:n]); err != nil {
				return err
			}
			moved(int64(n))
		}
		switch {
		case errors.Is(err, io.EOF):
			return z.Close()
		case err != nil:
			return err
		}
	}
}
