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

// Index reads index and envelope.
func (w *web) Index(ctx context.Context) (data, envelope []byte, err error) {
	if data, err = w.small(ctx, folder.IndexName, index.MaxSize); err != nil {
		return nil, nil, err
	}
	envelope, err = w.small(ctx, folder.EnvelopeName, folder.MaxEnvelope)
	if s, ok := errors.AsType[*status](err); ok && s.code == http.StatusNotFound {
		return data, nil, nil
	}
	return data, envelope, err
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
