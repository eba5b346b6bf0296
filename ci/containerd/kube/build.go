package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Versions are what is built. cgroup version 1, which a host of tests may still have, ends in a later kubelet.
const (
	version        = "1.37.2"
	etcdVersion    = "3.7.3"
	helmVersion    = "3.22.0"
	stagingVersion = "0.37.2" // of k8s.io/api and its neighbours, which go with Version
)

// sums are the checksums of the modules' sources, as a go.sum has them. They cover all else: a go.sum comes with the
// source of Kubernetes and of Helm, and what etcd needs is checked against Go's checksum database.
const (
	kubernetesSum = "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE="
	etcdSum       = "h1:KcTZ/aEZrOiQe0/kdr7iYYcvyfbEoOwDOacHkz8xwZc="
	helmSum       = "h1:n1if5iQgHYsujPAcO5oonH/KiSNUmqmUF0iGVjSF3AU="
)

// Programs are paths of what a node and its control plane run, and of what administrators run.
type Programs struct {
	Kubelet, APIServer, ControllerManager, Scheduler, Etcd string
	Kubectl, Helm                                          string
}

// Built is the programs in folders below cache, built there with Go where they are missing or do not run. It takes a
// quarter of an hour, once.
func Built(ctx context.Context, cache string) (Programs, error) {
	k, e := filepath.Join(cache, "kubernetes-"+version), filepath.Join(cache, "etcd-"+etcdVersion)
	p := Programs{
		Kubelet: filepath.Join(k, "kubelet"), APIServer: filepath.Join(k, "kube-apiserver"),
		ControllerManager: filepath.Join(k, "kube-controller-manager"), Scheduler: filepath.Join(k, "kube-scheduler"),
		Kubectl: filepath.Join(k, "kubectl"), Etcd: filepath.Join(e, "etcd"),
	}
	all := []built{
		{filepath.Join(cache, "etcd-"+etcdVersion), buildEtcd, []said{{[]string{p.Etcd, "--version"},
			"etcd Version: " + etcdVersion}}},
		{k, buildKubernetes, []said{
			{[]string{p.Kubelet, "--version"}, "Kubernetes v" + version},
			{[]string{p.APIServer, "--version"}, "Kubernetes v" + version},
			{[]string{p.ControllerManager, "--version"}, "Kubernetes v" + version},
			{[]string{p.Scheduler, "--version"}, "Kubernetes v" + version},
			{[]string{p.Kubectl, "version", "--client"}, "Client Version: v" + version},
		}},
	}
	for _, b := range all {
		if err := b.ensure(ctx); err != nil {
			return p, err
		}
	}
	var err error
	p.Helm, err = BuiltHelm(ctx, cache)
	return p, err
}

// BuiltHelm is Helm alone, which renders a chart without a cluster.
func BuiltHelm(ctx context.Context, cache string) (string, error) {
	dir := filepath.Join(cache, "helm-"+helmVersion)
	helm := filepath.Join(dir, "helm")
	b := built{dir, buildHelm, []said{{[]string{helm, "version", "--template={{.Version}}"}, "v" + helmVersion}}}
	return helm, b.ensure(ctx)
}

// built is a folder of programs.
type built struct {
	dir   string
	build func(context.Context, string) error
	want  []said
}

// said is the first line that a command must write.
type said struct {
	command []string
	line    string
}

// ensure builds what is missing or not what was meant.
func (b built) ensure(ctx context.Context) error {
	if b.check(ctx) == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(b.dir), 0o755); err != nil {
		return err
	}
	if err := into(ctx, b.dir, b.build); err != nil {
		return fmt.Errorf("build %s: %w", filepath.Base(b.dir), err)
	}
	return b.check(ctx)
}

// check says whether the programs are there and are what was meant.
func (b built) check(ctx context.Context) error {
	for _, w := range b.want {
		out, err := exec.CommandContext(ctx, w.command[0], w.command[1:]...).Output()
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(w.command, " "), err)
		}
		if first, _, _ := strings.Cut(string(out), "\n"); first != w.line {
			return fmt.Errorf("%s is %q, want %q", w.command[0], first, w.line)
		}
	}
	return nil
}

// into builds in a folder beside dir, which becomes dir.
func into(ctx context.Context, dir string, build func(context.Context, string) error) error {
	t, err := os.MkdirTemp(filepath.Dir(dir), "building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(t)
	if err := build(ctx, t); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(t, dir)
}

// buildKubernetes builds in a module that needs k8s.io/kubernetes alone. That one replaces its neighbours by folders
// which its archive lacks; they are published under versions of their own.
func buildKubernetes(ctx context.Context, dir string) error {
	source, err := download(ctx, dir, "k8s.io/kubernetes@v"+version, kubernetesSum)
	if err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(source, "go.sum"))
	if err != nil {
		return err
	}
	mod, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		return err
	}
	text, err := module(mod)
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "go.mod"), text, 0o644),
		os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o644)); err != nil {
		return err
	}
	major, minor := parts(version)
	const v = " -X k8s.io/component-base/version."
	flags := "-s -w" + v + "gitVersion=v" + version + v + "gitMajor=" + major + v + "gitMinor=" + minor
	_, err = run(ctx, dir, "go", "build", "-p", "2", "-trimpath", "-ldflags="+flags, "-o", dir+"/",
		"k8s.io/kubernetes/cmd/kubelet", "k8s.io/kubernetes/cmd/kube-apiserver",
		"k8s.io/kubernetes/cmd/kube-controller-manager", "k8s.io/kubernetes/cmd/kube-scheduler",
		"k8s.io/kubernetes/cmd/kubectl")
	return err
}

// staging is where the go.mod of Kubernetes looks for its neighbours.
const staging = "./staging/src/"

// module is the go.mod of a module that needs Kubernetes, made from that of Kubernetes.
func module(kubernetes []byte) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "module building\n\ngo 1.26.0\n\ngodebug default=go1.26\n\nrequire k8s.io/kubernetes "+
		"v%s\n\nreplace (\n", version)
	n := 0
	for l := range strings.Lines(string(kubernetes)) {
		name, folder, ok := strings.Cut(strings.TrimSpace(l), " => ")
		if !ok {
			continue
		}
		if folder != staging+name {
			return nil, fmt.Errorf("go.mod of Kubernetes replaces %q by %q, want %s%[1]s", name, folder, staging)
		}
		fmt.Fprintf(&b, "\t%s => %[1]s v%s\n", name, stagingVersion)
		n++
	}
	if n == 0 {
		return nil, errors.New("go.mod of Kubernetes replaces nothing")
	}
	b.WriteString(")\n")
	return b.Bytes(), nil
}

func buildEtcd(ctx context.Context, dir string) error {
	if _, err := download(ctx, dir, "go.etcd.io/etcd/server/v3@v"+etcdVersion, etcdSum); err != nil {
		return err
	}
	text := "module building\n\ngo 1.26.0\n\nrequire go.etcd.io/etcd/server/v3 v" + etcdVersion + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o644); err != nil {
		return err
	}
	_, err := run(ctx, dir, "go", "build", "-p", "2", "-trimpath", "-ldflags=-s -w", "-o", dir+"/etcd",
		"go.etcd.io/etcd/server/v3")
	return err
}

func buildHelm(ctx context.Context, dir string) error {
	const name = "helm.sh/helm/v3"
	source, err := download(ctx, dir, name+"@v"+helmVersion, helmSum)
	if err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(source, "go.sum"))
	if err != nil {
		return err
	}
	text := "module building\n\ngo 1.26.0\n\nrequire " + name + " v" + helmVersion + "\n"
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o644),
		os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o644)); err != nil {
		return err
	}
	major, minor := parts(version)
	const x = " -X " + name
	flags := "-s -w" + x + "/internal/version.version=v" + helmVersion
	// For which Kubernetes charts are rendered and judged where there is no cluster.
	for _, p := range []string{"/pkg/chartutil", "/pkg/lint/rules"} {
		flags += x + p + ".k8sVersionMajor=" + major + x + p + ".k8sVersionMinor=" + minor
	}
	_, err = run(ctx, dir, "go", "build", "-p", "2", "-trimpath", "-ldflags="+flags, "-o", dir+"/helm",
		name+"/cmd/helm")
	return err
}

// parts are the first two numbers of a version.
func parts(version string) (major, minor string) {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ = strings.Cut(rest, ".")
	return major, minor
}

// download brings a module's source and returns where it is, when it has the checksum.
func download(ctx context.Context, dir, what, sum string) (string, error) {
	out, err := run(ctx, dir, "go", "mod", "download", "-json", what)
	if err != nil {
		return "", err
	}
	var m struct{ Dir, Sum string }
	if err := json.Unmarshal(out, &m); err != nil {
		return "", fmt.Errorf("go mod download -json %s: %w", what, err)
	}
	if m.Sum != sum {
		return "", fmt.Errorf("%s has the checksum %s, want %s", what, m.Sum, sum)
	}
	return m.Dir, nil
}

// run runs a command of Go, politely, and returns its output.
func run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "nice", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOTOOLCHAIN=local", "GOWORK=off",
		"GOFLAGS=-mod=mod -buildvcs=false")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errs.Bytes())
	}
	return out.Bytes(), nil
}
