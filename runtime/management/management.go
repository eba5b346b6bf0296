// Package management is a pod's management socket: HTTP over a UNIX socket, for programs of the host's root that watch
// pods or change them from outside of containerd.
//
// In come requests by the paths and in the forms of Kata Containers' shim-monitor.sock, where Kata's programs look for
// it; out come numbers, and calls of the pod's agent. What the guest says is hostile: it is bounded, and the host's own
// numbers come without it when it does not answer. The package does not know how a pod is run. docs/monitoring.md.
package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/record"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Pod is what is asked of a running pod. Its methods are called from several goroutines.
type Pod interface {
	// GuestMetrics is what the agent says of itself and of the guest, in Prometheus' text format.
	GuestMetrics(context.Context) (string, error)
	// IPTables are the rules of the guest's packet filter, of IPv4 or IPv6, as iptables-save writes them.
	IPTables(ctx context.Context, v6 bool) ([]byte, error)
	// SetIPTables replaces them.
	SetIPTables(ctx context.Context, v6 bool, rules []byte) error
	// VolumeStats says how full a volume is that is assigned directly, by its path on the host.
	VolumeStats(ctx context.Context, path string) (*katapb.VolumeStatsResponse, error)
	// ResizeVolume makes the file system of one as large as its file or device, which has size bytes at least.
	ResizeVolume(ctx context.Context, path string, size int64) error
	// SetPolicy replaces the agent's policy, where the one in force lets it.
	SetPolicy(ctx context.Context, policy string) error
}

// Options are what to serve.
type Options struct {
	Dirs     record.Dirs
	ID       string // of the pod, which has a record
	Pod      Pod
	Calls    *metrics.Durations // of containerd
	Agent    *metrics.Durations // calls of the agent
	Profiles bool               // whoever reaches the socket may profile this process
	// Trace is where the pod's time went, as OTLP; ok is false where that is not noted. nil is never.
	Trace func() (data []byte, ok bool)
	Log   *slog.Logger
}

// Times that bound a request.
const (
	// guestTime is how long the numbers of a guest are waited for. Kata's monitor waits 3 s for all.
	guestTime = 2 * time.Second
	// callTime bounds the other calls of the agent.
	callTime   = 30 * time.Second
	headTime   = 5 * time.Second
	answerTime = 2 * time.Minute // a profile takes some 30 s
	closeTime  = time.Second
)

// maxBody bounds what is sent to be set, in bytes.
const maxBody = 1 << 20

// Server serves one pod. Get one from Serve.
type Server struct {
	o     Options
	http  *http.Server
	ended chan error
	guest chan struct{} // holds a token while the guest's numbers are asked for
}

// Serve makes the socket and answers there until Close.
func Serve(o Options) (*Server, error) {
	l, err := listen(o.Dirs, o.ID)
	if err != nil {
		return nil, fmt.Errorf("management socket of the pod %s: %w", o.ID, err)
	}
	s := &Server{o: o, ended: make(chan error, 1), guest: make(chan struct{}, 1)}
	s.http = &http.Server{Handler: s.handler(), ReadHeaderTimeout: headTime, ReadTimeout: callTime,
		WriteTimeout: answerTime, IdleTimeout: callTime, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)}
	go func() { s.ended <- s.http.Serve(rootOnly{l}) }()
	return s, nil
}

// Close ends it, and removes the socket. It is called once.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil { // somebody does not read the answer
		err = s.http.Close()
	}
	if e := <-s.ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, record.RemoveMonitor(s.o.Dirs, s.o.ID))
}

// listen makes the socket in a folder that is root's alone. What a killed process has left there goes.
func listen(d record.Dirs, id string) (net.Listener, error) {
	if err := os.MkdirAll(d.WithDefaults().Monitor, 0o755); err != nil {
		return nil, err
	}
	path := d.MonitorSocket(id)
	if err := os.Mkdir(d.MonitorFolder(id), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if c, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("%s is served by another process", path), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, errors.Join(err, record.RemoveMonitor(d, id))
	}
	return l, os.Chmod(path, 0o600)
}

// rootOnly hangs up on everybody but root and this process's own user, whatever the folder's mode has become.
type rootOnly struct{ net.Listener }

// Accept implements net.Listener.
func (l rootOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peer(c); err == nil && (uid == 0 || int(uid) == os.Geteuid()) {
			return c, nil
		}
		_ = c.Close() // a stranger's
	}
}

// peer is the user at the other end.
func peer(c net.Conn) (uid uint32, err error) {
	u, is := c.(*net.UnixConn)
	if !is {
		return 0, errors.New("no UNIX socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil || err != nil {
		return 0, errors.Join(e, err)
	}
	return cred.Uid, nil
}

// handler knows the paths, which are Kata's.
func (s *Server) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /metrics", s.metrics)
	m.HandleFunc("GET /agent-url", s.agentURL)
	m.HandleFunc("GET /iptables", s.ipTables)
	m.HandleFunc("GET /ip6tables", s.ipTables)
	m.HandleFunc("PUT /iptables", s.setIPTables)
	m.HandleFunc("PUT /ip6tables", s.setIPTables)
	m.HandleFunc("PUT /policy", s.setPolicy)
	m.HandleFunc("GET /direct-volume/stats", s.volumeStats)
	m.HandleFunc("POST /direct-volume/resize", s.resizeVolume)
	m.HandleFunc("GET /trace", s.trace)
	if s.o.Profiles {
		m.HandleFunc("/debug/pprof/", pprof.Index)
		m.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		m.HandleFunc("/debug/pprof/profile", pprof.Profile)
		m.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		m.HandleFunc("/debug/pprof/trace", pprof.Trace)
	} else {
		m.HandleFunc("/debug/", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "enable_pprof in [runtime] of the configuration was not set when the pod was started",
				http.StatusForbidden)
		})
	}
	return m
}

// agentURL is where the agent is reached, as Kata's programs write it: a hybrid vsock socket and a port.
func (s *Server) agentURL(w http.ResponseWriter, _ *http.Request) {
	plain(w)
	fmt.Fprintf(w, "hvsock://%s:%d", s.o.Dirs.VsockSocket(s.o.ID), agentapi.Port)
}

func (s *Server) ipTables(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), callTime)
	defer cancel()
	b, err := s.o.Pod.IPTables(ctx, ofIPv6(r))
	if err != nil {
		refuse(w, err)
		return
	}
	plain(w)
	_, _ = w.Write(b) // whoever hangs up does not want it
}

func (s *Server) setIPTables(w http.ResponseWriter, r *http.Request) {
	s.set(w, r, func(ctx context.Context, b []byte) error { return s.o.Pod.SetIPTables(ctx, ofIPv6(r), b) })
}

func ofIPv6(r *http.Request) bool { return r.URL.Path == "/ip6tables" }

func (s *Server) setPolicy(w http.ResponseWriter, r *http.Request) {
	s.set(w, r, func(ctx context.Context, b []byte) error { return s.o.Pod.SetPolicy(ctx, string(b)) })
}

// set reads what is to be set, and has it done.
func (s *Server) set(w http.ResponseWriter, r *http.Request, do func(context.Context, []byte) error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		code := http.StatusBadRequest
		if _, big := errors.AsType[*http.MaxBytesError](err); big {
			code = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), code)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTime)
	defer cancel()
	if err := do(ctx, b); err != nil {
		s.o.Log.Warn("management", "path", r.URL.Path, "err", err)
		refuse(w, err)
		return
	}
	s.o.Log.Info("management", "set", r.URL.Path, "bytes", len(b))
}

// volumeStats says how full a volume is, in JSON with Kata Containers' names. Its path may be escaped once more than
// HTTP does it, as by Kata's programs.
func (s *Server) volumeStats(w http.ResponseWriter, r *http.Request) {
	path, err := url.PathUnescape(r.URL.Query().Get("path"))
	if err != nil || !filepath.IsAbs(path) {
		http.Error(w, "want ?path= and the absolute path of a volume", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTime)
	defer cancel()
	stats, err := s.o.Pod.VolumeStats(ctx, path)
	if err != nil {
		refuse(w, err)
		return
	}
	b, err := json.Marshal(stats)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // whoever hangs up does not want it
}

// resizeVolume makes a volume as large as its file or device, as Kata Containers' programs ask for it.
func (s *Server) resizeVolume(w http.ResponseWriter, r *http.Request) {
	var want resizeRequest
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(b, &want)
	}
	if err != nil || !filepath.IsAbs(want.VolumePath) || want.Size <= 0 {
		http.Error(w, `want {"VolumePath": "/PATH", "Size": BYTES}`, http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTime)
	defer cancel()
	if err := s.o.Pod.ResizeVolume(ctx, want.VolumePath, want.Size); err != nil {
		s.o.Log.Warn("management", "path", r.URL.Path, "err", err)
		refuse(w, err)
		return
	}
	s.o.Log.Info("management", "resized", want.VolumePath, "bytes", want.Size)
}

// trace answers with the pod's spans.
func (s *Server) trace(w http.ResponseWriter, _ *http.Request) {
	if s.o.Trace != nil {
		if b, ok := s.o.Trace(); ok {
			w.Header().Set("Content-Type", "application/x-protobuf")
			_, _ = w.Write(b) // whoever hangs up does not want it
			return
		}
	}
	http.Error(w, "enable_tracing in [runtime] of the configuration was not set when the pod was started",
		http.StatusForbidden)
}

func plain(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

// maxError is what is told of an error, in bytes: its words may be the guest's.
const maxError = 2048

// refuse tells an error of the agent, or of the way to it.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	if s, is := status.FromError(err); is {
		switch s.Code() {
		case codes.Unimplemented:
			code = http.StatusNotImplemented
		case codes.PermissionDenied:
			code = http.StatusForbidden
		case codes.InvalidArgument:
			code = http.StatusBadRequest
		}
	}
	text := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(err.Error(), "?"))
	http.Error(w, text[:min(len(text), maxError)], code)
}
