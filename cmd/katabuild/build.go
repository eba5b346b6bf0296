package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/katabuild/katabuild/builder/locking"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/cmd/katabuild/kernel"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/usage"
)

func (a *app) lockCmd() *cobra.Command {
	var f recipeFlags
	var update []string
	var diff bool
	c := &cobra.Command{
		Use: "lock [RECIPE] | lock --update [NAME...] [RECIPE]", Args: cobra.ArbitraryArgs,
		Short: "pin every input of a recipe by digest, in lock.json beside it",
		Long: `lock looks up everything a recipe names (Debian packages, addresses, files beside the recipe), and
writes lock.json: each input by SHA-256 and size, and where to find it. It is the only command that resolves names.
Every other command refuses an input whose digest differs, and shows both. What is pinned stays pinned, so that a
change of one file, package or layer changes nothing else. --update looks everything up again; with NAMEs (of
packages, images, or inputs as the lock calls them) only those, and what they need to be newer. --diff says what would
change, with versions and which are security updates, and writes nothing.`,
		Example: "  katabuild lock recipes/default\n  katabuild lock --update --diff recipes/default\n  katabuild " +
			"lock --update openssl recipes/default",
	}
	f.add(c.Flags())
	c.Flags().StringArrayVar(&update, "update", nil, "look up again what is pinned: everything, or `NAME` (repeatable)")
	c.Flags().Lookup("update").NoOptDefVal = updateAll
	c.Flags().BoolVar(&diff, "diff", false, "say what would change, and write nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		u, args, err := parseUpdate(update, args)
		if err != nil {
			return err
		}
		cfg, err := a.config(c.Context(), f, args)
		if err != nil {
			return err
		}
		v, err := a.view()
		if err != nil {
			return err
		}
		cfg.Report = v.Event
		l, err := locking.MakeLock(c.Context(), cfg, locking.Options{Update: u, Dry: diff})
		v.Close()
		if err != nil {
			return err
		}
		a.printLock(l, diff)
		return nil
	}
	return c
}

// updateAll is the value of --update without one. No input is called so.
const updateAll = "*"

// parseUpdate tells the names to renew from the recipe: `lock --update`, `lock --update RECIPE`, `lock --update NAME...
// [RECIPE]` and `lock --update=NAME [RECIPE]`.
func parseUpdate(update, args []string) (locking.Update, []string, error) {
	if update == nil {
		if len(args) > 1 {
			return locking.Update{}, nil, &usage.Error{Err: fmt.Errorf("%d recipes; want one", len(args))}
		}
		return locking.Update{}, args, nil
	}
	var u locking.Update
	names := args
	args = nil
	if n := len(names); n > 0 && isRecipe(names[n-1]) {
		names, args = names[:n-1], names[n-1:]
	}
	u.Names = append(u.Names, names...)
	for _, n := range update {
		if n != updateAll {
			u.Names = append(u.Names, n)
		}
	}
	u.All = len(u.Names) == 0
	return u, args, nil
}

// isRecipe says whether a name is that of a recipe.
func isRecipe(s string) bool {
	_, err := os.Stat(recipe.Find(s))
	return err == nil
}

// printLock says what is locked, or, for a diff, only what differs from the lock that was there.
func (a *app) printLock(l *locking.Locked, diff bool) {
	what := "unchanged"
	if l.Changed {
		what = "written"
	}
	if !diff {
		tools := map[string]bool{} // inputs that only the tool-chain needs: one line says enough
		for _, s := range l.Lock.Toolchains() {
			for _, name := range s.Inputs {
				tools[name] = true
			}
			fmt.Fprintf(a.out, "%s: %d packages of Debian\n", s.Name, len(s.Inputs))
		}
		for _, s := range l.Lock.Sets {
			for _, name := range s.Inputs {
				if !lock.IsToolchain(s.Name) {
					delete(tools, name)
				}
			}
		}
		for _, in := range l.Lock.Inputs {
			if tools[in.Name] {
				continue
			}
			name := in.Where
			if in.Kind == lock.Debian {
				name = in.Package.Name + " " + in.Package.Version + " (" + in.Package.Suite + ")"
			}
			fmt.Fprintf(a.out, "%s: %s %s\n", in.Name, name, in.Digest)
		}
	} else if l.Changed {
		what = "would change; not written"
	}
	// The first lock is all new, which the list above says already.
	if l.Old != nil || diff {
		for _, c := range lock.Diff(l.Old, l.Lock) {
			fmt.Fprintln(a.out, c)
		}
	}
	fmt.Fprintf(a.out, "lock of %s: %s, %d inputs, time %s\n", l.Lock.Name, what, len(l.Lock.Inputs),
		time.Unix(l.Lock.Time, 0).UTC().Format(time.RFC3339))
}

func (a *app) fetchCmd() *cobra.Command {
	var f recipeFlags
	c := &cobra.Command{
		Use: "fetch [RECIPE]", Args: cobra.MaximumNArgs(1),
		Short: "bring a recipe's locked inputs into the store, so that --offline builds work",
		Long: `fetch brings what a recipe's lock names into the store: packages, archives, layers of images. With
--sources they come from a release that was made --with-sources, or a folder, an address or a registry that has them by
digest, as far as it has them: mirrors of Debian's archive drop old versions.`,
		Example: "  katabuild fetch recipes/default\n  katabuild fetch recipes/default --sources " +
			"oci:registry.example/guests:stable",
	}
	f.add(c.Flags())
	f.addSources(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := a.config(c.Context(), f, args)
		if err != nil {
			return err
		}
		v, err := a.view()
		if err != nil {
			return err
		}
		defer v.Close()
		cfg.Report = v.Event
		g, err := builder.Open(c.Context(), cfg)
		if err != nil {
			return err
		}
		return g.Fetch(c.Context())
	}
	return c
}

func (a *app) planCmd() *cobra.Command {
	var f recipeFlags
	var asJSON bool
	c := &cobra.Command{
		Use: "plan [RECIPE]", Args: cobra.MaximumNArgs(1),
		Short: "show each step of a build, its key, hit or miss, and why a miss",
		Long: `plan shows what "katabuild build" would do. A step's key is the digest of everything that decides its
bytes: equal keys mean equal bytes. A hit is in the store; for a miss plan names the inputs that changed since the
guest was last built with this store; unused steps are needed only by steps that are hits.`,
	}
	f.add(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print the plan with all inputs as JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := a.config(c.Context(), f, args)
		if err != nil {
			return err
		}
		g, err := builder.Open(c.Context(), cfg)
		if err != nil {
			return err
		}
		st := g.Plan(nil)
		if asJSON {
			return a.planJSON(g.Recipe.Name, st)
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "STEP\tSTATE\tKEY\n")
		for _, s := range st {
			fmt.Fprintf(w, "%s\t%s\tsha256:%s%s\n", s.Step.Name, s.State, s.Step.Key.Short(), expected(s))
			for _, why := range s.Why {
				fmt.Fprintf(w, "\t\t  %s\n", why)
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, o := range g.Overrides() {
			fmt.Fprintf(a.out, "kernel: %s\n", o)
		}
		return nil
	}
	return c
}

func expected(s plan.Status) string {
	if s.Expected == 0 {
		return ""
	}
	return fmt.Sprintf("  (took %s last time)", s.Expected.Round(100*time.Millisecond))
}

func (a *app) planJSON(guest string, st []plan.Status) error {
	type input struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	type step struct {
		Step   string   `json:"step"`
		State  string   `json:"state"`
		Key    string   `json:"key"`
		Needs  []string `json:"needs,omitempty"`
		Why    []string `json:"why,omitempty"`
		Inputs []input  `json:"inputs"`
	}
	out := struct {
		Version int    `json:"version"`
		Guest   string `json:"guest"`
		Steps   []step `json:"steps"`
	}{Version: 1, Guest: guest}
	for _, s := range st {
		inputs := []input{}
		for _, i := range s.Step.Inputs {
			inputs = append(inputs, input(i))
		}
		out.Steps = append(out.Steps, step{s.Step.Name, s.State, string(s.Step.Key), s.Step.Needs, s.Why, inputs})
	}
	data, err := document.Encode(out)
	if err != nil {
		return err
	}
	_, err = a.out.Write(data)
	return err
}

func (a *app) buildCmd() *cobra.Command {
	return a.makeCmd("build", "build a guest: kernel, disk or initrd, and manifest.json",
		`build makes the guest of a recipe in a folder (default out/NAME): the kernel (bzImage and uncompressed
vmlinux), its final config and System.map, the disk image or the initrd with the agent, and manifest.json, which
names each by digest and says what the running guest must report. Steps whose inputs have not changed are taken from
the store; the others run side by side. The same recipe, lock and tools give the same bytes on every machine.

With --cache-from, steps are taken from caches on other machines where the store lacks them, if somebody has made them
whom you trust ("katabuild store trust"); --cache-to gives away what this build made. A cache is a registry or a server
of the Remote Execution API, such as "katabuild store serve"; one that is away or wrong costs a warning.

Of a recipe with "extension: true" it makes just the image, as "katabuild image" does, and writes no manifest.json: the
image becomes part of a guest with "katabuild boot --extension".`, nil)
}

func (a *app) kernelCmd() *cobra.Command {
	c := a.makeCmd("kernel", "build only the kernel of a recipe",
		`kernel builds the kernel of a recipe: bzImage, vmlinux (uncompressed, with a PVH entry), config, System.map,
and modules.tar when the recipe asks for modules. Options are asked for by feature ("katabuild features" lists them);
after the last olddefconfig every option that was asked for is compared with the result, and one that came out
otherwise is an error that names the fragment's line and the unmet dependency.

With --config-only it makes just the configuration, in seconds and without the store's help, leaves it as
DIR/config, and lists every option that was asked for and is otherwise; it fails where one of them is more than a
preference.

The words below it look at the options of a kernel and change them, on the recipe's own kernel source, in seconds and
without compiling a kernel; docs/kernel-options.md goes through them. A recipe in a folder that is called like one of
them is named by its path, such as ./explain.`, []string{builder.KernelStep})
	h := &kernel.Host{In: os.Stdin, Out: a.out, Err: a.err, Getenv: a.getenv, Differs: errVerdict, Flags: a.openFlags}
	c.AddCommand(h.Commands()...)
	return c
}

// openFlags adds the flags of commands that read a recipe and build nothing, and returns what opens one.
func (a *app) openFlags(fl *pflag.FlagSet) func(ctx context.Context, recipe string) (*builder.Guest, func(), error) {
	var f recipeFlags
	f.addBuild(fl)
	return func(ctx context.Context, name string) (*builder.Guest, func(), error) {
		var args []string
		if name != "" {
			args = []string{name}
		}
		cfg, err := a.config(ctx, f, args)
		if err != nil {
			return nil, nil, err
		}
		v, err := a.view()
		if err != nil {
			return nil, nil, err
		}
		cfg.Report = v.Event
		g, err := builder.Open(ctx, cfg)
		if err != nil {
			v.Close()
			return nil, nil, err
		}
		return g, sync.OnceFunc(v.Close), nil
	}
}

func (a *app) initrdCmd() *cobra.Command {
	return a.makeCmd("initrd", "build only the initrd of a recipe",
		`initrd packs the agent as /init, the recipe's files, and u-root's commands where asked for, into a newc archive
whose bytes depend on nothing else.`, []string{builder.InitrdStep})
}

func (a *app) imageCmd() *cobra.Command {
	return a.makeCmd("image", "build only the disk image of a recipe",
		`image makes the disk of a recipe that has a rootfs: layers of packages, container images, folders and files
become a tree, the tree a file system (erofs or ext4), and that a disk with its partition table and dm-verity hash
tree. It needs no root, no loop device and no mkfs. Beside image.img lie the bill of materials and the root hash.
The image of a recipe with "extension: true" is no guest's root but one more read-only disk for "katabuild boot
--extension".`,
		[]string{builder.ImageStep})
}

func (a *app) rootfsCmd() *cobra.Command {
	return a.makeCmd("rootfs", "build only the root file system of a recipe, as a tar",
		`rootfs makes the tree that "katabuild image" makes a disk of, and leaves it as rootfs.tar, with owners, modes,
devices, attributes and links.`, []string{builder.RootfsStep})
}

func (a *app) makeCmd(name, short, long string, wanted []string) *cobra.Command {
	var f recipeFlags
	var out string
	example := "default"
	if name == builder.InitrdStep {
		example = "tiny" // the default guest boots from a disk
	}
	c := &cobra.Command{Use: name + " [RECIPE]", Args: cobra.MaximumNArgs(1), Short: short, Long: long,
		Example: fmt.Sprintf("  katabuild %s recipes/%s -o out/%[2]s\n  katabuild %[1]s recipes/%[2]s --arch "+
			"aarch64", name, example)}
	f.addBuild(c.Flags())
	var caches cacheFlags
	caches.add(c)
	c.Flags().StringVarP(&out, "output", "o", "", "folder for the files (default out/NAME, or out/NAME-ARCH for "+
		"another --arch than the recipe's)")
	onlyConfig := false
	if name == builder.KernelStep {
		c.Flags().BoolVar(&onlyConfig, "config-only", false, "make the kernel's configuration and nothing else")
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		began := time.Now()
		cfg, err := a.config(c.Context(), f, args)
		if err != nil {
			return err
		}
		if cfg.Others, err = caches.team(a.getenv, cfg); err != nil {
			return err
		}
		defer cfg.Others.Close()
		v, err := a.view()
		if err != nil {
			return err
		}
		cfg.Report = v.Event
		g, err := builder.Open(c.Context(), cfg)
		if err != nil {
			v.Close()
			return err
		}
		if out == "" {
			out = filepath.Join("out", g.Name())
		}
		if onlyConfig {
			conf, err := g.Configure(c.Context(), out)
			v.Close()
			if conf == nil {
				return err
			}
			for _, o := range g.Overrides() {
				fmt.Fprintln(a.out, o)
			}
			for _, s := range conf.GaveWay {
				fmt.Fprintf(a.out, "gave way: %s\n", s)
			}
			fmt.Fprintf(a.out, "%s", conf.Path)
			if conf.Release != "" {
				fmt.Fprintf(a.out, "\tof %s", conf.Release)
			}
			fmt.Fprintln(a.out)
			return err
		}
		b, err := g.Build(c.Context(), wanted, out)
		v.Close()
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		for _, file := range b.Files {
			fmt.Fprintf(w, "%s\t%s\t%.1f MB\n", filepath.Join(b.Dir, file.Path), file.Digest, float64(file.Size)/1e6)
		}
		if b.Manifest != "" {
			fmt.Fprintf(w, "%s\t%s\t\n", filepath.Join(b.Dir, "manifest.json"), b.Manifest)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(a.err, "%s in %.2fs\n", name, time.Since(began).Seconds())
		return nil
	}
	return c
}

func (a *app) featuresCmd() *cobra.Command {
	var architecture, version string
	c := &cobra.Command{
		Use: "features [NAME]", Args: cobra.MaximumNArgs(1),
		Short: "list the kernel features a recipe can ask for, or the symbols of one and why",
		Long: `Features lists what kernel.features of a recipe can name. With a name, it shows the feature's symbols and
the reason for each: those of this machine's architecture, or of --arch. What only some versions of Linux have
is shown with its condition; with --kernel, such as 6.12 or 6.12.117, what applies to that version is shown and
nothing else.`,
		RunE: func(_ *cobra.Command, args []string) error {
			of, err := arch.FromGo(runtime.GOARCH)
			if architecture != "" {
				of, err = arch.Parse(architecture)
			}
			if err != nil {
				return err
			}
			if version != "" {
				if err := builder.CheckKernelVersion(version); err != nil {
					return fmt.Errorf("--kernel: %w", err)
				}
			}
			all, err := builder.Features(of, version)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			if len(args) == 0 {
				for _, f := range all {
					fmt.Fprintf(w, "%s\t%s\n", f.Name, f.Purpose+nothing(f, of.Name, version))
				}
				return w.Flush()
			}
			at := slices.IndexFunc(all, func(f builder.Feature) bool { return f.Name == args[0] })
			if at < 0 {
				return fmt.Errorf("no kernel feature is called %q; `katabuild features` lists them", args[0])
			}
			f := all[at]
			fmt.Fprintf(w, "%s: %s\n", f.Name, f.Purpose+nothing(f, of.Name, version))
			if len(f.Requires) > 0 {
				fmt.Fprintf(w, "requires %s\n", strings.Join(f.Requires, ", "))
			}
			for _, s := range f.Symbols {
				when := ""
				if s.When != "" && version == "" {
					when = " [" + s.When + "]"
				}
				fmt.Fprintf(w, "%s\t%s\n", s.Setting, s.Reason+when)
			}
			return w.Flush()
		},
	}
	c.Flags().StringVar(&architecture, "arch", "", "architecture of the guest (default: this machine's)")
	c.Flags().StringVar(&version, "kernel", "", "version of Linux, such as 6.12; without it, symbols of all are shown")
	return c
}

// nothing says of a feature that it asks for nothing of its own where it does elsewhere.
func nothing(f builder.Feature, architecture, version string) string {
	if len(f.Symbols) > 0 || !f.Elsewhere {
		return ""
	}
	if version != "" {
		version = " with Linux " + version
	}
	return " (nothing on " + architecture + version + ")"
}
