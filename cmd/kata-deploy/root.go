package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katabuild/katabuild/cmd/kata-deploy/kube"
	"github.com/katabuild/katabuild/cmd/kata-deploy/node"
	"github.com/katabuild/katabuild/internal/manpage"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/releases/install"
	"github.com/katabuild/katabuild/releases/place"
)

// app is what every command shares: the streams, the environment and the global flags.
type app struct {
	out, err io.Writer
	getenv   func(string) string

	log     string
	account string
}

const long = `kata-deploy puts the runtime on the nodes of a cluster: a DaemonSet runs "kata-deploy run" on each, whose
root file system is mounted at --host. It installs what a release has, restarts containerd or CRI-O where their
configuration changed, checks that pods can run, labels the node, and looks again every minute.

Environment: NODE_NAME (the node, where --node does not name it), KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT
(the API server, as every pod has them).
Exit codes: 0 done, 1 error, 2 wrong usage.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{Use: "kata-deploy", Short: "put the runtime on nodes of Kubernetes, and keep it there",
		Long: long, Version: version}
	root.Args, root.RunE = cobra.NoArgs, func(c *cobra.Command, _ []string) error { return c.Help() }
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("kata-deploy {{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&a.log, "log", "text", "how lines of the log look: text or json")
	f.StringVar(&a.account, "service-account", kube.DefaultAccount,
		"`folder` with the token and the certificate authority for the API server")
	root.AddCommand(a.runCmd(), a.readyCmd(), a.removeCmd(), a.debugCmd(), a.webhookCmd(), a.versionCmd())
	root.AddCommand(manpage.Command(root))
	usage.Apply(root)
	return root
}

// logger writes lines of the log, one a step.
func (a *app) logger() (*slog.Logger, error) {
	switch a.log {
	case "text":
		return slog.New(slog.NewTextHandler(a.err, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.err, nil)), nil
	}
	return nil, &usage.Error{Err: fmt.Errorf("--log %q: want text or json", a.log)}
}

// client reaches the API server.
func (a *app) client() (*kube.Client, error) {
	return kube.New(a.account, a.getenv("KUBERNETES_SERVICE_HOST"), a.getenv("KUBERNETES_SERVICE_PORT"))
}

func (a *app) runCmd() *cobra.Command {
	cfg := node.Config{Version: version}
	o := install.Defaults()
	var reg registry.Access
	c := &cobra.Command{
		Use: "run --release PLACE", Args: cobra.NoArgs,
		Short: "install the runtime on this node, keep it so, and label the node (what the DaemonSet runs)",
		Long: `run brings the node to what the flags say, and keeps it there. Each time it

  1. finds out which Kubernetes this is, and so where containerd's configuration lies and which unit runs it,
  2. takes the release that --release offers, if that is not installed already,
  3. installs it below --host, or changes what differs, and restarts the container runtime where its configuration
     changed,
  4. runs "kata-runtime check" on the host, without a pod,
  5. waits until the node's kubelet knows the handler, where it tells which it knows,
  6. labels the node, and is ready.

It looks again every minute, and puts right what somebody changed. Whatever fails is a line of the log and takes the
label away, so that no new pod comes; it is tried again with growing pauses. A place is asked once: another release
comes by another --release or a new pod, so that nodes change one by one.

When the file --state says "absent", the label goes first; when the pods of the runtime have ended everything is taken
off the host; then the other labels go. SIGTERM leaves all as it is.

A PLACE is ` + place.Forms + `.
Without --policy only a folder is taken, such as one in this image: whoever vouches for the image vouches for it.`,
		Example: "  kata-deploy run --release /release\n" +
			"  kata-deploy run --release oci:registry.example/guests:1.4.0 --policy /policy/release-policy.yaml",
	}
	f := c.Flags()
	f.StringVar(&cfg.Host, "host", "/host", "`folder` where the host's root file system is mounted")
	f.StringVar(&cfg.Node, "node", "", "`name` of the node (default $NODE_NAME)")
	f.StringVar(&cfg.Release, "release", "", "`place` of the release")
	f.StringVar(&cfg.Policy, "policy", "", "`file` that says whose releases are accepted; needed unless --release is "+
		"a folder")
	f.StringVar(&cfg.Distribution, "distribution", "auto", "which Kubernetes this is: auto, "+
		strings.Join(node.Distributions(), ", "))
	f.StringVar(&o.ContainerdConfig, "containerd-config", "", "containerd's main `file` on the host, where it is not "+
		"the distribution's own")
	f.StringVar(&o.Sandboxer, "sandboxer", "", "how containerd 2 makes pods: podsandbox, with a first container, or "+
		"shim, by the shim's sandbox service (default podsandbox)")
	f.StringVar(&o.Suffix, "suffix", "", "tells installations on one host apart: each has its own prefix, names and "+
		"labels")
	f.StringVar(&o.Handler, "handler", o.Handler, "name of the runtime for Kubernetes; the suffix is put behind it")
	f.StringVar(&o.Bin, "bin", o.Bin, "`folder` of the host where containerd looks for the shim")
	f.StringVar(&cfg.Prefix, "prefix", "", "`folder` of the host that all releases lie in (default "+
		install.DefaultPrefix+", and the suffix)")
	f.StringVar(&cfg.Restart, "restart", "auto", "what is restarted when its configuration changed: auto (the unit "+
		"that runs), none, or a unit of systemd by name")
	f.StringVar(&cfg.Check, "check", "required", "whether kata-runtime check has to pass: required or warn")
	f.StringVar(&cfg.State, "state", "", "`file` that says present or absent; a file that is not there says present")
	f.DurationVar(&cfg.Drain, "drain-timeout", 5*time.Minute, "how long pods of the runtime may take to end before "+
		"it is taken off")
	f.BoolVar(&cfg.Force, "force", false, "take it off after that, too: pods that still run go on, and get no more "+
		"containers")
	f.StringVar(&cfg.Work, "work", node.DefaultWork, "`folder` for what is being taken, and for the file that says "+
		"ready; an emptyDir")
	f.DurationVar(&cfg.Kubelet, "kubelet-timeout", time.Minute, "how long the kubelet may take to know the handler, "+
		"where it tells which it knows")
	f.DurationVar(&cfg.Interval, "interval", time.Minute, "how often it looks again")
	f.DurationVar(&cfg.Retry, "retry", 5*time.Second, "first pause after a failure; the next are longer, up to 5 "+
		"minutes")
	registryFlags(f, &reg)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg.Node = cmp.Or(cfg.Node, a.getenv("NODE_NAME"))
		cfg.Options, cfg.Registries = o, reg
		cfg.Prefix = cmp.Or(cfg.Prefix, install.Prefix(o.Suffix))
		if err := checkRun(&cfg); err != nil {
			return &usage.Error{Err: err}
		}
		log, err := a.logger()
		if err != nil {
			return err
		}
		api, err := a.client()
		if err != nil {
			return err
		}
		return node.Run(c.Context(), cfg, api, log)
	}
	return c
}

// registryFlags add how registries are reached, by the names that they have in katabuild.
func registryFlags(f *pflag.FlagSet, to *registry.Access) {
	f.StringArrayVar(&to.AuthFiles, "registry-auth", nil, "`file` of credentials for registries, such as a pull "+
		"secret's .dockerconfigjson (repeatable)")
	f.StringArrayVar(&to.Authorities, "registry-ca", nil,
		"`file` of certificate authorities to believe beside the image's, in PEM form (repeatable)")
	f.StringArrayVar(&to.Insecure, "registry-insecure", nil,
		"registry, `HOST[:PORT]`, that may be reached by plain HTTP or with any certificate (repeatable)")
}

// checkRun refuses what makes no sense, all of it at once.
func checkRun(cfg *node.Config) error {
	var errs []error
	say := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if cfg.Release == "" {
		say("--release is missing: the place of the release, such as /release or oci:registry.example/guests:1.4.0")
	} else if cfg.Policy == "" && (place.IsRemote(cfg.Release) && !strings.HasPrefix(cfg.Release, "dir:")) {
		say("--policy is missing: %s is no folder, so somebody's signature must vouch for it", cfg.Release)
	}
	if cfg.Node == "" {
		say("--node is missing: set NODE_NAME from spec.nodeName")
	}
	for _, w := range []struct {
		flag, value string
		all         []string
	}{
		{"distribution", cfg.Distribution, append([]string{"auto"}, node.Distributions()...)},
		{"check", cfg.Check, []string{"required", "warn"}},
	} {
		if !slices.Contains(w.all, w.value) {
			say("--%s %q: want %s", w.flag, w.value, strings.Join(w.all, ", "))
		}
	}
	for flag, p := range map[string]string{"host": cfg.Host, "work": cfg.Work} {
		if !filepath.IsAbs(p) {
			say("--%s %q: want an absolute path", flag, p)
		}
	}
	for flag, d := range map[string]time.Duration{"interval": cfg.Interval, "retry": cfg.Retry,
		"kubelet-timeout": cfg.Kubelet} {
		if d <= 0 {
			say("--%s %v: want more than nothing", flag, d)
		}
	}
	return errors.Join(errs...)
}

func (a *app) readyCmd() *cobra.Command {
	var work string
	c := &cobra.Command{
		Use: "ready", Args: cobra.NoArgs, Short: "end with 0 when run, in the same container, is ready (the probe)",
		Long: `ready is the readiness probe. It ends with 0 while "kata-deploy run" says that the node is what it is to
be: the runtime installed, checked and labelled; or, when it is to be absent, all of it gone.`,
		Example: "  kata-deploy ready",
	}
	c.Flags().StringVar(&work, "work", node.DefaultWork, "`folder` that run has by --work")
	c.RunE = func(*cobra.Command, []string) error {
		what, err := node.Ready(work)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.out, what)
		return err
	}
	return c
}

func (a *app) removeCmd() *cobra.Command {
	var r node.Removal
	c := &cobra.Command{
		Use: "remove --configmap NAME --namespace NAMESPACE", Args: cobra.NoArgs,
		Short: "have every node take the runtime off, and wait until all have (before the chart goes)",
		Long: `remove sets the key "state" of a ConfigMap to absent, which "kata-deploy run" reads on every node, and
waits until no node has the label of the installation any more. It names the nodes that still have it when the time is
over. It is for the chart's hook before an uninstall: after that nobody could take anything off.`,
		Example: "  kata-deploy remove --configmap kata-deploy-state --namespace kube-system",
	}
	f := c.Flags()
	f.StringVar(&r.ConfigMap, "configmap", "", "`name` of the ConfigMap that --state of run is mounted from")
	f.StringVar(&r.Namespace, "namespace", "", "its `namespace`")
	f.StringVar(&r.Suffix, "suffix", "", "that of the installation")
	f.DurationVar(&r.Timeout, "timeout", 10*time.Minute, "how long to wait")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if r.ConfigMap == "" || r.Namespace == "" {
			return &usage.Error{Err: errors.New("remove needs --configmap NAME and --namespace NAMESPACE")}
		}
		log, err := a.logger()
		if err != nil {
			return err
		}
		api, err := a.client()
		if err != nil {
			return err
		}
		return node.Remove(c.Context(), r, api, log)
	}
	return c
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Args: cobra.NoArgs, Short: "print the version",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.out, "kata-deploy %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS,
				runtime.GOARCH)
			return err
		},
	}
}
