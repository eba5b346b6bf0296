package modsign

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
)

var when = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func derived(t *testing.T, seed string) *Key {
	t.Helper()
	k, err := Derive(digest.Of([]byte(seed)), when)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestADerivedKeyIsAlwaysTheSame(t *testing.T) {
	a, b, other := derived(t, "one"), derived(t, "one"), derived(t, "two")
	if !a.private.Equal(b.private) || !bytes.Equal(a.Certificate(), b.Certificate()) {
		t.Error("one seed, two keys")
	}
	if a.private.Equal(other.private) || bytes.Equal(a.Certificate(), other.Certificate()) {
		t.Error("two seeds, one key")
	}
	if a.private.N.BitLen() != derivedBits {
		t.Errorf("%d bits", a.private.N.BitLen())
	}
}

// TestOpenSSLBelievesASignature lets another implementation judge: of the module as it is, and not of another one.
func TestOpenSSLBelievesASignature(t *testing.T) {
	testenv.Require(t, testenv.Tool("openssl"))
	k := derived(t, "one")
	module := []byte("\x7fELF and so on")
	end, err := k.Sign(bytes.NewReader(module))
	if err != nil {
		t.Fatal(err)
	}
	again, err := k.Sign(bytes.NewReader(module))
	if err != nil || !bytes.Equal(end, again) {
		t.Errorf("%v: two signatures of one module differ", err)
	}
	rest, ok := bytes.CutSuffix(end, []byte(marker))
	if !ok || len(rest) < 12 {
		t.Fatalf("no marker at the end of %q", end)
	}
	der, info := rest[:len(rest)-12], rest[len(rest)-12:]
	if got := binary.BigEndian.Uint32(info[8:]); int(got) != len(der) || info[2] != 2 {
		t.Errorf("the trailer says %v", info)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"module": module, "sig": der, "cert.pem": k.Certificate(),
		"other": []byte("else")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(content string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "openssl", "smime", "-verify", "-inform", "DER", "-in", "sig",
			"-content",
			content, "-certfile", "cert.pem", "-noverify", "-binary", "-out", "out")
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := verify("module"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := verify("other"); err == nil {
		t.Errorf("it is believed of another module: %s", out)
	}
}

func TestKeysAreReadAndMistakesTold(t *testing.T) {
	k := derived(t, "one")
	p8, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	cert, private := k.Certificate(), block("PRIVATE KEY", p8)
	for _, text := range [][]byte{append(cert, private...), append(private, cert...),
		append(block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k.private)), cert...)} {
		got, err := Parse(text)
		if err != nil || !got.private.Equal(k.private) {
			t.Errorf("%v", err)
		}
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec8, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	short, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"nothing":           {nil, "no private key"},
		"no certificate":    {private, "no certificate"},
		"no key":            {cert, "no private key"},
		"another key":       {append(derived(t, "two").Certificate(), private...), "is of another key"},
		"two certificates":  {bytes.Repeat(cert, 2), "two certificates"},
		"another algorithm": {append(block("PRIVATE KEY", ec8), cert...), "want RSA"},
		"encrypted":         {append(block("ENCRYPTED PRIVATE KEY", p8), cert...), "pass phrase"},
		"cut":               {append(block("PRIVATE KEY", p8[:100]), cert...), "asn1"},
		"not its key": {append(block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(short)), cert...),
			"is of another key"},
	} {
		if _, err := Parse(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if k, err := Parse(text); err == nil && (k.private == nil || k.certificate == nil) {
			t.Error("a key without its parts")
		}
	})
}
