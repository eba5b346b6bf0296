package source

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/katabuild/katabuild/internal/regular"
)

// Signature is a detached OpenPGP signature and the keys that may have made it, each binary or ASCII-armoured.
type Signature struct {
	Data    []byte
	Keyring []byte
	Time    time.Time // when keys and the signature must be valid; the zero value means the present
}

// ReadSignature reads a signature and a ring of keys from plain files.
func ReadSignature(sig, ring string) (*Signature, error) {
	const most = 16 << 20 // bytes of a signature or a ring of keys; both have a few thousand
	s, err := regular.ReadFile(sig, most)
	if err != nil {
		return nil, err
	}
	k, err := regular.ReadFile(ring, most)
	if err != nil {
		return nil, err
	}
	return &Signature{Data: s, Keyring: k}, nil
}

// VerifyTarball checks that one of the keys signed the tarball. As kernel.org does, the signature is over the .tar,
// whatever compresses it on disk.
func VerifyTarball(path string, s Signature) error {
	keys, err := readKeyring(s.Keyring)
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	f, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := decompress(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return fmt.Errorf("signature of %s: %w", path, err)
	}
	defer plain.Close()
	config := &packet.Config{}
	if !s.Time.IsZero() {
		config.Time = func() time.Time { return s.Time }
	}
	check := openpgp.CheckDetachedSignature
	if armoured(s.Data) {
		check = openpgp.CheckArmoredDetachedSignature
	}
	if _, err := check(keys, plain, bytes.NewReader(s.Data), config); err != nil {
		return fmt.Errorf("signature of %s: %w", path, err)
	}
	return nil
}

func armoured(b []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN ")) }

func readKeyring(b []byte) (openpgp.EntityList, error) {
	var r io.Reader = bytes.NewReader(b)
	if armoured(b) {
		return openpgp.ReadArmoredKeyRing(r)
	}
	return openpgp.ReadKeyRing(r)
}
