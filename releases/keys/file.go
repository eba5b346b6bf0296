package keys

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/youmark/pkcs8"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/owned"
)

// maxFile bounds a file with a key, in bytes.
const maxFile = 64 << 10

// kdf is how a passphrase becomes a key: PBKDF2 with SHA-256, as OpenSSL reads it, so often that a guess takes a
// noticeable part of a second. OpenSSL's own default is 2048 times.
var kdf = &pkcs8.Opts{Cipher: pkcs8.AES256CBC,
	KDFOpts: pkcs8.PBKDF2Opts{SaltSize: 16, IterationCount: 600_000, HMACHash: crypto.SHA256}}

// PublicSuffix is behind the name of a private key's file in that of the public one.
const PublicSuffix = ".pub"

// Write draws a key of a kind and writes it to path, for nobody else to read, and its public half beside it. An empty
// passphrase leaves it unencrypted. Nothing is overwritten.
func Write(path, kind string, passphrase []byte) (Public, error) {
	for _, p := range []string{path, path + PublicSuffix} {
		if _, err := os.Lstat(p); !errors.Is(err, os.ErrNotExist) {
			return Public{}, fmt.Errorf("%s is there already: a key is never overwritten; choose another name", p)
		}
	}
	key, err := generate(kind)
	if err != nil {
		return Public{}, err
	}
	public, err := Of(key.Public())
	if err != nil {
		return Public{}, err
	}
	b := &pem.Block{Type: privateType}
	if len(passphrase) > 0 {
		b.Type = encryptedType
		b.Bytes, err = pkcs8.MarshalPrivateKey(key, passphrase, kdf)
	} else {
		b.Bytes, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		return Public{}, fmt.Errorf("key: %w", err)
	}
	return public, errors.Join(atomicfile.Write(path, pem.EncodeToMemory(b), 0o600),
		atomicfile.Write(path+PublicSuffix, public.PEM(), 0o644))
}

// Read reads a private key from a file that only this user can read. ask is called for the passphrase of one that is
// encrypted.
func Read(path string, ask func() ([]byte, error)) (Signer, error) {
	text, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	der, err := block(text, privateType, encryptedType)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if bytes.Contains(text, []byte(encryptedType)) {
		var passphrase []byte
		if passphrase, err = ask(); err != nil {
			return nil, fmt.Errorf("key %s: passphrase: %w", path, err)
		}
		key, err = decrypt(der, passphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s: a %T cannot sign", path, key)
	}
	return FromPrivate(s)
}

// decrypt opens an encrypted key. The library panics on some that are not in its form.
func decrypt(der, passphrase []byte) (key any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it is not in the form PBES2: %v", r)
		}
	}()
	if len(passphrase) == 0 {
		return nil, errors.New("it is encrypted, and the passphrase is empty")
	}
	key, _, err = pkcs8.ParsePrivateKey(der, passphrase)
	if err != nil {
		return nil, fmt.Errorf("wrong passphrase, or a form that is not PBES2: %w", err)
	}
	return key, nil
}

// readPrivate reads a file that nobody else can read or could have put there.
func readPrivate(path string) ([]byte, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(abs)
	if err != nil {
		return nil, err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, which lets other users in; run: chmod 600 %s", path, fi.Mode().Perm(),
			path)
	}
	return owned.Read(abs, maxFile)
}

// ReadPublic reads a public key from a file.
func ReadPublic(path string) (Public, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Public{}, err
	}
	p, err := ParsePublic(text)
	if err != nil {
		return Public{}, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}
