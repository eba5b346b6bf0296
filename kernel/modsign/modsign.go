// Package modsign signs kernel modules, and makes the key for it where nobody gives one.
//
// A signature depends on the module and the key alone. The key never comes near a kernel tree, whose programs are
// foreign: the tree gets the certificate, and the modules are signed once they have left it.
//
// Formats: Linux, Documentation/admin-guide/module-signing.rst and include/linux/module_signature.h; RFC 2315 (PKCS #7)
// and RFC 8017 (PKCS #1).
package modsign

import (
	"bytes"
	"crypto"
	"crypto/hkdf"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
)

// Key signs modules.
type Key struct {
	private     *rsa.PrivateKey
	certificate *x509.Certificate
}

// minBits and maxBits bound a key: shorter ones are broken, and the kernel takes none that is longer (Linux:
// crypto/rsa.c; include/crypto/public_key.h).
const (
	minBits     = 2048
	maxBits     = 4096
	derivedBits = 2048
)

// Parse reads a key and its certificate from PEM text: a private key in PKCS #8 or PKCS #1, and the certificate of its
// public half, which must not have expired at a time. That it begins later is no mistake: a build has the time of its
// lock, which may be older than the key.
func Parse(text []byte, at time.Time) (*Key, error) {
	var k Key
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		if err := k.take(b); err != nil {
			return nil, err
		}
	}
	switch {
	case k.private == nil:
		return nil, errors.New("no private key in PEM form")
	case k.certificate == nil:
		return nil, errors.New("no certificate in PEM form beside the private key")
	case !k.private.PublicKey.Equal(k.certificate.PublicKey):
		return nil, errors.New("the certificate is of another key")
	case k.private.N.BitLen() < minBits || k.private.N.BitLen() > maxBits:
		return nil, fmt.Errorf("a key of %d bits; want %d to %d", k.private.N.BitLen(), minBits, maxBits)
	case at.After(k.certificate.NotAfter):
		return nil, fmt.Errorf("the certificate was valid until %s, and the time is %s: make another one for the key",
			k.certificate.NotAfter.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	return &k, nil
}

// take adds what a block holds.
func (k *Key) take(b *pem.Block) error {
	private := k.private
	var err error
	switch b.Type {
	case "CERTIFICATE":
		if k.certificate != nil {
			return errors.New("two certificates; want one, of the key")
		}
		if k.certificate, err = x509.ParseCertificate(b.Bytes); err != nil {
			return fmt.Errorf("the certificate: %w", err)
		}
		return nil
	case "RSA PRIVATE KEY":
		if strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED") { // RFC 1421, 4.6.1.1
			return errEncrypted
		}
		k.private, err = x509.ParsePKCS1PrivateKey(b.Bytes)
	case "PRIVATE KEY":
		var any any
		if any, err = x509.ParsePKCS8PrivateKey(b.Bytes); err == nil {
			var ok bool
			if k.private, ok = any.(*rsa.PrivateKey); !ok {
				return notRSA(fmt.Sprintf("the type %T", any))
			}
		}
	case "ENCRYPTED PRIVATE KEY":
		return errEncrypted
	case "EC PRIVATE KEY", "DSA PRIVATE KEY", "OPENSSH PRIVATE KEY":
		return notRSA("the form " + b.Type)
	default:
		return nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("the private key: %w", err)
	case private != nil:
		return errors.New("two private keys; want one")
	}
	return nil
}

var errEncrypted = errors.New("the private key is encrypted, and nobody is asked for a pass phrase: decrypt it by " +
	"openssl pkey -in ENCRYPTED -out KEY")

func notRSA(what string) error {
	return fmt.Errorf("a key of %s; want RSA in PEM form, as openssl genpkey writes it: its signatures are always the "+
		"same", what)
}

// Derive makes the key that belongs to a seed, with a certificate of that time. Whoever knows the seed has the key, so
// what it signs is told apart from other builds' modules, and not protected from people.
func Derive(seed digest.Digest, t time.Time) (*Key, error) {
	private, err := deriveRSA(string(seed))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes([]byte(seed.Short())),
		Subject:      pkix.Name{CommonName: "katabuild modules " + seed.Short()},
		NotBefore:    t.UTC(), NotAfter: t.UTC().AddDate(100, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		SignatureAlgorithm: x509.SHA256WithRSA,
	}
	// The signature of PKCS #1 1.5 takes nothing random.
	der, err := x509.CreateCertificate(nil, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, fmt.Errorf("certificate for modules: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	return &Key{private, certificate}, err
}

// exponent is the public one. FIPS 186-5, A.1.1.
const exponent = 65537

// deriveRSA takes primes from a stream of bytes that the seed decides.
func deriveRSA(seed string) (*rsa.PrivateKey, error) {
	e := big.NewInt(exponent)
	one := big.NewInt(1)
	n := 0
	next := func() (*big.Int, error) {
		for ; ; n++ {
			b, err := hkdf.Key(sha256.New, []byte(seed), nil, fmt.Sprintf("katabuild module key, candidate %d", n),
				derivedBits/2/8)
			if err != nil {
				return nil, err
			}
			b[0] |= 0xc0 // so that the product has all its bits. FIPS 186-5, A.1.3
			b[len(b)-1] |= 1
			p := new(big.Int).SetBytes(b)
			if p.ProbablyPrime(20) && new(big.Int).GCD(nil, nil, e, new(big.Int).Sub(p, one)).Cmp(one) == 0 {
				n++
				return p, nil
			}
		}
	}
	p, err := next()
	if err != nil {
		return nil, err
	}
	q, err := next()
	if err != nil {
		return nil, err
	}
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	k := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: exponent},
		D:         new(big.Int).ModInverse(e, phi), Primes: []*big.Int{p, q},
	}
	k.Precompute()
	return k, k.Validate()
}

// Certificate is the certificate in PEM form, for the kernel's list of trusted keys.
func (k *Key) Certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.certificate.Raw})
}

// marker is what ends a signed module. Linux: include/linux/module_signature.h, MODULE_SIG_STRING.
const marker = "~Module signature appended~\n"

// idPKCS7 says that the signature is a PKCS #7 message. Linux: include/linux/module_signature.h, PKEY_ID_PKCS7.
const idPKCS7 = 2

// trailer stands between a signature and the marker: struct module_signature.
type trailer struct {
	Algorithm, Hash, IDType, SignerLength, KeyIDLength byte
	_                                                  [3]byte
	SignatureLength                                    uint32
}

// Object identifiers of PKCS #7 (RFC 2315, 14), SHA-256 (RFC 8017, B.1) and RSA (RFC 8017, A.1).
var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidSHA256     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

// What follows is RFC 2315, 7, 9.1 and 9.2, without what a detached signature of one signer leaves out.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content signedData `asn1:"explicit,tag:0"`
}

type signedData struct {
	Version    int
	Algorithms []pkix.AlgorithmIdentifier `asn1:"set"`
	Content    struct{ Type asn1.ObjectIdentifier }
	Signers    []signerInfo `asn1:"set"`
}

type signerInfo struct {
	Version         int
	Signer          issuerAndSerial
	DigestAlgorithm pkix.AlgorithmIdentifier
	Algorithm       pkix.AlgorithmIdentifier
	Signature       []byte
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial *big.Int
}

// Sign reads a module, and returns what has to be appended to it.
func (k *Key) Sign(module io.Reader) ([]byte, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, module); err != nil {
		return nil, err
	}
	signature, err := rsa.SignPKCS1v15(nil, k.private, crypto.SHA256, sum.Sum(nil))
	if err != nil {
		return nil, err
	}
	null := asn1.RawValue{Tag: asn1.TagNull}
	hash := pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: null}
	message := contentInfo{Type: oidSignedData, Content: signedData{
		Version: 1, Algorithms: []pkix.AlgorithmIdentifier{hash},
		Signers: []signerInfo{{
			Version: 1, DigestAlgorithm: hash, Signature: signature,
			Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: null},
			Signer: issuerAndSerial{Issuer: asn1.RawValue{FullBytes: k.certificate.RawIssuer},
				Serial: k.certificate.SerialNumber},
		}},
	}}
	message.Content.Content.Type = oidData
	der, err := asn1.Marshal(message)
	if err != nil {
		return nil, err
	}
	out := bytes.NewBuffer(der)
	if err := binary.Write(out, binary.BigEndian, trailer{IDType: idPKCS7,
		SignatureLength: uint32(len(der))}); err != nil {
		return nil, err
	}
	out.WriteString(marker)
	return out.Bytes(), nil
}
