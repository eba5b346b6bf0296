package objcache

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// A compiler asks with one frame: the working folder, the compiler's name, the number of variables, these, and its
// arguments. It is answered with hit and what the compiler said, or with miss. After a miss it compiles, sends a frame
// of the processor time and of what the compiler said, and waits for the answer miss before it ends. It hangs up if
// the compiler failed. A frame is its length, 4 bytes, little endian, and that many bytes.

const (
	hit  = 'h'
	miss = 'm'
)

// maxFrame bounds a frame: a command line of the kernel has up to 10 kB.
const maxFrame = 4 << 20

var errFrame = errors.New("a frame that is too long or malformed")

func writeFrame(w io.Writer, data []byte) error {
	_, err := w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}

func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, errFrame
	}
	data := make([]byte, n)
	_, err := io.ReadFull(r, data)
	return data, err
}

// question is what a compiler asks.
type question struct {
	dir, compiler string
	env, args     []string
}

func (q question) encode() []byte {
	all := []string{q.dir, q.compiler, string(rune('0' + len(q.env)))}
	return []byte(strings.Join(append(append(all, q.env...), q.args...), "\x00"))
}

func decodeQuestion(data []byte) (question, error) {
	f := strings.Split(string(data), "\x00")
	if len(f) < 3 || len(f[2]) != 1 {
		return question{}, errFrame
	}
	n := int(f[2][0]) - '0'
	if n < 0 || len(f) < 3+n {
		return question{}, errFrame
	}
	return question{dir: f[0], compiler: f[1], env: f[3 : 3+n], args: f[3+n:]}, nil
}
