package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/runtime/policygen"
	"github.com/katabuild/katabuild/runtime/policygen/images"
	"github.com/katabuild/katabuild/runtime/policygen/kube"
)

// generateFlags are those of kata-runtime policy generate. Those that have a letter, --config-file, --insecure-registry
// and --runtime-class-names are Kata Containers' own.
type generateFlags struct {
	yaml     string
	configs  []string
	settings string
	raw      bool
	base64   bool
	lenient  bool
	rego     bool
	arch     string
	insecure []string
	classes  []string

	layouts, archives, stores []string
}

func (a *app) policyGenerateCmd() *cobra.Command {
	var f generateFlags
	c := &cobra.Command{
		Use: "generate", Aliases: []string{"genpolicy"}, Args: cobra.NoArgs,
		Short: "make the policies of pods from their objects and images",
		Long: `generate makes policies of Pods, Deployments, DaemonSets, Jobs, CronJobs, ReplicaSets,
ReplicationControllers and StatefulSets: what their objects say, with ConfigMaps and Secrets beside them or in
--config-file, and what their images say, which registries are asked for unless another source has them. The
object gets its policy as an annotation, in FILE itself, or from standard input to standard output; what else the text
has stays as it is.

Such a policy allows the calls that containerd, kubelet and this runtime make for such a pod: its containers with their
commands, variables, users, capabilities and mounts, and the commands of its probes and hooks. It refuses all others. A
field that is not known is an error at its line. docs/policies.md says what a policy can and cannot see.`,
		Example: `  kata-runtime policy generate -y pod.yaml
  kata-runtime policy generate -r --rego < pod.yaml`,
		RunE: func(c *cobra.Command, _ []string) error { return a.policyGenerate(c.Context(), &f) },
	}
	fl := c.Flags()
	fl.StringVarP(&f.yaml, "yaml-file", "y", "", "`FILE` of objects, which gets the annotations (default: standard "+
		"input and output)")
	fl.StringArrayVar(&f.configs, "config-file", nil, "`FILE` of ConfigMaps and Secrets (repeatable)")
	fl.StringArrayVarP(&f.configs, "config-map-file", "c", nil, "the same as --config-file, by Kata's older name")
	fl.StringVarP(&f.settings, "json-settings-path", "j", "", "`FILE` of settings; docs/formats/policy-settings.md")
	fl.BoolVarP(&f.raw, "raw-out", "r", false, "print the policies")
	fl.BoolVarP(&f.base64, "base64-out", "b", false, "print the policies in base64, one a line")
	fl.BoolVarP(&f.lenient, "silent-unsupported-fields", "s", false, "pass over fields that are not known: the policy "+
		"is not about them")
	fl.BoolVar(&f.rego, "rego", false, "write Rego, for agents with that engine")
	fl.StringVar(&f.arch, "arch", runtime.GOARCH, "`architecture` of images, by Go's name")
	fl.StringArrayVar(&f.insecure, "insecure-registry", nil, "`HOST[:PORT]` that is reached by plain HTTP (repeatable)")
	fl.StringArrayVar(&f.classes, "runtime-class-names", nil, "only objects whose runtimeClassName begins so, or that "+
		"have none (repeatable)")
	fl.StringArrayVar(&f.layouts, "image-layout", nil, "`FOLDER` of an OCI image layout that is asked before "+
		"registries (repeatable)")
	fl.StringArrayVar(&f.archives, "image-archive", nil, "`FILE` of docker save that is asked before registries "+
		"(repeatable)")
	fl.StringArrayVar(&f.stores, "content-store", nil, "`FOLDER` of containerd's content store, which is asked for "+
		"images by digest before registries (repeatable)")
	return c
}

// policyGenerate reads, makes and writes.
func (a *app) policyGenerate(ctx context.Context, f *generateFlags) error {
	settings := &policygen.Settings{Version: policygen.SettingsVersion}
	if f.settings != "" {
		text, err := os.ReadFile(f.settings)
		if err != nil {
			return err
		}
		if settings, err = policygen.ReadSettings(text); err != nil {
			return fmt.Errorf("%s: %w", f.settings, err)
		}
	}
	name, text, err := "standard input", []byte(nil), error(nil)
	if f.yaml == "" {
		text, err = io.ReadAll(a.in)
	} else {
		name = f.yaml
		text, err = os.ReadFile(f.yaml)
	}
	if err != nil {
		return err
	}
	r := kube.Reader{Lenient: f.lenient}
	file, err := r.Read(name, text)
	if err != nil {
		return err
	}
	pods := r.Set.Pods
	for _, c := range f.configs {
		data, err := os.ReadFile(c)
		if err != nil {
			return err
		}
		if _, err := r.Read(c, data); err != nil {
			return err
		}
	}
	g := &policygen.Generator{Settings: settings, Images: a.images(f), Set: &r.Set}
	made := 0
	for _, p := range pods {
		if class := p.Template.Spec.RuntimeClassName; class != "" && !f.wants(class) {
			continue
		}
		made++
		fmt.Fprintf(a.err, "%s: %s %s\n", p.Place(), p.Kind, p.Name)
		policy, err := g.Policy(ctx, p)
		if err != nil {
			return err
		}
		write := policy.Text
		if f.rego {
			write = policy.Rego
		}
		text, err := write()
		if err != nil {
			return err
		}
		encoded := base64.StdEncoding.EncodeToString([]byte(text))
		switch {
		case f.raw:
			_, err = fmt.Fprint(a.out, text)
		case f.base64:
			_, err = fmt.Fprintln(a.out, encoded)
		}
		if err = errors.Join(err, p.Annotate(policygen.PolicyAnnotation, encoded)); err != nil {
			return err
		}
	}
	switch {
	case made == 0:
		return fmt.Errorf("%s has no pod, and nothing that makes pods, to make a policy for", name)
	case f.yaml != "":
		return atomicfile.Write(f.yaml, []byte(file.Text()), 0o644)
	case f.raw || f.base64:
		return nil
	}
	_, err = io.WriteString(a.out, file.Text())
	return err
}

// wants says whether pods of a RuntimeClass get a policy.
func (f *generateFlags) wants(class string) bool {
	for _, c := range f.classes {
		if strings.HasPrefix(class, c) {
			return true
		}
	}
	return len(f.classes) == 0
}

// images are what is asked for images, in their order.
func (a *app) images(f *generateFlags) images.Source {
	var all images.Several
	for _, p := range f.layouts {
		all = append(all, &images.Layout{Path: p, Arch: f.arch})
	}
	for _, p := range f.archives {
		all = append(all, &images.Archive{Path: p, Arch: f.arch})
	}
	for _, p := range f.stores {
		all = append(all, &images.Store{Path: p, Arch: f.arch})
	}
	access := registry.Access{Insecure: f.insecure,
		CertFolders: []string{"/etc/docker/certs.d", "/etc/containers/certs.d"}}
	if file := a.getenv("REGISTRY_AUTH_FILE"); file != "" {
		access.AuthFiles = append(access.AuthFiles, file)
	}
	if dir := a.getenv("DOCKER_CONFIG"); dir != "" {
		access.AuthFiles = append(access.AuthFiles, filepath.Join(dir, "config.json"))
	} else if home := a.getenv("HOME"); home != "" {
		access.AuthFiles = append(access.AuthFiles, filepath.Join(home, ".docker", "config.json"))
	}
	return append(all, &images.Registry{Client: &registry.Client{Access: access}, Arch: f.arch})
}
