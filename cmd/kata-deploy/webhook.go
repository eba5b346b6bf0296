package main

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/cmd/kata-deploy/webhook"
	"github.com/katabuild/katabuild/internal/usage"
)

// defaultClass is what pods get where nothing else is said, as of Kata Containers' webhook.
const defaultClass = "kata"

func (a *app) webhookCmd() *cobra.Command {
	var cfg webhook.Config
	var only string
	c := &cobra.Command{
		Use: "webhook --secret NAME --service NAME --configuration NAME --namespace NAMESPACE", Args: cobra.NoArgs,
		Short: "give new pods that name no RuntimeClass one (what the chart's webhook runs)",
		Long: `webhook answers the API server's questions about new pods: those that name no RuntimeClass get one. Pods
in the node's network, those that a kubelet has from a file, and those of --exclude-namespaces and of the namespace
sonobuoy stay as they are. It refuses no pod.

The API server knows it by a certificate of an authority of its own, which is made, renewed in time and kept in a Secret
that all replicas share; the authority is written into the MutatingWebhookConfiguration. --tls-cert-file and
--tls-key-file name a certificate from elsewhere instead, and are read anew every minute.

Flags and $RUNTIME_CLASS are those of Kata Containers' kata-webhook.`,
		Example: "  kata-deploy webhook --secret kata-webhook --service kata-webhook --configuration kata-webhook " +
			"--namespace kube-system",
	}
	f := c.Flags()
	f.StringVar(&cfg.Listen, "listen", ":8080", "`HOST:PORT` to answer at")
	f.StringVar(&cfg.Rules.RuntimeClass, "runtime-class", "", "`name` of the RuntimeClass (default $RUNTIME_CLASS, or "+
		defaultClass+")")
	f.StringSliceVar(&cfg.Rules.Exclude, "exclude-namespaces", nil, "`namespaces` whose pods stay as they are, with "+
		"commas between them")
	f.StringVar(&only, "only-namespaces-regexp", "", "look only at pods of namespaces that match this `expression`")
	f.StringVar(&cfg.CertFile, "tls-cert-file", "", "`file` with a certificate from elsewhere")
	f.StringVar(&cfg.KeyFile, "tls-key-file", "", "`file` with its key")
	f.StringVar(&cfg.Namespace, "namespace", "", "`namespace` of Secret and Service")
	f.StringVar(&cfg.Secret, "secret", "", "`name` of the Secret for keys, which must be there")
	f.StringVar(&cfg.Service, "service", "", "`name` of the Service by which the API server asks")
	f.StringVar(&cfg.Configuration, "configuration", "", "`name` of the MutatingWebhookConfiguration")
	f.DurationVar(&cfg.Interval, "interval", time.Minute, "how often keys are looked at")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg.Rules.RuntimeClass = cmp.Or(cfg.Rules.RuntimeClass, a.getenv("RUNTIME_CLASS"), defaultClass)
		if err := checkWebhook(&cfg, only); err != nil {
			return &usage.Error{Err: err}
		}
		log, err := a.logger()
		if err != nil {
			return err
		}
		if cfg.CertFile != "" {
			return webhook.Run(c.Context(), cfg, nil, log, nil)
		}
		api, err := a.client()
		if err != nil {
			return err
		}
		return webhook.Run(c.Context(), cfg, api, log, nil)
	}
	return c
}

// checkWebhook refuses what makes no sense, all of it at once.
func checkWebhook(cfg *webhook.Config, only string) error {
	var errs []error
	if only != "" {
		var err error
		if cfg.Rules.Only, err = regexp.Compile(only); err != nil {
			errs = append(errs, fmt.Errorf("--only-namespaces-regexp: %w", err))
		}
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		errs = append(errs, errors.New("--tls-cert-file and --tls-key-file go together"))
	}
	if cfg.CertFile == "" {
		for _, w := range []struct{ flag, value string }{{"secret", cfg.Secret}, {"service", cfg.Service},
			{"configuration", cfg.Configuration}, {"namespace", cfg.Namespace}} {
			if w.value == "" {
				errs = append(errs, fmt.Errorf("--%s is missing: keys of its own need a place, or --tls-cert-file",
					w.flag))
			}
		}
	}
	if cfg.Interval <= 0 {
		errs = append(errs, fmt.Errorf("--interval %v: want more than nothing", cfg.Interval))
	}
	return errors.Join(errs...)
}
