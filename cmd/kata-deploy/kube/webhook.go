package kube

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
)

// secret is a Secret.
type secret struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Data map[string][]byte `json:"data"` // base64 in JSON
}

func secretPath(namespace, name string) string {
	return "/api/v1/namespaces/" + url.PathEscape(namespace) + "/secrets/" + url.PathEscape(name)
}

// Secret reads the data of a Secret, and its version.
func (c *Client) Secret(ctx context.Context, namespace, name string) (map[string][]byte, string, error) {
	var out secret
	err := c.ask(ctx, "read Secret "+namespace+"/"+name, http.MethodGet, secretPath(namespace, name), "", nil, &out)
	return out.Data, out.Metadata.ResourceVersion, err
}

// SetSecret sets the data of a Secret that still has this version. Conflict tells that it has another one.
func (c *Client) SetSecret(ctx context.Context, namespace, name, version string, data map[string][]byte) error {
	// A merge patch with a version is refused where there is a newer one. Kubernetes:
	// docs/reference/using-api/api-concepts, resource versions.
	patch := secret{Data: data}
	patch.Metadata.ResourceVersion = version
	return c.ask(ctx, "change Secret "+namespace+"/"+name, http.MethodPatch, secretPath(namespace, name),
		"application/merge-patch+json", patch, &object{})
}

// Conflict says whether an error is that an object has changed meanwhile.
func (*Client) Conflict(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == http.StatusConflict
}

// webhooks is a MutatingWebhookConfiguration.
type webhooks struct {
	Webhooks []hook `json:"webhooks"`
}

type hook struct {
	Name         string       `json:"name"`
	ClientConfig clientConfig `json:"clientConfig"`
}

type clientConfig struct {
	CABundle []byte `json:"caBundle"`
}

// SetAuthorities has the API server believe these authorities, in PEM form, for the webhooks of a
// MutatingWebhookConfiguration. It changes nothing where it does so already.
func (c *Client) SetAuthorities(ctx context.Context, name string, pem []byte) error {
	p := "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/" + url.PathEscape(name)
	what := "MutatingWebhookConfiguration " + name
	var have webhooks
	if err := c.ask(ctx, "read "+what, http.MethodGet, p, "", nil, &have); err != nil {
		return err
	}
	var change webhooks
	for _, h := range have.Webhooks {
		if !bytes.Equal(h.ClientConfig.CABundle, pem) {
			change.Webhooks = append(change.Webhooks, hook{h.Name, clientConfig{pem}})
		}
	}
	if len(change.Webhooks) == 0 {
		return nil
	}
	// Webhooks are told apart by name in a strategic merge patch.
	return c.ask(ctx, "change "+what, http.MethodPatch, p, "application/strategic-merge-patch+json", change, &object{})
}
