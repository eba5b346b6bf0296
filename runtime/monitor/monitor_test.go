package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/promtext"
	"github.com/katabuild/katabuild/runtime/management"
	"github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/record"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// guest is a pod whose guest says some text.
type guest struct {
	management.Pod // nil: nothing else is asked
	text           string
}

func (g guest) GuestMetrics(context.Context) (string, error) { return g.text, nil }

// node has pods.
type node struct {
	dirs record.Dirs
	*Monitor
	*httptest.Server
}

func newNode(t testing.TB, names func(context.Context) (map[string]Name, error)) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "kb") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &node{dirs: record.Dirs{State: dir + "/s"}}
	n.Monitor = New(Options{Folders: []string{n.dirs.WithDefaults().Monitor, dir + "/none"}, Names: names,
		Log: slog.New(slog.DiscardHandler)})
	n.Server = httptest.NewServer(n.Handler())
	t.Cleanup(n.Server.Close)
	return n
}

// start starts a pod, as far as the monitor sees it, and returns its end.
func (n *node) start(t testing.TB, id, text string) (stop func()) {
	t.Helper()
	f, err := record.Begin(n.dirs, record.Record{ID: id})
	if err == nil {
		self := record.ProcessOf(os.Getpid())
		err = f.Note(func(r *record.Record) { r.State, r.QEMU, r.VirtioFSD = record.Running, self, self })
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := management.Serve(management.Options{Dirs: n.dirs, ID: id, Pod: guest{text: text},
		Calls: &metrics.Durations{}, Agent: &metrics.Durations{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

func (n *node) ask(t testing.TB, path, accept string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	resp, err := n.Server.Client().Do(r)
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

func TestNumbersSayWhichPodTheyAreOf(t *testing.T) {
	n := newNode(t, func(context.Context) (map[string]Name, error) {
		return map[string]Name{"a": {"uid-a", "web\"1", "shop"}}, nil
	})
	stop := n.start(t, "a", "kata_guest_load{item=\"load1\"} 1\n")
	n.start(t, "b", "# TYPE kata_guest_load counter\nkata_guest_load{item=\"load1\"} 2\nkata_monitor_scrape_count 7\n"+
		"kata_guest_load{item=\"x\",sandbox_id=\"a\"} 3\n")
	code, got := n.ask(t, "/metrics", "")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, got)
	}
	for _, want := range []string{
		`kata_guest_load{item="load1",sandbox_id="a",cri_uid="uid-a",cri_name="web\"1",cri_namespace="shop"} 1`,
		`kata_guest_load{item="load1",sandbox_id="b",cri_uid="",cri_name="",cri_namespace=""} 2`,
		`katabuild_pod_up{sandbox_id="b",cri_uid="",cri_name="",cri_namespace=""} 1`,
		"kata_monitor_running_shim_count 2", "kata_monitor_scrape_count 1", "kata_monitor_scrape_failed_count 0",
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "# TYPE kata_guest_load "); n != 1 || strings.Contains(got, `"x"`) {
		t.Errorf("the family stands %d times, or a guest speaks of another: %s", n, got)
	}
	if families, dropped := promtext.Parse(got, promtext.Limits{}); dropped > 0 || len(families) < 20 {
		t.Errorf("%d families, %d lines are none", len(families), dropped)
	}
	stop()
	if code, got = n.ask(t, "/sandboxes", ""); code != http.StatusOK || got != "b\n" {
		t.Errorf("pods: %d %q", code, got)
	}
}

func TestPagesAndTheirMistakes(t *testing.T) {
	n := newNode(t, func(context.Context) (map[string]Name, error) { return nil, errors.New("no engine") })
	n.start(t, "a", "kata_guest_load 1\n")
	for _, w := range []struct {
		path, accept string
		code         int
		has, hasNot  string
	}{
		{"/", "", 200, "/agent-url", "<"},
		{"/", "text/html,*/*", 200, "<a href=\"/metrics\">", ""},
		{"/sandboxes", "", 200, "a\n", "<"},
		{"/sandboxes", "text/html", 200, "/metrics?sandbox=a", ""},
		{"/agent-url?sandbox=a", "", 200, "hvsock://" + n.dirs.VsockSocket("a") + ":1024\n", ""},
		{"/agent-url", "", 400, "which pod", ""},
		{"/agent-url?sandbox=../x", "", 404, "no pod", ""},
		{"/metrics?sandbox=a", "", 200, "\nkata_guest_load 1\n", "kata_monitor_"},
		{"/metrics?sandbox=a&filter_family=kata_guest", "", 200, "kata_guest_load 1", "kata_shim_"},
		{"/metrics?sandbox=none", "", 404, "no pod", ""},
		{"/metrics?filter_family=kata_shim_fds,kata_guest_l.ad", "", 200, "kata_guest_load{", "kata_shim_threads"},
		{"/metrics?filter_family=load", "", 200, "", "kata_guest_load"}, // a name begins so, or is none
		{"/metrics?filter_family=(", "", 400, "filter_family", ""},
		{"/metrics?filter_family=" + strings.Repeat("x", maxFilter+1), "", 400, "at most", ""},
		{"/debug/pprof/", "", 404, "", ""},
	} {
		code, got := n.ask(t, w.path, w.accept)
		if code != w.code || !strings.Contains(got, w.has) || w.hasNot != "" && strings.Contains(got, w.hasNot) {
			t.Errorf("%s: %d %s", w.path, code, got)
		}
	}
	for range requests {
		n.requests <- struct{}{}
	}
	if code, got := n.ask(t, "/metrics", ""); code != http.StatusServiceUnavailable {
		t.Errorf("one more than are answered: %d %s", code, got)
	}
}

// TestAPodThatMisbehavesCostsItsOwnNumbersAlone: its shim is what misbehaves here, a guest cannot get that far.
func TestAPodThatMisbehavesCostsItsOwnNumbersAlone(t *testing.T) {
	for what, serve := range map[string]http.HandlerFunc{
		"too much": func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, podBytes+1)) },
		"an error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) },
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
	} {
		t.Run(what, func(t *testing.T) {
			n := newNode(t, nil)
			n.start(t, "good", "")
			dir := filepath.Join(n.dirs.WithDefaults().Monitor, "bad")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", n.dirs.MonitorSocket("bad"))
			if err != nil {
				t.Fatal(err)
			}
			s := &http.Server{Handler: serve}
			go s.Serve(l) // ends with Close
			defer s.Close()
			code, got := n.ask(t, "/metrics", "")
			if code != http.StatusOK || !strings.Contains(got, `katabuild_pod_up{sandbox_id="good"`) ||
				strings.Contains(got, `"bad"`) || !strings.Contains(got, "kata_monitor_scrape_failed_count 1\n") {
				t.Errorf("%d %s", code, got)
			}
			if code, _ := n.ask(t, "/metrics?sandbox=bad", ""); code != http.StatusBadGateway {
				t.Errorf("alone: %d", code)
			}
		})
	}
}

// engine is a container engine that knows one pod.
type engine struct {
	cri.UnimplementedRuntimeServiceServer
}

func (engine) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{Items: []*cri.PodSandbox{{Id: "a",
		Metadata: &cri.PodSandboxMetadata{Uid: "u", Name: "n", Namespace: "s"}}}}, nil
}

func TestNamesComeFromTheEngine(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", dir+"/e.sock")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(s, engine{})
	go s.Serve(l) // ends with Stop
	defer s.Stop()
	for _, endpoint := range []string{dir + "/e.sock", "unix://" + dir + "/e.sock"} {
		names, err := CRI(endpoint)(t.Context())
		if want := (Name{"u", "n", "s"}); err != nil || names["a"] != want {
			t.Errorf("%s: %v, %v", endpoint, names, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if names, err := CRI(dir + "/none.sock")(ctx); err == nil {
		t.Errorf("nobody says %v", names)
	}
}

// TestAScrapeIsMeasured prints what a scrape of idle pods costs. Kata's design says 20 ms and 144 KB a pod.
func TestAScrapeIsMeasured(t *testing.T) {
	var text strings.Builder
	for i := range 400 { // as many numbers as our agent says
		fmt.Fprintf(&text, "kata_guest_vm_stat{item=\"a_number_of_the_guest_%d\"} %d\n", i, i*12345)
	}
	n := newNode(t, nil)
	pods := 0
	for _, want := range []int{1, 10, 50} {
		for ; pods < want; pods++ {
			n.start(t, fmt.Sprintf("pod-%d", pods), text.String())
		}
		var body string
		begun, cpu := time.Now(), cpuTime(t)
		const rounds = 5
		for range rounds {
			code := 0
			if code, body = n.ask(t, "/metrics", ""); code != http.StatusOK {
				t.Fatal(code)
			}
		}
		took, used := time.Since(begun)/rounds, (cpuTime(t)-cpu)/rounds
		if got := strings.Count(body, "\nkatabuild_pod_up{"); got != want {
			t.Errorf("%d pods, want %d", got, want)
		}
		t.Logf("%d pods: %v a scrape; a pod %v of processor time, shim and monitor together, and %d bytes", want,
			took.Round(time.Microsecond), (used / time.Duration(want)).Round(time.Microsecond), len(body)/want)
	}
}

// cpuTime is what this process has used.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	st, err := metrics.ReadStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return st.CPU()
}
