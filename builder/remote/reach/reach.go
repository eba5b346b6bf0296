// Package reach opens caches by their names: oci:HOST/REPOSITORY, grpc://HOST:PORT[/INSTANCE] and
// grpcs://HOST[:PORT][/INSTANCE].
//
// Logins, authorities and clients' certificates are those for registries of container images, by a server's host.
package reach

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/remote/ocicache"
	"github.com/katabuild/katabuild/builder/remote/reapi"
	"github.com/katabuild/katabuild/internal/registry"
)

// Forms tells people what names of caches look like.
const Forms = "oci:HOST/REPOSITORY, grpc://HOST:PORT[/INSTANCE] or grpcs://HOST[:PORT][/INSTANCE]"

// Access says how caches are reached. The zero value reaches them as nobody.
type Access struct {
	registry.Access
	Headers []Header
}

// Header is what goes with every call to a server of the Remote Execution API.
type Header struct{ Host, Name, Value string } // Host is HOST or HOST:PORT

// maxHeaders bounds a file of headers, in bytes.
const maxHeaders = 1 << 20

// ReadHeaders reads headers, one a line, as HOST[:PORT] NAME: VALUE. Lines that begin with # are comments.
func ReadHeaders(r io.Reader) ([]Header, error) {
	var out []Header
	s := bufio.NewScanner(io.LimitReader(r, maxHeaders))
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		host, rest, _ := strings.Cut(line, " ")
		name, value, ok := strings.Cut(strings.TrimSpace(rest), ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("line %d: want HOST[:PORT] NAME: VALUE", n) // what stands there may be a secret
		}
		out = append(out, Header{host, strings.ToLower(name), strings.TrimSpace(value)})
	}
	return out, s.Err()
}

// Reader opens a cache for reading.
func Reader(name string, a Access) (remote.Cache, error) {
	if r, ok := strings.CutPrefix(name, ocicache.Prefix); ok {
		if !strings.Contains(r, "/") {
			return nil, &BadName{name}
		}
		return ocicache.Reader(r, a.Access), nil
	}
	return server(name, a)
}

// Writer opens a cache for writing.
func Writer(name string, a Access) (remote.Cache, error) {
	if r, ok := strings.CutPrefix(name, ocicache.Prefix); ok {
		if !strings.Contains(r, "/") {
			return nil, &BadName{name}
		}
		return ocicache.Writer(r, a.Access), nil
	}
	return server(name, a)
}

// server is a server of the Remote Execution API.
func server(name string, a Access) (remote.Cache, error) {
	u, err := url.Parse(name)
	if err != nil || u.Scheme != "grpc" && u.Scheme != "grpcs" || u.Hostname() == "" || u.RawQuery != "" ||
		u.Fragment != "" || u.User != nil || u.Scheme == "grpc" && u.Port() == "" {
		return nil, &BadName{name}
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	o := reapi.Options{Name: name, Address: host, Instance: strings.Trim(u.Path, "/"), Header: map[string]string{}}
	if u.Scheme == "grpcs" {
		if o.TLS, err = a.TLS(u.Host); err != nil {
			return nil, fmt.Errorf("cache %s: %w", name, err)
		}
	}
	login, err := a.Login(u.Host)
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", name, err)
	}
	switch {
	case login.RegistryToken != "":
		o.Header["authorization"] = "Bearer " + login.RegistryToken
	case login.Username != "":
		o.Header["authorization"] = "Basic " + base64.StdEncoding.EncodeToString(
			[]byte(login.Username+":"+login.Password))
	}
	for _, h := range a.Headers {
		if h.Host == u.Host || h.Host == u.Hostname() {
			o.Header[h.Name] = h.Value
		}
	}
	if len(o.Header) > 0 && o.TLS == nil && !registry.IsHome(u.Host) {
		return nil, &exposed{name}
	}
	return reapi.New(o)
}

// BadName says that a name is not that of a cache.
type BadName struct{ Name string }

func (e *BadName) Error() string { return fmt.Sprintf("cache %q: want %s", e.Name, Forms) }

// exposed says that a secret would be sent over a network without TLS.
type exposed struct{ name string }

func (e *exposed) Error() string {
	return fmt.Sprintf("cache %s: there is a login or a header for it, which anybody on the way could read; "+
		"use grpcs://", e.name)
}
