package stage

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Filter is a program for seccomp(2). In a plan it is one string: the usual profile has hundreds of instructions, each
// of which would be an object of its own to read.
type Filter []unix.SockFilter

// insnSize is the size of struct sock_filter of <linux/filter.h>: code (2 bytes), jt, jf, k (4 bytes).
const insnSize = 8

// MarshalText writes the instructions one after the other, in base64.
func (f Filter) MarshalText() ([]byte, error) {
	b := make([]byte, 0, insnSize*len(f))
	for _, i := range f {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText reads what MarshalText wrote.
func (f *Filter) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("seccomp filter: %w", err)
	}
	if len(b)%insnSize != 0 {
		return errors.New("seccomp filter: half an instruction")
	}
	out := make(Filter, len(b)/insnSize)
	for i := range out {
		w := b[i*insnSize:]
		out[i] = unix.SockFilter{Code: binary.NativeEndian.Uint16(w), Jt: w[2], Jf: w[3],
			K: binary.NativeEndian.Uint32(w[4:])}
	}
	*f = out
	return nil
}
