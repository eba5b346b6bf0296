// Package webhook gives pods a RuntimeClass as they are made: it answers the API server's questions about new pods, and
// keeps the certificate by which the API server knows it.
//
// It never refuses a pod. Certificates are of an authority of its own, whose key lies in a Secret that all replicas
// share; what the API server believes is written into the configuration of the webhook. Kubernetes:
// https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
)

// Rules say which pods get which class.
type Rules struct {
	RuntimeClass string
	Exclude      []string       // namespaces whose pods stay as they are
	Only         *regexp.Regexp // of namespaces whose pods are looked at; nil is all
}

// review is an AdmissionReview of admission.k8s.io/v1, as far as it is looked at.
type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID       string          `json:"uid"`
	Namespace string          `json:"namespace"`
	Kind      groupKind       `json:"kind"`
	Operation string          `json:"operation"`
	Object    json.RawMessage `json:"object"`
}

type groupKind struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
}

type response struct {
	UID       string `json:"uid"`
	Allowed   bool   `json:"allowed"`
	PatchType string `json:"patchType,omitempty"`
	Patch     []byte `json:"patch,omitempty"` // base64 in JSON
}

// pod is what of a pod is looked at.
type pod struct {
	Metadata struct {
		Name         string            `json:"name"`
		GenerateName string            `json:"generateName"`
		Annotations  map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		HostNetwork      bool    `json:"hostNetwork"`
		RuntimeClassName *string `json:"runtimeClassName"`
	} `json:"spec"`
}

const reviewVersion = "admission.k8s.io/v1"

// mirror is the annotation of the API's copy of a pod that a kubelet has from a file.
const mirror = "kubernetes.io/config.mirror"

// alone is the namespace of a test of clusters whose pods look at their nodes. Kata Containers' webhook leaves it alone
// too.
const alone = "sonobuoy"

// skip is why a pod stays as it is; empty where it gets the class.
func (r *Rules) skip(namespace string, p *pod) string {
	switch {
	case p.Spec.RuntimeClassName != nil:
		return "it has a RuntimeClass"
	case p.Spec.HostNetwork:
		return "it is in the node's network, which a guest cannot be in"
	case p.Metadata.Annotations[mirror] != "":
		return "it is a kubelet's own"
	case namespace == alone || slices.Contains(r.Exclude, namespace):
		return "its namespace is left alone"
	case r.Only != nil && !r.Only.MatchString(namespace):
		return "its namespace is not looked at"
	}
	return ""
}

// decide answers a review. note is for the log.
func (r *Rules) decide(body []byte) (answer []byte, note string, err error) {
	var in review
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, "", fmt.Errorf("review: %w", err)
	}
	if in.APIVersion != reviewVersion || in.Kind != "AdmissionReview" || in.Request == nil || in.Request.UID == "" {
		return nil, "", errors.New("want an AdmissionReview of " + reviewVersion + " with a request")
	}
	q := in.Request
	out := review{APIVersion: reviewVersion, Kind: in.Kind, Response: &response{UID: q.UID, Allowed: true}}
	if q.Kind != (groupKind{Kind: "Pod"}) || q.Operation != "CREATE" {
		answer, err = json.Marshal(out)
		return answer, "it is no new pod", err
	}
	var p pod
	if err := json.Unmarshal(q.Object, &p); err != nil {
		return nil, "", fmt.Errorf("pod: %w", err)
	}
	name := p.Metadata.Name
	if name == "" {
		name = p.Metadata.GenerateName + "..."
	}
	why := r.skip(q.Namespace, &p)
	if why == "" {
		why = "it gets " + r.RuntimeClass
		type op struct {
			Op    string `json:"op"`
			Path  string `json:"path"`
			Value string `json:"value"`
		}
		out.Response.PatchType = "JSONPatch"
		if out.Response.Patch, err = json.Marshal([]op{{"add", "/spec/runtimeClassName", r.RuntimeClass}}); err != nil {
			return nil, "", err
		}
	}
	answer, err = json.Marshal(out)
	return answer, fmt.Sprintf("pod %s/%s: %s", q.Namespace, name, why), err
}
