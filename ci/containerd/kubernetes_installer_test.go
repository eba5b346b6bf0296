package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/ci/containerd/daemon"
	"github.com/katabuild/katabuild/ci/containerd/image"
	"github.com/katabuild/katabuild/ci/containerd/kube"
	"github.com/katabuild/katabuild/ci/containerd/remote"
	"github.com/katabuild/katabuild/internal/testenv"
)

// Image layouts of `katabuild node-image`, each with a release of the guest in out/default. ci/test.sh makes them.
const (
	firstImage  = "KATABUILD_TEST_NODE_IMAGE_1" // with release 1.0.0
	secondImage = "KATABUILD_TEST_NODE_IMAGE_2" // with release 2.0.0
	// A folder with release 3.0.0, which is signed, and with policy.yaml, which takes it.
	elsewhere = "KATABUILD_TEST_NODE_ELSEWHERE"
)

// installerNamespace is where the chart is installed, and helmRelease what Helm calls it.
const (
	installerNamespace = "kata-deploy"
	helmRelease        = "kata-deploy"
)

// The labels of nodes that are an installation's without a suffix.
const (
	readyLabel   = "katacontainers.io/kata-runtime"
	releaseLabel = "katabuild.io/release"
)

// etcContainerd puts containerd's configuration where packages of containerd 2 have it.
func etcContainerd(file string) error {
	const there = "/etc/containerd"
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(there), os.MkdirAll(there, 0o755), os.Remove(file),
		os.Symlink(there+"/config.toml", file), os.WriteFile(there+"/config.toml",
			append([]byte("imports = ['"+there+"/conf.d/*.toml']\n"), text...), 0o644))
}

// installer is a cluster whose node gets the runtime by the chart.
type installer struct {
	*kubernetes
	programs kube.Programs
	desk     string // the administrator's folder
	systemd  *systemd
	digests  [2]string            // of the images
	before   map[string]fileState // of the node
	labels   map[string]string    // of the node, before
	pods     map[string]bool      // by name
}

// TestKubernetesInstaller has the chart install a release on a node, upgrade it, change it, roll it back and take it
// off, while pods run in it, and compares the node before and after, file by file.
func TestKubernetesInstaller(t *testing.T) {
	testenv.Require(t, testenv.Asked(askedKubernetes, "test-kubernetes"), root, testenv.Tool("runc"),
		testenv.Tool("go"), testenv.Tool("nice"), testenv.Tool("ip"), testenv.Tool("iptables"),
		testenv.File(firstImage), testenv.File(secondImage), testenv.File(elsewhere))
	programs, err := clusterPrograms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ownFolders(t, append(nodeFolders, "/usr/bin")...)
	i := &installer{programs: programs, systemd: newSystemd(t)}
	onChanged(t, "2", func(c *daemon.Config) {
		c.Runtime, c.Programs = nil, "/usr/local/bin"
		c.Prepare = etcContainerd
	}, func(t *testing.T, s *setting) {
		i.kubernetes = &kubernetes{setting: s, last: time.Now()}
		i.startCluster(t, programs)
		i.systemd.serve(t, s.Daemon)
		i.push(t)
		i.sit(t)
		for _, c := range []struct {
			name string
			run  func(*installer, *testing.T)
		}{
			{"the API takes every object of the chart, and of the plain files", (*installer).dryRun},
			{"an installation makes the node ready", (*installer).install},
			{"a daemon's token opens no more than its own labels", (*installer).token},
			{"a pod of the RuntimeClass runs in the release that was installed", (*installer).firstPod},
			{"an upgrade leaves pods as they are", (*installer).upgrade},
			{"a changed value is a changed node", (*installer).change},
			{"a release of a web server comes by a policy", (*installer).web},
			{"a rollback brings the first release back", (*installer).rollback},
			{"a daemon that is killed, and a restart of the node, change nothing", (*installer).restartNode},
			{"what somebody damages is put right", (*installer).damage},
			{"an uninstall refuses new pods first, waits for those there are, and leaves the node as it was",
				(*installer).uninstall},
			{"plain files do the same", (*installer).plainFiles},
		} {
			if !t.Run(c.name, func(t *testing.T) { c.run(i, t) }) {
				t.Logf("%s\n%s", i.describe(), i.Cluster.Tail(15))
				break // each needs what those before it left
			}
		}
		i.clean(t)
	})
}

// section are the lines of the sh blocks below a heading of docs/kubernetes.md.
func section(t *testing.T, heading string) []string {
	t.Helper()
	b, err := os.ReadFile(repository + "/docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("the page has no heading %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var lines []string
	shell := false
	for l := range strings.SplitSeq(text, "\n") {
		switch {
		case strings.HasPrefix(l, "```"):
			shell = l == "```sh"
		case shell:
			lines = append(lines, l)
		}
	}
	if len(lines) == 0 {
		t.Fatalf("the page shows no command below %q", heading)
	}
	return lines
}

// shell runs a line as an administrator does who reads the page, in a folder with the repository's releases and
// values.yaml.
func (i *installer) shell(ctx context.Context, line string) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir = i.desk
	cmd.Env = append(os.Environ(), "KUBECONFIG="+i.desk+"/kubeconfig", "HOME="+i.desk,
		"PATH="+filepath.Dir(i.programs.Helm)+":"+filepath.Dir(i.programs.Kubectl)+":"+os.Getenv("PATH"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s%s", line, err, &out, &errs)
	}
	return out.String(), nil
}

// follow runs what the page shows below a heading.
func (i *installer) follow(t *testing.T, heading string) {
	t.Helper()
	for _, l := range section(t, heading) {
		if out, err := i.shell(t.Context(), l); err != nil {
			t.Fatalf("%v\n%s", err, i.describe())
		} else {
			t.Logf("$ %s\n%s", l, out)
		}
	}
}

// sit makes the folder where the administrator works.
func (i *installer) sit(t *testing.T) {
	t.Helper()
	i.desk = t.TempDir()
	releases, err := filepath.Abs(repository + "/releases")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: %q}}]
contexts: [{name: test, context: {cluster: test, user: ""}}]
`, i.URL)
	if err := errors.Join(os.Symlink(releases, i.desk+"/releases"),
		os.WriteFile(i.desk+"/kubeconfig", []byte(config), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// want writes values.yaml for one of the images.
func (i *installer) want(t *testing.T, n int, more string) {
	t.Helper()
	text := fmt.Sprintf(`image: {repository: %q, digest: %q}
apiServer: {host: %q, port: %d}
drainTimeout: 4m
`, image.NodeInstaller, i.digests[n], nodeAddress, kube.APIPort)
	if err := os.WriteFile(i.desk+"/values.yaml", []byte(text+more), 0o644); err != nil {
		t.Fatal(err)
	}
}

// push brings the images to where containerd finds them.
func (i *installer) push(t *testing.T) {
	t.Helper()
	for n, v := range []string{firstImage, secondImage} {
		d, err := i.images.Push(os.Getenv(v), fmt.Sprintf("%s:%d", image.NodeInstaller, n+1))
		if err != nil {
			t.Fatal(err)
		}
		i.digests[n] = d
	}
}

// kubectl runs kubectl with an input.
func (i *installer) kubectl(t *testing.T, input string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), i.programs.Kubectl, append([]string{"--kubeconfig",
		i.desk + "/kubeconfig"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// describe is what administrators look at when something does not come about.
func (i *installer) describe() string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var b strings.Builder
	for _, line := range []string{"kubectl get nodes --show-labels", "kubectl get pods -A -o wide",
		"kubectl -n kata-deploy describe pods",
		"kubectl -n kata-deploy logs --prefix --tail=40 -l app.kubernetes.io/instance=kata-deploy"} {
		out, err := i.shell(ctx, line)
		fmt.Fprintf(&b, "$ %s\n%s", line, out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}

func (i *installer) dryRun(t *testing.T) {
	i.want(t, 0, "")
	i.kubectl(t, "", "create", "namespace", installerNamespace, "--save-config")
	strict := []string{"apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors"}
	for name, more := range map[string][]string{
		"as it is": {"force=false"},
		"with everything": {"suffix=test", "release=oci:registry.example/guests:1", "policy.policy\\.yaml=text",
			"registry.secret=login", "registry.ca=-----BEGIN CERTIFICATE-----", "registry.insecure={a:1,b}",
			"privileged=false", "check=warn", "prefix=/srv/kata", "bin=/srv/bin", "force=true",
			"runtimeClass.nodeSelector.a=b", "runtimeClasses[0].name=kata-big", "runtimeClasses[0].overhead.memory=1Gi",
			"maxUnavailable=10%", "image.pullSecrets={pull}"},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := i.shell(t.Context(), "helm template kata-deploy releases/kubernetes/chart -n kata-deploy "+
				"-f values.yaml --set '"+strings.Join(more, "' --set '")+"'")
			if err != nil {
				t.Fatal(err)
			}
			i.kubectl(t, text, append(strict, "-n", installerNamespace, "-f", "-")...)
		})
	}
	for _, overlay := range []string{"base", "remove"} {
		t.Run("plain files, "+overlay, func(t *testing.T) {
			i.kubectl(t, "", append(strict, "-k", i.desk+"/releases/kubernetes/kustomize/"+overlay)...)
		})
	}
	i.phase(t, "dry runs")
}

// node is what the API has of the node.
type apiNode struct {
	Metadata struct{ Labels map[string]string }
}

func (i *installer) nodeLabels(t *testing.T) map[string]string {
	t.Helper()
	var n apiNode
	if err := i.Get(t.Context(), "/api/v1/nodes/"+kube.Node, &n); err != nil {
		t.Fatal(err)
	}
	return n.Metadata.Labels
}

// awaitRelease waits until the node says that it has a release, and is ready for pods.
func (i *installer) awaitRelease(t *testing.T, version string) {
	t.Helper()
	until(t, patience, "the node's labels to say "+version, func() bool {
		l := i.nodeLabels(t)
		return l[readyLabel] == "true" && l[releaseLabel] == version
	})
}

func (i *installer) install(t *testing.T) {
	i.before, i.labels = i.look(t), i.nodeLabels(t)
	i.want(t, 0, "")
	i.follow(t, "Install")
	i.phase(t, "helm install, until the node is ready")
	l := i.nodeLabels(t)
	equal(t, "the node's labels", fmt.Sprint(l[readyLabel], " ", l[releaseLabel]), "true 1.0.0")
	equal(t, "restarts of containerd", i.systemd.restarts(), 1)
	var class struct {
		Handler  string
		Overhead struct{ PodFixed map[string]string }
	}
	if err := i.Get(t.Context(), classPath("kata"), &class); err != nil {
		t.Fatal(err)
	}
	equal(t, "the class's handler", class.Handler, "kata")
	if len(class.Overhead.PodFixed) != 2 {
		t.Errorf("the class's overhead is %v", class.Overhead.PodFixed)
	}
}

// token does with a daemon's token what a daemon does not do.
func (i *installer) token(t *testing.T) {
	l := i.daemonPods(t)
	if len(l) != 1 {
		t.Fatalf("%d daemons, want one", len(l))
	}
	token := strings.TrimSpace(i.kubectl(t, "", "-n", installerNamespace, "create", "token", "kata-deploy",
		"--bound-object-kind=Pod", "--bound-object-name="+l[0].Metadata.Name))
	i.kubectl(t, "apiVersion: v1\nkind: Node\nmetadata: {name: other}\n", "create", "-f", "-")
	defer i.kubectl(t, "", "delete", "node", "other")
	as := fmt.Sprintf("kubectl --server https://%s:%d --certificate-authority %s --token %s ", nodeAddress,
		kube.APIPort, i.Authority(), token)
	if _, err := i.shell(t.Context(), as+"get node node"); err != nil {
		t.Errorf("what a daemon does is refused: %v", err)
	}
	for _, c := range []struct{ what, says string }{
		{"label node node other=label", "only the labels of its installation"},
		{"label node node kubernetes.io/os-", "only the labels of its installation"},
		{"label node other " + readyLabel + "=true", "its own node only"},
		{`patch node node -p '{"spec": {"unschedulable": true}}'`, "nothing but labels"},
		{"annotate node node a=b", "no annotations"},
		{"get nodes", "forbidden"},
		{"get pods -A", "forbidden"},
		{"get secrets -A", "forbidden"},
		{"-n kata-deploy patch configmap kata-deploy-state -p '{}'", "forbidden"},
	} {
		if _, err := i.shell(t.Context(), as+c.what); err == nil || !strings.Contains(strings.ToLower(err.Error()),
			c.says) {
			t.Errorf("%s: %v, want %q", c.what, err, c.says)
		}
	}
	i.phase(t, "attempts with a daemon's token")
}

func classPath(name string) string { return "/apis/node.k8s.io/v1/runtimeclasses/" + name }

// object of a pod that the scheduler places.
const installedPod = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: installed}}
spec:
  runtimeClassName: CLASS
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: IMAGE
    command: [toolbox, pause]
`

// start makes a pod.
func (i *installer) start(t *testing.T, name, class string) {
	t.Helper()
	fill := strings.NewReplacer("NAME", name, "CLASS", class, "IMAGE", image.Tools)
	if err := i.Create(t.Context(), "/api/v1/namespaces/default/pods", fill.Replace(installedPod)); err != nil {
		t.Fatal(err)
	}
	if i.pods == nil {
		i.pods = map[string]bool{}
	}
	i.pods[name] = true
}

func (i *installer) get(t *testing.T, name string) *kube.Pod {
	t.Helper()
	var p kube.Pod
	if err := i.Get(t.Context(), kube.PodPath(name), &p); err != nil {
		t.Fatal(err)
	}
	return &p
}

func (i *installer) awaitRunning(t *testing.T, name string) {
	t.Helper()
	until(t, patience, "pod "+name+" to run", func() bool {
		return kube.True(i.get(t, name).Status.Conditions, "Ready")
	})
}

// in is the output of a shell command in a pod.
func (i *installer) in(t *testing.T, pod, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var o, e buffer
	s, err := remote.Run(ctx, i.ExecURL(pod, "main", "sh", "-c", script), remote.Streams{In: strings.NewReader(""),
		Out: &o, Err: &e})
	if err != nil {
		t.Fatalf("exec %q in %s: %v", script, pod, err)
	}
	if code, err := s.Code(); err != nil || code != 0 {
		t.Fatalf("exec %q in %s: %d, %v, %s", script, pod, code, err, e.String())
	}
	return strings.TrimSpace(o.String())
}

// removePod ends a pod and waits until the API has none.
func (i *installer) removePod(ctx context.Context, name string) error {
	if err := i.Delete(ctx, kube.PodPath(name)); err != nil && !errors.Is(err, kube.ErrNotFound) {
		return err
	}
	for !errors.Is(i.Get(ctx, kube.PodPath(name), &kube.Pod{}), kube.ErrNotFound) {
		if ctx.Err() != nil {
			return fmt.Errorf("remove pod %s: %w", name, ctx.Err())
		}
		time.Sleep(100 * time.Millisecond)
	}
	delete(i.pods, name)
	return nil
}

func (i *installer) mustRemovePod(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := i.removePod(ctx, name); err != nil {
		t.Fatal(err)
	}
}

// releaseOf is the release whose shim serves a pod.
func (i *installer) releaseOf(t *testing.T, name string) string {
	t.Helper()
	for _, p := range i.processes(t, name) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p))
		if rest, ok := strings.CutPrefix(exe, "/opt/katabuild/releases/"); err == nil && ok {
			version, _, _ := strings.Cut(rest, "-") // and a part of its digest
			return version
		}
	}
	t.Fatalf("no shim of pod %s runs from /opt/katabuild", name)
	return ""
}

func (i *installer) firstPod(t *testing.T) {
	i.start(t, "first", "kata")
	i.awaitRunning(t, "first")
	i.phase(t, "a pod of the RuntimeClass")
	equal(t, "the pod's kernel", i.in(t, "first", "uname -r"), guestKernel(t, i.installedConfig(t)))
	equal(t, "the pod's release", i.releaseOf(t, "first"), "1.0.0")
	if o := i.get(t, "first").Spec.Overhead; len(o) != 2 {
		t.Errorf("the pod's overhead is %v", o)
	}
	i.measure(t, "first")
}

// installedConfig is the runtime's configuration on the node.
func (*installer) installedConfig(t *testing.T) string {
	t.Helper()
	const file = "/etc/katabuild/configuration.toml"
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	return file
}

func (i *installer) upgrade(t *testing.T) {
	boot := i.in(t, "first", "cat /proc/sys/kernel/random/boot_id")
	restarts := i.systemd.restarts()
	i.want(t, 1, "")
	i.follow(t, "Upgrade")
	i.awaitRelease(t, "2.0.0")
	i.phase(t, "helm upgrade to a second release")
	equal(t, "the first pod's boot", i.in(t, "first", "cat /proc/sys/kernel/random/boot_id"), boot)
	equal(t, "the first pod's release", i.releaseOf(t, "first"), "1.0.0")
	equal(t, "restarts of the first pod", i.get(t, "first").Container("main").RestartCount, 0)
	equal(t, "restarts of containerd by the upgrade", i.systemd.restarts()-restarts, 0)
	i.start(t, "second", "kata")
	i.awaitRunning(t, "second")
	equal(t, "the second pod's release", i.releaseOf(t, "second"), "2.0.0")
	i.mustRemovePod(t, "second")
	i.phase(t, "a pod of the second release")
}

func (i *installer) change(t *testing.T) {
	restarts := i.systemd.restarts()
	i.want(t, 1, "handler: sandbox\n")
	i.follow(t, "Upgrade")
	i.awaitRelease(t, "2.0.0")
	equal(t, "restarts of containerd by another handler", i.systemd.restarts()-restarts, 1)
	if err := i.Get(t.Context(), classPath("kata"), &struct{}{}); !errors.Is(err, kube.ErrNotFound) {
		t.Errorf("the class kata: %v, want none", err)
	}
	i.phase(t, "helm upgrade with another handler")
	i.start(t, "third", "sandbox")
	i.awaitRunning(t, "third")
	equal(t, "the third pod's release", i.releaseOf(t, "third"), "2.0.0")
	i.mustRemovePod(t, "third")
	i.phase(t, "a pod of the other handler")
}

func (i *installer) web(t *testing.T) {
	dir := os.Getenv(elsewhere)
	policy, err := os.ReadFile(dir + "/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", nodeAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.FileServer(http.Dir(dir + "/release"))}
	go func() { _ = s.Serve(l) }() // ends with Close
	defer s.Close()
	i.want(t, 1, fmt.Sprintf("release: http://%[1]s/\nregistry: {insecure: [%[1]q]}\npolicy:\n  policy.yaml: %[2]q\n",
		l.Addr(), policy))
	i.follow(t, "Upgrade")
	i.awaitRelease(t, "3.0.0")
	i.phase(t, "helm upgrade to a release of a web server")
	equal(t, "the first pod's release", i.releaseOf(t, "first"), "1.0.0")
}

func (i *installer) rollback(t *testing.T) {
	i.follow(t, "Back")
	i.awaitRelease(t, "1.0.0")
	i.phase(t, "helm rollback to the first revision")
	if err := i.Get(t.Context(), classPath("kata"), &struct{}{}); err != nil {
		t.Error(err)
	}
	i.start(t, "fourth", "kata")
	i.awaitRunning(t, "fourth")
	equal(t, "the fourth pod's release", i.releaseOf(t, "fourth"), "1.0.0")
	i.mustRemovePod(t, "fourth")
	i.phase(t, "a pod of the first release again")
}

// daemonPods are the pods of the DaemonSet.
func (i *installer) daemonPods(t *testing.T) []kube.Pod {
	t.Helper()
	var l struct{ Items []kube.Pod }
	if err := i.Get(t.Context(), "/api/v1/namespaces/"+installerNamespace+
		"/pods?labelSelector=app.kubernetes.io/name%3Dkata-deploy", &l); err != nil {
		t.Fatal(err)
	}
	return l.Items
}

// awaitDaemon waits until the only daemon is ready and another one than before.
func (i *installer) awaitDaemon(t *testing.T, before kube.Pod, same bool) {
	t.Helper()
	until(t, patience, "the daemon to be ready again", func() bool {
		l := i.daemonPods(t)
		return len(l) == 1 && kube.True(l[0].Status.Conditions, "Ready") && len(l[0].Status.ContainerStatuses) == 1 &&
			(same && l[0].Metadata.UID == before.Metadata.UID &&
				l[0].Container("kata-deploy").RestartCount > before.Container("kata-deploy").RestartCount ||
				!same && l[0].Metadata.UID != before.Metadata.UID)
	})
}

func (i *installer) restartNode(t *testing.T) {
	settled, restarts, labels := i.look(t), i.systemd.restarts(), i.nodeLabels(t)
	one := i.daemonPods(t)
	if len(one) != 1 {
		t.Fatalf("%d daemons, want one", len(one))
	}
	unchanged := func(t *testing.T, by string) {
		t.Helper()
		i.compare(t, settled, by)
		equal(t, "restarts of containerd by "+by, i.systemd.restarts()-restarts, 0)
		equal(t, "labels after "+by, fmt.Sprint(i.nodeLabels(t)), fmt.Sprint(labels))
	}
	t.Run("killed", func(t *testing.T) {
		killed := 0
		for _, p := range allProcesses(t) {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
			if strings.HasPrefix(string(b), "/kata-deploy\x00run\x00") {
				killed++
				if err := unix.Kill(p, unix.SIGKILL); err != nil {
					t.Error(err)
				}
			}
		}
		equal(t, "daemons killed", killed, 1)
		i.awaitDaemon(t, one[0], true)
		unchanged(t, "a killed daemon")
	})
	i.phase(t, "a killed daemon")
	t.Run("another pod, and containerd anew", func(t *testing.T) {
		one = i.daemonPods(t)
		if err := errors.Join(i.Daemon.Kill(), i.Again(t.Context())); err != nil {
			t.Fatal(err)
		}
		if err := i.Delete(t.Context(), "/api/v1/namespaces/"+installerNamespace+"/pods/"+
			one[0].Metadata.Name); err != nil {
			t.Fatal(err)
		}
		i.awaitDaemon(t, one[0], false)
		unchanged(t, "a restart")
	})
	i.phase(t, "a restart of containerd and of the daemon")
	equal(t, "the first pod's release", i.releaseOf(t, "first"), "1.0.0")
	i.in(t, "first", "true")
}

func (i *installer) damage(t *testing.T) {
	settled := i.look(t)
	link := "/usr/local/bin/containerd-shim-kata-v2"
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	until(t, patience, "the shim's link to be there again", func() bool {
		_, err := os.Stat(link)
		return err == nil
	})
	i.awaitRelease(t, "1.0.0")
	i.compare(t, settled, "a repair")
	i.phase(t, "a repair")
}

// objectsOf are the objects of a kind that carry the chart's label.
func (i *installer) objectsOf(t *testing.T, kinds string) []string {
	t.Helper()
	out := i.kubectl(t, "", "get", kinds, "-A", "-l", "app.kubernetes.io/instance="+helmRelease, "-o", "name")
	return strings.Fields(out)
}

const rights = "serviceaccounts,clusterroles,clusterrolebindings,roles,rolebindings"

func (i *installer) uninstall(t *testing.T) {
	equal(t, "whether there are rights to take away", len(i.objectsOf(t, rights)) >= 6, true)
	type answer struct {
		out string
		err error
	}
	done, lines := make(chan answer, 1), section(t, "Uninstall")
	go func() {
		out, err := i.shell(t.Context(), lines[0])
		done <- answer{out, err}
	}()
	until(t, patience, "the node's label to go", func() bool { return i.nodeLabels(t)[readyLabel] == "" })
	i.phase(t, "helm uninstall, until the node takes no more pods")
	if _, err := os.Stat("/opt/katabuild/current"); err != nil {
		t.Errorf("the label went after the files: %v", err)
	}
	equal(t, "the pod that is still there", i.in(t, "first", "echo goes on"), "goes on")
	i.start(t, "late", "kata")
	until(t, patience, "a new pod to find no node", func() bool {
		for _, c := range i.get(t, "late").Status.Conditions {
			if c.Type == "PodScheduled" && c.Status == "False" && c.Reason == "Unschedulable" {
				return true
			}
		}
		return false
	})
	i.mustRemovePod(t, "late")
	select {
	case a := <-done:
		t.Fatalf("the uninstall ended while a pod runs: %s, %v", a.out, a.err)
	default:
	}
	i.mustRemovePod(t, "first")
	i.phase(t, "the last pod's end")
	for {
		if _, err := os.Lstat("/opt/katabuild"); err != nil {
			break
		}
		// As long as there are files, there are rights to remove them.
		if n := len(i.objectsOf(t, rights)); n < 6 {
			if _, err := os.Lstat("/opt/katabuild"); err == nil {
				t.Fatalf("%d objects are left of the rights, and the files are there", n)
			}
		}
		select {
		case a := <-done:
			t.Fatalf("the uninstall ended, and the files are there: %s, %v", a.out, a.err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	a := <-done
	if a.err != nil {
		t.Fatalf("%v\n%s", a.err, i.describe())
	}
	i.phase(t, "the node without the runtime, and the cluster without the chart")
	if l := i.objectsOf(t, rights+",configmaps,daemonsets,jobs,runtimeclasses"); len(l) > 0 {
		t.Errorf("left in the cluster: %q", l)
	}
	if l := i.nodeLabels(t); fmt.Sprint(l) != fmt.Sprint(i.labels) {
		t.Errorf("the node's labels are %v, and were %v", l, i.labels)
	}
	i.compare(t, i.before, "an uninstall")
	until(t, patience, "the daemon to be gone", func() bool { return len(i.daemonPods(t)) == 0 })
	for _, l := range lines[1:] {
		if _, err := i.shell(t.Context(), l); err != nil {
			t.Error(err)
		}
	}
}

// plainFiles does it all once more without Helm. What the plain files do not name is the address of the API, which
// kube-proxy would bring about.
func (i *installer) plainFiles(t *testing.T) {
	const service, port = "10.99.0.1", "443"
	rule := []string{"-t", "nat", "-A", "PREROUTING", "-d", service, "-p", "tcp", "--dport", port, "-j", "DNAT",
		"--to-destination", fmt.Sprintf("%s:%d", nodeAddress, kube.APIPort)}
	if out, err := exec.Command("iptables", rule...).CombinedOutput(); err != nil {
		t.Fatalf("iptables: %v\n%s", err, out)
	}
	if err := os.CopyFS(i.desk+"/kustomize", os.DirFS(i.desk+"/releases/kubernetes/kustomize")); err != nil {
		t.Fatal(err)
	}
	for _, overlay := range []string{"base", "remove"} {
		file := i.desk + "/kustomize/" + overlay + "/kustomization.yaml"
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "newName: registry.example/kata-deploy\n    newTag: unset",
			fmt.Sprintf("newName: %s\n    digest: %s", image.NodeInstaller, i.digests[0]))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := i.look(t)
	remove := false
	for _, l := range section(t, "Without Helm") {
		if strings.Contains(l, "apply -k kustomize/remove") {
			remove = true
			i.awaitRelease(t, "1.0.0")
			i.phase(t, "the runtime by plain files")
		}
		if out, err := i.shell(t.Context(), l); err != nil {
			t.Fatalf("%v\n%s", err, i.describe())
		} else {
			t.Logf("$ %s\n%s", l, out)
		}
	}
	if !remove {
		t.Error("the page does not say how plain files are taken off")
	}
	i.compare(t, before, "plain files")
	if l := i.nodeLabels(t); fmt.Sprint(l) != fmt.Sprint(i.labels) {
		t.Errorf("the node's labels are %v, and were %v", l, i.labels)
	}
	i.phase(t, "the node without the runtime")
}

// clean removes pods that a failed test left, since they would go on without kubelet.
func (i *installer) clean(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for name := range i.pods {
		if err := i.removePod(ctx, name); err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		_, _ = i.shell(ctx, "kubectl -n kata-deploy delete daemonsets,jobs,pods --all --grace-period=5 --timeout=60s")
	}
	until(t, patience, "no folder of a pod", func() bool {
		dirs, err := filepath.Glob("/var/lib/kubelet/pods/*")
		return err == nil && len(dirs) == 0
	})
}
