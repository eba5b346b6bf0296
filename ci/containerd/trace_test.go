package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// tracedSpan is a span as "kata-runtime trace --json" prints it.
type tracedSpan struct {
	TraceID, SpanID, ParentSpanID, Name string
	Start                               int64 `json:"startTimeUnixNano,string"`
	End                                 int64 `json:"endTimeUnixNano,string"`
}

// traceWord runs "kata-runtime trace" for a pod.
func traceWord(t *testing.T, args ...string) string {
	t.Helper()
	runtime, err := filepath.Abs(filepath.Join(repository, "bin/kata-runtime"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), runtime, append([]string{"trace"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("trace: %v: %s", err, out)
	}
	return string(out)
}

// startSpans looks at those of the start of a pod: each but one is below another one of them, and within all.
func startSpans(t *testing.T, list []tracedSpan) {
	t.Helper()
	var root tracedSpan
	ids := map[string]bool{}
	for _, s := range list {
		if s.Name == "start of the pod" {
			root = s
		}
	}
	for _, s := range list {
		if s.TraceID == root.TraceID {
			ids[s.SpanID] = true
		}
	}
	for _, s := range list {
		if s.TraceID == root.TraceID && s.SpanID != root.SpanID && !ids[s.ParentSpanID] {
			t.Errorf("%s is below nothing", s.Name)
		}
		if s.TraceID == root.TraceID && (s.Start < root.Start || s.End > root.End || s.End < s.Start) {
			t.Errorf("%s is outside of the start: %+v, %+v", s.Name, s, root)
		}
	}
}

// collector is OpenTelemetry's Collector's receiver, which is told spans.
type collector struct {
	address string
	said    buffer
}

// newCollector builds one and starts it, until the test is over.
func newCollector(t *testing.T) *collector {
	t.Helper()
	program := filepath.Join(t.TempDir(), "collector")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = filepath.Join(repository, "ci/tools/collector")
	build.Env = append(os.Environ(), "GOTOOLCHAIN=local", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the collector: %v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &collector{address: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, o.address)
	cmd.Stdout, cmd.Stderr = &o.said, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	until(t, patience, "the collector", func() bool { return strings.HasPrefix(o.said.String(), "ready\n") })
	return o
}

// spans are those that it has been told.
func (o *collector) spans(t *testing.T) (list []tracedSpan) {
	t.Helper()
	said := o.said.String()
	for line := range strings.Lines(strings.TrimPrefix(said[:strings.LastIndex(said, "\n")+1], "ready\n")) {
		list = append(list, spansOf(t, line)...)
	}
	return list
}

// spansOf reads OTLP's JSON.
func spansOf(t *testing.T, text string) (list []tracedSpan) {
	t.Helper()
	var doc struct {
		ResourceSpans []struct {
			ScopeSpans []struct{ Spans []tracedSpan }
		}
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, r := range doc.ResourceSpans {
		for _, s := range r.ScopeSpans {
			list = append(list, s.Spans...)
		}
	}
	return list
}

// taskTrace starts a pod with tracing, and looks at where its time went: as OpenTelemetry's receiver is told, and as
// people see it.
func taskTrace(t *testing.T, c *client) {
	if !c.guest() {
		t.Log("nothing to test: containers run on the host")
		return
	}
	o := newCollector(t)
	c = c.configured(t, fmt.Sprintf("[agent.kata]\nenable_tracing = true\n[runtime]\nenable_tracing = true\n"+
		"otlp_endpoint = \"http://%s\"\n", o.address))
	id := c.detach(t, nil, "toolbox", "pause")
	want := map[string]string{ // and what each is below
		"shim/Create": "start of the pod", "shim/Start": "start of the pod", "pod/share": "pod/start",
		"boot": "pod/start", "hypervisor/start": "boot", "until agent": "boot", "guest until init": "boot",
		"guest until ready": "boot", "agent/CreateSandbox": "pod/introduce", "CreateSandbox": "agent/CreateSandbox",
		"agent/CreateContainer": "pod/create container", "CreateContainer": "agent/CreateContainer",
		"mount storages": "CreateContainer", "make the container": "CreateContainer",
		"agent/StartContainer": "shim/Start", "StartContainer": "agent/StartContainer",
		"exec of the program": "StartContainer",
	}
	tree := func(list []tracedSpan) (missing []string) {
		by := map[string]tracedSpan{}
		for _, s := range list {
			by[s.Name] = s
		}
		for name, parent := range want {
			if s, is := by[name]; !is || s.ParentSpanID != by[parent].SpanID {
				missing = append(missing, name)
			}
		}
		return missing
	}
	until(t, patience, "the whole tree at the collector", func() bool { return len(tree(o.spans(t))) == 0 })
	startSpans(t, o.spans(t))
	kept := spansOf(t, traceWord(t, "--json", id))
	if missing := tree(kept); len(missing) > 0 {
		t.Errorf("the shim does not keep %q", missing)
	}
	startSpans(t, kept)
	t.Log(traceWord(t, id))
	if svg := traceWord(t, "--svg", id); !strings.HasSuffix(svg, "</svg>\n") {
		t.Error(svg)
	}
}
