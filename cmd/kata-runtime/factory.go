package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/pool"
	"github.com/katabuild/katabuild/runtime/template"
)

func (a *app) factoryCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "factory", Short: "keep templates and guests that wait, so that pods start at once",
		Long: `factory keeps templates of guests: a guest that has booted and waits, saved with its memory. With
enable_template = true in [factory] of configuration.toml a pod's guest is restored from the one that fits, which takes
a fraction of the time and of the processor that a boot takes, and is woken before it serves: it gets randomness, a
clock and identities of its own.

A template fits one guest, one configuration of its machine, one QEMU, one kind of processor and one version of
katabuild. Where none fits a pod's guest boots, and the log says why.

With vm_cache_number "serve" keeps that many guests that wait, for the same and from a template where one is right, and
a pod is handed one of them.`,
		Example: `  kata-runtime factory init
  kata-runtime factory serve
  kata-runtime factory status --json
  kata-runtime factory destroy`,
	}
	c.AddCommand(a.factoryInitCmd(), a.factoryServeCmd(), a.factoryStatusCmd(), a.factoryDestroyCmd())
	c.AddCommand(keepCmd(), makeCmd())
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

// The commands by which "serve" has this program keep one guest, and make a template.
const (
	keepName = "keep"
	makeName = "make"
)

// makeCmd is no command for people.
func makeCmd() *cobra.Command {
	return &cobra.Command{
		Use: makeName, Args: cobra.NoArgs, Hidden: true, Short: "make a template; for serve alone",
		Long:    "make makes the template that serve lacks, at the lowest priority. Only serve runs it.",
		Example: "  kata-runtime factory init",
		RunE:    func(cmd *cobra.Command, _ []string) error { return factory.Serve(cmd.Context()) },
	}
}

// keepCmd is no command for people.
func keepCmd() *cobra.Command {
	return &cobra.Command{
		Use: keepName, Args: cobra.NoArgs, Hidden: true, Short: "keep one guest; for serve alone",
		Long:    "keep starts one guest up to where it waits, and ends it when nobody wants it. Only serve runs it.",
		Example: "  kata-runtime factory serve",
		RunE:    func(cmd *cobra.Command, _ []string) error { return pool.Keep(cmd.Context()) },
	}
}

func (a *app) factoryServeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Args: cobra.NoArgs, Short: "keep guests ready for pods",
		Long: `serve keeps vm_cache_number guests that wait, stopped, until it is told to end: from the template that
fits, where enable_template is true and there is one, and otherwise by booting them. With automatic_template it makes a
template first where there is none. A pod whose guest would be the same is handed one by the socket vm_cache_endpoint,
and its guest is woken and attested then. Others take its place one after the other, at the lowest priority, and only
while the host has twice a guest's memory left, and vm_cache_memory and vm_cache_cpu allow.

When the configuration, the guest or QEMU changes, those that wait are ended and others started. When serve ends,
however that is, those that wait end with it; guests that were handed over go on.

Run it as root, which pods are of. It reads the configuration that pods read.`,
		Example: "  kata-runtime factory serve",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.load()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT)
			defer stop()
			return pool.Serve(ctx, pool.Options{Endpoint: l.Config.Factory.VMCacheEndpoint,
				Keeper: []string{os.Args[0], "factory", keepName},
				Maker:  []string{"/proc/self/exe", "factory", makeName}, Load: a.order,
				Log: slog.New(slog.NewTextHandler(a.err, nil))})
		},
	}
}

// order is what the pool makes guests of, and a text that changes with it: of the configuration, the guest's manifest,
// and the hypervisor's program.
func (a *app) order() (factory.Order, string, error) {
	l, err := a.load()
	if err != nil {
		return factory.Order{}, "", err
	}
	o := factory.Order{Config: l.Config, Version: version}
	text, err := json.Marshal(o)
	if err != nil {
		return o, "", err
	}
	program := o.Config.VM.Path
	if program == "" {
		if host, err := arch.FromGo(runtime.GOARCH); err == nil {
			program, _ = exec.LookPath(host.QEMU) // where there is none nothing starts, and the pool says so
		}
	}
	for _, path := range []string{filepath.Join(o.Config.VM.Guest, "manifest.json"), program} {
		if st, err := os.Stat(path); err == nil {
			text = fmt.Appendf(text, "\n%s %d %d", path, st.Size(), st.ModTime().UnixNano())
		}
	}
	return o, string(digest.Of(text)), nil
}

// poolTime bounds asking the daemon.
const poolTime = 5 * time.Second

// poolStatus asks the daemon; nil where there is none, and none is wanted.
func poolStatus(ctx context.Context, c *config.Config) (*pool.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, poolTime)
	defer cancel()
	s, err := pool.Ask(ctx, c.Factory.VMCacheEndpoint)
	if err != nil && c.Factory.VMCacheNumber == 0 {
		return nil, nil //nolint:nilerr,nilnil // there is none, and none is wanted
	}
	return s, err
}

// factoryStatus is what "factory status --json" prints.
type factoryStatus struct {
	Version   int              `json:"version"`
	Folder    string           `json:"folder"`
	Templates []templateStatus `json:"templates"`
	Pool      *pool.Status     `json:"pool"` // null without a daemon
}

// templateStatus is one template.
type templateStatus struct {
	Guest     string        `json:"guest"`
	Digest    digest.Digest `json:"digest"`
	MemoryMiB int64         `json:"memory_mib"`
	Made      int64         `json:"made"` // seconds since the Epoch
	Folder    string        `json:"folder"`
}

func (a *app) factoryStatusCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Args: cobra.NoArgs, Short: "show the templates that there are, and the pool",
		Long: `status shows every template: its guest, its digest, how large the guest's memory is, and when it was
made. The digest is in the verdict of each pod that was restored from it ("kata-runtime state"). Where "serve" runs, it
shows the guests that wait, and what became of others.`,
		Example: "  kata-runtime factory status\n  kata-runtime factory status --json",
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON document")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := a.load()
		if err != nil {
			return err
		}
		f := &l.Config.Factory
		list, err := template.Folder(f.TemplatePath).List()
		if errors.Is(err, fs.ErrNotExist) && len(list) == 0 {
			err = nil
		}
		s, poolErr := poolStatus(cmd.Context(), &l.Config)
		err = errors.Join(err, poolErr)
		if asJSON {
			out := factoryStatus{Version: 1, Folder: f.TemplatePath, Templates: []templateStatus{}, Pool: s}
			for _, t := range list {
				out.Templates = append(out.Templates, templateStatus{Guest: t.Guest, Digest: t.Digest,
					MemoryMiB: t.Memory.Size >> 20, Made: t.Made, Folder: t.Dir()})
			}
			b, e := document.Encode(out)
			if e == nil {
				_, e = a.out.Write(b)
			}
			return errors.Join(err, e)
		}
		return errors.Join(err, a.showTemplates(f.TemplatePath, list), a.showPool(s))
	}
	return c
}

func (a *app) showTemplates(folder string, list []*template.Template) error {
	if len(list) == 0 {
		_, err := fmt.Fprintf(a.out, "no templates in %s\n", folder)
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GUEST\tTEMPLATE\tMEMORY\tMADE\tFOLDER")
	for _, t := range list {
		fmt.Fprintf(w, "%s\t%s\t%d MiB\t%s\t%s\n", t.Guest, t.Digest.Short(), t.Memory.Size>>20,
			time.Unix(t.Made, 0).UTC().Format(time.RFC3339), t.Dir())
	}
	return w.Flush()
}

func (a *app) showPool(s *pool.Status) error {
	if s == nil {
		return nil
	}
	fmt.Fprintf(a.out, "pool: %d of %d guests wait; %d started, %d handed over, %d dropped, %d failed\n",
		len(s.Waiting), s.Wanted, s.Started, s.Handed, s.Dropped, s.Failed)
	if s.Why != "" && len(s.Waiting) < s.Wanted {
		fmt.Fprintf(a.out, "pool: no other is started now: %s\n", s.Why)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, g := range s.Waiting {
		from := "booted"
		if d, err := digest.Parse(g.Template); err == nil {
			from = "template " + d.Short()
		}
		fmt.Fprintf(w, "pool: QEMU %d\twaits since %s\t%s\n", g.PID, time.Unix(g.Ready, 0).UTC().Format(time.RFC3339),
			from)
	}
	return w.Flush()
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
