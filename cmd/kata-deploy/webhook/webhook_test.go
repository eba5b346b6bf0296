package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// asking is a question about a new pod.
func asking(namespace, pod string) string {
	return `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u-1","namespace":"` +
		namespace + `","kind":{"group":"","version":"v1","kind":"Pod"},"operation":"CREATE","object":` + pod + `}}`
}

func TestPodsGetTheClassOrStayAsTheyAre(t *testing.T) {
	rules := Rules{RuntimeClass: "kata", Exclude: []string{"kube-system"},
		Only: regexp.MustCompile("^(kube-|shop|sono)")}
	for name, c := range map[string]struct {
		body  string
		patch string
	}{
		"a pod":                           {asking("shop", `{"spec":{}}`), "kata"},
		"a pod with a class":              {asking("shop", `{"spec":{"runtimeClassName":"runc"}}`), ""},
		"a pod in the node's network":     {asking("shop", `{"spec":{"hostNetwork":true}}`), ""},
		"a pod of an excluded namespace":  {asking("kube-system", `{"spec":{}}`), ""},
		"a pod of another namespace":      {asking("other", `{"spec":{}}`), ""},
		"a pod of sonobuoy":               {asking("sonobuoy", `{"spec":{}}`), ""},
		"a pod of a namespace that is in": {asking("kube-public", `{"spec":{}}`), "kata"},
		"a kubelet's own": {
			asking("shop", `{"metadata":{"annotations":{"kubernetes.io/config.mirror":"x"}},"spec":{}}`), ""},
		"what is no pod":     {strings.Replace(asking("shop", `{}`), `"kind":"Pod"`, `"kind":"Job"`, 1), ""},
		"a pod that changes": {strings.Replace(asking("shop", `{"spec":{}}`), "CREATE", "UPDATE", 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			answer, note, err := rules.decide([]byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			var r review
			if err := json.Unmarshal(answer, &r); err != nil {
				t.Fatal(err)
			}
			if r.APIVersion != reviewVersion || r.Kind != "AdmissionReview" || !r.Response.Allowed ||
				r.Response.UID != "u-1" || note == "" {
				t.Errorf("%s, %q", answer, note)
			}
			want, kind := "", ""
			if c.patch != "" {
				want, kind = `[{"op":"add","path":"/spec/runtimeClassName","value":"`+c.patch+`"}]`, "JSONPatch"
			}
			if string(r.Response.Patch) != want || r.Response.PatchType != kind {
				t.Errorf("patch %s %q, want %s %q", r.Response.PatchType, r.Response.Patch, kind, want)
			}
		})
	}
	for _, body := range []string{``, `{}`, `[]`, asking("a", `5`),
		strings.Replace(asking("a", `{}`), "admission.k8s.io/v1", "admission.k8s.io/v2", 1)} {
		if answer, _, err := rules.decide([]byte(body)); err == nil {
			t.Errorf("%s: %s", body, answer)
		}
	}
}

func FuzzDecide(f *testing.F) {
	f.Add([]byte(asking("shop", `{"metadata":{"generateName":"a-"},"spec":{}}`)))
	f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		answer, _, err := (&Rules{RuntimeClass: "kata"}).decide(body)
		var r review
		if err == nil && (json.Unmarshal(answer, &r) != nil || !r.Response.Allowed) {
			t.Errorf("%s", answer)
		}
	})
}

// trusts says whether whoever believes a Secret's authorities believes its certificate.
func trusts(t *testing.T, believed []byte, cert []byte, now time.Time) bool {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(believed)
	list := certificates(cert)
	if len(list) != 1 {
		t.Fatalf("%d certificates", len(list))
	}
	_, err := list[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: "w.ns.svc"})
	return err == nil
}

// For three years keys are looked at each day: at no time is there a certificate that was not believed the day before.
func TestKeysAreRenewedInTime(t *testing.T) {
	names := []string{"w.ns.svc", "w.ns"}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var data map[string][]byte
	var before []byte
	authorities, certs := map[string]bool{}, map[string]bool{}
	for day := range 3 * 365 {
		next, changed, err := renew(now, data, names)
		if err != nil {
			t.Fatal(err)
		}
		if changed == maps.EqualFunc(next, data, bytes.Equal) {
			t.Fatalf("day %d: changed is %v", day, changed)
		}
		if !trusts(t, next[authoritiesKey], next[certKey], now) {
			t.Fatalf("day %d: the certificate is not believed", day)
		}
		if before != nil && !bytes.Equal(next[certKey], data[certKey]) && !trusts(t, before, next[certKey], now) {
			t.Fatalf("day %d: the new certificate is of an authority that is new too", day)
		}
		if n := len(certificates(next[authoritiesKey])); n > 2 {
			t.Fatalf("day %d: %d authorities", day, n)
		}
		authorities[string(next[authorityKeyKey])], certs[string(next[certKey])] = true, true
		before, data, now = next[authoritiesKey], next, now.Add(24*time.Hour)
	}
	if len(authorities) < 4 || len(authorities) > 6 || len(certs) < 20 || len(certs) > 40 {
		t.Errorf("%d authorities and %d certificates in three years", len(authorities), len(certs))
	}
}

func TestKeysThatAreNoneAreMadeAnew(t *testing.T) {
	names, now := []string{"w.ns.svc"}, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	whole, _, err := renew(now, nil, names)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{authoritiesKey, authorityKeyKey, certKey, keyKey} {
		for what, text := range map[string][]byte{"gone": nil, "none": []byte("x")} {
			broken := maps.Clone(whole)
			broken[key] = text
			made, changed, err := renew(now, broken, names)
			if err != nil || !changed || !trusts(t, made[authoritiesKey], made[certKey], now) {
				t.Errorf("%s is %s: %v, %v", key, what, changed, err)
			}
		}
	}
	if _, changed, err := renew(now, whole, []string{"w.other.svc"}); err != nil || !changed {
		t.Errorf("another name: %v, %v", changed, err)
	}
}

var errConflict = errors.New("there is a newer one")

// cluster keeps a Secret and what is believed. It is strict about versions.
type cluster struct {
	mu       sync.Mutex
	data     map[string][]byte
	version  int
	believed []byte
	writes   int
}

func (c *cluster) Secret(context.Context, string, string) (map[string][]byte, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.data), fmt.Sprint(c.version), nil
}

func (c *cluster) SetSecret(_ context.Context, _, _, version string, data map[string][]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if version != fmt.Sprint(c.version) {
		return errConflict
	}
	c.data, c.version, c.writes = data, c.version+1, c.writes+1
	return nil
}

func (c *cluster) Conflict(err error) bool { return errors.Is(err, errConflict) }

func (c *cluster) SetAuthorities(_ context.Context, _ string, pem []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.believed = pem
	return nil
}

func (c *cluster) authorities() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.believed
}

// run begins a webhook, and returns where it answers.
func run(t *testing.T, cfg Config, api Cluster) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	at, ended := make(chan net.Addr, 1), make(chan error, 1)
	cfg.Listen = "127.0.0.1:0"
	go func() {
		ended <- Run(ctx, cfg, api, slog.New(slog.DiscardHandler), func(a net.Addr) { at <- a })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return (<-at).String()
}

// ask asks a webhook as the API server does, until it has a certificate.
func ask(t *testing.T, at string, believed func() []byte, body string) string {
	t.Helper()
	for {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(believed())
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "w.ns.svc"},
			DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: tr}).Post("https://"+at+"/mutate", "application/json",
			strings.NewReader(body))
		if err != nil {
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
			continue
		}
		answer, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return string(answer)
	}
}

func TestReplicasShareTheirKeys(t *testing.T) {
	api := &cluster{}
	cfg := Config{Rules: Rules{RuntimeClass: "kata"}, Interval: time.Hour, Namespace: "ns", Secret: "s", Service: "w",
		Configuration: "c"}
	for range 3 {
		at := run(t, cfg, api)
		if got := ask(t, at, api.authorities, asking("shop", `{"spec":{}}`)); !strings.Contains(got, "JSONPatch") {
			t.Errorf("answer %s", got)
		}
	}
	if api.writes != 1 {
		t.Errorf("the Secret was written %d times", api.writes)
	}
}

func TestReplicasThatBeginAtOnceAgree(t *testing.T) {
	api := &cluster{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			s := &server{cfg: Config{Service: "w", Namespace: "ns"}, api: api, log: slog.New(slog.DiscardHandler),
				now: time.Now}
			for s.look(t.Context()) != nil { // others were faster each time
			}
		})
	}
	all.Wait()
	if api.writes != 1 {
		t.Errorf("the Secret was written %d times", api.writes)
	}
}

func TestACertificateFromElsewhereIsServed(t *testing.T) {
	data, _, err := renew(time.Now(), nil, []string{"w.ns.svc"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg := Config{Rules: Rules{RuntimeClass: "kata"}, Interval: time.Hour, CertFile: filepath.Join(dir, "c"),
		KeyFile: filepath.Join(dir, "k")}
	if err := errors.Join(os.WriteFile(cfg.CertFile, data[certKey], 0o600),
		os.WriteFile(cfg.KeyFile, data[keyKey], 0o600)); err != nil {
		t.Fatal(err)
	}
	at := run(t, cfg, nil)
	believed := func() []byte { return data[authoritiesKey] }
	if got := ask(t, at, believed, "x"); !strings.Contains(got, "review") {
		t.Errorf("answer %s", got)
	}
}
