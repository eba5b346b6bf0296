package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/ci/containerd/kube"
	"github.com/katabuild/katabuild/internal/testenv"
)

// webhookAddress is that of the webhook's Service, which the API server asks by itself: it is the test's host's too.
const webhookAddress = "10.99.0.77"

// webhookObjects are those of the chart's webhook that are not pods, in the order they are made in.
var webhookObjects = []struct{ collection, yaml string }{
	{"/apis/node.k8s.io/v1/runtimeclasses", `
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: kata}
handler: kata
`},
	{"/api/v1/namespaces/default/serviceaccounts", `
apiVersion: v1
kind: ServiceAccount
metadata: {name: kata-webhook}
`},
	{"/api/v1/namespaces/default/secrets", `
apiVersion: v1
kind: Secret
metadata: {name: kata-webhook}
type: Opaque
`},
	{"/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: kata-webhook}
rules:
- {apiGroups: [""], resources: [secrets], resourceNames: [kata-webhook], verbs: [get, patch]}
`},
	{"/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: kata-webhook}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: kata-webhook}
subjects: [{kind: ServiceAccount, name: kata-webhook, namespace: default}]
`},
	{"/apis/rbac.authorization.k8s.io/v1/clusterroles", `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kata-webhook}
rules:
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [kata-webhook]
  verbs: [get, patch]
`},
	{"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kata-webhook}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kata-webhook}
subjects: [{kind: ServiceAccount, name: kata-webhook, namespace: default}]
`},
	{"/api/v1/namespaces/default/services", `
apiVersion: v1
kind: Service
metadata: {name: kata-webhook}
spec: {clusterIP: ADDRESS, ports: [{port: 443}]}
`},
	{"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: kata-webhook}
webhooks:
- name: runtimeclass.kata-deploy.katabuild.io
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  clientConfig: {service: {name: kata-webhook, namespace: default, path: /mutate, port: 443}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods], scope: Namespaced}]
`},
}

// TestKubernetesWebhook has the real API server ask the webhook about pods, which no kubelet runs: they name no node
// that is there.
func TestKubernetesWebhook(t *testing.T) {
	testenv.Require(t, testenv.Asked(askedKubernetes, "test-kubernetes"), root, testenv.Tool("runc"),
		testenv.Tool("go"), testenv.Tool("nice"), testenv.Tool("ip"), testenv.Tool("iptables"))
	programs, err := clusterPrograms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "kata-deploy")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/kata-deploy").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	on(t, "2", func(t *testing.T, s *setting) {
		c, err := kube.Start(t.Context(), kube.Config{Programs: programs, Dir: s.dir, Socket: s.Socket,
			Address: nodeAddress})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Stop(); err != nil {
				t.Error(err)
			}
		})
		if out, err := exec.Command("ip", "address", "add", webhookAddress+"/32", "dev", "lo").CombinedOutput(); err !=
			nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, o := range webhookObjects {
			until(t, patience, "the API to take "+o.collection, func() bool {
				err = c.Create(t.Context(), o.collection, strings.ReplaceAll(o.yaml, "ADDRESS", webhookAddress))
				return !errors.Is(err, kube.ErrNotFound)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		w := startWebhook(t, c, s.dir, program)
		classes := func(name, spec string) (string, error) {
			err := c.Create(t.Context(), "/api/v1/namespaces/default/pods", fmt.Sprintf(
				"apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {nodeName: elsewhere, containers: [{name: c, "+
					"image: i}]%s}\n", name, spec))
			if err != nil {
				return "", err
			}
			var p struct {
				Spec struct {
					RuntimeClassName string `json:"runtimeClassName"`
				} `json:"spec"`
			}
			err = c.Get(t.Context(), kube.PodPath(name), &p)
			return p.Spec.RuntimeClassName, err
		}
		until(t, patience, "the webhook to be believed", func() bool {
			var got string
			if got, err = classes("first", ""); err != nil {
				return false
			}
			equal(t, "the class of a pod without one", got, "kata")
			return true
		})
		got, err := classes("network", ", hostNetwork: true")
		if err != nil || got != "" {
			t.Errorf("a pod in the node's network has the class %q, %v", got, err)
		}
		// Another replica begins, and takes the place of the first with the same keys.
		if err := errors.Join(w.Process.Kill(), ignoreExit(w.Wait())); err != nil {
			t.Fatal(err)
		}
		if _, err := classes("nobody", ""); err == nil || !strings.Contains(err.Error(), "runtimeclass.kata-deploy") {
			t.Errorf("a pod is made while no webhook answers: %v", err)
		}
		startWebhook(t, c, s.dir, program)
		until(t, patience, "the second to be believed", func() bool {
			got, err = classes("second", "")
			return err == nil
		})
		equal(t, "the class of a pod after that", got, "kata")
	})
}

// ignoreExit is the error of a program that was killed: none.
func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// startWebhook runs kata-deploy webhook by the rights of its account.
func startWebhook(t *testing.T, c *kube.Cluster, dir, program string) *exec.Cmd {
	t.Helper()
	account := filepath.Join(dir, "webhook-account")
	token := askToken(t, c, "/api/v1/namespaces/default/serviceaccounts/kata-webhook/token")
	ca, err := os.ReadFile(c.Authority())
	if err == nil {
		err = errors.Join(os.MkdirAll(account, 0o700), os.WriteFile(filepath.Join(account, "ca.crt"), ca, 0o600),
			os.WriteFile(filepath.Join(account, "token"), []byte(token), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "webhook", "--service-account", account, "--listen", webhookAddress+":443",
		"--namespace", "default", "--secret", "kata-webhook", "--service", "kata-webhook", "--configuration",
		"kata-webhook", "--interval", "1s")
	cmd.Env = append(os.Environ(), "RUNTIME_CLASS=kata", "KUBERNETES_SERVICE_HOST="+nodeAddress,
		"KUBERNETES_SERVICE_PORT="+strconv.Itoa(kube.APIPort))
	var said buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the webhook said:\n%s", said.String())
		}
	})
	return cmd
}

// askToken asks for a token of an account, as kubelet does for pods.
func askToken(t *testing.T, c *kube.Cluster, path string) string {
	t.Helper()
	resp, err := http.Post(c.URL+path, "application/json",
		strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	var out struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	if err = errors.Join(err, json.Unmarshal(body, &out)); err != nil || out.Status.Token == "" {
		t.Fatalf("token: %v: %s", err, body)
	}
	return out.Status.Token
}
