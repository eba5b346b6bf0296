package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/image"
	"github.com/katabuild/katabuild/ci/containerd/kube"
	"github.com/katabuild/katabuild/ci/containerd/remote"
	"github.com/katabuild/katabuild/internal/testenv"
)

// askedKubernetes is the variable that turns TestKubernetes on.
const askedKubernetes = "KATABUILD_TEST_KUBERNETES"

// nodeAddress is the node's, which nest gives its bridge.
const nodeAddress = "192.0.2.1"

// Objects of the test, in the order they are made in.
var objects = []struct{ collection, yaml string }{
	{"/apis/node.k8s.io/v1/runtimeclasses", `
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: kata}
handler: HANDLER
overhead: {podFixed: {memory: 160Mi, cpu: 250m}}
`},
	{"/api/v1/namespaces/default/configmaps", `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green, shape: round, taste: sour}
`},
	{"/api/v1/namespaces/default/secrets", `
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {word: xyzzy}
`},
	{"/api/v1/namespaces/default/pods", `
apiVersion: v1
kind: Pod
metadata: {name: words, labels: {app: words}}
spec:
  nodeName: NODE
  runtimeClassName: kata
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 5
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: secret, secret: {secretName: secret}}
  - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
  containers:
  - name: writer
    image: IMAGE
    command: [sh, -c, "rm -f /disk/sick; echo started; echo complaint >&2; exec toolbox pause"]
    env:
    - {name: SHAPE, valueFrom: {configMapKeyRef: {name: settings, key: shape}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    readinessProbe: {exec: {command: [test, -e, /disk/fit]}, periodSeconds: 1, timeoutSeconds: 20}
    livenessProbe: {exec: {command: [test, "!", -e, /disk/sick]}, initialDelaySeconds: 2, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 20}
    volumeMounts: &mounts
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /one/colour, subPath: colour}
    - {name: secret, mountPath: /secret}
    - {name: about, mountPath: /about}
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
  - name: reader
    image: IMAGE
    command: [toolbox, serve, ":8000", hello]
    readinessProbe: {httpGet: {port: 8000, path: /}, periodSeconds: 1, timeoutSeconds: 20}
    volumeMounts: *mounts
`},
}

// TestKubernetes runs a pod as Kubernetes does: by kubelet, for what the API server says.
func TestKubernetes(t *testing.T) {
	testenv.Require(t, testenv.Asked(askedKubernetes, "test-kubernetes"), root, testenv.Tool("runc"),
		testenv.Tool("go"), testenv.Tool("nice"),
		testenv.Tool("ip"), testenv.Tool("iptables"))
	programs, err := clusterPrograms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	on(t, "2", func(t *testing.T, s *setting) {
		k := &kubernetes{setting: s, last: time.Now()}
		k.startCluster(t, programs)
		// Each needs what those before it left.
		for _, c := range []struct {
			name string
			run  func(*kubernetes, *testing.T)
		}{
			{"a pod of a RuntimeClass starts, and is ready when its probes say so", (*kubernetes).create},
			{"the pod is where its handler says", (*kubernetes).kernel},
			{"ConfigMap, Secret and labels are in the container", (*kubernetes).content},
			{"containers share their emptyDirs", (*kubernetes).share},
			{"limits are those of the cgroup", (*kubernetes).limits},
			{"the log is read through the API", (*kubernetes).log},
			{"exec through the API carries input, output, errors and the code", (*kubernetes).stream},
			{"a port is forwarded through the API", (*kubernetes).forward},
			{"a change of the ConfigMap arrives", (*kubernetes).change},
			{"a container whose liveness probe fails is started again", (*kubernetes).restart},
			{"deletion leaves nothing", (*kubernetes).remove},
		} {
			if !t.Run(c.name, func(t *testing.T) { c.run(k, t) }) {
				t.Log(k.Tail(15))
			}
		}
	})
}

// clusterPrograms finds or builds what a cluster runs.
func clusterPrograms(ctx context.Context) (kube.Programs, error) {
	dir, err := tools()
	if err != nil {
		return kube.Programs{}, err
	}
	return kube.Built(ctx, dir)
}

// kubernetes is a cluster over a containerd.
type kubernetes struct {
	*setting
	*kube.Cluster
	last time.Time // when the last phase ended
}

// phase says how long a phase took.
func (k *kubernetes) phase(t *testing.T, name string) {
	t.Helper()
	t.Logf("%v for %s", time.Since(k.last).Round(time.Millisecond), name)
	k.last = time.Now()
}

func (k *kubernetes) startCluster(t *testing.T, programs kube.Programs) {
	t.Helper()
	c, err := kube.Start(t.Context(), kube.Config{Programs: programs, Dir: k.dir, Socket: k.Socket,
		Address: nodeAddress})
	if err != nil {
		t.Fatal(err)
	}
	k.Cluster = c
	t.Cleanup(func() {
		k.tidy(t)
		if keep := os.Getenv("KATABUILD_TEST_LOGS"); keep != "" && t.Failed() {
			_ = os.WriteFile(filepath.Join(keep, "kubernetes.log"), []byte(c.Tail(20000)), 0o644)
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	k.phase(t, "etcd, API server and kubelet")
}

// tidy removes the pods that a failed test left, since they would go on without kubelet.
func (k *kubernetes) tidy(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if k.delete(ctx) == nil {
		for ctx.Err() == nil && !k.gone(ctx) {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (k *kubernetes) delete(ctx context.Context) error { return k.Delete(ctx, kube.PodPath("words")) }

// gone says whether the API has no pod any more.
func (k *kubernetes) gone(ctx context.Context) bool {
	return errors.Is(k.Get(ctx, kube.PodPath("words"), &kube.Pod{}), kube.ErrNotFound)
}

// pod reads the pod.
func (k *kubernetes) pod(t *testing.T) *kube.Pod {
	t.Helper()
	var p kube.Pod
	if err := k.Get(t.Context(), kube.PodPath("words"), &p); err != nil {
		t.Fatal(err)
	}
	return &p
}

// exec runs a command in a container of the pod, with input, and returns output, errors and code.
func (k *kubernetes) exec(t *testing.T, container, input string, command ...string) (out, errs string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var o, e buffer
	s, err := remote.Run(ctx, k.ExecURL("words", container, command...), remote.Streams{In: strings.NewReader(input),
		Out: &o, Err: &e})
	if err != nil {
		t.Fatalf("exec %q: %v", command, err)
	}
	if code, err = s.Code(); err != nil {
		t.Fatalf("exec %q: %v", command, err)
	}
	return o.String(), e.String(), code
}

// said is a shell command's output.
func (k *kubernetes) said(t *testing.T, container, script string) string {
	t.Helper()
	out, errs, code := k.exec(t, container, "", "sh", "-c", script)
	if code != 0 || errs != "" {
		t.Errorf("%q in %s ended with %d: %s", script, container, code, errs)
	}
	return strings.TrimSuffix(out, "\n")
}

func (k *kubernetes) create(t *testing.T) {
	fill := strings.NewReplacer("HANDLER", k.handler, "NODE", kube.Node, "IMAGE", image.Tools)
	for _, o := range objects {
		var err error
		until(t, patience, "the API to take "+o.collection, func() bool {
			// The namespace default appears a moment after the API.
			if err = k.Create(t.Context(), o.collection, fill.Replace(o.yaml)); errors.Is(err, kube.ErrNotFound) {
				return false
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	until(t, patience, "both containers to run and the reader's web page to be found", func() bool {
		p := k.pod(t)
		if p.Status.Phase == "Failed" {
			t.Fatalf("%+v", p.Status)
		}
		return p.Status.Phase == "Running" && p.Container("reader").Ready
	})
	k.phase(t, "the pod to run")
	p := k.pod(t)
	equal(t, "the overhead's memory", p.Spec.Overhead["memory"], "160Mi")
	equal(t, "whether the writer is ready before it is fit", p.Container("writer").Ready, false)
	k.said(t, "writer", "touch /disk/fit")
	until(t, patience, "the pod to be ready", func() bool { return kube.True(k.pod(t).Status.Conditions, "Ready") })
	k.phase(t, "the pod to be ready")
}

func (k *kubernetes) kernel(t *testing.T) {
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	got := k.said(t, "writer", "uname -r")
	equal(t, "the reader's kernel", k.said(t, "reader", "uname -r"), got)
	equal(t, "whether the host's kernel runs the pod", got == strings.TrimSpace(string(host)), !k.guest())
	if k.guest() {
		equal(t, "the guest's kernel", got, guestKernel(t, k.config))
	}
	// kubelet sees the handler of the sandbox.
	r, err := cri.NewRuntimeServiceClient(k.Conn).ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil || len(r.Items) != 1 || r.Items[0].RuntimeHandler != k.handler {
		t.Errorf("sandboxes: %v, %v, want one of %s", r.GetItems(), err, k.handler)
	}
}

func (k *kubernetes) content(t *testing.T) {
	for _, c := range []string{"writer", "reader"} {
		equal(t, "files of "+c, k.said(
			t, c, "cat /settings/colour /settings/shape /one/colour /secret/word; echo; cat /about/labels"),
			"greenroundgreenxyzzy\napp=\"words\"")
	}
	equal(t, "variables", k.said(t, "writer", "echo $SHAPE $POD_IP"), "round "+k.pod(t).Status.PodIP)
	k.phase(t, "files and variables")
}

func (k *kubernetes) share(t *testing.T) {
	for _, d := range []string{"/disk", "/memory"} {
		k.said(t, "writer", "echo of the writer >"+d+"/a")
		equal(t, "what the reader finds in "+d, k.said(t, "reader", "cat "+d+"/a; echo of the reader >"+d+"/b"),
			"of the writer")
		equal(t, "what the writer finds in "+d, k.said(t, "writer", "cat "+d+"/b"), "of the reader")
		// kubelet makes them 0777; a guest's own tmpfs is 1777.
		if mode := k.said(t, "writer", "stat -c %a "+d); !strings.HasSuffix(mode, "777") {
			t.Errorf("the mode of %s is %s: not everyone may write", d, mode)
		}
	}
	equal(t, "the kind of /memory", k.said(t, "writer", "awk '$2 == \"/memory\" { print $3 }' /proc/mounts"), "tmpfs")
	k.phase(t, "emptyDirs")
}

func (k *kubernetes) limits(t *testing.T) {
	if k.guest() {
		equal(t, "memory.max and cpu.max", k.said(t, "writer",
			"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"), "67108864\n50000 100000")
		equal(t, "memory.max of a container without limits", k.said(t, "reader", "cat /sys/fs/cgroup/memory.max"),
			"max")
		return
	}
	equal(t, "the limit of memory", k.said(t, "writer",
		"cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"), "67108864")
}

func (k *kubernetes) log(t *testing.T) {
	log, err := k.Text(t.Context(), kube.PodPath("words")+"/log?container=writer")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(log, "\n"), "\n")
	slices.Sort(lines) // output and errors have no order
	equal(t, "the log", strings.Join(lines, " "), "complaint ready started")
	k.phase(t, "limits and log")
}

func (k *kubernetes) stream(t *testing.T) {
	out, errs, code := k.exec(t, "writer", "words\n", "sh", "-c", "read a; echo got $a; echo err >&2; exit 9")
	equal(t, "code, output and errors", fmt.Sprint(code, out, errs), "9got words\nerr\n")
	k.phase(t, "exec")
}

func (k *kubernetes) forward(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := remote.Forward(ctx, k.URL+kube.PodPath("words")+"/portforward?ports=8000", 8000,
		"GET / HTTP/1.1\r\nHost: pod\r\n\r\n",
		func(s string) bool { return strings.Contains(s, "\r\n\r\nhello") })
	if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 200 OK\r\n") {
		t.Errorf("%q, %v", answer, err)
	}
	k.phase(t, "a forwarded port")
}

func (k *kubernetes) change(t *testing.T) {
	if err := k.Merge(t.Context(), "/api/v1/namespaces/default/configmaps/settings",
		`{"data": {"colour": "blue", "size": "large", "taste": null}}`); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"writer", "reader"} {
		until(t, patience, "the new colour in "+c,
			func() bool { return k.said(t, c, "cat /settings/colour") == "blue" })
		equal(t, "files of "+c, k.said(t, c, "ls /settings; cat /settings/size"), "colour\nshape\nsize\nlarge")
		// Kubernetes: a container using a ConfigMap as a subPath volume mount will not receive updates.
		equal(t, "a subPath's file in "+c, k.said(t, c, "cat /one/colour"), "green")
	}
	k.phase(t, "a change of the ConfigMap")
}

func (k *kubernetes) restart(t *testing.T) {
	k.said(t, "writer", "touch /disk/sick")
	until(t, patience, "the writer to be started again and ready", func() bool {
		c := k.pod(t).Container("writer")
		return c.RestartCount > 0 && c.Ready
	})
	equal(t, "what the emptyDirs hold", k.said(t, "writer", "cat /disk/a /memory/a"), "of the writer\nof the writer")
	equal(t, "restarts of the neighbour", k.pod(t).Container("reader").RestartCount, 0)
	if l := k.pod(t).Container("writer").LastState.Terminated; l == nil || l.ExitCode != 0 {
		t.Errorf("the writer's last end is %+v, want code 0", l) // pause ends so at SIGTERM
	}
	old, err := k.Text(t.Context(), kube.PodPath("words")+"/log?container=writer&previous=true")
	if err != nil || !strings.Contains(old, "started\n") {
		t.Errorf("the log before: %q, %v", old, err)
	}
	k.phase(t, "a restart by the liveness probe")
}

func (k *kubernetes) remove(t *testing.T) {
	c := cri.NewRuntimeServiceClient(k.Conn)
	ids := k.ids(t, c)
	equal(t, "whether there are a sandbox and containers to remove", len(ids) >= 3, true)
	if err := k.delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, patience, "the pod to be gone from the API", func() bool { return k.gone(t.Context()) })
	k.phase(t, "deletion")
	until(t, patience, "no folder of a pod", func() bool {
		dirs, err := filepath.Glob("/var/lib/kubelet/pods/*")
		if err != nil {
			t.Fatal(err)
		}
		return len(dirs) == 0
	})
	k.phase(t, "kubelet to remove the pod's folder")
	// kubelet collects garbage once a minute.
	until(t, patience, "no sandbox and no container", func() bool { return len(k.ids(t, c)) == 0 })
	// Without cgroups of quality of service, kubelet names no parent, and containerd uses one of its own, which nest
	// does not look at.
	for _, id := range ids {
		for _, pattern := range []string{"/sys/fs/cgroup/*/k8s.io/", "/sys/fs/cgroup/k8s.io/"} {
			left, err := filepath.Glob(pattern + "*" + id + "*")
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: cgroups %q, %v", left, err)
			}
		}
	}
	k.phase(t, "containerd to forget it")
}

// ids are all sandboxes and containers of containerd.
func (k *kubernetes) ids(t *testing.T, c cri.RuntimeServiceClient) []string {
	t.Helper()
	s, err := c.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.ListContainers(t.Context(), &cri.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, s := range s.Items {
		ids = append(ids, s.Id)
	}
	for _, c := range l.Containers {
		ids = append(ids, c.Id)
	}
	return ids
}

// guestKernel is the release of the kernel of the guest that a configuration file names.
func guestKernel(t *testing.T, config string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(guestIn(t, config), "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Kernel struct{ Release string } }
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m.Kernel.Release
}
