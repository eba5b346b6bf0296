package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/template"
)

func (a *app) factoryCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "factory", Short: "make, show and remove the templates that pods are restored from",
		Long: `factory keeps templates of guests: a guest that has booted and waits, saved with its memory. With
enable_template = true in [factory] of configuration.toml a pod's guest is restored from the one that fits, which takes
a fraction of the time and of the processor that a boot takes, and is woken before it serves: it gets randomness, a
clock and identities of its own.

A template fits one guest, one configuration of its machine, one QEMU, one kind of processor and one version of
katabuild. Where none fits a pod's guest boots, and the log says why.`,
		Example: `  kata-runtime factory init
  kata-runtime factory status
  kata-runtime factory destroy`,
	}
	c.AddCommand(a.factoryInitCmd(), a.factoryStatusCmd(), a.factoryDestroyCmd())
	return c
}

func (a *app) factoryInitCmd() *cobra.Command {
	return &cobra.Command{
		Use: "init", Args: cobra.NoArgs, Short: "make the template of the configured guest",
		Long: `init boots the guest of the configuration, saves it when it waits, and keeps that as a template once a
guest that was restored from it is what its manifest says. A template that is there for the same is replaced.

Run it as root, which pods are of, after each change of the configuration, the guest, QEMU or katabuild.`,
		Example: "  kata-runtime factory init",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.load()
			if err != nil {
				return err
			}
			cfg := &l.Config
			if !cfg.Factory.EnableTemplate {
				fmt.Fprintln(a.err, "kata-runtime: pods will not use it: enable_template in [factory] is false")
			}
			g, err := cfg.VM.ReadGuest()
			if err != nil {
				return fmt.Errorf("the guest of the configuration: %w", err)
			}
			h, err := hypervisor.Named(cfg.Hypervisor)
			if err != nil {
				return err
			}
			s, err := factory.Sandbox(cfg, g, h)
			if err != nil {
				return err
			}
			s.Log = slog.New(slog.DiscardHandler)
			began := time.Now()
			t, err := factory.Of(cfg, version).Make(cmd.Context(), s, func(what string) {
				fmt.Fprintf(a.err, "factory: %s, %.1fs\n", what, time.Since(began).Seconds())
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s\n", t.Dir())
			return err
		},
	}
}

func (a *app) factoryStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status", Args: cobra.NoArgs, Short: "show the templates that there are",
		Long: `status shows every template: its guest, its digest, how large the guest's memory is, and when it was
made. The digest is in the verdict of each pod that was restored from it ("kata-runtime state").`,
		Example: "  kata-runtime factory status",
		RunE: func(*cobra.Command, []string) error {
			l, err := a.load()
			if err != nil {
				return err
			}
			list, err := template.Folder(l.Config.Factory.TemplatePath).List()
			if errors.Is(err, fs.ErrNotExist) && len(list) == 0 {
				err = nil
			}
			if len(list) == 0 && err == nil {
				_, err := fmt.Fprintf(a.out, "no templates in %s\n", l.Config.Factory.TemplatePath)
				return err
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "GUEST\tTEMPLATE\tMEMORY\tMADE\tFOLDER")
			for _, t := range list {
				fmt.Fprintf(w, "%s\t%s\t%d MiB\t%s\t%s\n", t.Guest, t.Digest.Short(), t.Memory.Size>>20,
					time.Unix(t.Made, 0).UTC().Format(time.RFC3339), t.Dir())
			}
			return errors.Join(w.Flush(), err)
		},
	}
}

func (a *app) factoryDestroyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "destroy", Args: cobra.NoArgs, Short: "remove all templates",
		Long:    "destroy removes all templates. Pods that run stay as they are; the guests of later ones boot.",
		Example: "  kata-runtime factory destroy",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.load()
			if err != nil {
				return err
			}
			n, err := template.Folder(l.Config.Factory.TemplatePath).Destroy(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%d removed from %s\n", n, l.Config.Factory.TemplatePath)
			return err
		},
	}
}
