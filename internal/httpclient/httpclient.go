// Package httpclient is HTTP for fetching bytes by their digest from servers that nobody vouches for.
//
// A client gives up on servers that keep it waiting, takes the bytes as they are kept, and follows no redirect to
// another scheme.
package httpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// deadlines bound how long a server may keep a request waiting. Zero fields mean the defaults, which let the slowest
// usable link through.
type deadlines struct {
	Connect time.Duration // until there is a connection, TLS included where the transport is ours; 10 s
	// Header is from the beginning, connecting included, or from when the server last took some of the request's body,
	// to the end of the answer's header; 20 s.
	Header time.Duration
	Stall  time.Duration // for the next MinBytes of the body; 15 s
	// MinBytes is how many bytes of the body must arrive in Stall; 1 KiB. A server that sends a byte now and then is as
	// good as silent.
	MinBytes int64
}

func (d deadlines) orDefault() deadlines {
	if d.Connect == 0 {
		d.Connect = 10 * time.Second
	}
	if d.Header == 0 {
		d.Header = 20 * time.Second
	}
	if d.Stall == 0 {
		d.Stall = 15 * time.Second
	}
	if d.MinBytes == 0 {
		d.MinBytes = 1 << 10
	}
	return d
}

// maxHeader bounds the header of an answer, in bytes.
const maxHeader = 1 << 20

// NewTransport makes a transport with deadlines: by the host's proxies, and bytes as the server sends them, without
// unpacking what was packed for the way only. certificates is how servers are checked; nil is by the host's
// authorities.
func NewTransport(certificates *tls.Config) http.RoundTripper {
	t := transport(deadlines{})
	t.TLSClientConfig = certificates
	return &patient{Next: t}
}

func transport(d deadlines) *http.Transport {
	d = d.orDefault()
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: d.Connect}).DialContext,
		TLSHandshakeTimeout:    d.Connect,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           16,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}
}

// patient is a RoundTripper that gives up on a server according to Deadlines, whatever its own transport does.
type patient struct {
	Next      http.RoundTripper // nil is transport(Deadlines)
	Deadlines deadlines

	once sync.Once
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	p.once.Do(func() {
		if p.next = p.Next; p.next == nil {
			p.next = transport(p.Deadlines)
		}
	})
	d := p.Deadlines.orDefault()
	ctx, cancel := context.WithCancelCause(r.Context())
	r = r.Clone(ctx)
	if r.Header.Get("Accept-Encoding") == "" {
		r.Header.Set("Accept-Encoding", "identity") // a digest is over the bytes that a server keeps
	}
	silent := fmt.Errorf("%s gave no answer within %v", r.URL.Host, d.Header)
	timer := time.AfterFunc(d.Header, func() { cancel(silent) })
	var answered atomic.Bool
	if r.Body != nil { // an upload takes as long as it moves
		r.Body = &movingBody{r.Body, func() {
			if !answered.Load() {
				timer.Reset(d.Header)
			}
		}}
	}
	resp, err := p.next.RoundTrip(r)
	answered.Store(true)
	timer.Stop()
	if err != nil {
		err = cause(ctx, err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &patientBody{body: resp.Body, ctx: ctx, cancel: cancel, d: d,
		stalled: fmt.Errorf("%s stopped sending: less than %d bytes in %v", r.URL.Host, d.MinBytes, d.Stall)}
	return resp, nil
}

// movingBody tells that the server takes more of a request's body.
type movingBody struct {
	io.ReadCloser
	moved func()
}

func (b *movingBody) Read(p []byte) (int, error) {
	b.moved()
	return b.ReadCloser.Read(p)
}

// cause is why a context was cancelled where that was ours, and err otherwise.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) && !errors.Is(c, context.DeadlineExceeded) {
		return c
	}
	return err
}

// patientBody cancels the request when too little of the body arrives. Only the time spent waiting counts, not what the
// reader takes for itself.
type patientBody struct {
	body    io.ReadCloser
	ctx     context.Context // the request's, which Read may have to end
	cancel  context.CancelCauseFunc
	d       deadlines
	stalled error

	waited time.Duration // since bytes was zero
	bytes  int64
}

func (b *patientBody) Read(p []byte) (int, error) {
	timer := time.AfterFunc(b.d.Stall-b.waited, func() { b.cancel(b.stalled) })
	start := time.Now()
	n, err := b.body.Read(p)
	timer.Stop()
	b.waited += time.Since(start)
	if b.bytes += int64(n); b.bytes >= b.d.MinBytes {
		b.waited, b.bytes = 0, 0
	}
	if err == nil && b.waited >= b.d.Stall {
		err = b.stalled
	}
	if err != nil && err != io.EOF {
		err = cause(b.ctx, err)
	}
	return n, err
}

func (b *patientBody) Close() error {
	err := b.body.Close()
	b.cancel(nil)
	return err
}

// maxRedirect is how many redirects are followed.
const maxRedirect = 10

// defaultTransport is shared, so that connections are used again.
var defaultTransport = &patient{}

// New is c, or a client with deadlines where c is nil, with rules for redirects.
func New(c *http.Client) *http.Client {
	if c == nil {
		c = &http.Client{Transport: defaultTransport}
	}
	careful := *c
	careful.CheckRedirect = func(to *http.Request, via []*http.Request) error {
		from := via[len(via)-1].URL
		switch {
		case len(via) >= maxRedirect:
			return fmt.Errorf("more than %d redirects", maxRedirect)
		case to.URL.Scheme != from.Scheme:
			return fmt.Errorf("redirect from %s to %s; where that is right, name the address that it leads to: %s",
				from.Scheme, to.URL.Scheme, to.URL)
		}
		return nil
	}
	return &careful
}
