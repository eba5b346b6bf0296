package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/katabuild/katabuild/internal/httpclient"
)

// Access says how registries are reached. The zero value reaches them as nobody, by https with the host's certificate
// authorities.
type Access struct {
	// AuthFiles hold credentials, or name the helper programs that do, as docker's config.json and podman's auth.json.
	// The first that knows a registry counts; files that are not there know none.
	AuthFiles []string
	// CertFolders hold, for a registry, a folder HOST or HOST:PORT with the authorities *.crt and clients' *.cert and
	// *.key, as docker's and podman's certs.d.
	CertFolders []string
	// Authorities are files of certificates in PEM form that are believed beside the host's own, for every registry.
	Authorities []string
	// Mirrors are, by a registry's host, places that are asked before it: HOST[:PORT][/PREFIX]. What they send has the
	// digest that the registry's name was locked to, but a mirror may answer what a tag means.
	Mirrors map[string][]string
	// Insecure are registries, HOST[:PORT], that may be reached by plain HTTP and whose certificates are not checked.
	Insecure []string
}

// keychain looks credentials up and remembers where, for the error when they do not help.
type keychain struct {
	a *Access

	mu    sync.Mutex
	tried map[string]string // by registry: as whom, and from where
}

// Resolve implements authn.Keychain.
func (k *keychain) Resolve(of authn.Resource) (authn.Authenticator, error) {
	host := of.RegistryStr()
	var looked, broken []string
	for _, file := range k.a.AuthFiles {
		cf, err := readAuth(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("credentials: %s: %w", file, err)
		}
		looked = append(looked, file)
		keys := authKeys(of)
		maps.DeleteFunc(cf.AuthConfigs, func(k string, _ types.AuthConfig) bool {
			return otherNamespace(k) &&
				!slices.Contains(keys, k)
		})
		for _, key := range keys {
			got, err := cf.GetAuthConfig(key)
			if err != nil {
				broken = append(broken, fmt.Sprintf("%s: helper for %s: %v", file, key, err))
				continue
			}
			if c := authConfig(got); c != (authn.AuthConfig{}) {
				who := "with a token"
				if c.Username != "" {
					who = "as " + c.Username
				}
				k.note(host, fmt.Sprintf("%s, from %s", who, file))
				return authn.FromConfig(c), nil
			}
		}
	}
	said := "as nobody: no file with credentials is there"
	if len(looked) > 0 {
		said = fmt.Sprintf("as nobody: %s holds nothing for %s", strings.Join(looked, " and "), host)
	}
	if len(broken) > 0 {
		said += " (" + strings.Join(broken, "; ") + ")"
	}
	k.note(host, said)
	return authn.Anonymous, nil
}

func (k *keychain) note(host, what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tried == nil {
		k.tried = map[string]string{}
	}
	k.tried[host] = what
}

// explain adds to a refusal as whom the registry was asked.
func (k *keychain) explain(host string, err error) error {
	var refused *transport.Error
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusUnauthorized &&
		refused.StatusCode != http.StatusForbidden {
		return err
	}
	return &Refused{Registry: host, Status: refused.StatusCode, Tried: k.as(host), Err: err}
}

// as says as whom a registry is asked.
func (k *keychain) as(host string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if tried := k.tried[host]; tried != "" {
		return tried
	}
	return "as nobody"
}

// Refused says that a registry gives nothing to whoever asked.
type Refused struct {
	Registry string // host, and port where it is not https's
	Status   int    // HTTP's: 401 or 403
	Tried    string // as whom it was asked: "as ..."
	Err      error
}

func (e *Refused) Error() string {
	return fmt.Sprintf("%s refuses (%d), asked %s: %v", e.Registry, e.Status, e.Tried, e.Err)
}

// Unwrap is the registry's answer.
func (e *Refused) Unwrap() error { return e.Err }

// maxAuth bounds a file of credentials, in bytes.
const maxAuth = 1 << 20

func readAuth(file string) (*configfile.ConfigFile, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxAuth {
		return nil, fmt.Errorf("want a regular file of at most %d bytes", maxAuth)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return config.LoadFromReader(f)
}

// authKeys are the names under which credentials for a repository may stand, the nearest first: podman knows namespaces
// of a registry (containers-auth.json(5)), docker only registries, and its own by an address.
func authKeys(of authn.Resource) []string {
	var keys []string
	for s := of.String(); s != "" && strings.Contains(s, "/"); s = s[:strings.LastIndexByte(s, '/')] {
		keys = append(keys, s)
	}
	host := of.RegistryStr()
	keys = append(keys, host)
	if host == name.DefaultRegistry {
		keys = append(keys, "https://index.docker.io/v1/", "docker.io")
	}
	return keys
}

// otherNamespace says whether a key is podman's for a part of a registry. docker's library would take it for the whole
// of it, as it takes docker's own keys, which are addresses that end in the version of a protocol.
func otherNamespace(key string) bool {
	_, path, ok := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://"), "/")
	path = strings.Trim(path, "/")
	return ok && path != "" && path != "v1" && path != "v2"
}

func authConfig(c types.AuthConfig) authn.AuthConfig {
	if c.Username == "" && c.Password == "" && c.Auth == "" && c.IdentityToken == "" && c.RegistryToken == "" {
		return authn.AuthConfig{}
	}
	return authn.AuthConfig{Username: c.Username, Password: c.Password, Auth: c.Auth, IdentityToken: c.IdentityToken,
		RegistryToken: c.RegistryToken}
}

// places are where a repository is looked for: its mirrors, then itself.
func (a *Access) places(repo name.Repository) ([]name.Repository, error) {
	var out []name.Repository
	for _, m := range a.Mirrors[repo.RegistryStr()] {
		host, prefix, _ := strings.Cut(m, "/")
		r, err := a.repository(host, strings.Trim(prefix+"/"+repo.RepositoryStr(), "/"))
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", m, err)
		}
		out = append(out, r)
	}
	self, err := a.repository(repo.RegistryStr(), repo.RepositoryStr())
	return append(out, self), err
}

func (a *Access) repository(host, path string) (name.Repository, error) {
	var o []name.Option
	if slices.Contains(a.Insecure, host) {
		o = append(o, name.Insecure)
	}
	return name.NewRepository(host+"/"+path, o...)
}

// Transport is a transport that knows each host's certificates, and reaches by plain HTTP only this host and those that
// are named insecure.
func (a *Access) Transport() http.RoundTripper { return &hosts{a: a} }

// hosts is a transport that knows each registry's certificates. Plain HTTP goes to this host and to those named
// insecure only: whoever sits on the way could see passwords, and the registry library tries plain HTTP for more
// addresses than that.
type hosts struct {
	a *Access

	mu sync.Mutex
	by map[string]http.RoundTripper
}

// Insecure says that a registry on another machine would be reached by something else than https.
type Insecure struct{ Scheme, Host string }

func (e *Insecure) Error() string {
	return fmt.Sprintf("%s to %s: a registry elsewhere is reached by https only", e.Scheme, e.Host)
}

// RoundTrip implements http.RoundTripper.
func (h *hosts) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Hostname()
	ip := net.ParseIP(host)
	home := host == "localhost" || ip != nil && ip.IsLoopback()
	insecure := slices.Contains(h.a.Insecure, r.URL.Host)
	if r.URL.Scheme != "https" && (r.URL.Scheme != "http" || !home && !insecure) {
		return nil, &Insecure{Scheme: r.URL.Scheme, Host: r.URL.Host}
	}
	t, err := h.transport(r.URL.Host, insecure)
	if err != nil {
		return nil, err
	}
	return t.RoundTrip(r)
}

func (h *hosts) transport(host string, insecure bool) (http.RoundTripper, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.by[host]; t != nil {
		return t, nil
	}
	c, err := h.a.tlsConfig(host)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", host, err)
	}
	c.InsecureSkipVerify = insecure // only for hosts that the user has named
	if h.by == nil {
		h.by = map[string]http.RoundTripper{}
	}
	h.by[host] = httpclient.NewTransport(c)
	return h.by[host], nil
}

// TLS is what the certificate of another kind of server is checked with, HOST[:PORT], and what this side shows.
func (a *Access) TLS(host string) (*tls.Config, error) {
	c, err := a.tlsConfig(host)
	if err == nil {
		c.InsecureSkipVerify = slices.Contains(a.Insecure, host) // only for hosts that the user has named
	}
	return c, err
}

// Login is how a user logs in to another kind of server, HOST[:PORT]; the zero value is as nobody.
func (a *Access) Login(host string) (authn.AuthConfig, error) {
	r, err := name.NewRegistry(host)
	if err != nil {
		return authn.AuthConfig{}, err
	}
	who, err := (&keychain{a: a}).Resolve(r)
	if err != nil {
		return authn.AuthConfig{}, err
	}
	c, err := who.Authorization()
	if err != nil {
		return authn.AuthConfig{}, err
	}
	return *c, nil
}

// tlsConfig is what a registry's certificate is checked with, and what this side shows.
func (a *Access) tlsConfig(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	authorities := slices.Clone(a.Authorities)
	for _, folder := range a.CertFolders {
		files, err := filepath.Glob(filepath.Join(escapeGlob(filepath.Join(folder, host)), "*"))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			switch filepath.Ext(f) {
			case ".crt":
				authorities = append(authorities, f)
			case ".cert":
				pair, err := tls.LoadX509KeyPair(f, strings.TrimSuffix(f, ".cert")+".key")
				if err != nil {
					return nil, fmt.Errorf("client certificate %s: %w", f, err)
				}
				c.Certificates = append(c.Certificates, pair)
			}
		}
	}
	for _, f := range authorities {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificate authority: %s holds no certificate in PEM form", f)
		}
	}
	c.RootCAs = pool
	return c, nil
}

// escapeGlob keeps a path's own special characters from being patterns.
func escapeGlob(p string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(p)
}
