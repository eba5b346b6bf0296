package spans

import (
	"encoding/binary"
	"fmt"
	"io"
)

// MaxFrame bounds the spans that a guest sends at once, in bytes.
const MaxFrame = 256 << 10

// lenFrame is the length of a frame's head: how many bytes follow, in 64 bits, the most significant first, as Kata
// Containers' agent has it.
const lenFrame = 8

// AppendFrame appends the frame of what Encode has made.
func AppendFrame(b, data []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(data))), data...)
}

// ReadFrame reads one frame. Its error is io.EOF where there is none, and an error before anything of a frame is
// read that is too large.
func ReadFrame(r io.Reader) ([]byte, error) {
	var head [lenFrame]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint64(head[:])
	if n > MaxFrame {
		return nil, fmt.Errorf("a frame of %d bytes: %w", n, errLarge)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("a frame of %d bytes: %w", n, io.ErrUnexpectedEOF)
	}
	return b, nil
}
