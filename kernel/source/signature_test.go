package source

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

var (
	signed = time.Unix(1_700_000_000, 0)
	config = &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return signed }}
)

func newKey(t *testing.T, name string) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity(name, "", name+"@example.org", config)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyring(t *testing.T, armoured bool, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		if err := k.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	if !armoured {
		return b.Bytes()
	}
	var a bytes.Buffer
	w, err := armor.Encode(&a, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return a.Bytes()
}

func TestSignaturesOfTarballs(t *testing.T) {
	good, other := newKey(t, "good"), newKey(t, "other")
	plain := tarball(t, kernelTree()...)
	altered := bytes.Replace(plain, []byte("VERSION = 6"), []byte("VERSION = 7"), 1)
	var binary, armoured bytes.Buffer
	if err := openpgp.DetachSign(&binary, good, bytes.NewReader(plain), config); err != nil {
		t.Fatal(err)
	}
	if err := openpgp.ArmoredDetachSign(&armoured, good, bytes.NewReader(plain), config); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tar       []byte
		signature []byte
		keyring   []byte
		at        time.Time
		ok        bool
	}{
		"binary":          {plain, binary.Bytes(), keyring(t, false, good), signed, true},
		"armoured":        {plain, armoured.Bytes(), keyring(t, true, good), signed, true},
		"one of two keys": {plain, armoured.Bytes(), keyring(t, true, other, good), signed, true},
		"now":             {plain, binary.Bytes(), keyring(t, false, good), time.Time{}, true},
		"over the tar inside xz": {compressed(t, "xz", plain), binary.Bytes(), keyring(t, false, good), signed,
			true},
		"over the tar inside gz": {compressed(t, "gz", plain), binary.Bytes(), keyring(t, false, good), signed,
			true},
		"over the tar inside zst": {compressed(t, "zst", plain), binary.Bytes(), keyring(t, false, good), signed,
			true},
		"another key":    {plain, binary.Bytes(), keyring(t, false, other), signed, false},
		"an altered tar": {altered, binary.Bytes(), keyring(t, false, good), signed, false},
		"an altered tar inside xz": {compressed(t, "xz", altered), binary.Bytes(), keyring(t, false, good),
			signed, false},
		"a longer tar": {append(bytes.Clone(plain), 0), binary.Bytes(), keyring(t, false, good),
			signed, false},
		"a shorter tar": {plain[:len(plain)-1], binary.Bytes(), keyring(t, false, good), signed, false},
		"a truncated xz": {compressed(t, "xz", plain)[:100], binary.Bytes(), keyring(t, false, good),
			signed, false},
		"before the key was made": {plain, binary.Bytes(), keyring(t, false, good), signed.Add(-time.Hour), false},
		"no signature":            {plain, nil, keyring(t, false, good), signed, false},
		"half a signature": {plain, binary.Bytes()[:binary.Len()/2], keyring(t, false, good), signed,
			false},
		"no keys":                      {plain, binary.Bytes(), nil, signed, false},
		"rubbish for keys":             {plain, binary.Bytes(), []byte("-----BEGIN PGP\n"), signed, false},
		"a keyring for the signature":  {plain, keyring(t, true, good), keyring(t, true, good), signed, false},
		"a signature for the keyring ": {plain, binary.Bytes(), binary.Bytes(), signed, false},
	} {
		path := filepath.Join(t.TempDir(), "linux.tar")
		if err := os.WriteFile(path, c.tar, 0o644); err != nil {
			t.Fatal(err)
		}
		err := VerifyTarball(path, Signature{Data: c.signature, Keyring: c.keyring, Time: c.at})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
