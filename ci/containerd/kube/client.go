package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// ErrNotFound is for what the API does not have.
var ErrNotFound = errors.New("not found")

// maxAnswer bounds what is read into memory.
const maxAnswer = 16 << 20

// Condition is one of a node's or a pod's.
type Condition struct{ Type, Status, Reason, Message string }

// True says whether a condition is so.
func True(all []Condition, kind string) bool {
	for _, c := range all {
		if c.Type == kind {
			return c.Status == "True"
		}
	}
	return false
}

// Pod is what tests read of a pod.
type Pod struct {
	Metadata struct{ Name, UID string }
	Spec     struct{ Overhead map[string]string }
	Status   struct {
		Phase, Reason, Message, PodIP string
		Conditions                    []Condition
		ContainerStatuses             []ContainerStatus
	}
}

// ContainerStatus is what tests read of a pod's container.
type ContainerStatus struct {
	Name         string
	Ready        bool
	RestartCount int
	LastState    struct {
		Terminated *struct {
			ExitCode int
			Reason   string
		}
	}
}

// Container is the status of a container, which is empty before kubelet has reported it.
func (p *Pod) Container(name string) ContainerStatus {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == name {
			return c
		}
	}
	return ContainerStatus{}
}

// do makes a request and returns the answer's body. An answer other than 2xx is an error, which for 404 is ErrNotFound.
func (c *Cluster) do(ctx context.Context, method, path, kind string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", kind)
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	case a.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s %s: %w: %s", method, path, ErrNotFound, b)
	case a.StatusCode/100 != 2:
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, a.Status, b)
	}
	return b, nil
}

// Get reads an object.
func (c *Cluster) Get(ctx context.Context, path string, into any) error {
	b, err := c.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// Text reads what is not an object, such as a log.
func (c *Cluster) Text(ctx context.Context, path string) (string, error) {
	b, err := c.do(ctx, http.MethodGet, path, "", nil)
	return string(b), err
}

// Create makes an object, given as YAML, in the collection at path.
func (c *Cluster) Create(ctx context.Context, path, yaml string) error {
	_, err := c.do(ctx, http.MethodPost, path, "application/yaml", []byte(yaml))
	return err
}

// Merge changes an object by a JSON merge patch (RFC 7396).
func (c *Cluster) Merge(ctx context.Context, path, patch string) error {
	_, err := c.do(ctx, http.MethodPatch, path, "application/merge-patch+json", []byte(patch))
	return err
}

// Delete begins to remove an object.
func (c *Cluster) Delete(ctx context.Context, path string) error {
	_, err := c.do(ctx, http.MethodDelete, path, "", nil)
	return err
}

// ExecURL is where a command is run in a container of a pod of the namespace default, over a websocket.
func (c *Cluster) ExecURL(pod, container string, command ...string) string {
	q := url.Values{"container": {container}, "command": command, "stdin": {"true"}, "stdout": {"true"},
		"stderr": {"true"}}
	return c.URL + PodPath(pod) + "/exec?" + q.Encode()
}

// PodPath is where the API has a pod of the namespace default.
func PodPath(name string) string { return "/api/v1/namespaces/default/pods/" + name }
