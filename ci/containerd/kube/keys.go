package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs the certificates of one cluster.
type authority struct {
	dir  string // where the files go
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64 // serial number
}

// day is how long certificates are good for: longer than any test.
const day = 24 * time.Hour

// newAuthority makes an authority, whose certificate is in ca.crt.
func newAuthority(dir string) (*authority, error) {
	a := &authority{dir: dir, next: 1}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	return a, a.sign("ca", t)
}

// issue makes NAME.crt and NAME.key for a client and server. Kubernetes reads the client's user and groups from its
// subject. Kubernetes: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates
func (a *authority) issue(name string, who pkix.Name, addresses ...string) error {
	t := &x509.Certificate{
		Subject: who, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, s := range addresses {
		t.IPAddresses = append(t.IPAddresses, net.ParseIP(s))
	}
	return a.sign(name, t)
}

// sign writes a key and its certificate, signed by the authority, or by itself when that is what it makes.
func (a *authority) sign(name string, t *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t.SerialNumber, t.NotBefore, t.NotAfter = big.NewInt(a.next), time.Now().Add(-time.Hour), time.Now().Add(day)
	a.next++
	if t.IsCA {
		a.cert, a.key = t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	if t.IsCA {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			return err
		}
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	for suffix, b := range map[string]pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der},
		".key": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(a.dir, name+suffix), pem.EncodeToMemory(&b), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// pool holds the authority alone.
func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}
