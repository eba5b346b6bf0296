package containerd

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
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

// startSpans are those of the start of a pod, by name, each of which must be below another one of them.
func startSpans(t *testing.T, list []tracedSpan) map[string]tracedSpan {
	t.Helper()
	var root tracedSpan
	by, ids := map[string]tracedSpan{}, map[string]bool{}
	for _, s := range list {
		if s.Name == "start of the pod" {
			root = s
		}
	}
	for _, s := range list {
		if s.TraceID == root.TraceID {
			by[s.Name], ids[s.SpanID] = s, true
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
	return by
}

// taskTrace starts a pod with tracing and looks at where its time went.
func taskTrace(t *testing.T, c *client) {
	if !c.guest() {
		t.Log("nothing to test: containers run on the host")
		return
	}
	c = c.configured(t, "[runtime]\nenable_tracing = true\n")
	id := c.detach(t, nil, "toolbox", "pause")
	var doc struct {
		ResourceSpans []struct {
			ScopeSpans []struct{ Spans []tracedSpan }
		}
	}
	if err := json.Unmarshal([]byte(traceWord(t, "--json", id)), &doc); err != nil {
		t.Fatal(err)
	}
	var list []tracedSpan
	for _, r := range doc.ResourceSpans {
		for _, s := range r.ScopeSpans {
			list = append(list, s.Spans...)
		}
	}
	by := startSpans(t, list)
	for _, name := range []string{"shim/Create", "shim/Start", "pod/share", "boot", "hypervisor/start", "until agent",
		"guest until init", "guest until ready", "agent/CreateSandbox", "agent/CreateContainer",
		"agent/StartContainer"} {
		if _, is := by[name]; !is {
			t.Errorf("there is no %s", name)
		}
	}
	text := traceWord(t, id)
	t.Log(text)
	if svg := traceWord(t, "--svg", id); !strings.HasSuffix(svg, "</svg>\n") {
		t.Error(svg)
	}
}
