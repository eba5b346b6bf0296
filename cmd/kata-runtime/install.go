package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/releases/install"
	"github.com/katabuild/katabuild/releases/install/distribution"
)

// place is where an installation is, for every command that changes or looks at one.
type place struct {
	root, prefix, suffix string
}

func (p *place) flags(f *pflag.FlagSet) {
	f.StringVar(&p.root, "root", "/", "the root file `folder` of the host; another one than / is changed offline")
	f.StringVar(&p.prefix, "prefix", "", "`folder` that all releases lie in (default "+install.DefaultPrefix+
		", and the suffix)")
	f.StringVar(&p.suffix, "suffix", p.suffix, "tells installations on one host apart: each has its own prefix and "+
		"names, and programs of its own to call")
}

func (p *place) open(change bool) (*install.Installation, error) {
	if p.prefix == "" {
		p.prefix = install.Prefix(p.suffix)
	}
	return install.Open(p.root, p.prefix, change)
}

// changing is what the commands that change an installation have in common.
type changing struct {
	place
	dryRun, noRestart bool
}

func (s *changing) flags(f *pflag.FlagSet) {
	s.place.flags(f)
	f.BoolVar(&s.dryRun, "dry-run", false, "print what would change, and change nothing")
	f.BoolVar(&s.noRestart, "no-restart", false, "leave it to you to restart containerd and CRI-O")
}

func (a *app) installCmd() *cobra.Command {
	return a.putCmd("install", "put guests, shim and kata-runtime on this host, and tell containerd", `install puts a
guest and the programs that run it on a host, in a folder of their own below the prefix, and makes that release the one
in force by renaming one link. Done again with other flags it makes the difference: what a flag no longer asks for is
taken away, what people wrote is kept. Flags that are not given are as at the last time.

containerd 2 is told by a file in its conf.d folder, where its main file imports that; otherwise by a block at the end
of the main file. CRI-O is told where it is installed. Nothing that is there and not ours is written over.

Pods that run keep the release that they began with. A host whose root file system is a folder is changed with --root.`)
}

func (a *app) upgradeCmd() *cobra.Command {
	return a.putCmd("upgrade", "the same with a newer release, where one is installed", `upgrade puts another release
beside the one that is installed, with the flags of the last time, and makes it the one in force. Pods that run keep
theirs. It then removes releases that are neither in force nor the one before, and that no pod runs from.`)
}

// putCmd is install, or upgrade.
func (a *app) putCmd(use, short, long string) *cobra.Command {
	var s changing
	var src install.Source
	var class bool
	var distro, nodeLabel string
	o := install.Defaults()
	c := &cobra.Command{
		Use: use + " GUEST...", Short: short, Long: long,
		Example: "  kata-runtime " + use + " out/default --dry-run\n  kata-runtime " + use + " out/default\n" +
			"  kata-runtime " + use + " out/default --root /mnt --suffix test",
	}
	f := c.Flags()
	s.flags(f)
	f.StringVar(&src.Version, "version", "", "the release's `name` (default one made from its content)")
	f.StringVar(&src.Programs, "programs", "", "`folder` of the programs (default this program's)")
	f.StringVar(&o.Bin, "bin", o.Bin, "`folder` where containerd looks for the shim")
	f.StringVar(&o.Handler, "handler", o.Handler, "name of the runtime for Kubernetes; the suffix is put behind it")
	f.StringVar(&o.Containerd, "containerd", o.Containerd, "how containerd is told: auto, drop-in, block or no")
	f.StringVar(&o.ContainerdConfig, "containerd-config", o.ContainerdConfig, "containerd's main `file`")
	f.StringVar(&o.Sandboxer, "sandboxer", o.Sandboxer, "how containerd 2 makes pods: podsandbox, with a first "+
		"container, or shim, by the shim's sandbox service (default podsandbox)")
	f.StringVar(&o.CRIO, "crio", o.CRIO, "whether CRI-O is told: auto, yes or no")
	f.StringVar(&distro, "distribution", "", "whose containerd is told: auto, "+
		strings.Join(distribution.Names(), ", ")+" (default the host's own, by --containerd-config, and CRI-O)")
	f.BoolVar(&class, "runtime-class", false, "print the RuntimeClass for Kubernetes, with what a pod needs besides, "+
		"and end")
	f.StringVar(&nodeLabel, "node-label", "", "with --runtime-class: `key` of a label, so that pods only go to nodes "+
		"where it is true")
	usage.Rules(c, usage.Need("runtime-class", "node-label")...)
	c.Args = func(c *cobra.Command, args []string) error {
		if class {
			return cobra.NoArgs(c, args)
		}
		return cobra.MinimumNArgs(1)(c, args)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		o.Suffix = s.suffix
		if class {
			_, err := fmt.Fprint(a.out, o.RuntimeClassYAML(nodeLabel))
			return err
		}
		src.Guests = args
		if src.Programs == "" {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			src.Programs = filepath.Dir(self)
		}
		return a.put(c, &s, src, o, distro)
	}
	return c
}

// onDistribution are the options for a distribution: the one that is named, or that of the last time.
func onDistribution(s *changing, o install.Options, name string, f *pflag.FlagSet) (install.Options, error) {
	if name == "" {
		if name = o.Layout.Name; name == "" {
			return o, nil
		}
	}
	for _, other := range []string{"containerd", "containerd-config", "crio"} {
		if f.Changed(other) {
			return o, &usage.Error{Err: fmt.Errorf("--%s does not go with --distribution %s, which says so", other,
				name)}
		}
	}
	root, err := os.OpenRoot(s.root)
	if err != nil {
		return o, err
	}
	found, err := distribution.Find(root.FS(), name)
	return o.On(found), errors.Join(err, root.Close())
}

// put installs, or upgrades.
func (a *app) put(c *cobra.Command, s *changing, src install.Source, o install.Options, distro string) (err error) {
	upgrade := c.Name() == "upgrade"
	i, err := s.open(!s.dryRun)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	was, there, err := i.Options()
	if err != nil {
		return err
	}
	if upgrade && !there {
		return fmt.Errorf("nothing is installed in %s: kata-runtime install", s.prefix)
	}
	if there {
		o = merge(was, o, c.Flags())
	}
	if o, err = onDistribution(s, o, distro, c.Flags()); err != nil {
		return err
	}
	ch, err := i.Plan(src, o)
	if err != nil {
		return err
	}
	if err := a.change(i, s, ch, func() error { return i.Apply(ch, a.copied(ch.Bytes)) }); err != nil || s.dryRun {
		return err
	}
	if upgrade {
		removed, _, err := i.Collect(false)
		for _, r := range removed {
			fmt.Fprintf(a.out, "removed release %s, which nobody uses\n", r)
		}
		return err
	}
	return nil
}

// merge takes the flags that were given, and the others from the last time.
func merge(was, given install.Options, f *pflag.FlagSet) install.Options {
	for name, set := range map[string]func(){
		"bin":               func() { was.Bin = given.Bin },
		"handler":           func() { was.Handler = given.Handler },
		"sandboxer":         func() { was.Sandboxer = given.Sandboxer },
		"containerd":        func() { was.Containerd = given.Containerd },
		"containerd-config": func() { was.ContainerdConfig = given.ContainerdConfig },
		"crio":              func() { was.CRIO = given.CRIO },
		"suffix":            func() { was.Suffix = given.Suffix },
	} {
		if f.Changed(name) {
			set()
		}
	}
	return was
}

// copied shows how far copying is, in tenths.
func (a *app) copied(total int64) func(int64) {
	var done, shown int64
	return func(n int64) {
		if done += n; total > 50e6 && done*10/total > shown {
			shown = done * 10 / total
			fmt.Fprintf(a.err, "copied %d of %d MB\n", done/1e6, total/1e6)
		}
	}
}

// change prints a change and, unless it is for show, makes it.
func (a *app) change(i *install.Installation, s *changing, ch *install.Change, apply func() error) error {
	if ch.Nothing() {
		_, err := fmt.Fprintf(a.out, "release %s is in force; nothing to do\n", ch.Release)
		return err
	}
	for _, l := range ch.Steps {
		fmt.Fprintln(a.out, l)
	}
	if s.dryRun {
		_, err := fmt.Fprintln(a.out, "nothing was changed, because of --dry-run")
		return err
	}
	o, _, err := i.Options()
	if err != nil {
		return err
	}
	if err := apply(); err != nil {
		return fmt.Errorf("%w; what was in force before still is, or the change can be completed by the same command",
			err)
	}
	if ch.Release != "" {
		fmt.Fprintf(a.out, "release %s is in force\n", ch.Release)
	}
	if !ch.Restart {
		return nil
	}
	if now, there, err := i.Options(); err != nil {
		return err
	} else if there {
		o = now
	}
	return a.restart(s, o)
}

// restart has containerd and CRI-O read their configuration anew, where systemd runs them. Their containers go on.
func (a *app) restart(s *changing, o install.Options) error {
	if path.Clean(s.root) != "/" {
		return nil
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil || s.noRestart {
		_, err := fmt.Fprintln(a.out, "restart containerd, or CRI-O, for them to see it")
		return err
	}
	units := o.Units()
	if len(units) == 0 {
		_, err := fmt.Fprintf(a.out, "%s reads it by itself\n", o.Layout.Name)
		return err
	}
	// Units that do not run are left alone: systemctl(1), try-restart.
	out, err := exec.Command("systemctl", append([]string{"try-restart"}, units...)...).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "not found") {
		return fmt.Errorf("restart %s: %w: %s", strings.Join(units, ", "), err, strings.TrimSpace(string(out)))
	}
	_, err = fmt.Fprintf(a.out, "systemd restarted %s, where it runs\n", strings.Join(units, ", "))
	return err
}

func (a *app) rollbackCmd() *cobra.Command {
	var s changing
	c := &cobra.Command{
		Use: "rollback [RELEASE]", Args: cobra.MaximumNArgs(1),
		Short: "go back to the release before, or a named one",
		Long: `rollback makes another installed release the one in force, after comparing every byte of it with
what was installed. Without a name it is the one before; done again, it comes forward again. Pods that run
keep theirs.`,
		Example: "  kata-runtime rollback\n  kata-runtime rollback 1.4.0",
	}
	s.flags(c.Flags())
	c.RunE = func(_ *cobra.Command, args []string) (err error) {
		i, err := s.open(!s.dryRun)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, i.Close()) }()
		ch, err := i.PlanRollback(strings.Join(args, ""))
		if err != nil {
			return err
		}
		return a.change(i, &s, ch, func() error { return i.Apply(ch, nil) })
	}
	return c
}

func (a *app) uninstallCmd() *cobra.Command {
	var s changing
	var force bool
	c := &cobra.Command{
		Use: "uninstall", Args: cobra.NoArgs, Short: "take everything that install put there off this host",
		Long: `uninstall takes away every file, link and folder that install made, and its block in containerd's
main file: what people wrote stays as it is, byte for byte. While pods run by it, it is refused.`,
		Example: "  kata-runtime uninstall --dry-run\n  kata-runtime uninstall",
	}
	c.Flags().BoolVar(&force, "force", false, "also while pods run: they go on, and get no more containers")
	s.flags(c.Flags())
	c.RunE = func(*cobra.Command, []string) (err error) {
		i, err := s.open(!s.dryRun)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, i.Close()) }()
		ch, err := i.PlanUninstall(force)
		if err != nil {
			return err
		}
		return a.change(i, &s, ch, func() error { return i.Uninstall(ch) })
	}
	return c
}

func (a *app) verifyInstallCmd() *cobra.Command {
	var p place
	var asJSON bool
	c := &cobra.Command{
		Use: "verify-install", Args: cobra.NoArgs, Short: "compare what is installed with what was",
		Long: `verify-install reads every file of the release in force, and every link and block that leads to it,
and says what is not as it was installed, a line each. It ends with 1 when something is not.`,
		Example: "  kata-runtime verify-install\n  kata-runtime verify-install --json",
	}
	p.flags(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(*cobra.Command, []string) (err error) {
		i, err := p.open(false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, i.Close()) }()
		release, problems, err := i.Verify()
		if err != nil {
			return err
		}
		if asJSON {
			if err := a.writeJSON(struct {
				Release  string   `json:"release"`
				Problems []string `json:"problems"`
			}{release, append([]string{}, problems...)}); err != nil {
				return err
			}
		} else {
			for _, l := range problems {
				fmt.Fprintln(a.out, l)
			}
		}
		if len(problems) > 0 {
			return fmt.Errorf("release %s is not as it was installed: %d differences; kata-runtime install puts it "+
				"right", release, len(problems))
		}
		if !asJSON {
			_, err = fmt.Fprintf(a.out, "release %s is as it was installed\n", release)
		}
		return err
	}
	return c
}
