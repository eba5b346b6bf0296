package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// Cluster is what is asked of the API server.
type Cluster interface {
	// Secret reads the data of a Secret, and its version.
	Secret(ctx context.Context, namespace, name string) (data map[string][]byte, version string, err error)
	// SetSecret replaces the data of a Secret of a version. Conflict says that there is a newer one.
	SetSecret(ctx context.Context, namespace, name, version string, data map[string][]byte) error
	// Conflict says whether an error of SetSecret is that another one was faster.
	Conflict(err error) bool
	// SetAuthorities has the API server believe these authorities, in PEM form, for the webhooks of a
	// MutatingWebhookConfiguration. It changes nothing where it does so already.
	SetAuthorities(ctx context.Context, configuration string, pem []byte) error
}

// Config says what is served.
type Config struct {
	Rules    Rules
	Listen   string        // address, HOST:PORT
	Interval time.Duration // how often keys are looked at

	// CertFile and KeyFile are a certificate from elsewhere. Without them there is a Secret.
	CertFile, KeyFile string

	Namespace     string // of Secret and Service
	Secret        string
	Service       string // by which the API server reaches this
	Configuration string // the MutatingWebhookConfiguration
}

// names are those by which the API server calls the webhook.
func (c *Config) names() []string {
	return []string{c.Service + "." + c.Namespace + ".svc", c.Service + "." + c.Namespace}
}

// maxReview bounds a question, in bytes: an object has at most 1.5 MiB, and an update asks about two.
const maxReview = 8 << 20

// Bounds of a request.
const (
	readTime  = 10 * time.Second
	idleTime  = 2 * time.Minute
	closeTime = 5 * time.Second
)

// server is one that runs.
type server struct {
	cfg  Config
	api  Cluster
	log  *slog.Logger
	cert atomic.Pointer[tls.Certificate]
	now  func() time.Time
}

// Run serves until ctx ends. ready, when not nil, is called with the address once it listens.
func Run(ctx context.Context, cfg Config, api Cluster, log *slog.Logger, ready func(net.Addr)) error {
	s := &server{cfg: cfg, api: api, log: log, now: time.Now}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	h := &http.Server{Handler: s.handler(), ReadTimeout: readTime, WriteTimeout: readTime, IdleTimeout: idleTime,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				if c := s.cert.Load(); c != nil {
					return c, nil
				}
				return nil, errors.New("there is no certificate yet")
			}}}
	served := make(chan error, 1)
	go func() { served <- h.ServeTLS(l, "", "") }()
	if ready != nil {
		ready(l.Addr())
	}
	for {
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			log.Error("the certificate cannot be renewed; it is tried again", "err", err)
		}
		select {
		case err := <-served:
			return err
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
			defer cancel()
			return h.Shutdown(end)
		case <-time.After(cfg.Interval):
		}
	}
}

// look brings the certificate, and what the API server believes, to what they are to be.
func (s *server) look(ctx context.Context) error {
	if s.cfg.CertFile != "" {
		cert, err := os.ReadFile(s.cfg.CertFile)
		if err != nil {
			return err
		}
		key, err := os.ReadFile(s.cfg.KeyFile)
		if err != nil {
			return err
		}
		return s.use(cert, key)
	}
	const tries = 5 // replicas begin at the same time
	for range tries {
		have, version, err := s.api.Secret(ctx, s.cfg.Namespace, s.cfg.Secret)
		if err != nil {
			return err
		}
		data, changed, err := renew(s.now(), have, s.cfg.names())
		if err != nil {
			return err
		}
		if changed {
			err = s.api.SetSecret(ctx, s.cfg.Namespace, s.cfg.Secret, version, data)
			if s.api.Conflict(err) {
				continue
			}
			if err != nil {
				return err
			}
			s.log.Info("keys were renewed", "secret", s.cfg.Secret)
		}
		if err := s.api.SetAuthorities(ctx, s.cfg.Configuration, data[authoritiesKey]); err != nil {
			return err
		}
		return s.use(data[certKey], data[keyKey])
	}
	return fmt.Errorf("secret %s: others change it without end", s.cfg.Secret)
}

func (s *server) use(cert, key []byte) error {
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	s.cert.Store(&c)
	return nil
}

func (s *server) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n") // the prober is gone
	})
	m.HandleFunc("POST /mutate", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, note, err := s.cfg.Rules.decide(body)
		if err != nil {
			s.log.Warn("a question is not understood", "err", err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.log.Info(note)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer) // the API server is gone
	})
	return m
}
