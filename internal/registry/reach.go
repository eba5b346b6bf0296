package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/katabuild/katabuild/internal/httpclient"
)

// Repository is where a repository is, and how it is reached, for those who speak to registries themselves: what a
// Client does is for images alone.
type Repository struct {
	Host  string // HOST[:PORT]
	Path  string
	Plain bool // by plain HTTP
	HTTP  *http.Client
	Login authn.AuthConfig
	tried string
}

// Repositories are the places where a repository, HOST[:PORT]/PATH, is looked for: with mirrors those before itself.
func (c *Client) Repositories(ctx context.Context, repository string, mirrors bool) ([]Repository, error) {
	repo, err := name.NewRepository(repository)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", repository, err)
	}
	places, err := c.places(repo)
	if err != nil {
		return nil, err
	}
	if !mirrors {
		places = places[len(places)-1:]
	}
	keys := &keychain{a: &c.Access}
	way := c.Transport
	if way == nil {
		way = &hosts{a: &c.Access}
	}
	var out []Repository
	for _, p := range places {
		who, err := keys.Resolve(p)
		if err != nil {
			return nil, err
		}
		login, err := who.Authorization()
		if err != nil {
			return nil, fmt.Errorf("credentials for %s: %w", p.RegistryStr(), err)
		}
		r := Repository{Host: p.RegistryStr(), Path: p.RepositoryStr(), Login: *login, tried: keys.as(p.RegistryStr()),
			HTTP: httpclient.New(&http.Client{Transport: way})}
		r.Plain = r.plain(ctx, c.Insecure)
		out = append(out, r)
	}
	return out, nil
}

// plain says whether a registry is reached by plain HTTP: one of this host, or one that the user names, which does not
// answer by https.
func (r *Repository) plain(ctx context.Context, insecure []string) bool {
	if !IsHome(r.Host) && !slices.Contains(insecure, r.Host) {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.Host+"/v2/", nil)
	if err != nil {
		return false
	}
	resp, err := r.HTTP.Do(req)
	if err != nil {
		return true
	}
	_ = resp.Body.Close() // nothing was read
	return false
}

// IsHome says whether HOST[:PORT] is this host.
func IsHome(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Explain makes an answer of the registry with an HTTP status a *Refused where it refuses whoever asked.
func (r *Repository) Explain(status int, err error) error {
	if status != http.StatusUnauthorized && status != http.StatusForbidden {
		return err
	}
	return &Refused{Registry: r.Host, Status: status, Tried: r.tried, Err: err}
}
