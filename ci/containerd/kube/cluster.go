package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Node is the name of the cluster's node.
const Node = "node"

// loopback is where the parts listen, on ports of the network namespace that they have to themselves.
const (
	loopback  = "127.0.0.1"
	etcdURL   = "http://" + loopback + ":2379"
	etcdPeers = "http://" + loopback + ":2380"
	apiHost   = loopback + ":6443"
)

// service is the address of the API server for pods of a cluster with kube-proxy: the first of its range.
const service = "10.99.0.1"

// APIPort is where pods reach the API server, at Config.Address.
const APIPort = 6443

// The names of keys and of kubeconfig files.
const (
	controllers = "controller-manager"
	scheduler   = "scheduler"
	kubelet     = "kubelet"
)

// Config says what to start.
type Config struct {
	Programs Programs
	Dir      string // everything is below or mounted from there; it must be empty
	Socket   string // containerd's
	Address  string // of the node, which the API server reaches it at
}

// Cluster is a running one.
type Cluster struct {
	// URL is where the API answers without a key, for this network namespace only: a proxy as `kubectl proxy` is one.
	URL string

	cfg    Config
	parts  []*part // in the order of their start
	mounts []string
	proxy  *http.Server
}

// Start starts the parts and waits until the node is ready. It must be called where network and mounts are a test's
// own. Stop must be called when there is no error.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	c := &Cluster{cfg: cfg}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	for _, d := range []string{c.keys(), c.file("empty")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	a, err := newAuthority(c.keys())
	if err != nil {
		return err
	}
	err = errors.Join(
		a.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, loopback, c.cfg.Address,
			service),
		a.issue("apiserver-client", pkix.Name{CommonName: "apiserver", Organization: []string{"system:masters"}}),
		a.issue(kubelet, pkix.Name{CommonName: "system:node:" + Node, Organization: []string{"system:nodes"}},
			c.cfg.Address),
		a.issue(controllers, pkix.Name{CommonName: "system:kube-controller-manager"}),
		a.issue(scheduler, pkix.Name{CommonName: "system:kube-scheduler"}),
		a.issue("service-accounts", pkix.Name{CommonName: "service accounts"}),
	)
	if err != nil {
		return err
	}
	token := rand.Text()
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.pool()}}
	if err := c.startAPI(ctx, token, transport); err != nil {
		return err
	}
	if err := c.startProxy(token, transport); err != nil {
		return err
	}
	if err := c.furnish(); err != nil {
		return err
	}
	if err := c.startKubelet(ctx); err != nil {
		return err
	}
	return c.startControl(ctx)
}

// Authority is the file with the certificate authority of the API server, which answers at Config.Address.
func (c *Cluster) Authority() string { return c.key("ca.crt") }

func (c *Cluster) keys() string            { return c.file("keys") }
func (c *Cluster) file(name string) string { return filepath.Join(c.cfg.Dir, name) }
func (c *Cluster) key(name string) string  { return filepath.Join(c.keys(), name) }

// begin starts a part.
func (c *Cluster) begin(program string, args ...string) (*part, error) {
	p, err := begin(c.cfg.Dir, program, args...)
	if err == nil {
		c.parts = append(c.parts, p)
	}
	return p, err
}

func (c *Cluster) startEtcd(ctx context.Context) error {
	p, err := c.begin(c.cfg.Programs.Etcd, "--data-dir="+c.file("etcd-data"), "--listen-client-urls="+etcdURL,
		"--advertise-client-urls="+etcdURL,
		"--listen-peer-urls="+etcdPeers, "--initial-advertise-peer-urls="+etcdPeers,
		"--initial-cluster=default="+etcdPeers, "--unsafe-no-fsync")
	if err != nil {
		return err
	}
	return p.await(ctx, "its health", func() bool { return answers(http.DefaultClient, etcdURL+"/health") })
}

// answers says whether a GET is answered with 200.
func answers(c *http.Client, address string) bool {
	r, err := c.Get(address)
	if err != nil {
		return false
	}
	defer r.Body.Close()
	return r.StatusCode == http.StatusOK
}

func (c *Cluster) startAPI(ctx context.Context, token string, transport http.RoundTripper) error {
	// Kubernetes: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#static-token-file
	if err := os.WriteFile(c.key("tokens.csv"), []byte(token+",tester,tester,system:masters\n"), 0o600); err != nil {
		return err
	}
	p, err := c.begin(c.cfg.Programs.APIServer,
		"--etcd-servers="+etcdURL, "--bind-address=0.0.0.0", "--secure-port="+strconv.Itoa(APIPort),
		"--advertise-address="+c.cfg.Address,
		"--service-cluster-ip-range=10.99.0.0/24", "--endpoint-reconciler-type=none",
		"--cert-dir="+c.keys(), "--tls-cert-file="+c.key("apiserver.crt"),
		"--tls-private-key-file="+c.key("apiserver.key"),
		"--client-ca-file="+c.key("ca.crt"), "--token-auth-file="+c.key("tokens.csv"), "--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.key("service-accounts.crt"),
		"--service-account-signing-key-file="+c.key("service-accounts.key"),
		"--kubelet-client-certificate="+c.key("apiserver-client.crt"),
		"--kubelet-client-key="+c.key("apiserver-client.key"),
		"--kubelet-certificate-authority="+c.key("ca.crt"), "--kubelet-preferred-address-types=InternalIP")
	if err != nil {
		return err
	}
	client := &http.Client{Transport: withToken{token, transport}, Timeout: 10 * time.Second}
	return p.await(ctx, "/readyz", func() bool { return answers(client, "https://"+apiHost+"/readyz") })
}

// withToken adds a token to requests.
type withToken struct {
	token string
	next  http.RoundTripper
}

// RoundTrip is http.RoundTripper's.
func (t withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+t.token)
	return t.next.RoundTrip(r)
}

func (c *Cluster) startProxy(token string, transport http.RoundTripper) error {
	l, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		return err
	}
	c.URL = "http://" + l.Addr().String()
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "https", Host: apiHost}) },
		// Streams must not wait for a buffer to fill.
		FlushInterval: -1,
		Transport:     withToken{token, transport},
	}
	c.proxy = &http.Server{Handler: p}
	go func() { _ = c.proxy.Serve(l) }() // ends with Close
	return nil
}

// kubeconfig writes who a part is for the API server, and returns the file.
func (c *Cluster) kubeconfig(name string) (string, error) {
	file := name + ".kubeconfig"
	return c.file(file), c.write(file, map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": []any{map[string]any{"name": "test", "cluster": map[string]any{"server": "https://" + apiHost,
			"certificate-authority": c.key("ca.crt")}}},
		"users": []any{map[string]any{"name": "part",
			"user": map[string]any{"client-certificate": c.key(name + ".crt"), "client-key": c.key(name + ".key")}}},
		"contexts": []any{map[string]any{"name": "test", "context": map[string]any{"cluster": "test", "user": "part"}}},
	})
}

// startControl starts what makes pods of DaemonSets and Jobs, tokens of accounts, and decisions about nodes.
func (c *Cluster) startControl(ctx context.Context) error {
	config, err := c.kubeconfig(controllers)
	if err != nil {
		return err
	}
	p, err := c.begin(c.cfg.Programs.ControllerManager, "--kubeconfig="+config, "--bind-address="+loopback,
		"--leader-elect=false", "--use-service-account-credentials=true", "--root-ca-file="+c.key("ca.crt"),
		"--service-account-private-key-file="+c.key("service-accounts.key"), "--concurrent-gc-syncs=2")
	if err != nil {
		return err
	}
	if config, err = c.kubeconfig(scheduler); err != nil {
		return err
	}
	if _, err := c.begin(c.cfg.Programs.Scheduler, "--kubeconfig="+config, "--bind-address="+loopback,
		"--leader-elect=false"); err != nil {
		return err
	}
	return p.await(ctx, "an account for pods", func() bool {
		var account, authority struct{}
		const of = "/api/v1/namespaces/default/"
		return c.Get(ctx, of+"serviceaccounts/default", &account) == nil &&
			c.Get(ctx, of+"configmaps/kube-root-ca.crt", &authority) == nil
	})
}

func (c *Cluster) startKubelet(ctx context.Context) error {
	config, err := c.kubeconfig(kubelet)
	if err != nil {
		return err
	}
	if err := errors.Join(c.write("kubelet.json", c.settings()),
		os.WriteFile(c.file("resolv.conf"), nil, 0o644)); err != nil {
		return err
	}
	p, err := c.begin(c.cfg.Programs.Kubelet, "--config="+c.file("kubelet.json"),
		"--kubeconfig="+config, "--root-dir="+kubeletDir,
		"--cert-dir="+c.keys(), "--hostname-override="+Node, "--node-ip="+c.cfg.Address, "-v=2")
	if err != nil {
		return err
	}
	return p.await(ctx, "the node to be ready", func() bool {
		var n struct {
			Status struct{ Conditions []Condition }
		}
		return c.Get(ctx, "/api/v1/nodes/"+Node, &n) == nil && True(n.Status.Conditions, "Ready")
	})
}

// settings is kubelet's configuration.
// Kubernetes: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
func (c *Cluster) settings() map[string]any {
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + c.cfg.Socket,
		"address":                  c.cfg.Address, "healthzPort": 0, "enableServer": true,
		"tlsCertFile": c.key("kubelet.crt"), "tlsPrivateKeyFile": c.key("kubelet.key"),
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": false},
			"webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": c.key("ca.crt")}},
		"authorization": map[string]any{"mode": "Webhook"},
		"podLogsDir":    podLogs, "volumePluginDir": c.file("empty"), "resolvConf": c.file("resolv.conf"),
		// Changes of a ConfigMap are written at the next look at the pod.
		"syncFrequency": "1s", "nodeStatusUpdateFrequency": "2s",
		// For a host that is itself a container: cgroup version 1, and no right to make cgroups of quality of service.
		"cgroupDriver": "cgroupfs", "failCgroupV1": false, "cgroupsPerQOS": false, "enforceNodeAllocatable": []string{},
		"failSwapOn": false, "localStorageCapacityIsolation": false, "oomScoreAdj": 0,
		// A full disk is not what is tested.
		"evictionHard": map[string]string{"nodefs.available": "0%", "imagefs.available": "0%",
			"memory.available": "0%", "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%"},
		"imageGCHighThresholdPercent": 100,
	}
}

func (c *Cluster) write(name string, value any) error {
	b, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.file(name), append(b, '\n'), 0o600)
}

// Tail is the last lines that each part wrote.
func (c *Cluster) Tail(n int) string {
	var b bytes.Buffer
	for _, p := range c.parts {
		fmt.Fprintf(&b, "%s:\n%s", p.name, p.tail(n))
	}
	return b.String()
}

// Stop ends the parts, the last first, and waits for them. Pods go on: remove them before. Calling it again is a no-op.
func (c *Cluster) Stop() error {
	var errs []error
	for i := len(c.parts) - 1; i >= 0; i-- {
		errs = append(errs, c.parts[i].stop())
	}
	if c.proxy != nil {
		errs = append(errs, c.proxy.Close())
	}
	c.parts, c.proxy = nil, nil
	return errors.Join(append(errs, c.clear())...)
}
