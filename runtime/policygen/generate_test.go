package policygen

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/runtime/policygen/images"
	"github.com/katabuild/katabuild/runtime/policygen/kube"
	"github.com/katabuild/katabuild/runtime/policygen/policytest"
	"github.com/katabuild/katabuild/runtime/policygen/rules"
)

// imagesByName are images.
type imagesByName map[string]*images.Image

// Image is images.Source's.
func (m imagesByName) Image(_ context.Context, name string) (*images.Image, error) {
	if img := m[name]; img != nil {
		return img, nil
	}
	return nil, fmt.Errorf("%w: %s", images.ErrNoImage, name)
}

// known are the images that the pods have.
func knownImages() imagesByName {
	passwd := []byte("root:x:0:0:root:/:/bin/sh\nworker:x:1234:1234::/home/worker:/bin/sh\n")
	group := []byte("root:x:0:\nworker:x:1234:\nwheel:x:77:worker\n")
	return imagesByName{
		"registry.test/pause:1": {Entrypoint: []string{"/toolbox", "pause"}},
		"registry.test/tools:1": {Env: []string{"PATH=/bin"}, Passwd: passwd, Group: group},
		"registry.test/user:1": {Env: []string{"PATH=/bin", "COLOUR=green", "SHAPE=round"}, User: "worker",
			WorkingDir: "/home/worker", Entrypoint: []string{"/bin/toolbox"}, Cmd: []string{"self"},
			Volumes: []string{"/data"}, Passwd: passwd, Group: group},
	}
}

// someSettings are those under which the policies of policytest are made.
func someSettings() *Settings {
	return &Settings{Version: SettingsVersion, PauseImage: "registry.test/pause:1", HostPaths: []string{"/opt/data"},
		Exec: [][]string{{"toolbox", "report"}}}
}

// policies are those of the pods in a text, by the names of their objects.
func policies(t *testing.T, text []byte, s *Settings) (map[string]*rules.Policy, error) {
	t.Helper()
	var r kube.Reader
	if _, err := r.Read("pods.yaml", text); err != nil {
		return nil, err
	}
	g := &Generator{Settings: s, Images: knownImages(), Set: &r.Set}
	out := map[string]*rules.Policy{}
	for _, p := range r.Set.Pods {
		made, err := g.Policy(t.Context(), p)
		if err != nil {
			return nil, err
		}
		out[p.Name] = made
	}
	return out, nil
}

// What agents are asked about, in policytest, are these policies.
func TestThePoliciesOfRealPods(t *testing.T) {
	all, err := policies(t, policytest.YAML(t), someSettings())
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range all {
		text, err := p.Text()
		if err != nil {
			t.Fatal(err)
		}
		rego, err := p.Rego()
		if err != nil {
			t.Fatal(err)
		}
		golden.Check(t, "../policytest/testdata/"+name+".policy", []byte(text))
		golden.Check(t, "../policytest/testdata/"+name+".rego", []byte(rego))
	}
}

// pod is a pod with one container of these lines.
func pod(spec ...string) []byte {
	return []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    image: " +
		"registry.test/tools:1\n    command: [sleep]\n" + strings.Join(spec, "\n") + "\n")
}

func TestWhatAPolicyCannotBeMadeForIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"a folder of the node": {string(pod("  volumes: [{name: v, hostPath: {path: /etc}}]")), "host_paths"},
		"a folder beside one that is allowed": {string(pod("  volumes: [{name: v, hostPath: {path: /opt/data2}}]")),
			"host_paths"},
		"processes of the node":   {string(pod("  hostPID: true")), "hostPID"},
		"a volume of a new kind":  {string(pod("  volumes: [{name: v}]")), "not supported"},
		"a volume that is none":   {string(pod("    volumeMounts: [{name: v, mountPath: /v}]")), "no such volume"},
		"an image that is not":    {strings.Replace(string(pod()), "tools:1", "other:1", 1), "no such image"},
		"a ConfigMap that is not": {string(pod("    envFrom: [{configMapRef: {name: m}}]")), "--config-file"},
		"a key of a Secret that is not": {
			string(pod("    env: [{name: A, valueFrom: {secretKeyRef: {name: m, key: k}}}]")), "Secret m"},
		"a field that is not": {
			string(pod("    env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.x}}}]")), "spec.x"},
		"nothing to run": {strings.Replace(string(pod()), "    command: [sleep]\n", "", 1), "what to run"},
		"unmasked /proc": {string(pod("    securityContext: {procMount: Unmasked}")), "procMount"},
		"a profile of seccomp that is not known": {
			string(pod("    securityContext: {seccompProfile: {type: Own}}")), "seccompProfile"},
		"memory of huge pages": {string(pod("  volumes: [{name: v, emptyDir: {medium: HugePages}}]")), "HugePages"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policies(t, []byte(c.text), someSettings())
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "pods.yaml:") {
				t.Errorf("got %v, want one with %q and the place", err, c.want)
			}
		})
	}
}

func TestNamesOfPodsThatAreMade(t *testing.T) {
	for _, c := range []struct{ kind, name, want string }{
		{"Deployment", "web", `web-(?:[a-z0-9]{1,10}-[a-z0-9]{5})`},
		{"StatefulSet", "db", `db-(?:[0-9]+)`},
		{"CronJob", "at.night", `at\.night-(?:[0-9]+-[a-z0-9]{5})`},
		{"DaemonSet", "log", `log-(?:[a-z0-9]{5})`},
		{"Job", strings.Repeat("j", 50), strings.Repeat("j", 46) + `(?:[a-z0-9.-]*)`},
	} {
		if got := podName(&kube.Pod{Kind: c.kind, Name: c.name}).pattern(); got != c.want {
			t.Errorf("a pod of %s %s is called %s, want %s", c.kind, c.name, got, c.want)
		}
	}
}

func TestCommandsAreExpandedAsKubernetesDoes(t *testing.T) {
	vars := map[string]value{"A": known("a"), "IP": matching(anyIP)}
	for in, want := range map[string]string{
		"$(A)": "a", "x$(A)y$(A)": "xaya", "$$(A)": `\$\(A\)`, "$(B)": `\$\(B\)`, "$(A": `\$\(A`, "$A": `\$A`,
		"$":  `\$`,
		"a$": `a\$`, "$$": `\$`, "$(IP):80": "(?:" + anyIP + "):80", "": "",
	} {
		if got := expand(in, vars).pattern(); got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
	}
}

func TestSettingsAreReadStrictly(t *testing.T) {
	for text, want := range map[string]string{
		`{"version":1}`: "", `{"version":2}`: "version 2", `{"version":1,"x":1}`: "unknown field",
		`{"version":1}{}`: "nothing behind", `{"version":1,"env":["("]}`: "missing closing",
		`{"version":1,"host_paths":["/a/../b"]}`: "absolute path", `{"version":1,"calls":["Nothing"]}`: "no call",
		`{"version":1,"exec":[[]]}`: "without words", ``: "EOF",
	} {
		_, err := ReadSettings([]byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte(`{"version":1,"host_paths":["/data"],"exec":[["a","b"]],"calls":["GetIPTables"]}`))
	f.Add([]byte(`{"version":1,"env":["A=.*"],"sysctls":{"a":"b"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := ReadSettings(text); err == nil && s.Version != SettingsVersion {
			t.Errorf("version %d", s.Version)
		}
	})
}
