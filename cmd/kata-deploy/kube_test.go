package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/cmd/kata-deploy/kube"
)

// client is one for a's server.
func client(t *testing.T, a *apiServer) *kube.Client {
	t.Helper()
	host, port, _ := strings.Cut(strings.TrimPrefix(a.server.URL, "https://"), ":")
	c, err := kube.New(a.account, host, port)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatTheAPIServerRefusesIsTold(t *testing.T) {
	a := newAPI(t)
	c := client(t, a)
	_, err := c.Labels(t.Context(), "node-2")
	if err == nil || !strings.Contains(err.Error(), `read node node-2: API server: 404 nodes "node-2" not found`) ||
		c.Away(err) {
		t.Errorf("got %v", err)
	}
	a.token = "another"
	if _, err := c.Labels(t.Context(), "node-1"); err == nil || !strings.Contains(err.Error(), "is not its own") ||
		c.Away(err) {
		t.Errorf("got %v", err)
	}
	a.down = true
	if _, err := c.Labels(t.Context(), "node-1"); !c.Away(err) {
		t.Errorf("got %v", err)
	}
	a.server.Close()
	if _, err := c.Labels(t.Context(), "node-1"); !c.Away(err) {
		t.Errorf("got %v", err)
	}
}

func TestAnAPIServerThatIsAnotherOneIsNotBelieved(t *testing.T) {
	a, b := newAPI(t), newAPI(t)
	// The same address, and the certificate of somebody else.
	if err := os.WriteFile(filepath.Join(a.account, "ca.crt"), otherCA(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := client(t, a).Labels(t.Context(), "node-1"); err == nil || !strings.Contains(err.Error(),
		"certificate signed by unknown authority") {
		t.Errorf("got %v", err)
	}
	// One that sends elsewhere, and one that never ends.
	for what, h := range map[string]http.HandlerFunc{
		"302": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, b.server.URL+r.URL.Path, http.StatusFound)
		},
		"more than 8388608 bytes": func(w http.ResponseWriter, _ *http.Request) {
			for range 9 {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					return
				}
			}
		},
		"invalid character": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<html>")) // a test's own connection
		},
	} {
		s := newAPI(t)
		s.server.Config.Handler = h
		if _, err := client(t, s).Labels(t.Context(), "node-1"); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want %s", err, what)
		}
	}
	if b.requests() > 0 {
		t.Error("a token went to another server")
	}
}

// otherCA is the certificate of another authority.
func otherCA(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/other.crt")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAPodWithoutAServiceAccount(t *testing.T) {
	if _, err := kube.New(t.TempDir(), "10.0.0.1", "443"); err == nil || !strings.Contains(err.Error(),
		"automountServiceAccountToken") {
		t.Errorf("got %v", err)
	}
	if _, err := kube.New(t.TempDir(), "", ""); err == nil || !strings.Contains(err.Error(), "this runs in a pod") {
		t.Errorf("got %v", err)
	}
}
