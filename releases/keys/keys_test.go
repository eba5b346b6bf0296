package keys_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/releases/keys"
)

var secret = []byte("correct horse")

func asked() ([]byte, error) { return secret, nil }

func write(t *testing.T, kind string, passphrase []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "release.key")
	if _, err := keys.Write(path, kind, passphrase); err != nil {
		t.Fatal(err)
	}
	return path
}

func openssl(t *testing.T, in []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %q: %v\n%s", args, err, out)
	}
	return out
}

// TestOpenSSLAgrees has OpenSSL read keys and verify signatures of ours, and us those of OpenSSL.
func TestOpenSSLAgrees(t *testing.T) {
	testenv.Require(t, testenv.Tool("openssl"))
	message := []byte("DSSEv1 4 type 2 {}")
	for _, c := range []struct {
		kind         string
		verify, sign []string // with -in and -signature; of the message, to standard output
	}{
		{keys.Ed25519, []string{"pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"},
			[]string{"pkeyutl", "-sign", "-rawin", "-inkey"}},
		{keys.ECDSA, []string{"pkeyutl", "-verify", "-pubin", "-rawin", "-digest", "sha256", "-inkey"},
			[]string{"pkeyutl", "-sign", "-rawin", "-digest", "sha256", "-inkey"}},
	} {
		for _, passphrase := range [][]byte{nil, secret} {
			t.Run(fmt.Sprintf("%s, passphrase %q", c.kind, passphrase), func(t *testing.T) {
				path := write(t, c.kind, passphrase)
				s, err := keys.Read(path, asked)
				if err != nil {
					t.Fatal(err)
				}
				sig, err := s.Sign(t.Context(), message)
				if err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				in, sigFile := filepath.Join(dir, "message"), filepath.Join(dir, "sig")
				if err := errors.Join(os.WriteFile(in, message, 0o600), os.WriteFile(sigFile, sig, 0o600)); err != nil {
					t.Fatal(err)
				}
				openssl(t, nil, append(c.verify, path+keys.PublicSuffix, "-in", in, "-sigfile", sigFile)...)
				public := openssl(t, nil, "pkey", "-in", path, "-pubout", "-passin", "pass:"+string(secret))
				if !bytes.Equal(public, s.Public().PEM()) {
					t.Errorf("OpenSSL reads %s", public)
				}
				theirs := openssl(t, nil, append(c.sign, path, "-in", in, "-passin", "pass:"+string(secret))...)
				if !s.Public().Verify(message, theirs) || s.Public().Verify(message[1:], theirs) {
					t.Error("OpenSSL's signature is judged wrongly")
				}
				sum := openssl(t, openssl(t, nil, "pkey", "-pubin", "-in", path+keys.PublicSuffix, "-outform", "DER"),
					"dgst", "-sha256")
				if !strings.Contains(string(sum), s.Public().ID.Hex()) {
					t.Errorf("the key is called %s, OpenSSL says %s", s.Public().ID, sum)
				}
			})
		}
	}
}

func TestAKeyOfOpenSSLIsRead(t *testing.T) {
	testenv.Require(t, testenv.Tool("openssl"))
	path := filepath.Join(t.TempDir(), "key")
	openssl(t, nil, "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:"+string(secret), "-out", path)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Read(path, asked); err != nil {
		t.Error(err)
	}
}

func TestAKeyIsForItsUserAlone(t *testing.T) {
	path := write(t, keys.Ed25519, secret)
	for name, c := range map[string]struct {
		spoil func() error
		ask   func() ([]byte, error)
		want  string
	}{
		"chmod 600": {func() error { return os.Chmod(path, 0o640) }, asked,
			"mode 0640, which lets other users in"},
		"wrong passphrase": {nil, func() ([]byte, error) { return []byte("wrong"), nil }, "wrong passphrase"},
		"no passphrase":    {nil, func() ([]byte, error) { return nil, nil }, "the passphrase is empty"},
		"nobody to ask":    {nil, func() ([]byte, error) { return nil, io.EOF }, "passphrase: EOF"},
		"others' folder": {func() error { return os.Chmod(filepath.Dir(path), 0o777) }, asked,
			"other users may write"},
		"something else": {func() error { return os.WriteFile(path, []byte("hello"), 0o600) }, asked,
			"not in PEM form"},
		"a public key": {func() error { return copyFile(path+keys.PublicSuffix, path) }, asked,
			`it is a "PUBLIC KEY"`},
		"broken inside PEM": {func() error { return broken(path) }, asked, "PBES2"},
	} {
		t.Run(name, func(t *testing.T) {
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				err := errors.Join(os.WriteFile(path, before, 0o600), os.Chmod(path, 0o600),
					os.Chmod(filepath.Dir(path), 0o755))
				if err != nil {
					t.Fatal(err)
				}
			}()
			if c.spoil != nil {
				if err := c.spoil(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := keys.Read(path, c.ask); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	_, err := keys.Write(path, keys.Ed25519, nil)
	if err == nil || !strings.Contains(err.Error(), "never overwritten") {
		t.Errorf("written over: %v", err)
	}
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	return errors.Join(err, os.WriteFile(to, b, 0o600))
}

func broken(path string) error {
	text := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{0x30, 0x00}})
	return os.WriteFile(path, text, 0o600)
}

func TestOtherKindsOfKeysAreRefused(t *testing.T) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Of(k.Public()); err == nil || !strings.Contains(err.Error(), "want Ed25519, or ECDSA") {
		t.Errorf("got %v", err)
	}
	if _, err := keys.Write(filepath.Join(t.TempDir(), "k"), "rsa", nil); err == nil {
		t.Error("a key of the kind rsa was drawn")
	}
}

// signer writes a program that signs as docs/formats/signer.md has it, with the key at path.
func signer(t *testing.T, path, sign string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "signer")
	text := fmt.Sprintf(`#!/bin/sh
case "$2" in
public-key) echo "signer: with $1" >&2; cat %[1]s.pub ;;
sign) %[2]s ;;
esac
`, path, strings.ReplaceAll(sign, "KEY", path))
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestACommandSigns(t *testing.T) {
	testenv.Require(t, testenv.Tool("openssl"))
	path := write(t, keys.ECDSA, nil)
	message := []byte("message")
	for _, c := range []struct{ name, sign, want string }{
		{"well", "openssl dgst -sha256 -sign KEY | base64 -w0; echo", ""},
		{"another message", "echo other | openssl dgst -sha256 -sign KEY | base64 -w0", "no signature of its key"},
		{"nothing", "true", "no signature of its key"},
		{"not in Base64", "echo '*'", "want one line of Base64"},
		{"and fails", "exit 7", "exit status 7"},
		{"without end", "yes", "more than 16384 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var said bytes.Buffer
			s, err := keys.FromCommand(t.Context(), signer(t, path, c.sign)+" slot-1", &said)
			if err != nil {
				t.Fatal(err)
			}
			if said.String() != "signer: with slot-1\n" {
				t.Errorf("it said %q", &said)
			}
			sig, err := s.Sign(t.Context(), message)
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if err == nil && !s.Public().Verify(message, sig) {
				t.Error("the signature is wrong")
			}
		})
	}
	if _, err := keys.FromCommand(t.Context(), "/nowhere/signer", io.Discard); err == nil {
		t.Error("a program that is not there has a key")
	}
}

// softHSM is the library of a token that is software, as Debian installs it.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// TestATokenSigns has a token behind PKCS#11 sign, by the program that docs/formats/signer.md shows.
func TestATokenSigns(t *testing.T) {
	testenv.Require(t, testenv.Tool("openssl"), testenv.Tool("softhsm2-util"), testenv.Tool("pkcs11-tool"))
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	page, err := os.ReadFile("../../docs/formats/signer.md")
	if err != nil {
		t.Fatal(err)
	}
	_, program, _ := strings.Cut(string(page), "```sh\n")
	program, _, ok := strings.Cut(program, "```")
	if !ok || !strings.Contains(program, "pkcs11-tool") {
		t.Fatal("docs/formats/signer.md does not begin with the program for a token")
	}
	if err := errors.Join(os.Mkdir(in("tokens"), 0o700),
		os.WriteFile(in("conf"), []byte("directories.tokendir = "+in("tokens")+"\n"), 0o600),
		os.WriteFile(in("pin"), []byte("1234\n"), 0o600),
		os.WriteFile(in("signer"), []byte(program), 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"SOFTHSM2_CONF": in("conf"), "MODULE": softHSM, "TOKEN": "test",
		"PIN_FILE": in("pin")} {
		t.Setenv(name, value)
	}
	for _, argv := range [][]string{
		{"softhsm2-util", "--init-token", "--free", "--label", "test", "--so-pin", "1234", "--pin", "1234"},
		{"pkcs11-tool", "--module", softHSM, "--token-label", "test", "--login", "--pin", "1234", "--keypairgen",
			"--key-type", "EC:prime256v1", "--id", "01"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	var said bytes.Buffer
	s, err := keys.FromCommand(t.Context(), in("signer")+" 01", &said)
	if err != nil {
		t.Fatalf("%v\n%s", err, &said)
	}
	message := []byte("message")
	sig, err := s.Sign(t.Context(), message)
	if err != nil || !s.Public().Verify(message, sig) || s.Public().Kind() != keys.ECDSA {
		t.Errorf("%v\n%s", err, &said)
	}
	if err := os.WriteFile(in("pin"), []byte("4321\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(t.Context(), message); err == nil || !strings.Contains(said.String(), "PIN_INCORRECT") {
		t.Errorf("with a wrong PIN: %v\n%s", err, &said)
	}
}

func FuzzParsePublic(f *testing.F) {
	path := filepath.Join(f.TempDir(), "key")
	for _, kind := range []string{keys.Ed25519, keys.ECDSA} {
		k, err := keys.Write(path+kind, kind, nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(k.PEM())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := keys.ParsePublic(data)
		if err != nil {
			return
		}
		if again, err := keys.ParsePublic(k.PEM()); err != nil || again.ID != k.ID {
			t.Errorf("%s becomes %s, %v", k.ID, again.ID, err)
		}
	})
}
