package place

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
)

// get asks for a file from an offset on. ask makes the request.
func get(ctx context.Context, address string, b index.Blob, offset int64,
	ask func(*http.Request) (*http.Response, error)) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := ask(req)
	if err != nil {
		return nil, err
	}
	if err := answered(resp, address, b, offset); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp.Body, nil
}

// getRange asks for n bytes of a file from an offset on. A server that sends all of it is errNoRanges.
func getRange(ctx context.Context, address string, b index.Blob, offset, n int64,
	ask func(*http.Request) (*http.Response, error)) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+n-1))
	resp, err := ask(req)
	if err != nil {
		return nil, err
	}
	want := fmt.Sprintf("bytes %d-%d/%d", offset, offset+n-1, b.Size)
	got, size := resp.Header.Get("Content-Range"), resp.ContentLength
	switch {
	case resp.StatusCode == http.StatusOK:
		err = errNoRanges
	case resp.StatusCode != http.StatusPartialContent:
		err = &status{address, resp.StatusCode}
	case got != want || size >= 0 && size != n:
		err = refusal.New(refusal.Range, address, "want %q, got %q of %d bytes", want, got, size)
	default:
		return resp.Body, nil
	}
	return nil, errors.Join(err, resp.Body.Close())
}

// answered checks that an answer has the part of a file that was asked for, and leaves its body there. RFC 9110,
// sections 14.4 and 15.3.7. A server that knows no ranges sends the whole file, whose beginning is skipped.
func answered(resp *http.Response, address string, b index.Blob, offset int64) error {
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return refusal.New(refusal.MediaType, address, "the server has packed it (%s), and was asked not to", e)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if n := resp.ContentLength; n >= 0 && n != b.Size {
			return refusal.New(refusal.Size, address, "the server has %d bytes, want %d", n, b.Size)
		}
		_, err := io.CopyN(io.Discard, resp.Body, offset)
		return err
	case http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-%d/%d", offset, b.Size-1, b.Size)
		got := resp.Header.Get("Content-Range")
		if n := resp.ContentLength; offset == 0 || got != want || n >= 0 && n != b.Size-offset {
			return refusal.New(refusal.Range, address, "want %q, got %q of %d bytes", want, got, n)
		}
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		return refusal.New(refusal.Range, address, "the server has no byte %d of it, want %d", offset, b.Size)
	}
	return &status{address, resp.StatusCode}
}

// status is an answer that is no file.
type status struct {
	address string
	code    int
}

func (s *status) Error() string {
	return fmt.Sprintf("%s: %d %s", s.address, s.code, http.StatusText(s.code))
}
