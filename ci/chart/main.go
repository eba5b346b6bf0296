// Command chart writes releases/kubernetes/kustomize from the chart beside it, by Helm, which it builds the first time.
// usage: chart [DIR]
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/ci/containerd/kube"
	"github.com/katabuild/katabuild/internal/atomicfile"
)

func main() {
	dir := "releases/kubernetes"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	if err := run(context.Background(), dir); err != nil {
		fmt.Fprintf(os.Stderr, "chart: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	helm, err := kube.BuiltHelm(ctx, filepath.Join(cache, "katabuild-tools"))
	if err != nil {
		return err
	}
	files, err := plain(ctx, helm, filepath.Join(dir, "chart"))
	if err != nil {
		return err
	}
	for name, text := range files {
		file := filepath.Join(dir, "kustomize", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755),
			atomicfile.Write(file, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// name is that of the objects, and of their namespace, where nobody has chosen another.
const name = "kata-deploy"

// header is the first line of what is written.
const header = "# Written by \"make kustomize\" from the chart. DO NOT EDIT.\n"

// base lists the files of the base in the order of their kustomization.
const base = header + `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: kata-deploy
resources:
%s# What katabuild node-image made, where you pushed it: the one thing to set.
images:
  - name: kata-deploy
    newName: registry.example/kata-deploy
    newTag: unset
`

const namespace = `apiVersion: v1
kind: Namespace
metadata:
  name: kata-deploy
  labels:
    # Daemons mount the node's files.
    pod-security.kubernetes.io/enforce: privileged
`

const remove = header +
	`# Takes the runtime off all nodes: apply this, wait for the Job kata-deploy-remove, then delete this.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: kata-deploy
resources:
  - ../base
  - job.yaml
patches:
  - target:
      kind: ConfigMap
      name: kata-deploy-state
    patch: |-
      - op: replace
        path: /data/state
        value: absent
images:
  - name: kata-deploy
    newName: registry.example/kata-deploy
    newTag: unset
`

// webhook is the folder of what is off in the chart until it is wanted.
const webhook = header + `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: kata-deploy
resources:
  - webhook.yaml
images:
  - name: kata-deploy
    newName: registry.example/kata-deploy
    newTag: unset
`

// plain renders the chart and makes plain files of it, by name.
func plain(ctx context.Context, helm, chart string) (map[string]string, error) {
	cmd := exec.CommandContext(ctx, helm, "template", name, chart, "--namespace", name, "--kube-version", "1.32.0",
		"--set", "image.repository="+name, "--set", "image.tag=unset", "--set", "webhook.enabled=true")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", cmd, err, errs.String())
	}
	parts, order, err := split(string(out))
	if err != nil {
		return nil, err
	}
	files := map[string]string{"base/namespace.yaml": header + namespace, "remove/kustomization.yaml": remove,
		"webhook/kustomization.yaml": webhook}
	list := "  - namespace.yaml\n"
	for _, file := range order {
		switch file {
		case "remove.yaml":
			files["remove/job.yaml"] = header + parts[file]
			continue
		case "webhook.yaml":
			files["webhook/"+file] = header + parts[file]
			continue
		}
		files["base/"+file] = header + parts[file]
		list += "  - " + file + "\n"
	}
	files["base/kustomization.yaml"] = fmt.Sprintf(base, list)
	return files, nil
}

// split makes files of what Helm rendered, named as the templates are, without what is Helm's alone.
func split(rendered string) (files map[string]string, order []string, err error) {
	files = map[string]string{}
	const source = "# Source: " + name + "/templates/"
	for doc := range strings.SplitSeq("\n"+rendered, "\n---\n") {
		doc = strings.TrimLeft(doc, "\n")
		if strings.TrimSpace(doc) == "" {
			continue
		}
		first, rest, _ := strings.Cut(doc, "\n")
		file, ok := strings.CutPrefix(first, source)
		if !ok {
			return nil, nil, fmt.Errorf("what Helm rendered begins with %q, want %q", first, source)
		}
		text := without(rest)
		if before, ok := files[file]; ok {
			text = before + "---\n" + text
		} else {
			order = append(order, file)
		}
		files[file] = text
	}
	return files, order, nil
}

// without is a document without the labels and annotations of Helm.
func without(doc string) string {
	var out []string
	lines := strings.Split(strings.TrimRight(doc, "\n"), "\n")
	for i, l := range lines {
		word := strings.TrimSpace(l)
		if strings.HasPrefix(word, "helm.sh/") || word == "app.kubernetes.io/managed-by: Helm" {
			continue
		}
		if word == "annotations:" && onlyHelm(lines[i+1:], len(l)-len(word)) {
			continue
		}
		out = append(out, strings.TrimRight(l, " "))
	}
	return strings.Join(out, "\n") + "\n"
}

// onlyHelm says whether all lines that are deeper than a column are Helm's.
func onlyHelm(lines []string, column int) bool {
	for _, l := range lines {
		word := strings.TrimLeft(l, " ")
		if len(l)-len(word) <= column {
			return true
		}
		if !strings.HasPrefix(word, "helm.sh/") {
			return false
		}
	}
	return true
}
