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
	stagingVersion = "0.37.2" // of k8s.io/api and its neighbours, which go with Version
)

// sums are the checksums of the modules' sources, as a go.sum has them. They cover all else: a go.sum comes with the
// source of Kubernetes, and what etcd needs is checked against Go's checksum database.
const (
	kubernetesSum = "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE="
	etcdSum       = "h1:KcTZ/aEZrOiQe0/kdr7iYYcvyfbEoOwDOacHkz8xwZc="
)

// Programs are paths of what a node and its control plane run.
type Programs struct{ Kubelet, APIServer, Etcd string }

// Built is the programs in folders below cache, built there with Go where they are missing or do not run. It takes ten
// minutes, once.
func Built(ctx context.Context, cache string) (Programs, error) {
	k, e := filepath.Join(cache, "kubernetes-"+version), filepath.Join(cache, "etcd-"+etcdVersion)
	p := Programs{filepath.Join(k, "kubelet"), filepath.Join(k, "kube-apiserver"), filepath.Join(e, "etcd")}
	if p.check(ctx) == nil {
		return p, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return p, err
	}
	for dir, build := range map[string]func(context.Context, string) error{k: buildKubernetes, e: buildEtcd} {
		if err := into(ctx, dir, build); err != nil {
			return p, fmt.Errorf("build %s: %w", filepath.Base(dir), err)
		}
	}
	return p, p.check(ctx)
}

// check says whether the programs are there and are what was meant.
func (p Programs) check(ctx context.Context) error {
	for _, c := range []struct{ file, want string }{
		{p.Kubelet, "Kubernetes v" + version}, {p.APIServer, "Kubernetes v" + version},
		{p.Etcd, "etcd Version: " + etcdVersion},
	} {
		out, err := exec.CommandContext(ctx, c.file, "--version").Output()
		if err != nil {
			return fmt.Errorf("%s --version: %w", c.file, err)
		}
		if first, _, _ := strings.Cut(string(out), "\n"); first != c.want {
			return fmt.Errorf("%s is %q, want %q", c.file, first, c.want)
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
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	const v = " -X k8s.io/component-base/version."
	flags := "-s -w" + v + "gitVersion=v" + version + v + "gitMajor=" + major + v + "gitMinor=" + minor
	_, err = run(ctx, dir, "go", "build", "-p", "2", "-trimpath", "-ldflags="+flags, "-o", dir+"/",
		"k8s.io/kubernetes/cmd/kubelet", "k8s.io/kubernetes/cmd/kube-apiserver")
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
