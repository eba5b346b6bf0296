package main

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/katabuild/katabuild/ci/containerd/kube"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/releases/install"
)

const folder = "../../releases/kubernetes"

// helm is Helm, for tests that `make test-kubernetes` asks for: building it takes minutes.
func helm(t *testing.T) string {
	t.Helper()
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_KUBERNETES", "test-kubernetes"), testenv.Tool("go"),
		testenv.Tool("nice"))
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	h, err := kube.BuiltHelm(t.Context(), filepath.Join(cache, "katabuild-tools"))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// set are values with which the chart can be rendered.
func set(more ...string) []string {
	args := []string{"--set", "image.repository=registry.example/kata-deploy", "--set", "image.tag=v1"}
	for _, m := range more {
		args = append(args, "--set", m)
	}
	return args
}

func TestHelmFindsNoFault(t *testing.T) {
	h := helm(t)
	out, err := exec.Command(h, append([]string{"lint", "--strict", folder + "/chart"}, set()...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPlainFilesAreThoseOfTheChart(t *testing.T) {
	want, err := plain(t.Context(), helm(t), folder+"/chart")
	if err != nil {
		t.Fatal(err)
	}
	got := plainFiles(t)
	for _, n := range slices.Sorted(maps.Keys(want)) {
		if got[n] != want[n] {
			t.Errorf("kustomize/%s is not what the chart makes: run make kustomize", n)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[n]; !ok {
			t.Errorf("kustomize/%s is not of the chart", n)
		}
	}
}

func TestValuesThatAreWrongAreRefused(t *testing.T) {
	h := helm(t)
	for name, c := range map[string]struct{ value, says string }{
		"a misspelt name":                        {"drainTimout=1m", "drainTimout"},
		"a misspelt name inside":                 {"runtimeClass.overheads.cpu=1", "overheads"},
		"a policy without policy.yaml":           {"policy.root\\.json=x", "policy"},
		"a foreign release without a policy":     {"release=oci:registry.example/guests:1", ""},
		"a release from nowhere":                 {"release=guests", "release"},
		"a distribution that nobody knows":       {"distribution=k4s", "distribution"},
		"a tag and a digest":                     {"image.digest=sha256:" + strings.Repeat("0", 64), "image"},
		"a tag that YAML takes for a number":     {"image.tag=110", "tag"},
		"a digest that is none":                  {"image.digest=sha256:12", "digest"},
		"a suffix that is no name":               {"suffix=Test", "suffix"},
		"a folder that is not absolute":          {"prefix=opt", "prefix"},
		"a time without a unit":                  {"drainTimeout=60", "drainTimeout"},
		"a check that cannot be made":            {"privileged=false", "check"},
		"no node at a time":                      {"maxUnavailable=0", "maxUnavailable"},
		"a class without a name":                 {"runtimeClasses[0].overhead.cpu=1", "name"},
		"a check that is neither wanted nor not": {"check=maybe", "check"},
		"a webhook without replicas":             {"webhook.replicas=0", "replicas"},
		"a webhook that fails otherwise":         {"webhook.failurePolicy=Maybe", "failurePolicy"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"template", folder + "/chart"}, set(c.value)...)
			out, err := exec.Command(h, args...).CombinedOutput()
			said := string(out)
			if _, refused := errors.AsType[*exec.ExitError](err); !refused || !strings.Contains(said, "schema") ||
				!strings.Contains(said, c.says) {
				t.Errorf("%v, want a refusal by the schema that names %q\n%s", err, c.says, out)
			}
		})
	}
	out, err := exec.Command(h, "template", folder+"/chart").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "repository") {
		t.Errorf("without an image: %v\n%s", err, out)
	}
}

func TestRendered(t *testing.T) {
	h := helm(t)
	render := func(t *testing.T, more ...string) string {
		t.Helper()
		out, err := exec.Command(h, append([]string{"template", "kd", folder + "/chart", "--namespace", "ns"},
			set(more...)...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	for name, c := range map[string]struct {
		values    []string
		has, lack []string
	}{
		"nothing but what has a value": {nil,
			[]string{"--release=/release\n", "--distribution=auto\n", "\n  name: kata\n",
				"katacontainers.io/kata-runtime: \"true\""},
			[]string{"--policy", "--suffix", "--force", "--prefix", "--bin", "KUBERNETES_SERVICE_HOST", "SYS_CHROOT",
				"spc_t"}},
		"a suffix is in every name on the node": {[]string{"suffix=test"}, []string{"--suffix=test\n",
			"name: kata-test\n", "handler: kata-test\n", "katacontainers.io/kata-runtime-test: \"true\""},
			[]string{"kata-runtime: \"true\""}},
		"a policy is mounted file by file": {[]string{"policy.policy\\.yaml=p", "policy.root\\.json=r",
			"release=oci:r/g:1"},
			[]string{"--policy=/policy/policy.yaml\n", "subPath: policy.yaml", "subPath: root.json",
				"katabuild.io/policy: "}, nil},
		"a digest is in the place of the tag": {[]string{"image.tag=", "image.digest=sha256:" +
			strings.Repeat("a", 64)},
			[]string{"image: registry.example/kata-deploy@sha256:aaaa"}, []string{"kata-deploy:v1"}},
		"another address of the API is for both": {[]string{"apiServer.host=192.0.2.1", "apiServer.port=6443"},
			[]string{"value: \"192.0.2.1\"", "value: \"6443\""}, nil},
		"without privilege a few capabilities are left": {[]string{"privileged=false", "check=warn"},
			[]string{"drop: [ALL]", "SYS_CHROOT", "spc_t"}, []string{"privileged: true"}},
		"a webhook when one is wanted": {[]string{"webhook.enabled=true", "suffix=test"},
			[]string{"kind: MutatingWebhookConfiguration", "--runtime-class=kata-test\n", "failurePolicy: Ignore",
				`values: ["kube-system","kube-public","kube-node-lease","sonobuoy","ns"]`}, []string{"caBundle"}},
		"no webhook when none is wanted": {nil, nil, []string{"Webhook", "webhook"}},
		"no class when none is wanted":   {[]string{"runtimeClass.create=false"}, nil, []string{"kind: RuntimeClass"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := render(t, c.values...)
			for _, s := range c.has {
				if !strings.Contains(text, s) {
					t.Errorf("no %q in\n%s", s, text)
				}
			}
			for _, s := range c.lack {
				if strings.Contains(text, s) {
					t.Errorf("%q in\n%s", s, text)
				}
			}
		})
	}
	a, b := render(t, "policy.policy\\.yaml=a"), render(t, "policy.policy\\.yaml=b")
	if digest(a) == "" || digest(a) == digest(b) {
		t.Error("another policy is not another pod")
	}
}

// digest is the line that makes pods new.
func digest(rendered string) string {
	_, rest, _ := strings.Cut(rendered, "katabuild.io/policy: ")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

// plainFiles are the files that are kept, by name.
func plainFiles(t *testing.T) map[string]string {
	t.Helper()
	all, err := filepath.Glob(folder + "/kustomize/*/*")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(folder+"/kustomize", f)
		if err != nil {
			t.Fatal(err)
		}
		out[rel] = string(b)
	}
	return out
}

// TestValuesAndSchemaHaveTheSameNames needs no Helm: every value has a rule, and every rule a value with its default.
func TestValuesAndSchemaHaveTheSameNames(t *testing.T) {
	b, err := os.ReadFile(folder + "/chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(b, &values); err != nil {
		t.Fatal(err)
	}
	if b, err = os.ReadFile(folder + "/chart/values.schema.json"); err != nil {
		t.Fatal(err)
	}
	var schema rule
	if err := json.Unmarshal(b, &schema); err != nil {
		t.Fatal(err)
	}
	delete(schema.Properties, "global") // Helm's own
	sameNames(t, "", values, schema)
}

// rule is what a schema says of a value.
type rule struct {
	Properties           map[string]rule
	AdditionalProperties json.RawMessage
}

func sameNames(t *testing.T, at string, values map[string]any, r rule) {
	t.Helper()
	if string(r.AdditionalProperties) != "false" {
		t.Errorf("%q: the schema lets other names through", at)
	}
	for n := range r.Properties {
		if _, ok := values[n]; !ok {
			t.Errorf("values.yaml has no %s%s", at, n)
		}
	}
	for n, v := range values {
		inner, ok := r.Properties[n]
		if !ok {
			t.Errorf("values.schema.json has no %s%s", at, n)
		}
		if m, ok := v.(map[string]any); ok && inner.Properties != nil {
			sameNames(t, at+n+".", m, inner)
		}
	}
}

// TestPlainFilesAreYAML needs neither Helm nor a cluster: what is kept is read, and nothing of Helm is left in it.
func TestPlainFilesAreYAML(t *testing.T) {
	kinds := map[string]int{}
	for name, text := range plainFiles(t) {
		if !strings.HasPrefix(text, header) {
			t.Errorf("%s does not say that it is generated", name)
		}
		if strings.Contains(text, "helm.sh/") || strings.Contains(text, "{{") {
			t.Errorf("%s has something of Helm", name)
		}
		for doc := range strings.SplitSeq(text, "\n---\n") {
			var o struct {
				APIVersion string `yaml:"apiVersion"`
				Kind       string
			}
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil || o.APIVersion == "" {
				t.Errorf("%s: %v, %+v", name, err, o)
			}
			kinds[o.Kind]++
		}
	}
	for kind, n := range map[string]int{"Kustomization": 3, "Namespace": 1, "DaemonSet": 1, "ConfigMap": 1,
		"RuntimeClass": 1, "Job": 1, "ServiceAccount": 3, "ClusterRole": 3, "ClusterRoleBinding": 3, "Role": 2,
		"RoleBinding": 2, "Deployment": 1, "Service": 1, "Secret": 1, "MutatingWebhookConfiguration": 1} {
		if kinds[kind] != n {
			t.Errorf("%d of %s, want %d", kinds[kind], kind, n)
		}
	}
}

// TestTheClassIsTheInstallations: what kata-runtime prints and what the chart makes are the same RuntimeClass.
func TestTheClassIsTheInstallations(t *testing.T) {
	type class struct {
		Handler  string
		Overhead struct {
			PodFixed map[string]string `yaml:"podFixed"`
		}
		Scheduling struct {
			NodeSelector map[string]string `yaml:"nodeSelector"`
		}
	}
	var chart, own class
	text := install.Defaults().RuntimeClassYAML("katacontainers.io/kata-runtime")
	if err := errors.Join(yaml.Unmarshal([]byte(plainFiles(t)["base/runtimeclass.yaml"]), &chart),
		yaml.Unmarshal([]byte(text), &own)); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(chart, own) || len(own.Overhead.PodFixed) != 2 || len(own.Scheduling.NodeSelector) != 1 {
		t.Errorf("the chart's class is %+v, that of kata-runtime %+v", chart, own)
	}
}

func TestWithout(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"labels of Helm go": {"labels:\n  a: b\n  helm.sh/chart: c\n  app.kubernetes.io/managed-by: Helm\n",
			"labels:\n  a: b\n"},
		"annotations of Helm alone go whole": {"metadata:\n  annotations:\n    helm.sh/hook: pre-delete\nspec: {}\n",
			"metadata:\nspec: {}\n"},
		"annotations at the end":     {"metadata:\n  annotations:\n    helm.sh/hook: pre-delete\n", "metadata:\n"},
		"other annotations stay":     {"annotations:\n  a: b\n  helm.sh/hook: c\n", "annotations:\n  a: b\n"},
		"white space at ends is cut": {"a: \n\n", "a:\n"},
	} {
		if got := without(c.in); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestSplit(t *testing.T) {
	files, order, err := split("---\n# Source: kata-deploy/templates/a.yaml\nx: 1\n---\n" +
		"# Source: kata-deploy/templates/b.yaml\ny: 1\n---\n# Source: kata-deploy/templates/a.yaml\nz: 1\n")
	if err != nil || strings.Join(order, " ") != "a.yaml b.yaml" || files["a.yaml"] != "x: 1\n---\nz: 1\n" ||
		files["b.yaml"] != "y: 1\n" {
		t.Errorf("%v, %v, %v", files, order, err)
	}
	if _, _, err := split("x: 1\n"); err == nil {
		t.Error("what has no source is taken")
	}
}
