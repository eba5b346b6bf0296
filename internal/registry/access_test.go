package registry

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	served "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/katabuild/katabuild/internal/registry/registrytest"
)

const user, password = "ann", "secret"

// locked is a registry that asks for a password, with the image team/app:1 in it. It counts how often it was asked.
func locked(t *testing.T, tls bool) (s *httptest.Server, asked *int) {
	t.Helper()
	asked = new(int)
	next := served.New(served.Logger(log.New(io.Discard, "", 0)))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked++
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	if tls {
		s = httptest.NewTLSServer(h)
	} else {
		s = httptest.NewServer(h)
	}
	t.Cleanup(s.Close)
	ref, err := name.ParseReference(hostOf(s) + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	auth := authn.FromConfig(authn.AuthConfig{Username: user, Password: password})
	if err := remote.Write(ref, registrytest.Image(t, "amd64", "a"), remote.WithTransport(s.Client().Transport),
		remote.WithAuth(auth)); err != nil {
		t.Fatal(err)
	}
	*asked = 0
	return s, asked
}

func hostOf(s *httptest.Server) string { return s.Listener.Addr().String() }

// write puts text into a file of a new folder, below the names in path.
func write(t *testing.T, mode os.FileMode, text string, path ...string) (file, dir string) {
	t.Helper()
	dir = t.TempDir()
	file = filepath.Join(append([]string{dir}, path...)...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return file, dir
}

// authFile is a file of credentials as docker and podman write it.
func authFile(t *testing.T, key, password string) string {
	t.Helper()
	file, _ := write(t, 0o600, fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, key,
		base64.StdEncoding.EncodeToString([]byte(user+":"+password))), "config.json")
	return file
}

func TestCredentialsComeFromTheFilesThatLoginsWrite(t *testing.T) {
	s, _ := locked(t, false)
	host := hostOf(s)
	// A helper program as docker calls it: `docker-credential-NAME get` with the registry on standard input.
	helper, dir := write(t, 0o755, "#!/bin/sh\nread r\nprintf '{\"ServerURL\":\"%s\",\"Username\":\""+user+
		"\",\"Secret\":\""+password+"\"}' \"$r\"\n", "docker-credential-case")
	t.Setenv("PATH", filepath.Dir(helper)+":"+os.Getenv("PATH"))
	byHelper := filepath.Join(dir, "config.json")
	if err := os.WriteFile(byHelper, fmt.Appendf(nil, `{"credHelpers": {%q: "case"}}`, host), 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "not-there.json")
	other := authFile(t, "other.example", password)
	for _, c := range []struct {
		name  string
		files []string
		want  []string // in the error; none is no error
	}{
		{"docker's", []string{authFile(t, host, password)}, nil},
		{"podman's, of a namespace", []string{authFile(t, host+"/team", password)}, nil},
		{"podman's, of a repository", []string{authFile(t, host+"/team/app", password)}, nil},
		{"a helper's", []string{byHelper}, nil},
		{"the second file's", []string{none, other, authFile(t, host, password)}, nil},
		{"nowhere", []string{none, other}, []string{host + " refuses (401), asked as nobody: " + other +
			" holds nothing for " + host}},
		{"no file at all", nil, []string{"as nobody: no file with credentials is there"}},
		{"another namespace's", []string{authFile(t, host+"/else", password)}, []string{"holds nothing for " + host}},
		{"an old password", []string{authFile(t, host, "wrong")}, []string{"asked as ann, from "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Client{Access: Access{AuthFiles: c.files}}
			_, err := r.Resolve(t.Context(), host+"/team/app:1", "amd64")
			if c.want == nil && err != nil {
				t.Error(err)
			}
			for _, w := range c.want {
				var refused *Refused
				if !errors.As(err, &refused) || refused.Registry != host || !strings.Contains(err.Error(), w) {
					t.Errorf("got %v, want %q", err, w)
				}
			}
			if err != nil && strings.Contains(err.Error(), password) {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestAPrivateAuthorityIsBelievedWhereItIsNamed(t *testing.T) {
	s, _ := locked(t, true)
	host := hostOf(s)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	file, _ := write(t, 0o644, ca, "ca.pem")
	_, folder := write(t, 0o644, ca, host, "ca.crt")
	_, elsewhere := write(t, 0o644, ca, "other.example", "ca.crt")
	broken, _ := write(t, 0o644, "no certificate", "ca.pem")
	auth := []string{authFile(t, host, password)}
	for _, c := range []struct {
		name string
		a    Access
		want string
	}{
		{"by nobody", Access{AuthFiles: auth}, "certificate"},
		{"by a file", Access{AuthFiles: auth, Authorities: []string{file}}, ""},
		{"by certs.d", Access{AuthFiles: auth, CertFolders: []string{folder}}, ""},
		{"by certs.d of another registry", Access{AuthFiles: auth, CertFolders: []string{elsewhere}}, "certificate"},
		{"by a file without a certificate", Access{AuthFiles: auth, Authorities: []string{broken}},
			broken + " holds no certificate in PEM form"},
		{"not checked, because the user says so", Access{AuthFiles: auth, Insecure: []string{host}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Client{Access: c.a}
			_, err := r.Resolve(t.Context(), host+"/team/app:1", "amd64")
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestAMirrorIsAskedFirstAndTheRegistryAfterIt(t *testing.T) {
	mirror, first := locked(t, false)
	origin, second := locked(t, false)
	auth, _ := write(t, 0o600, fmt.Sprintf(
		`{"auths": {%q: {"username": "ann", "password": "secret"}, %q: {"username": "ann", "password": "secret"}}}`,
		hostOf(mirror), hostOf(origin)), "config.json")
	from := func(m string) *Client {
		return &Client{Access: Access{AuthFiles: []string{auth}, Mirrors: map[string][]string{hostOf(origin): {m}}}}
	}
	if _, err := from(hostOf(mirror)).Resolve(t.Context(), hostOf(origin)+"/team/app:1", "amd64"); err != nil {
		t.Fatal(err)
	}
	if *first == 0 || *second != 0 {
		t.Errorf("the mirror was asked %d times, the registry %d", *first, *second)
	}
	if _, err := from(hostOf(mirror)+"/cache").Resolve(t.Context(), hostOf(origin)+"/team/app:1", "amd64"); err != nil {
		t.Fatal(err)
	}
	if *second == 0 {
		t.Error("the registry was not asked for what its mirror lacks")
	}
}

func TestPlainHTTPReachesThisHostAndWhatIsNamedOnly(t *testing.T) {
	h := &hosts{a: &Access{Insecure: []string{"lab.example:5000"}}}
	asked := 0
	count := roundTripper(func(*http.Request) (*http.Response, error) { asked++; return nil, io.EOF })
	h.by = map[string]http.RoundTripper{}
	for addr, ok := range map[string]bool{
		"http://localhost:5000/v2/": true, "http://127.0.0.1/": true, "http://[::1]:1/": true,
		"https://example.org/":        true,
		"http://lab.example:5000/v2/": true, "http://lab.example/v2/": false,
		"http://example.org/": false, "http://10.0.0.1/": false, "http://localhost.example.org/": false,
		"http://127.0.0.1.example.org/": false,
		"file:///etc":                   false,
	} {
		req, err := http.NewRequest(http.MethodGet, addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		h.by[req.URL.Host] = count
		before := asked
		_, err = h.RoundTrip(req)
		if (asked > before) != ok || !ok && !strings.Contains(err.Error(), "https only") {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestARepositoryIsReachedAsItsRegistryWants(t *testing.T) {
	locked, _ := locked(t, true)
	host := hostOf(locked)
	ca, _ := write(t, 0o644, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: locked.Certificate().Raw})), "ca.pem")
	c := &Client{Access: Access{AuthFiles: []string{authFile(t, host, password)}, Authorities: []string{ca},
		Mirrors: map[string][]string{host: {"mirror.example/cache"}}}}
	all, err := c.Repositories(t.Context(), host+"/team/app", true)
	if err != nil || len(all) != 2 || all[0].Host != "mirror.example" || all[0].Path != "cache/team/app" ||
		all[0].Plain {
		t.Fatalf("%+v, %v", all, err)
	}
	r := all[1]
	if r.Host != host || r.Path != "team/app" || r.Plain || !IsHome(r.Host) || r.Login.Username != user ||
		r.Login.Password != password {
		t.Errorf("%+v", r)
	}
	if own, err := c.Repositories(t.Context(), host+"/team/app", false); err != nil || len(own) != 1 {
		t.Errorf("without mirrors: %+v, %v", own, err)
	}
	var refused *Refused
	if err := r.Explain(http.StatusForbidden, io.EOF); !errors.As(err, &refused) || !strings.Contains(err.Error(),
		"asked as "+user) || !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	if err := r.Explain(http.StatusNotFound, io.EOF); err != io.EOF { //nolint:errorlint // the very one
		t.Errorf("got %v", err)
	}
	plain := registrytest.Serve(t, nil)
	all, err = (&Client{}).Repositories(t.Context(), plain+"/app", true)
	if err != nil || len(all) != 1 || !all[0].Plain {
		t.Errorf("%+v, %v", all, err)
	}
}
