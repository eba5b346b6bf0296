package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestModule(t *testing.T) {
	const head = "module k8s.io/kubernetes\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\n"
	for name, c := range map[string]struct{ in, want, err string }{
		"neighbours are taken by their own versions": {
			in: head + "replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\tk8s.io/kubelet => " +
				"./staging/src/k8s.io/kubelet\n)\n",
			want: "\nrequire k8s.io/kubernetes v" + version +
				"\n\nreplace (\n\tk8s.io/api => k8s.io/api v0.37.2\n\tk8s.io/kubelet => k8s.io/kubelet v0.37.2\n)\n",
		},
		"another replacement is refused": {in: head + "replace (\n\tk8s.io/api => ../api\n)\n",
			err: `replaces "k8s.io/api" by "../api"`},
		"a neighbour's folder is its own": {in: head + "replace (\n\tk8s.io/api => ./staging/src/k8s.io/kubelet\n)\n",
			err: "want ./staging/src/k8s.io/api"},
		"a go.mod without any is refused": {in: head, err: "replaces nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := module([]byte(c.in))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%v, want %q", err, c.err)
				}
				return
			}
			if err != nil || !strings.HasSuffix(string(got), c.want) {
				t.Errorf("%v, %s, want at its end %s", err, got, c.want)
			}
		})
	}
}

func FuzzModule(f *testing.F) {
	f.Add("replace k8s.io/api => ./staging/src/k8s.io/api\n") // on one line: refused, for the name is wrong
	f.Add("a => ./staging/src/a\n")
	f.Fuzz(func(t *testing.T, in string) {
		out, err := module([]byte(in))
		if err != nil {
			return
		}
		if n := strings.Count(string(out), " => "); n == 0 || strings.Contains(string(out), staging) {
			t.Errorf("%d replacements in %s", n, out)
		}
	})
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	a, err := newAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.issue("node", pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}},
		"127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	// The same certificate serves and is a client's.
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.String())
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: a.pool(),
		ClientAuth: tls.RequireAndVerifyClientCert}
	s.StartTLS()
	defer s.Close()
	get := func(pool *x509.CertPool) (string, error) {
		c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool,
			Certificates: []tls.Certificate{pair}}}}
		defer c.CloseIdleConnections()
		r, err := c.Get("https://" + s.Listener.Addr().String())
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return string(b), err
	}
	if got, err := get(a.pool()); err != nil || got != "CN=system:node:n,O=system:nodes" {
		t.Errorf("%q, %v", got, err)
	}
	other, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(other.pool()); err == nil {
		t.Error("a certificate of another authority is trusted")
	}
	fi, err := os.Stat(filepath.Join(dir, "node.key"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: want a key that others cannot read", fi.Mode(), err)
	}
}

func TestClient(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /pods/a":
			_, _ = io.WriteString(w, `{"status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}],
				"containerStatuses": [{"name": "c", "ready": true, "restartCount": 2, "lastState": {"terminated": {"exitCode": 3}}}]}}`)
		case "POST /pods":
			w.WriteHeader(http.StatusConflict)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer s.Close()
	c := &Cluster{URL: s.URL}
	ctx := context.Background()
	var p Pod
	if err := c.Get(ctx, "/pods/a", &p); err != nil {
		t.Fatal(err)
	}
	k := p.Container("c")
	if p.Status.Phase != "Running" || p.Status.PodIP != "10.0.0.1" || !True(p.Status.Conditions, "Ready") ||
		True(p.Status.Conditions, "Other") ||
		!k.Ready || k.RestartCount != 2 || k.LastState.Terminated.ExitCode != 3 {
		t.Errorf("%+v", p)
	}
	if p.Container("d").Ready {
		t.Error("a container that is not there is ready")
	}
	if err := c.Get(ctx, "/pods/b", &p); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
	if err := c.Create(ctx, "/pods", "{}"); err == nil || errors.Is(err, ErrNotFound) ||
		!strings.Contains(err.Error(), "409") {
		t.Errorf("%v, want 409", err)
	}
	u, err := url.Parse(c.ExecURL("a", "c", "sh", "-c", "echo a&b"))
	if err != nil || u.Path != "/api/v1/namespaces/default/pods/a/exec" || strings.Join(u.Query()["command"],
		"|") != "sh|-c|echo a&b" {
		t.Errorf("%v, %v", u, err)
	}
}

func TestPart(t *testing.T) {
	t.Run("a program that ends is not awaited, and its words are told", func(t *testing.T) {
		p, err := begin(t.TempDir(), "/bin/sh", "-c", "echo no such flag; exit 3")
		if err != nil {
			t.Fatal(err)
		}
		err = p.await(t.Context(), "anything", func() bool { return false })
		if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(),
			"no such flag") {
			t.Errorf("%v", err)
		}
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a program that goes on is ended", func(t *testing.T) {
		p, err := begin(t.TempDir(), "/bin/sh", "-c", "exec sleep 60")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := p.stop(); err != nil {
				t.Error(err)
			}
		}
		select {
		case <-p.ended:
		default:
			t.Error("it runs after stop")
		}
	})
}
