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
	"slices"
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

// believes has OpenSSL judge a signature: of the module as it is, and not of another one.
func believes(t *testing.T, k *Key) {
	t.Helper()
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
		return openssl(t, dir, "smime", "-verify", "-inform", "DER", "-in", "sig", "-content", content, "-certfile",
			"cert.pem", "-noverify", "-binary", "-out", "out")
	}
	if out, err := verify("module"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := verify("other"); err == nil {
		t.Errorf("it is believed of another module: %s", out)
	}
}

func openssl(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestOpenSSLBelievesASignature(t *testing.T) {
	testenv.Require(t, testenv.Tool("openssl"))
	believes(t, derived(t, "one"))
}

// TestAKeyOfOpenSSLSigns makes keys as docs/modules.md says, and in the forms that people have besides.
func TestAKeyOfOpenSSLSigns(t *testing.T) {
	testenv.Require(t, testenv.Tool("openssl"))
	dir := t.TempDir()
	run := func(line string) {
		t.Helper()
		if out, err := openssl(t, dir, strings.Fields(line)...); err != nil {
			t.Fatalf("openssl %s: %v: %s", line, err, out)
		}
	}
	file := func(names ...string) []byte {
		t.Helper()
		var all []byte
		for _, n := range names {
			data, err := os.ReadFile(filepath.Join(dir, n))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, data...)
		}
		return all
	}
	run("req -new -x509 -newkey rsa:3072 -nodes -days 36500 -subj /CN=mine -keyout key.pem -out cert.pem")
	run("rsa -in key.pem -traditional -out old.pem")
	for _, key := range []string{"key.pem", "old.pem"} {
		k, err := Parse(file(key, "cert.pem"), when) // which is before the certificate begins
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		believes(t, k)
	}
	run("pkey -in key.pem -aes256 -passout pass:x -out locked.pem")
	run("rsa -in key.pem -traditional -aes256 -passout pass:x -out old-locked.pem")
	run("ecparam -name prime256v1 -genkey -noout -out ec.pem")
	run("pkey -in key.pem -outform DER -out key.der")
	run("req -new -x509 -newkey rsa:1024 -nodes -subj /CN=short -keyout short.pem -out short-cert.pem")
	for name, want := range map[string]string{"locked.pem": "encrypted", "old-locked.pem": "encrypted",
		"ec.pem": "want RSA", "key.der": "no private key in PEM form"} {
		if _, err := Parse(file(name, "cert.pem"), when); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if _, err := Parse(file("short.pem", "short-cert.pem"), when); err == nil ||
		!strings.Contains(err.Error(), "1024 bits; want 2048 to 4096") {
		t.Errorf("a short key: %v", err)
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
		got, err := Parse(text, when)
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
		at   time.Time
	}{
		"nothing":           {nil, "no private key", when},
		"no certificate":    {private, "no certificate", when},
		"no key":            {cert, "no private key", when},
		"another key":       {append(derived(t, "two").Certificate(), private...), "is of another key", when},
		"two certificates":  {bytes.Repeat(cert, 2), "two certificates", when},
		"another algorithm": {append(block("PRIVATE KEY", ec8), cert...), "want RSA", when},
		"encrypted":         {append(block("ENCRYPTED PRIVATE KEY", p8), cert...), "pass phrase", when},
		"cut":               {append(block("PRIVATE KEY", p8[:100]), cert...), "the private key: asn1", when},
		"not its key": {append(block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(short)), cert...),
			"is of another key", when},
		"two keys":              {slices.Concat(private, private, cert), "two private keys", when},
		"no certificate at all": {append(block("CERTIFICATE", p8), private...), "the certificate: x509", when},
		"expired": {append(cert, private...), "the certificate was valid until 2126-01-02T03:04:05Z, and the time is " +
			"2126-01-02T03:04:06Z", when.AddDate(100, 0, 0).Add(time.Second)},
	} {
		if _, err := Parse(c.text, c.at); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if k, err := Parse(text, when); err == nil && (k.private == nil || k.certificate == nil) {
			t.Error("a key without its parts")
		}
	})
}
