package place

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/katabuild/katabuild/internal/httpclient"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/reproduced"
	"github.com/katabuild/katabuild/releases/roles"
)

// web is a release's folder below an address.
type web struct {
	base   string // ends in a slash
	client *http.Client
}

func openWeb(address string, access registry.Access) (Source, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("address %q: want http(s)://HOST/FOLDER", address)
	}
	return &web{base: strings.TrimSuffix(address, "/") + "/",
		client: httpclient.New(&http.Client{Transport: access.Transport()})}, nil
}

func (w *web) Close() error {
	w.client.CloseIdleConnections()
	return nil
}

// Index reads what is known of the release before its files.
func (w *web) Index(ctx context.Context) (h folder.Head, err error) {
	if h.Index, err = w.small(ctx, folder.IndexName, index.MaxSize); err != nil {
		return folder.Head{}, err
	}
	for _, f := range []struct {
		name  string
		limit int64
		to    *[]byte
	}{{folder.EnvelopeName, folder.MaxEnvelope, &h.Envelope}, {folder.ReproducedName, reproduced.MaxSize,
		&h.Reproduced}, {folder.RolesName, roles.MaxSet, &h.Roles}} {
		data, err := w.small(ctx, f.name, f.limit)
		if s, ok := errors.AsType[*status](err); ok && s.code == http.StatusNotFound {
			continue
		}
		if err != nil {
			return folder.Head{}, err
		}
		*f.to = data
	}
	return h, nil
}

// small reads a file whose size nobody has told.
func (w *web) small(ctx context.Context, name string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+name, nil)
	if err != nil {
		return nil, err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &status{w.base + name, resp.StatusCode}
	}
	return readSmall(w.base+name, resp.Body, limit)
}

// readSmall reads all of a small file.
func readSmall(what string, r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, refusal.New(refusal.Size, what, "more than the %d bytes that it may have", limit)
	}
	return data, nil
}

func (w *web) Open(ctx context.Context, b index.Blob, offset int64) (io.ReadCloser, error) {
	return get(ctx, w.base+folder.BlobName(b.Digest), b, offset, w.client.Do)
}

// OpenRange begins to read a part of a file.
func (w *web) OpenRange(ctx context.Context, b index.Blob, offset, n int64) (io.ReadCloser, error) {
	return getRange(ctx, w.base+folder.BlobName(b.Digest), b, offset, n, w.client.Do)
}
