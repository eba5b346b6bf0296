package reach_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/remote/reach"
	"github.com/katabuild/katabuild/builder/remote/remotetest"
	"github.com/katabuild/katabuild/builder/remote/serve"
	"github.com/katabuild/katabuild/internal/registry"
)

func TestNamesOfCaches(t *testing.T) {
	login := filepath.Join(t.TempDir(), "config.json")
	// user:secret
	if err := os.WriteFile(login, []byte(`{"auths": {"cache.example:9092": {"auth": "dXNlcjpzZWNyZXQ="}}}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	access := reach.Access{Access: registry.Access{AuthFiles: []string{login}},
		Headers: []reach.Header{{Host: "api.example", Name: "x-key", Value: "secret"}}}
	for name, want := range map[string]string{
		"oci:registry.example/team/cache":  "",
		"grpc://127.0.0.1:9092":            "",
		"grpc://other.example:9092/team/a": "",
		"grpcs://cache.example":            "",
		"grpcs://cache.example:9092":       "",
		"grpcs://api.example/instance":     "",
		"grpc://cache.example:9092":        "use grpcs://",
		"grpc://api.example:80":            "use grpcs://",
		"grpc://cache.example":             "want oci:HOST/REPOSITORY",
		"http://cache.example":             "want oci:HOST/REPOSITORY",
		"grpcs://user:secret@host":         "want oci:HOST/REPOSITORY",
		"grpcs://":                         "want oci:HOST/REPOSITORY",
		"grpcs://host/?query":              "want oci:HOST/REPOSITORY",
		"oci:registry.example":             "want oci:HOST/REPOSITORY",
		"":                                 "want oci:HOST/REPOSITORY",
	} {
		for _, open := range []func(string, reach.Access) (remote.Cache, error){reach.Reader, reach.Writer} {
			c, err := open(name, access)
			if err == nil {
				err = c.Close()
			}
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", name, err, want)
			}
		}
	}
}

func TestAFileOfHeaders(t *testing.T) {
	got, err := reach.ReadHeaders(strings.NewReader("# keys\n\napi.example X-Key: a:b \n" +
		"[::1]:5 authorization: Bearer x\n"))
	if err != nil || len(got) != 2 || got[0] != (reach.Header{Host: "api.example", Name: "x-key", Value: "a:b"}) ||
		got[1] != (reach.Header{Host: "[::1]:5", Name: "authorization", Value: "Bearer x"}) {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"api.example", "api.example secret", "api.example a b: c", "secret: x"} {
		_, err := reach.ReadHeaders(strings.NewReader("\n" + bad))
		if err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// authority makes a certificate that signs itself, for 127.0.0.1, and returns the files of it and its key.
func authority(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true,
		BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err1 := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	secret, err2 := x509.MarshalPKCS8PrivateKey(k)
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	err = errors.Join(err1, err2,
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestAServerBehindTLSKnowsItsClients(t *testing.T) {
	dir := t.TempDir()
	cert, key := authority(t, dir, "server")
	mine, myKey := authority(t, dir, "client")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(mine)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(text)
	a := remotetest.New(t)
	kernel := a.Make(t, "kernel", map[string]string{"vmlinux": "x"})
	known := grpc.UnaryInterceptor(func(ctx context.Context, q any, _ *grpc.UnaryServerInfo,
		next grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		if strings.Join(md.Get("x-key"), "") != "secret" ||
			strings.Join(md.Get("authorization"), "") != "Basic dXNlcjpzZWNyZXQ=" {
			return nil, status.Error(codes.Unauthenticated, "who are you?")
		}
		return next(ctx, q)
	})
	address := remotetest.Serve(t, serve.Options{Store: a.Store}, known, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12})))
	bring := func(access reach.Access) string {
		t.Helper()
		c, err := reach.Reader("grpcs://"+address, access)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := remotetest.New(t, a.Writer)
		var said remotetest.Said
		team := &remote.Team{Store: b.Store, From: []remote.Cache{c}}
		got, _ := team.Bring(context.Background(), kernel, said.Report)
		if (got == nil) != (said.String() != "") {
			t.Errorf("%v; said %q", got, &said)
		}
		return said.String()
	}
	login := filepath.Join(dir, "config.json")
	auths := `{"auths": {"` + address + `": {"auth": "dXNlcjpzZWNyZXQ="}}}`
	if err := os.WriteFile(login, []byte(auths), 0o600); err != nil {
		t.Fatal(err)
	}
	access := reach.Access{Access: registry.Access{AuthFiles: []string{login}},
		Headers: []reach.Header{{Host: address, Name: "x-key", Value: "secret"}}}
	if said := bring(access); !strings.Contains(said, "certificate signed by unknown authority") {
		t.Errorf("an unknown server: %q", said)
	}
	// As for registries: HOST:PORT/*.crt is who is believed, *.cert and *.key what is shown.
	folder := filepath.Join(dir, "certs.d", address)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	link := func(from, name string) {
		t.Helper()
		if err := os.Symlink(from, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	access.CertFolders = []string{filepath.Join(dir, "certs.d")}
	link(cert, "ca.crt")
	if said := bring(access); said == "" {
		t.Error("a client without a certificate got in")
	}
	link(mine, "me.cert")
	link(myKey, "me.key")
	if said := bring(access); said != "" {
		t.Errorf("said %q", said)
	}
	access.Headers = nil
	if said := bring(access); !strings.Contains(said, "who are you?") {
		t.Errorf("without its header: %q", said)
	}
}
