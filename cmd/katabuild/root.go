package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/progress/view"
	"github.com/katabuild/katabuild/internal/usage"
)

// app is what every command shares: the streams, the environment and the global flags.
type app struct {
	out, err io.Writer
	getenv   func(string) string

	storeDir string
	progress string
}

// errVerdict ends a command whose verdict, already printed, is not what the user hopes for.
var errVerdict = errors.New("the verdict is not attested")

const long = `katabuild turns a recipe into a guest (kernel, initrd or disk) for the lightweight virtual machines
that containers run in, boots it, and checks that what came up is what was built.

The way of a guest:

  katabuild lock  recipes/default      pin every input by digest
  katabuild plan  recipes/default      see what is done and what is to do, and why
  katabuild build recipes/default      make out/default: kernel, disk, manifest.json
  katabuild boot  out/default          run it, ask it what it is, print the verdict
  katabuild verify out/default         check the files against the manifest

It needs no root, no Docker and no loop devices. "katabuild doctor" says what this host lacks.

Environment: KATABUILD_STORE (folder of the store, as --store), KATABUILD_AGENT (the agent, as --agent),
KATABUILD_ARCHIVE and KATABUILD_SNAPSHOT (addresses of Debian archives, as --archive and --snapshot).
Exit codes: 0 done, 1 error, 2 wrong usage, 3 the verdict is not attested, 130 interrupted.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "katabuild", Short: "build, boot and verify guests for lightweight virtual machines", Long: long,
		Version: version,
	}
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("katabuild {{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&a.storeDir, "store", "", "folder of the store (default $KATABUILD_STORE, or katabuild in the user's cache folder)")
	f.StringVar(&a.progress, "progress", view.Auto, "how to show progress: "+strings.Join(view.Styles(), ", "))
	root.AddGroup(&cobra.Group{ID: "build", Title: "Building:"}, &cobra.Group{ID: "run", Title: "Running and checking:"}, &cobra.Group{ID: "look", Title: "Looking inside:"}, &cobra.Group{ID: "keep", Title: "Upkeep:"})
	for _, c := range []*cobra.Command{a.lockCmd(), a.fetchCmd(), a.planCmd(), a.buildCmd(), a.kernelCmd(), a.initrdCmd(), a.imageCmd(), a.rootfsCmd(), a.featuresCmd()} {
		c.GroupID = "build"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.bootCmd(), a.verifyCmd()} {
		c.GroupID = "run"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.inspectCmd(), a.lsCmd(), a.catCmd(), a.extractCmd(), a.diffCmd(), a.explainCmd()} {
		c.GroupID = "look"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.storeCmd(), a.doctorCmd(), a.versionCmd()} {
		c.GroupID = "keep"
		root.AddCommand(c)
	}
	usage.Apply(root)
	return root
}

func (a *app) openStore() (*store.Store, error) {
	dir := a.storeDir
	if dir == "" {
		dir = a.getenv("KATABUILD_STORE")
	}
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no place for the store: %w; name one with --store", err)
		}
		dir = filepath.Join(cache, "katabuild")
	}
	return store.Open(dir)
}

// view starts the progress view on standard error.
func (a *app) view() (*view.View, error) {
	if !slices.Contains(view.Styles(), a.progress) {
		return nil, &usage.Error{Err: fmt.Errorf("--progress %q: want one of %s", a.progress, strings.Join(view.Styles(), ", "))}
	}
	o := view.Options{Style: a.progress}
	if f, ok := a.err.(*os.File); ok {
		if _, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && a.getenv("TERM") != "dumb" {
			o.Terminal = true
			o.Width = func() int {
				ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
				if err != nil || ws.Col == 0 {
					return 80
				}
				return int(ws.Col)
			}
		}
	}
	return view.New(a.err, o), nil
}

// recipeFlags are the flags of every command that reads a recipe.
type recipeFlags struct {
	lock, agent                string
	archive, keyring, snapshot string
	offline                    bool
	jobs                       int
}

func (f *recipeFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.lock, "lock", "", "path of the lock (default lock.json beside the recipe)")
	c.Flags().StringVar(&f.archive, "archive", "", "address of a Debian archive to reach without apt (default $KATABUILD_ARCHIVE, else apt and the host's own sources)")
	c.Flags().StringVar(&f.keyring, "archive-keyring", "", "with --archive: the file of keys that sign it (default that of the package debian-archive-keyring)")
	c.Flags().StringVar(&f.snapshot, "snapshot", "", "address of an archive of archives, for locked packages that mirrors have dropped (default $KATABUILD_SNAPSHOT)")
	c.Flags().StringVar(&f.agent, "agent", "", "the agent for recipes that say `builtin` (default $KATABUILD_AGENT, or the one beside katabuild)")
}

func (f *recipeFlags) addBuild(c *cobra.Command) {
	f.add(c)
	c.Flags().BoolVar(&f.offline, "offline", false, "never reach a network; what the store lacks is an error")
	c.Flags().IntVarP(&f.jobs, "jobs", "j", 0, "processes a step may run at once (default one a CPU); never changes the result")
}

// config makes the builder's Config for the recipe that the user named, or recipes/default.
func (a *app) config(f recipeFlags, args []string) (builder.Config, error) {
	arg := "recipes/default"
	if len(args) > 0 {
		arg = args[0]
	}
	path := recipe.Find(arg)
	if _, err := os.Stat(path); err != nil {
		return builder.Config{}, fmt.Errorf("recipe: %w; name a folder with a %s, or the file itself", err, recipe.FileName)
	}
	s, err := a.openStore()
	if err != nil {
		return builder.Config{}, err
	}
	return builder.Config{HTTPArchive: cmp.Or(f.archive, a.getenv("KATABUILD_ARCHIVE")), ArchiveKeyring: f.keyring, Snapshot: cmp.Or(f.snapshot, a.getenv("KATABUILD_SNAPSHOT")), Recipe: path, Lock: f.lock, Store: s, Agent: a.agentPath(f.agent), Offline: f.offline, Jobs: f.jobs, Now: time.Now,
		ToolFolders: filepath.SplitList(a.getenv("PATH")), Go: goTool(), GoEnv: os.Environ()}, nil
}

// agentPath is the agent the user names, or the one that came with this program.
func (a *app) agentPath(flag string) string {
	if flag != "" {
		return flag
	}
	if env := a.getenv("KATABUILD_AGENT"); env != "" {
		return env
	}
	return besideUs("kata-agent-x86_64")
}

// besideUs finds a file that was built or installed with this program.
func besideUs(name string) string {
	exe, err := os.Executable()
	if err != nil {
		return name
	}
	dir := filepath.Dir(exe)
	installed := filepath.Join(dir, "..", "lib", "katabuild", name)
	if _, err := os.Stat(installed); err == nil {
		return installed
	}
	return filepath.Join(dir, name)
}

// hintFor is a second line for people, for errors whose way out is not in the error itself.
func hintFor(err error) string {
	var f *execute.Failure
	if errors.As(err, &f) && f.Log != "" {
		return "everything it said is in " + f.Log
	}
	return ""
}

// goTool finds the Go tool-chain; only recipes with u-root commands need one.
func goTool() string {
	for _, g := range []string{"go", "/usr/local/go/bin/go"} {
		if p, err := exec.LookPath(g); err == nil {
			return p
		}
	}
	return ""
}
