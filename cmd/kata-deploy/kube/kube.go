// Package kube asks the API server of Kubernetes the few things that an installer on a node and the webhook need:
// labels of nodes, the handlers that their kubelets know, one key of a ConfigMap, a Secret, and whom it believes a
// webhook by.
//
// It takes the token and the certificate authority of the pod's service account, reads the token anew for each request,
// since it is renewed under way, and bounds what it reads. Kubernetes: docs/tasks/run-application/access-api-from-pod.
package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/regular"
)

// DefaultAccount is where a pod finds its service account.
const DefaultAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// Bounds, in bytes: of an answer (etcd keeps no object above 1.5 MiB; a list has at most pageSize), of a token, of an
// authority.
const (
	maxAnswer = 8 << 20
	maxToken  = 64 << 10
	maxCA     = 1 << 20
)

// patience is how long one request may take.
const patience = 30 * time.Second

// pageSize is how many nodes a list has at most.
const pageSize = 200

// Client reaches an API server. It may be used by several goroutines.
type Client struct {
	base  string
	token string // a file
	http  *http.Client
}

// New makes a client for the API server at host and port, by the service account in a folder.
func New(account, host, port string) (*Client, error) {
	if host == "" || port == "" {
		return nil, errors.New("no API server: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; this " +
			"runs in a pod")
	}
	ca := filepath.Join(account, "ca.crt")
	pem, err := regular.ReadFile(ca, maxCA)
	if err != nil {
		return nil, fmt.Errorf("certificate authority of the API server: %w; has the pod automountServiceAccountToken?",
			err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authority of the API server: %s has no certificate", ca)
	}
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second, MaxIdleConns: 2, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true}
	return &Client{base: "https://" + net.JoinHostPort(host, port), token: filepath.Join(account, "token"),
		http: &http.Client{Transport: t, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // an API server sends nobody elsewhere
		}}}, nil
}

// Error is that the API server said no.
type Error struct {
	Do      string // what was asked
	Code    int    // of HTTP
	Message string // its own words
}

func (e *Error) Error() string {
	hint := ""
	switch e.Code {
	case http.StatusUnauthorized:
		hint = "; the token of the service account is not its own"
	case http.StatusForbidden:
		hint = "; the service account needs a role that lets it"
	}
	return fmt.Sprintf("%s: API server: %d %s%s", e.Do, e.Code, e.Message, hint)
}

// Away says whether an error is that the API server cannot answer now: trying again may help, and says nothing about
// what was asked.
func (*Client) Away(err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code == http.StatusTooManyRequests || e.Code >= 500
	}
	_, ok := errors.AsType[*url.Error](err)
	return ok
}

// Labels are those of a node.
func (c *Client) Labels(ctx context.Context, node string) (map[string]string, error) {
	var out object
	err := c.ask(ctx, "read node "+node, http.MethodGet, nodePath(node), "", nil, &out)
	return out.Metadata.Labels, err
}

// Label sets labels of a node, and takes those away whose value is nil.
func (c *Client) Label(ctx context.Context, node string, change map[string]*string) error {
	var body struct {
		Metadata struct {
			Labels map[string]*string `json:"labels"`
		} `json:"metadata"`
	}
	body.Metadata.Labels = change
	// A strategic merge patch: null takes a key away. Kubernetes: docs/reference/using-api/api-concepts, patch and
	// apply.
	return c.ask(ctx, "label node "+node, http.MethodPatch, nodePath(node), "application/strategic-merge-patch+json",
		body, &object{})
}

// Handlers are the names of handlers that a node's kubelet has heard of from its container runtime. There are none
// where either of them is older than that: Kubernetes 1.30 and CRI's RuntimeHandlers of containerd 2.0. Kubernetes:
// docs/reference/kubernetes-api/cluster-resources/node-v1, NodeStatus.runtimeHandlers.
func (c *Client) Handlers(ctx context.Context, node string) ([]string, error) {
	var out struct {
		Status struct {
			RuntimeHandlers []struct {
				Name string `json:"name"`
			} `json:"runtimeHandlers"`
		} `json:"status"`
	}
	err := c.ask(ctx, "read status of node "+node, http.MethodGet, nodePath(node), "", nil, &out)
	var names []string
	for _, h := range out.Status.RuntimeHandlers {
		names = append(names, h.Name)
	}
	return names, err
}

// Labelled are the names of nodes with a label of that value, sorted; at most pageSize.
func (c *Client) Labelled(ctx context.Context, key, value string) ([]string, error) {
	var out objects
	q := url.Values{"labelSelector": {key + "=" + value}, "limit": {fmt.Sprint(pageSize)}}
	err := c.ask(ctx, "list nodes", http.MethodGet, "/api/v1/nodes?"+q.Encode(), "", nil, &out)
	var names []string
	for _, i := range out.Items {
		names = append(names, i.Metadata.Name)
	}
	slices.Sort(names)
	return names, err
}

// SetData sets keys of a ConfigMap; others stay.
func (c *Client) SetData(ctx context.Context, namespace, name string, data map[string]string) error {
	var body struct {
		Data map[string]string `json:"data"`
	}
	body.Data = maps.Clone(data)
	p := "/api/v1/namespaces/" + url.PathEscape(namespace) + "/configmaps/" + url.PathEscape(name)
	return c.ask(ctx, "change ConfigMap "+namespace+"/"+name, http.MethodPatch, p, "application/merge-patch+json", body,
		&object{})
}

// object is what all objects have.
type object struct {
	Metadata struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
}

// objects is a list of them.
type objects struct {
	Items []object `json:"items"`
}

func nodePath(node string) string { return "/api/v1/nodes/" + url.PathEscape(node) }

// accept asks for no more of objects than metadata, where that is all that is read and the server can leave the rest
// out. Kubernetes: docs/reference/using-api/api-concepts, metadata-only fetches.
func accept(out any) string {
	const whole = "application/json"
	switch out.(type) {
	case *object:
		return whole + ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io," + whole
	case *objects:
		return whole + ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io," + whole
	}
	return whole
}

// ask makes one request, and reads the answer into out.
func (c *Client) ask(ctx context.Context, what, method, path, kind string, in, out any) error {
	token, err := regular.ReadFile(c.token, maxToken)
	if err != nil {
		return fmt.Errorf("%s: token of the service account: %w", what, err)
	}
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	r.Header.Set("Accept", accept(out))
	r.Header.Set("User-Agent", "kata-deploy")
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("%s: %w", what, &url.Error{Op: method, URL: path, Err: err})
	}
	if len(data) > maxAnswer {
		return fmt.Errorf("%s: the API server's answer has more than %d bytes", what, maxAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		var status struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(data, &status) != nil || status.Message == "" {
			status.Message = http.StatusText(resp.StatusCode)
		}
		return &Error{what, resp.StatusCode, status.Message}
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s: the API server's answer: %w", what, err)
	}
	return nil
}
