package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// apiServer answers as the API server of Kubernetes does to what kata-deploy asks, and to nothing else. It is strict:
// what the real one refuses, it refuses, and the test fails for it unless it is expected.
type apiServer struct {
	t       *testing.T
	server  *httptest.Server
	account string // folder of the service account

	mu    sync.Mutex
	token string
	down  bool                         // it answers 503
	nodes map[string]map[string]string // labels by name
	maps  map[string]map[string]string // data of ConfigMaps by NAMESPACE/NAME
	asked int
	// handlers are what the kubelet of each node tells of; nil for a kubelet that tells nothing.
	handlers []string
	// changed is told of each change of a node's labels, before it is made, with the labels that will be.
	changed func(node string, labels map[string]string)
	// told is told of the data of a ConfigMap, after it is set.
	told func(data map[string]string)
}

// newAPI begins one with a node called node-1, which has a label of its own.
func newAPI(t *testing.T) *apiServer {
	t.Helper()
	a := &apiServer{t: t, token: "token-1",
		nodes: map[string]map[string]string{"node-1": {"kubernetes.io/os": "linux"}},
		maps:  map[string]map[string]string{"kube-system/kata-deploy-state": {"state": "present", "other": "stays"}}}
	a.server = httptest.NewTLSServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.server.Close)
	a.account = t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Certificate().Raw})
	for name, data := range map[string][]byte{"ca.crt": ca, "token": []byte("token-1\n")} {
		if err := os.WriteFile(filepath.Join(a.account, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// environment is that of a pod.
func (a *apiServer) environment() []string {
	u, err := url.Parse(a.server.URL)
	if err != nil {
		a.t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		a.t.Fatal(err)
	}
	return []string{"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port, "NODE_NAME=node-1"}
}

// labels are those of node-1 that are ours.
func (a *apiServer) labels() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for k, v := range a.nodes["node-1"] {
		if strings.Contains(k, "kata") {
			out = append(out, k+"="+v)
		}
	}
	if a.nodes["node-1"]["kubernetes.io/os"] != "linux" {
		out = append(out, "another's label is gone")
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (a *apiServer) setDown(down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
}

func (a *apiServer) requests() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// status is the API server's own form of an error. Kubernetes: docs/reference/kubernetes-api/common-definitions/status.
func status(w http.ResponseWriter, code int, format string, args ...any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":%q,"code":%d}`,
		fmt.Sprintf(format, args...), code)
}

func (a *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.down {
		status(w, http.StatusServiceUnavailable, "apiserver is shutting down")
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+a.token {
		status(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	if !strings.Contains(r.Header.Get("Accept"), "application/json") {
		a.t.Errorf("%s %s accepts %q", r.Method, r.URL, r.Header.Get("Accept"))
		status(w, http.StatusNotAcceptable, "only JSON is spoken here")
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		a.t.Error(err)
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/")
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/nodes":
		a.list(w, r)
	case len(parts) == 2 && parts[0] == "nodes" && a.nodes[parts[1]] == nil:
		status(w, http.StatusNotFound, "nodes %q not found", parts[1])
	case r.Method == http.MethodGet && len(parts) == 2 && parts[0] == "nodes" && len(body) == 0:
		if r.Header.Get("Accept") == "application/json" {
			a.node(w, parts[1])
			return
		}
		a.object(w, "PartialObjectMetadata", parts[1], a.nodes[parts[1]])
	case r.Method == http.MethodPatch && len(parts) == 2 && parts[0] == "nodes":
		a.label(w, r, parts[1], body)
	case r.Method == http.MethodPatch && len(parts) == 4 && parts[0] == "namespaces" && parts[2] == "configmaps":
		a.patchMap(w, r, parts[1]+"/"+parts[3], body)
	default:
		a.t.Errorf("asked for %s %s", r.Method, r.URL)
		status(w, http.StatusForbidden, "%s %s is forbidden", r.Method, r.URL.Path)
	}
}

func (a *apiServer) object(w http.ResponseWriter, kind, name string, labels map[string]string) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(map[string]any{"kind": kind, "apiVersion": "meta.k8s.io/v1",
		"metadata": map[string]any{"name": name, "labels": labels}}); err != nil {
		a.t.Error(err)
	}
}

// node answers with the whole of one, as far as it is read. Kubernetes:
// docs/reference/kubernetes-api/cluster-resources/node-v1.
func (a *apiServer) node(w http.ResponseWriter, name string) {
	status := map[string]any{}
	for _, h := range a.handlers {
		list, _ := status["runtimeHandlers"].([]any)
		status["runtimeHandlers"] = append(list, map[string]any{"name": h,
			"features": map[string]any{"recursiveReadOnlyMounts": false, "userNamespaces": false}})
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(map[string]any{"kind": "Node", "apiVersion": "v1", "status": status,
		"metadata": map[string]any{"name": name, "labels": a.nodes[name]}}); err != nil {
		a.t.Error(err)
	}
}

func (a *apiServer) list(w http.ResponseWriter, r *http.Request) {
	key, value, ok := strings.Cut(r.URL.Query().Get("labelSelector"), "=")
	if !ok || len(r.URL.Query()) != 2 || r.URL.Query().Get("limit") == "" {
		a.t.Errorf("a list by %q", r.URL.RawQuery)
	}
	items := []any{}
	for name, labels := range a.nodes {
		if labels[key] == value {
			items = append(items, map[string]any{"metadata": map[string]any{"name": name, "labels": labels}})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	err := json.NewEncoder(w).Encode(map[string]any{"kind": "PartialObjectMetadataList", "items": items})
	if err != nil {
		a.t.Error(err)
	}
}

// labelKey and labelWord are the forms of labels. Kubernetes: docs/concepts/overview/working-with-objects/labels.
var (
	labelKey = regexp.MustCompile(
		`^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	labelWord = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$`)
)

// strict decodes a body of which every field is known.
func strict(body []byte, to any) error {
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	return d.Decode(to)
}

func (a *apiServer) label(w http.ResponseWriter, r *http.Request, node string, body []byte) {
	if got := r.Header.Get("Content-Type"); got != "application/strategic-merge-patch+json" {
		a.t.Errorf("a patch of kind %q", got)
		status(w, http.StatusUnsupportedMediaType, "the body of the request was in an unknown format")
		return
	}
	var patch struct {
		Metadata struct {
			Labels map[string]*string `json:"labels"`
		} `json:"metadata"`
	}
	if err := strict(body, &patch); err != nil {
		a.t.Errorf("%s: %v", body, err)
		status(w, http.StatusBadRequest, "%v", err)
		return
	}
	labels := map[string]string{}
	for k, v := range a.nodes[node] {
		labels[k] = v
	}
	for k, v := range patch.Metadata.Labels {
		if !labelKey.MatchString(k) || v != nil && !labelWord.MatchString(*v) {
			a.t.Errorf("label %s: %v", k, v)
			status(w, http.StatusUnprocessableEntity, "Node %q is invalid: metadata.labels", node)
			return
		}
		if delete(labels, k); v != nil {
			labels[k] = *v
		}
	}
	if a.changed != nil {
		a.changed(node, labels)
	}
	a.nodes[node] = labels
	a.object(w, "PartialObjectMetadata", node, labels)
}

func (a *apiServer) patchMap(w http.ResponseWriter, r *http.Request, name string, body []byte) {
	data := a.maps[name]
	if data == nil {
		status(w, http.StatusNotFound, "configmaps %q not found", name)
		return
	}
	var patch struct {
		Data map[string]string `json:"data"`
	}
	if got := r.Header.Get("Content-Type"); got != "application/merge-patch+json" {
		a.t.Errorf("a patch of kind %q", got)
		status(w, http.StatusUnsupportedMediaType, "the body of the request was in an unknown format")
		return
	}
	if err := strict(body, &patch); err != nil {
		a.t.Errorf("%s: %v", body, err)
	}
	for k, v := range patch.Data {
		data[k] = v
	}
	if a.told != nil {
		a.told(data)
	}
	a.object(w, "PartialObjectMetadata", name, nil)
}
