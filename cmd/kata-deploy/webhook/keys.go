package webhook

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// The keys of a Secret. Those of the certificate are Kubernetes' own names.
const (
	authoritiesKey  = "ca.crt" // the newest first; the older ones are still believed
	authorityKeyKey = "ca.key" // of the newest
	certKey         = "tls.crt"
	keyKey          = "tls.key"
)

// How long they are good. Each is renewed when a third of that is left.
const (
	authorityTime = 365 * 24 * time.Hour
	certTime      = 60 * 24 * time.Hour
)

// skewed is how far clocks may go wrong.
const skewed = time.Hour

// pair is a certificate and its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// renew makes what a Secret lacks, or what will not be good for long. An authority that is renewed is believed as long
// as it is good, and what it has signed stays in use: so nobody sees a certificate that is not believed yet.
func renew(now time.Time, have map[string][]byte, names []string) (data map[string][]byte, changed bool, err error) {
	data = map[string][]byte{}
	for k, v := range have {
		data[k] = v
	}
	believed := certificates(data[authoritiesKey])
	believed = slices.DeleteFunc(believed, func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
	authority, err := pairOf(data[authoritiesKey], data[authorityKeyKey])
	if err != nil || late(now, authority.cert, authorityTime) {
		if authority, err = sign(now, &x509.Certificate{Subject: pkix.Name{CommonName: "kata-deploy webhook"},
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			NotAfter: now.Add(authorityTime)}, nil); err != nil {
			return nil, false, err
		}
		believed = append([]*x509.Certificate{authority.cert}, believed...)
		if data[authorityKeyKey], err = keyPEM(authority.key); err != nil {
			return nil, false, err
		}
	}
	data[authoritiesKey] = certsPEM(believed...)
	if !good(now, data[certKey], data[keyKey], believed, names) {
		p, err := sign(now, &x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			NotAfter: now.Add(certTime)}, authority)
		if err != nil {
			return nil, false, err
		}
		data[certKey] = certsPEM(p.cert)
		if data[keyKey], err = keyPEM(p.key); err != nil {
			return nil, false, err
		}
	}
	for _, k := range []string{authoritiesKey, authorityKeyKey, certKey, keyKey} {
		changed = changed || !bytes.Equal(data[k], have[k])
	}
	return data, changed, nil
}

// late says whether less than a third of a certificate's time is left.
func late(now time.Time, c *x509.Certificate, whole time.Duration) bool {
	return now.Before(c.NotBefore) || c.NotAfter.Sub(now) < whole/3
}

// good says whether a certificate can stay: it is believed, has these names and enough time.
func good(now time.Time, cert, key []byte, believed []*x509.Certificate, names []string) bool {
	p, err := pairOf(cert, key)
	if err != nil || late(now, p.cert, certTime) || !slices.Equal(p.cert.DNSNames, names) {
		return false
	}
	roots := x509.NewCertPool()
	for _, c := range believed {
		roots.AddCert(c)
	}
	_, err = p.cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: names[0]})
	return err == nil
}

// sign makes a key and its certificate, by an authority or, where that is nil, by itself.
func sign(now time.Time, t *x509.Certificate, by *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	t.NotBefore = now.Add(-skewed)
	if by == nil {
		by = &pair{t, key}
	} else if t.NotAfter.After(by.cert.NotAfter) {
		t.NotAfter = by.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, by.cert, key.Public(), by.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", t.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	return &pair{cert, key}, err
}

// pairOf reads the first certificate of a text and its key.
func pairOf(certs, key []byte) (*pair, error) {
	c, err := tls.X509KeyPair(certs, key)
	if err != nil {
		return nil, err
	}
	k, ok := c.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the key is of another kind")
	}
	return &pair{c.Leaf, k}, nil
}

// certificates are those of a text. What is none ends them.
func certificates(text []byte) (out []*x509.Certificate) {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return out
		}
		if c, err := x509.ParseCertificate(b.Bytes); err == nil && b.Type == "CERTIFICATE" {
			out = append(out, c)
		}
	}
}

func certsPEM(list ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range list {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

func keyPEM(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
