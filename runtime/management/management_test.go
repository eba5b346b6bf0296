package management

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/promtext"
	"github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/record"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakePod answers what a test says.
type fakePod struct {
	mu   sync.Mutex // guards what follows
	text string
	err  error
	hang bool
	set  []string
}

func (p *fakePod) GuestMetrics(ctx context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hang {
		<-ctx.Done()
		return "", ctx.Err()
	}
	return p.text, p.err
}

func (p *fakePod) IPTables(_ context.Context, v6 bool) ([]byte, error) {
	return fmt.Appendf(nil, "rules %v", v6), p.err
}

func (p *fakePod) SetIPTables(_ context.Context, v6 bool, rules []byte) error {
	p.set = append(p.set, fmt.Sprintf("rules %v %s", v6, rules))
	return p.err
}

func (p *fakePod) VolumeStats(_ context.Context, path string) (*katapb.VolumeStatsResponse, error) {
	if path != "/v" && p.err == nil {
		return nil, fmt.Errorf("no volume %s", path)
	}
	return &katapb.VolumeStatsResponse{VolumeCondition: &katapb.VolumeCondition{}, Usage: []*katapb.VolumeUsage{
		{Available: 1, Total: 3, Used: 2, Unit: katapb.VolumeUsage_BYTES}}}, p.err
}

func (p *fakePod) ResizeVolume(_ context.Context, path string, size int64) error {
	p.set = append(p.set, fmt.Sprintf("volume %s %d", path, size))
	return p.err
}

func (p *fakePod) SetPolicy(_ context.Context, policy string) error {
	p.set = append(p.set, "policy "+policy)
	return p.err
}

// served is a socket for the pod "p", and a client as Kata's: one connection a request, to any name.
func served(t *testing.T, p *fakePod, profiles bool) (record.Dirs, *http.Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := record.Dirs{State: dir + "/state"}
	f, err := record.Begin(d, record.Record{ID: "p", Guest: "/srv/g"})
	if err == nil {
		self := record.ProcessOf(os.Getpid())
		err = f.Note(func(r *record.Record) { r.State, r.QEMU, r.VirtioFSD = record.Running, self, self })
	}
	if err != nil {
		t.Fatal(err)
	}
	var calls metrics.Durations
	calls.Observe("create", time.Millisecond)
	s, err := Serve(Options{Dirs: d, ID: "p", Pod: p, Calls: &calls, Agent: &calls, Profiles: profiles,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(d.MonitorFolder("p")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket's folder is left: %v", err)
		}
	})
	return d, &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", d.MonitorSocket("p"))
		}}}
}

// ask is one request, and its answer.
func ask(t *testing.T, c *http.Client, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://shim"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestTheSocketIsRootsAlone(t *testing.T) {
	d, _ := served(t, &fakePod{}, false)
	for path, want := range map[string]fs.FileMode{d.MonitorFolder("p"): 0o700, d.MonitorSocket("p"): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
	if filepath.Base(d.MonitorSocket("p")) != "shim-monitor.sock" {
		t.Error("Kata's monitor does not find it")
	}
	if _, err := Serve(Options{Dirs: d, ID: "p"}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second server: %v", err)
	}
}

func TestASocketThatNobodyServesIsReplaced(t *testing.T) {
	d := record.Dirs{State: t.TempDir() + "/s"}
	if err := os.MkdirAll(d.MonitorFolder("p"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.MonitorSocket("p"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	again, err := listen(d, "p")
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := record.Clean(d, "p"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(d.MonitorFolder("p")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a killed process has left is there: %v", err)
	}
}

func TestNumbersOfHostAndGuest(t *testing.T) {
	_, c := served(t, &fakePod{text: "# TYPE kata_guest_load gauge\nkata_guest_load{item=\"load1\"} 0.5\n" +
		"kata_shim_threads 7\nkatabuild_pod_up 0\n\x1b[2J\n"}, false)
	code, got := ask(t, c, "GET", "/metrics", "")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, got)
	}
	for _, want := range []string{`kata_guest_load{item="load1"} 0.5`, "katabuild_pod_up 1",
		"katabuild_pod_guest_answers 1", "katabuild_pod_guest_lines_dropped 3",
		`kata_shim_rpc_durations_histogram_milliseconds_bucket{action="create",le="1"} 1`,
		`kata_shim_agent_rpc_durations_histogram_milliseconds_count{action="create"} 1`} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	for _, want := range []string{"kata_shim_threads ", "kata_hypervisor_threads ", "kata_virtiofsd_threads ",
		`kata_hypervisor_netdev{interface="`, "kata_shim_go_goroutines ", "kata_shim_process_open_fds "} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	families, dropped := promtext.Parse(got, promtext.Limits{})
	if dropped > 0 {
		t.Errorf("%d lines are none", dropped)
	}
	for i := range families[1:] {
		if families[i].Name >= families[i+1].Name {
			t.Errorf("%s stands before %s", families[i].Name, families[i+1].Name)
		}
	}
}

func TestAGuestThatHangsOrFailsCostsItsOwnNumbersAlone(t *testing.T) {
	for what, p := range map[string]*fakePod{"hangs": {hang: true}, "fails": {err: errors.New("no")},
		"lies": {text: strings.Repeat("\x00", 2<<20)}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, c := served(t, p, false)
			code, got := ask(t, c, "GET", "/metrics", "")
			answers := "katabuild_pod_guest_answers 0\n"
			if what == "lies" {
				answers = "katabuild_pod_guest_answers 1\n"
			}
			if code != http.StatusOK || !strings.Contains(got, "katabuild_pod_up 1\n") ||
				!strings.Contains(got, answers) || strings.Contains(got, "kata_guest") {
				t.Errorf("%d %s", code, got)
			}
		})
	}
}

func TestNumbersArePackedForWhoeverTakesThat(t *testing.T) {
	_, c := served(t, &fakePod{}, false)
	for accept, packed := range map[string]bool{"gzip": true, "br, gzip;q=0.5": true, "gzip;q=0": false,
		"gzip;q=0.0": false, "identity": false, "*": true} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://shim/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept-Encoding", accept)
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var body io.Reader = resp.Body
		if (resp.Header.Get("Content-Encoding") == "gzip") != packed {
			t.Errorf("%s: packed as %q", accept, resp.Header.Get("Content-Encoding"))
		} else if packed {
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := io.ReadAll(body); err != nil || !strings.Contains(string(b), "katabuild_pod_up 1\n") {
			t.Errorf("%s: %v %s", accept, err, b)
		}
		resp.Body.Close()
	}
}

func TestTheOtherWords(t *testing.T) {
	p := &fakePod{}
	d, c := served(t, p, false)
	for _, w := range []struct {
		method, path, body string
		code               int
		answer             string
	}{
		{"GET", "/agent-url", "", 200, "hvsock://" + d.VsockSocket("p") + ":1024"},
		{"GET", "/iptables", "", 200, "rules false"},
		{"GET", "/ip6tables", "", 200, "rules true"},
		{"PUT", "/iptables", "a", 200, ""},
		{"PUT", "/ip6tables", "b", 200, ""},
		{"PUT", "/policy", "package agent_policy", 200, ""},
		{"PUT", "/policy", strings.Repeat("x", maxBody+1), 413, "too large"},
		{"POST", "/iptables", "", 405, ""},
		{"GET", "/policy", "", 405, ""},
		{"GET", "/direct-volume/stats?path=%2Fv", "", 200,
			`{"usage":[{"available":1,"total":3,"used":2,"unit":1}],"volume_condition":{}}`},
		{"GET", "/direct-volume/stats?path=%252Fv", "", 200, `{"usage":`}, // as Kata's program sends it
		{"GET", "/direct-volume/stats?path=v", "", 400, "absolute path"},
		{"GET", "/direct-volume/stats", "", 400, "absolute path"},
		{"POST", "/direct-volume/resize", `{"VolumePath":"/v","Size":1}`, 200, ""},
		{"POST", "/direct-volume/resize", `{"VolumePath":"v","Size":1}`, 400, "want"},
		{"POST", "/direct-volume/resize", `{"VolumePath":"/v","Size":0}`, 400, "want"},
		{"POST", "/direct-volume/resize", `[]`, 400, "want"},
		{"GET", "/debug/pprof/", "", 403, "enable_pprof"},
		{"GET", "/debug/vars", "", 403, "enable_pprof"},
		{"GET", "/", "", 404, ""},
	} {
		code, got := ask(t, c, w.method, w.path, w.body)
		if code != w.code || !strings.Contains(got, w.answer) {
			t.Errorf("%s %s: %d %q, want %d %q", w.method, w.path, code, got, w.code, w.answer)
		}
	}
	want := "rules false a|rules true b|policy package agent_policy|volume /v 1"
	if got := strings.Join(p.set, "|"); got != want {
		t.Errorf("set: %s, want %s", got, want)
	}
	for code, err := range map[int]error{500: errors.New("a\x1b[2J\u009bb"),
		501: status.Error(codes.Unimplemented, "the agent does not know SetPolicy"),
		403: fmt.Errorf("policy: %w", status.Error(codes.PermissionDenied, "no")),
		400: status.Error(codes.InvalidArgument, strings.Repeat("x", 2*maxError))} {
		p.err = err
		got, text := ask(t, c, "PUT", "/policy", "x")
		if got != code || strings.ContainsAny(text, "\x1b\u009b") || len(text) > maxError+1 {
			t.Errorf("%v: %d %q", err, got, text)
		}
		if got, _ := ask(t, c, "GET", "/iptables", ""); got != code {
			t.Errorf("%v: %d", err, got)
		}
	}
}

func TestProfilesAreForThoseWhoAskedForThem(t *testing.T) {
	_, c := served(t, &fakePod{}, true)
	for path, want := range map[string]string{"/debug/pprof/": "goroutine",
		"/debug/pprof/goroutine?debug=1": "profile:",
		"/debug/pprof/cmdline":           "test"} {
		if code, got := ask(t, c, "GET", path, ""); code != http.StatusOK || !strings.Contains(got, want) {
			t.Errorf("%s: %d %s", path, code, got)
		}
	}
}
