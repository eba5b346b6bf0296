package kube

import (
	"strings"
	"testing"
)

func TestObjectsAreFoundInDocumentsAndLists(t *testing.T) {
	var r Reader
	_, err := r.Read("all.yaml", []byte(`# first
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: a}
  spec: {containers: [{name: c, image: i}]}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {k: v}}
---
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: night, namespace: jobs}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      completionMode: Indexed
      template:
        spec:
          restartPolicy: Never
          containers: [{name: c, image: i}]
---
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {a: aGVsbG8=}
stringData: {b: world}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: i}]}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce]}}]
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {whatever: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range r.Set.Pods {
		got = append(got, p.Kind+" "+p.Name+" "+p.Template.Metadata.Namespace+" "+strings.Join(p.Claims, ","))
	}
	if want := "Pod a  |CronJob night jobs |StatefulSet db  data"; strings.Join(got, "|") != want {
		t.Errorf("pods %q, want %q", strings.Join(got, "|"), want)
	}
	if !r.Set.Pods[1].Indexed || r.Set.ConfigMaps["m"]["k"] != "v" || r.Set.Secrets["s"]["a"] != "hello" ||
		r.Set.Secrets["s"]["b"] != "world" {
		t.Errorf("%+v", r.Set)
	}
}

func TestMistakesAreToldAtTheirLine(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"a field that is not known":      {"kind: Pod\nspec:\n  containers: []\n  hostPids: true\n", "x.yaml:4:3"},
		"a field twice":                  {"kind: Pod\nmetadata:\n  name: a\n  name: b\n", "x.yaml:4:3"},
		"no kind":                        {"a: b\n", "no kind"},
		"a list":                         {"- a\n", "mapping with kind"},
		"no containers":                  {"kind: Pod\nmetadata: {name: a}\n", "without containers"},
		"no name":                        {"kind: Pod\nspec: {containers: [{name: c}]}\n", "without a name"},
		"no template":                    {"kind: Deployment\nspec: {replicas: 1}\n", "want template"},
		"no YAML":                        {"kind: [\n", "x.yaml:"},
		"a Secret that is no base64":     {"kind: Secret\nmetadata: {name: s}\ndata: {a: \"%\"}\n", "want base64"},
		"a CronJob without its template": {"kind: CronJob\nspec: {schedule: x}\n", "jobTemplate"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := new(Reader).Read("x.yaml", []byte(c.text)); err == nil ||
				!strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one with %q", err, c.want)
			}
		})
	}
	lenient := Reader{Lenient: true}
	if _, err := lenient.Read("x.yaml", []byte(
		"kind: Pod\nmetadata: {name: a}\nspec:\n  new: 1\n  containers: [{name: c, image: i}]\n")); err != nil {
		t.Error(err)
	}
}

// An annotation goes where it belongs, whatever the text looks like, and nothing else changes.
func TestAnnotationsKeepTheText(t *testing.T) {
	const spec = "spec: {containers: [{name: c, image: i}]}\n"
	for name, c := range map[string]struct{ text, want string }{
		"a block": {"kind: Pod\nmetadata:\n  name: a # mine\n" + spec,
			"kind: Pod\nmetadata:\n  annotations:\n    k: \"dg==\"\n  name: a # mine\n" + spec},
		"a flow": {"kind: Pod\nmetadata: {name: a}\n" + spec,
			"kind: Pod\nmetadata: {annotations: {k: \"dg==\"}, name: a}\n" + spec},
		"others beside it": {"kind: Pod\nmetadata:\n  name: a\n  annotations:\n    o: p\n" + spec,
			"kind: Pod\nmetadata:\n  name: a\n  annotations:\n    k: \"dg==\"\n    o: p\n" + spec},
		"others in a flow": {"kind: Pod\nmetadata: {name: a, annotations: {o: p}}\n" + spec,
			"kind: Pod\nmetadata: {name: a, annotations: {k: \"dg==\", o: p}}\n" + spec},
		"an old one": {"kind: Pod\nmetadata:\n  name: a\n  annotations:\n    k: \"b2xk\" # old\n" + spec,
			"kind: Pod\nmetadata:\n  name: a\n  annotations:\n    k: \"dg==\" # old\n" + spec},
		"none at all": {"kind: Pod\nmetadata: {name: a, annotations: {}}\n" + spec,
			"kind: Pod\nmetadata: {name: a, annotations: {k: \"dg==\"}}\n" + spec},
		"letters of more bytes": {"kind: Pod\nmetadata: {labels: {ä: ö}, name: a, annotations: {ü: p}}\n" + spec,
			"kind: Pod\nmetadata: {labels: {ä: ö}, name: a, annotations: {k: \"dg==\", ü: p}}\n" + spec},
		"a template without metadata": {
			"kind: Deployment\nmetadata: {name: a}\nspec:\n  template:\n    " + spec,
			"kind: Deployment\nmetadata: {name: a}\nspec:\n  template:\n    metadata:\n      annotations:\n" +
				"        k: \"dg==\"\n    " + spec},
		"an item of a list": {
			"kind: List\nitems:\n- kind: Pod\n  metadata:\n    name: a\n  spec: {containers: [{name: c, image: i}]}\n",
			"kind: List\nitems:\n- kind: Pod\n  metadata:\n    annotations:\n      k: \"dg==\"\n    name: a\n  spec: " +
				"{containers: [{name: c, image: i}]}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var r Reader
			f, err := r.Read("x.yaml", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Set.Pods[0].Annotate("k", "dg=="); err != nil {
				t.Fatal(err)
			}
			if got := f.Text(); got != c.want {
				t.Fatalf("got\n%s\nwant\n%s", got, c.want)
			}
			var again Reader
			if _, err := again.Read("x.yaml", []byte(f.Text())); err != nil ||
				again.Set.Pods[0].Template.Metadata.Annotations["k"] != "dg==" {
				t.Errorf("what was written is not read: %v", err)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i}]}\n"))
	f.Add([]byte("kind: List\nitems: [{kind: Secret, data: {a: YQ==}}]\n---\nkind: ConfigMap\n"))
	f.Add([]byte("kind: Deployment\nspec: &a\n  template: *a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Reader
		file, err := r.Read("x", text)
		if err != nil {
			return
		}
		for _, p := range r.Set.Pods {
			_ = p.Place()
			_ = p.Annotate("k", "dg==")
		}
		_ = file.Text()
	})
}
