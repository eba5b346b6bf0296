package trace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/spans"
)

// Bounds of sending.
const (
	maxWaits  = 2048            // spans that wait; more are lost, and counted
	pause     = time.Second     // between two requests, so that spans go together
	sendTime  = 5 * time.Second // for one request
	closeTime = 2 * time.Second // for all of what is left at the end
	maxReply  = 64 << 10        // bytes
)

// tracesPath is where a collector takes spans by HTTP: OpenTelemetry, OTLP/HTTP, "OTLP/HTTP Request".
const tracesPath = "/v1/traces"

// CheckEndpoint says what is wrong with the address of a collector: http://HOST:PORT or https://, with the path
// /v1/traces or none.
func CheckEndpoint(s string) error {
	_, err := endpoint(s)
	return err
}

func endpoint(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("%q is no address: %w", s, err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" ||
		u.Fragment != "":
		return "", fmt.Errorf("%q: want http://HOST:PORT or https://HOST:PORT of a collector that takes OTLP by HTTP, "+
			"such as http://localhost:4318", s)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = tracesPath
	}
	return u.String(), nil
}

// Sender sends OTLP to a collector. Get one from NewSender.
type Sender struct {
	url    string
	client *http.Client
}

// NewSender makes one for an address that CheckEndpoint takes.
func NewSender(address string) (*Sender, error) {
	u, err := endpoint(address)
	if err != nil {
		return nil, err
	}
	return &Sender{url: u, client: &http.Client{Timeout: sendTime, Transport: &http.Transport{MaxIdleConns: 1,
		IdleConnTimeout: sendTime, TLSHandshakeTimeout: sendTime},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Send sends the bytes of spans as they are.
func (s *Sender) Send(ctx context.Context, data []byte) (err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxReply)); err != nil {
		return fmt.Errorf("%s: %w", s.url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", s.url, resp.Status)
	}
	return nil
}

// Close gives connections up.
func (s *Sender) Close() { s.client.CloseIdleConnections() }

// exporter sends spans beside everything else: nobody waits for it.
type exporter struct {
	of      spans.Batch // without spans
	sender  *Sender
	log     *slog.Logger
	wake    chan struct{} // has an element when there may be something
	closing chan struct{}
	end     sync.Once // of closing
	ended   chan struct{}

	mu     sync.Mutex // guards what follows
	waits  []spans.Span
	frames [][]byte // of the guest, as they came
	lost   int
}

// newExporter starts one for an address that CheckEndpoint takes. Where it does not, spans are lost, and the log says
// so.
func newExporter(address string, of spans.Batch, log *slog.Logger) *exporter {
	e := &exporter{of: of, log: log, wake: make(chan struct{}, 1), closing: make(chan struct{}),
		ended: make(chan struct{})}
	var err error
	if e.sender, err = NewSender(address); err != nil {
		log.Warn("spans are not sent", "err", err)
	}
	go e.run()
	return e
}

func (e *exporter) add(list ...spans.Span) {
	e.mu.Lock()
	defer e.mu.Unlock()
	room := max(maxWaits-len(e.waits), 0)
	e.lost += max(len(list)-room, 0)
	e.waits = append(e.waits, list[:min(len(list), room)]...)
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// addFrame adds a frame of the guest.
func (e *exporter) addFrame(data []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.frames) == guestFrames {
		e.lost++
		return
	}
	e.frames = append(e.frames, data)
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *exporter) run() {
	defer close(e.ended)
	if e.sender == nil {
		return
	}
	defer e.sender.Close()
	for {
		select {
		case <-e.wake:
		case <-e.closing:
		}
		select {
		case <-time.After(pause):
		case <-e.closing:
		}
		select {
		case <-e.closing:
			ctx, cancel := context.WithTimeout(context.Background(), closeTime)
			defer cancel()
			e.flush(ctx)
			return
		default:
			e.flush(context.Background())
		}
	}
}

// flush sends what waits. What cannot be sent is lost: a collector that is not there costs no memory.
func (e *exporter) flush(ctx context.Context) {
	e.mu.Lock()
	list, frames, lost := e.waits, e.frames, e.lost
	e.waits, e.frames, e.lost = nil, nil, 0
	e.mu.Unlock()
	if lost > 0 {
		e.log.Warn("spans are lost, as they come faster than they are sent", "spans", lost)
	}
	for _, data := range frames {
		if err := e.sender.Send(ctx, data); err != nil {
			e.log.Warn("spans of the guest are lost, as they cannot be sent", "err", err)
			break
		}
	}
	if len(list) == 0 {
		return
	}
	b := e.of
	b.Spans = list
	data, err := spans.Encode(b)
	if err == nil {
		err = e.sender.Send(ctx, data)
	}
	if err != nil {
		e.log.Warn("spans are lost, as they cannot be sent", "spans", len(list), "err", err)
	}
}

func (e *exporter) close() {
	e.end.Do(func() { close(e.closing) })
	<-e.ended
}
