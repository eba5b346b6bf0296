// Package wake is the document with which a host wakes a guest that was restored from a template, and how it travels.
//
// docs/formats/wake.md owns the bytes. The host writes it, and the guest's agent reads it before it serves anybody.
package wake

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/lazyregexp"
)

// version is the only version this package reads and writes.
const version = 1

// seedSize is that of the randomness which the host gives, in bytes.
const seedSize = 64

// maxSize bounds a document and an answer on their way, in bytes.
const maxSize = 4096

// awake is the answer of a guest that has done all that was asked. Any other says why it has not.
const awake = "awake"

// Request is what a restored guest must know before it does anything for anybody.
type Request struct {
	Version   int    `json:"version"`
	Seed      string `json:"seed"`       // of the kernel's randomness: seedSize bytes in hexadecimal
	TimeNS    int64  `json:"time_ns"`    // nanoseconds since the Epoch
	Hostname  string `json:"hostname"`   // empty leaves the guest's own
	MachineID string `json:"machine_id"` // as machine-id(5) has it
}

// New is a request of a host at a time, with randomness from random.
func New(random io.Reader, now time.Time, hostname string) (*Request, error) {
	b := make([]byte, seedSize+machineID/2)
	if _, err := io.ReadFull(random, b); err != nil {
		return nil, fmt.Errorf("randomness for a guest: %w", err)
	}
	r := &Request{Version: version, Seed: hex.EncodeToString(b[:seedSize]), TimeNS: now.UnixNano(), Hostname: hostname,
		MachineID: hex.EncodeToString(b[seedSize:])}
	return r, r.check()
}

// machineID is the length of a machine's id in digits. machine-id(5).
const machineID = 32

var (
	idForm   = lazyregexp.New(`^[0-9a-f]{32}$`)
	seedForm = lazyregexp.New(`^[0-9a-f]{128}$`)
	nameForm = lazyregexp.New(`^[A-Za-z0-9_.-]{0,64}$`) // Linux: __NEW_UTS_LEN
)

func (r *Request) check() error {
	zero := func(s string) bool { return strings.Trim(s, "0") == "" }
	switch {
	case r.Version != version:
		return fmt.Errorf("version %d, this katabuild reads version %d", r.Version, version)
	case !seedForm().MatchString(r.Seed) || zero(r.Seed):
		return fmt.Errorf("seed: want %d random bytes in hexadecimal", seedSize)
	case r.TimeNS <= 0:
		return fmt.Errorf("time %d: want nanoseconds since the Epoch", r.TimeNS)
	case !nameForm().MatchString(r.Hostname):
		return fmt.Errorf("host name %q: want at most 64 letters, digits, dashes, dots and underscores", r.Hostname)
	case !idForm().MatchString(r.MachineID) || zero(r.MachineID):
		return fmt.Errorf("machine id %q: want %d hexadecimal digits, not all 0", r.MachineID, machineID)
	}
	return nil
}

// encode is the canonical form.
func (r *Request) encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("wake: %w", err)
	}
	return document.Encode(r)
}

// decode reads the canonical form and nothing else.
func decode(data []byte) (*Request, error) {
	var r Request
	if err := document.Decode("wake", data, &r); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("wake: %w", err)
	}
	return &r, nil
}

// Random is the seed's bytes.
func (r *Request) Random() []byte {
	b, _ := hex.DecodeString(r.Seed) // check has seen it
	return b
}

// Send sends the request.
func (r *Request) Send(w io.Writer) error {
	b, err := r.encode()
	if err != nil {
		return err
	}
	return send(w, b)
}

// Receive takes a request.
func Receive(r io.Reader) (*Request, error) {
	b, err := receive(r)
	if err != nil {
		return nil, err
	}
	return decode(b)
}

// Answer tells the host what became of its request.
func Answer(w io.Writer, err error) error {
	text := awake
	if err != nil {
		text = "no: " + err.Error()
	}
	return send(w, []byte(text[:min(len(text), maxSize)]))
}

// Await takes the guest's answer, and is nil where that is awake.
func Await(r io.Reader) error {
	b, err := receive(r)
	if err != nil {
		return err
	}
	if s := string(b); s != awake {
		return fmt.Errorf("the guest says %q", s)
	}
	return nil
}

// send writes the length of what follows in 4 bytes, the highest first, and that.
func send(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func receive(r io.Reader) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(n[:])
	if size == 0 || size > maxSize {
		return nil, fmt.Errorf("wake: %d bytes, want 1 to %d", size, maxSize)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, errors.Join(errors.New("wake: cut off"), err)
	}
	return b, nil
}
