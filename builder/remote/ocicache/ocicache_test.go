package ocicache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/remote/ocicache"
	"github.com/katabuild/katabuild/builder/remote/remotetest"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/registry/registrytest"
)

var outputs = map[string]string{"config": "CONFIG_VIRTIO=y\n", "vmlinux": strings.Repeat("0123456789abcdef", 100_000),
	"empty": ""}

func caches(t *testing.T, host string, access registry.Access) (reader, writer remote.Cache) {
	t.Helper()
	r, w := ocicache.Reader(host+"/team/cache", access), ocicache.Writer(host+"/team/cache", access)
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), w.Close()); err != nil {
			t.Error(err)
		}
	})
	return r, w
}

// roundTrip gives a step to a registry and takes it from there.
func roundTrip(t *testing.T, host string) {
	t.Helper()
	a := remotetest.New(t)
	b, stranger := remotetest.New(t, a.Writer), remotetest.New(t)
	r, w := caches(t, host, registry.Access{})
	kernel := a.Make(t, "kernel", outputs)
	var said remotetest.Said
	from := func(m *remotetest.Machine) *store.Action {
		team := &remote.Team{Store: m.Store, From: []remote.Cache{r}}
		got, _ := team.Bring(context.Background(), kernel, said.Report)
		return got
	}
	if got := from(b); got != nil || said.String() != "" {
		t.Fatalf("of an empty registry: %v %s", got, &said)
	}
	a.Offer(t, kernel, w)
	a.Offer(t, kernel, w) // again is as good
	if from(stranger) != nil {
		t.Error("a stranger believes it")
	}
	if from(b) == nil {
		t.Fatal(&said)
	}
	b.Check(t, kernel, outputs)
	// A part of a blob.
	want := remote.BlobOf([]byte(outputs["vmlinux"]))
	body, err := r.Open(context.Background(), want, 1_000_001)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || string(got) != outputs["vmlinux"][1_000_001:] {
		t.Errorf("%d bytes %v", len(got), err)
	}
}

func TestARegistryIsACache(t *testing.T) { roundTrip(t, registrytest.Serve(t, nil)) }

func TestDistributionIsACache(t *testing.T) { roundTrip(t, registrytest.Distribution(t)) }

func TestAMirrorIsAskedFirst(t *testing.T) {
	a := remotetest.New(t)
	mirror := registrytest.Serve(t, nil)
	_, w := caches(t, mirror, registry.Access{})
	kernel := a.Make(t, "kernel", outputs)
	a.Offer(t, kernel, w)
	r, _ := caches(t, "registry.invalid", registry.Access{Mirrors: map[string][]string{"registry.invalid": {mirror}}})
	b := remotetest.New(t, a.Writer)
	got, from := (&remote.Team{Store: b.Store, From: []remote.Cache{r}}).Bring(context.Background(), kernel, nil)
	if got == nil || from != "oci:registry.invalid/team/cache" {
		t.Errorf("%v %s", got, from)
	}
}

// lying is a registry before another one, whose answers to GET change.
func lying(t *testing.T, behind string, change func(w http.ResponseWriter, r *http.Request,
	body []byte) []byte) string {
	t.Helper()
	to, err := url.Parse("http://" + behind)
	if err != nil {
		t.Fatal(err)
	}
	p := &httputil.ReverseProxy{ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			p.ServeHTTP(w, r)
			return
		}
		got := httptest.NewRecorder()
		p.ServeHTTP(got, r)
		for k, v := range got.Header() {
			w.Header()[k] = v
		}
		body := change(w, r, got.Body.Bytes())
		if body == nil {
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.WriteHeader(got.Code)
		_, _ = w.Write(body) // the client may have gone
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func TestRegistriesThatLieCostAWarning(t *testing.T) {
	a := remotetest.New(t)
	kernel := a.Make(t, "kernel", outputs)
	behind := registrytest.Serve(t, nil)
	_, w := caches(t, behind, registry.Access{})
	a.Offer(t, kernel, w)
	blob := func(r *http.Request, text string) bool {
		return strings.HasSuffix(r.URL.Path, remote.BlobOf([]byte(text)).Digest.Hex())
	}
	record, err := a.Signed(kernel.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(w http.ResponseWriter, r *http.Request, body []byte) []byte
		want   string
	}{
		"wrong bytes": {func(_ http.ResponseWriter, r *http.Request, body []byte) []byte {
			if blob(r, outputs["vmlinux"]) {
				return bytes.ToUpper(body)
			}
			return body
		}, "want sha256:"},
		"wrong size": {func(_ http.ResponseWriter, r *http.Request, body []byte) []byte {
			if blob(r, outputs["vmlinux"]) {
				return append(body, 'x')
			}
			return body
		}, "mismatch Content-Length"},
		"a truncated blob": {func(w http.ResponseWriter, r *http.Request, body []byte) []byte {
			if !blob(r, outputs["vmlinux"]) {
				return body
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = w.Write(body[:1000])
			panic(http.ErrAbortHandler)
		}, "ends after"},
		"a blob without end": {func(w http.ResponseWriter, r *http.Request, body []byte) []byte {
			if !blob(r, outputs["vmlinux"]) {
				return body
			}
			w.Header().Del("Content-Length")
			for zeros := make([]byte, 64<<10); ; {
				if _, err := w.Write(zeros); err != nil {
					return nil
				}
			}
		}, "want sha256:"},
		"a record that was changed": {func(_ http.ResponseWriter, r *http.Request, body []byte) []byte {
			if blob(r, string(record.Data)) {
				return bytes.Replace(body, []byte("vmlinux"), []byte("vmlinuz"), 1)
			}
			return body
		}, "record: want"},
		"a manifest of something else": {func(w http.ResponseWriter, r *http.Request, body []byte) []byte {
			if strings.Contains(r.URL.Path, "/manifests/") {
				body = []byte(`{"schemaVersion":2,"layers":[],` +
					`"mediaType":"application/vnd.oci.image.manifest.v1+json"}`)
				w.Header().Set("Docker-Content-Digest", string(remote.BlobOf(body).Digest))
			}
			return body
		}, "not that of a step"},
		"no manifest": {func(w http.ResponseWriter, r *http.Request, body []byte) []byte {
			if strings.Contains(r.URL.Path, "/manifests/") {
				body = []byte("<html>")
				w.Header().Set("Docker-Content-Digest", string(remote.BlobOf(body).Digest))
			}
			return body
		}, "manifest: "},
		"silence": {func(_ http.ResponseWriter, r *http.Request, body []byte) []byte {
			if strings.Contains(r.URL.Path, "/manifests/") {
				<-r.Context().Done()
				return nil
			}
			return body
		}, "gave no answer within"},
		"a blob that stops": {func(w http.ResponseWriter, r *http.Request, body []byte) []byte {
			if !blob(r, outputs["vmlinux"]) {
				return body
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = w.Write(body[:1000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return nil
		}, "is too slow"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := caches(t, lying(t, behind, c.change), registry.Access{})
			honest, _ := caches(t, behind, registry.Access{})
			b := remotetest.New(t, a.Writer)
			var said remotetest.Said
			team := &remote.Team{Store: b.Store, From: []remote.Cache{r}}
			if strings.Contains(c.want, "slow") || strings.Contains(c.want, "answer") { // others end by themselves
				team.Limits = remote.Limits{Answer: 2 * time.Second, Stall: 2 * time.Second}
			}
			if got, _ := team.Bring(context.Background(), kernel, said.Report); got != nil ||
				!strings.Contains(said.String(), c.want) {
				t.Errorf("%v; said %q, want %q", got, &said, c.want)
			}
			team.From = append(team.From, honest)
			if got, from := team.Bring(context.Background(), kernel, nil); got == nil || from != honest.Name() {
				t.Error("nothing from the honest one")
			}
		})
	}
}

func TestPlainHTTPIsForThisHostOnly(t *testing.T) {
	a := remotetest.New(t)
	kernel := a.Make(t, "kernel", outputs)
	r, _ := caches(t, "registry.invalid:5000", registry.Access{})
	var said remotetest.Said
	team := &remote.Team{Store: a.Store, From: []remote.Cache{r}}
	if got, _ := team.Bring(context.Background(), kernel, said.Report); got != nil ||
		strings.Contains(said.String(), "http://") {
		t.Errorf("%v %q", got, &said)
	}
}
