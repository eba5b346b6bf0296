package registry

import (
	"context"
	"net/netip"

	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Artifacts is the repository for a library that reads and writes artefacts of any kind.
func (r *Repository) Artifacts() (*remote.Repository, error) {
	repo, err := remote.NewRepository(r.Host + "/" + r.Path)
	if err != nil {
		return nil, err
	}
	host, l := r.Host, r.Login
	c := &auth.Client{Client: r.HTTP, Cache: auth.NewCache(),
		Credential: func(_ context.Context, asked string) (auth.Credential, error) {
			if asked != host {
				return auth.EmptyCredential, nil
			}
			return auth.Credential{Username: l.Username, Password: l.Password, RefreshToken: l.IdentityToken,
				AccessToken: l.RegistryToken}, nil
		}}
	if IsHome(r.Host) {
		c.BlockedRealmPrefixes = []netip.Prefix{} // it may send us to its own realm on this host
	}
	repo.Client, repo.PlainHTTP, repo.SkipReferrersGC = c, r.Plain, true
	repo.MaxMetadataBytes = maxManifest
	return repo, nil
}
