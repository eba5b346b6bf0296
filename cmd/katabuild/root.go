package main

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/inputs"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/cmd/katabuild/doctor"
	"github.com/katabuild/katabuild/cmd/katabuild/look"
	"github.com/katabuild/katabuild/cmd/katabuild/release"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/manpage"
	"github.com/katabuild/katabuild/internal/progress/view"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/releases/install"
)

// app is what every command shares: the streams, the environment and the global flags.
type app struct {
	out, err io.Writer
	getenv   func(string) string

	storeDir    string
	storeShared bool
	progress    string
	// unused lets a gc go on once the command no longer uses the store; nil before it does.
	unused func()
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

Environment: KATABUILD_STORE (folder of the store, as --store), KATABUILD_STORE_SHARED (1 as --store-shared),
KATABUILD_STORE_KEY (file of the key that signs the store's records; "katabuild help store" says more),
KATABUILD_AGENT (the agent, as --agent), KATABUILD_ARCHIVE and KATABUILD_SNAPSHOT (addresses of Debian archives, as
--archive and --snapshot), KATABUILD_CACHE_FROM, KATABUILD_CACHE_TO and KATABUILD_CACHE_HEADERS (caches on other
machines, as --cache-from, --cache-to and --cache-headers of build).
Exit codes: 0 done, 1 error, 2 wrong usage, 3 the verdict is failed, diff found a difference or a release
is refused, 130 interrupted.`

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
	f.StringVar(&a.storeDir, "store", "", "folder of the store (default $KATABUILD_STORE, or katabuild in the "+
		"user's cache folder)")
	f.BoolVar(&a.storeShared, "store-shared", false,
		"allow a store that other users own or may write to (default $KATABUILD_STORE_SHARED=1)")
	f.StringVar(&a.progress, "progress", view.Auto, "how to show progress: "+strings.Join(view.Styles(), ", "))
	root.AddGroup(&cobra.Group{ID: "build", Title: "Building:"},
		&cobra.Group{ID: "run", Title: "Running and checking:"}, &cobra.Group{ID: "look", Title: "Looking inside:"},
		&cobra.Group{ID: "release", Title: "Releasing:"}, &cobra.Group{ID: "keep", Title: "Upkeep:"})
	for _, c := range []*cobra.Command{a.lockCmd(), a.fetchCmd(), a.planCmd(), a.buildCmd(), a.kernelCmd(),
		a.initrdCmd(), a.imageCmd(), a.rootfsCmd(), a.featuresCmd()} {
		c.GroupID = "build"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.bootCmd(), a.verifyCmd()} {
		c.GroupID = "run"
		root.AddCommand(c)
	}
	for _, c := range look.Commands(a.out, a.err, errVerdict) {
		c.GroupID = "look"
		root.AddCommand(c)
	}
	for _, c := range a.releases().Commands() {
		c.GroupID = "release"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.storeCmd(), a.doctor().Command(), a.versionCmd()} {
		c.GroupID = "keep"
		root.AddCommand(c)
	}
	root.AddCommand(manpage.Command(root))
	usage.Apply(root)
	return root
}

func (a *app) doctor() *doctor.Host {
	return &doctor.Host{Out: a.out, Getenv: a.getenv, Agent: func(of arch.Arch) string { return a.agentPath("", of) },
		Store: func() (string, error) {
			s, err := a.openStore()
			if err != nil {
				return "", err
			}
			return s.Dir(), nil
		}}
}

// releases are the commands of package release.
func (a *app) releases() *release.Host {
	h := &release.Host{Out: a.out, Err: a.err, Version: version, Commit: commit, Getenv: a.getenv,
		Terminal: a.terminal(), Now: time.Now, Registries: func(fl *pflag.FlagSet) func() (registry.Access, error) {
			var f registryFlags
			f.add(fl)
			return func() (registry.Access, error) { return f.access(a.getenv) }
		},
		Store: a.openStore, Installed: filepath.Join(install.DefaultPrefix, "releases"),
		HostKey: func() (crypto.Signer, error) {
			k, err := a.storeKey()
			return k.Signer(), err
		}}
	if c, err := os.UserConfigDir(); err == nil {
		h.Policies = append(h.Policies, filepath.Join(c, "katabuild", "release-policy.yaml"))
	}
	h.Policies = append(h.Policies, "/etc/katabuild/release-policy.yaml")
	return h
}

// storeKey is the key that signs the store's records.
func (a *app) storeKey() (store.Key, error) {
	dir, err := a.storeFolder()
	if err != nil {
		return store.Key{}, err
	}
	file, _ := a.keyFiles(dir)
	return store.ReadKey(file)
}

// keyName is the file of the key that signs a store's records, and trustedName the one of further writers that are
// believed.
const (
	keyName     = "store.key"
	trustedName = "store.trusted"
)

// keyFiles are the file of the user's key, and the list of other writers that the user trusts. Where the user has no
// folder for configuration, they lie in the store.
func (a *app) keyFiles(dir string) (key, trusted string) {
	if k := a.getenv("KATABUILD_STORE_KEY"); k != "" {
		return k, k + ".trusted"
	}
	if c, err := os.UserConfigDir(); err == nil {
		c = filepath.Join(c, "katabuild")
		if os.MkdirAll(c, 0o700) == nil {
			return filepath.Join(c, keyName), filepath.Join(c, trustedName)
		}
	}
	return filepath.Join(dir, keyName), filepath.Join(dir, trustedName)
}

// storeFolder is the store that the user names, or the one in the user's cache folder.
func (a *app) storeFolder() (string, error) {
	dir := a.storeDir
	if dir == "" {
		dir = a.getenv("KATABUILD_STORE")
	}
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no place for the store: %w; name one with --store", err)
		}
		dir = filepath.Join(cache, "katabuild")
	}
	return dir, nil
}

func (a *app) openStore() (*store.Store, error) {
	dir, err := a.storeFolder()
	if err != nil {
		return nil, err
	}
	o := store.Options{Shared: a.storeShared || a.getenv("KATABUILD_STORE_SHARED") == "1"}
	key, trusted := a.keyFiles(dir)
	if filepath.Dir(key) == filepath.Clean(dir) {
		// The store must be made, and be found private, before a key can lie in it.
		if _, err := store.Open(dir, o); err != nil {
			return nil, err
		}
	}
	if o.Key, err = store.ReadKey(key); err != nil {
		return nil, err
	}
	if o.Trusted, err = store.ReadTrusted(trusted); err != nil {
		return nil, err
	}
	return store.Open(dir, o)
}

// useStore opens the store for a command that builds: a gc waits until the process ends.
func (a *app) useStore(ctx context.Context) (*store.Store, error) {
	s, err := a.openStore()
	if err != nil {
		return nil, err
	}
	a.unused, err = s.Use(ctx)
	return s, err
}

// terminal says whether standard error is one that shows progress.
func (a *app) terminal() bool {
	f, ok := a.err.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil && a.getenv("TERM") != "dumb"
}

// view starts the progress view on standard error.
func (a *app) view() (*view.View, error) {
	if !slices.Contains(view.Styles(), a.progress) {
		return nil, &usage.Error{Err: fmt.Errorf("--progress %q: want one of %s", a.progress,
			strings.Join(view.Styles(), ", "))}
	}
	o := view.Options{Style: a.progress}
	if f, ok := a.err.(*os.File); ok {
		if a.terminal() {
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
	arch, toolchain            string
	archive, keyring, snapshot string
	security                   string
	registry                   registryFlags
	sources                    string
	offline                    bool
	jobs                       int
	noObjects                  bool
}

// registryFlags say how registries of container images are reached.
type registryFlags struct{ auth, authorities, mirrors, insecure []string }

func (f *registryFlags) add(fl *pflag.FlagSet) {
	fl.StringArrayVar(&f.auth, "registry-auth", nil,
		"`file` of credentials for registries, asked before docker's and podman's own (repeatable)")
	fl.StringArrayVar(&f.authorities, "registry-ca", nil,
		"`file` of certificate authorities to believe beside the host's, in PEM form (repeatable)")
	fl.StringArrayVar(&f.mirrors, "registry-mirror", nil,
		"`HOST=PLACE`: ask PLACE, HOST[:PORT][/PREFIX], before the registry HOST (repeatable)")
	fl.StringArrayVar(&f.insecure, "registry-insecure", nil,
		"registry, `HOST[:PORT]`, that may be reached by plain HTTP or with any certificate (repeatable)")
}

// access is what the flags say, with the places where docker's and podman's logins and certificates are.
func (f *registryFlags) access(getenv func(string) string) (registry.Access, error) {
	a := registry.Access{Authorities: f.authorities, Insecure: f.insecure, Mirrors: map[string][]string{}}
	for _, m := range f.mirrors {
		host, place, ok := strings.Cut(m, "=")
		if !ok || host == "" || place == "" || strings.Contains(place, "://") {
			return a, &usage.Error{Err: fmt.Errorf(
				"--registry-mirror %q: want HOST=PLACE, such as docker.io=mirror.example:5000/hub", m)}
		}
		if host == "docker.io" {
			host = "index.docker.io" // by which references name it
		}
		a.Mirrors[host] = append(a.Mirrors[host], place)
	}
	a.AuthFiles = append(a.AuthFiles, f.auth...)
	a.CertFolders = []string{"/etc/containers/certs.d", "/etc/docker/certs.d"}
	// containers-auth.json(5), and docker login.
	add := func(env string, path ...string) {
		if env != "" {
			a.AuthFiles = append(a.AuthFiles, filepath.Join(append([]string{env}, path...)...))
		}
	}
	add(getenv("REGISTRY_AUTH_FILE"))
	add(getenv("DOCKER_CONFIG"), "config.json")
	add(getenv("XDG_RUNTIME_DIR"), "containers", "auth.json")
	add(fmt.Sprintf("/run/containers/%d/auth.json", os.Geteuid()))
	if c, err := os.UserConfigDir(); err == nil {
		add(c, "containers", "auth.json")
		a.CertFolders = append([]string{filepath.Join(c, "containers", "certs.d")}, a.CertFolders...)
	}
	if h, err := os.UserHomeDir(); err == nil {
		add(h, ".docker", "config.json")
	}
	return a, nil
}

func (f *recipeFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.arch, "arch", "", "architecture of the guest: "+strings.Join(arch.Names(arch.All()), ", ")+
		" (default the recipe's own, which is x86_64 where it says none)")
	fl.StringVar(&f.toolchain, "toolchain", "", "what the kernel is built with: "+
		"debian (gcc of locked packages), llvm (clang, likewise) or host (what is installed here) (default the "+
		"recipe's, which is debian where it says none)")
	fl.StringVar(&f.lock, "lock", "", "path of the lock (default lock.json beside the recipe; lock-ARCH.json for "+
		"another --arch than the recipe's)")
	fl.StringVar(&f.archive, "archive", "",
		"address of a Debian archive to reach without apt (default $KATABUILD_ARCHIVE, else apt and the host's own "+
			"sources)")
	fl.StringVar(&f.security, "security-archive", "",
		"with --archive: address of its security updates (default debian-security beside it)")
	fl.StringVar(&f.keyring, "archive-keyring", "",
		"with --archive: the file of keys that sign it (default that of the package debian-archive-keyring)")
	fl.StringVar(&f.snapshot, "snapshot", "",
		"address of an archive of archives, for locked packages that mirrors have dropped (default "+
			"$KATABUILD_SNAPSHOT)")
	f.registry.add(fl)
	fl.StringVar(&f.agent, "agent", "", "the agent, a `file`, for recipes that say builtin "+
		"(default $KATABUILD_AGENT, or the one beside katabuild)")
}

// addSources adds the flag of commands that bring inputs.
func (f *recipeFlags) addSources(fl *pflag.FlagSet) {
	fl.StringVar(&f.sources, "sources", "", "`place` of a release that has the sources of its guests, or a folder "+
		"like its own, to ask for inputs before anybody else")
}

// addBuild adds the flags of a command that builds.
func (f *recipeFlags) addBuild(fl *pflag.FlagSet) {
	f.add(fl)
	f.addSources(fl)
	fl.BoolVar(&f.offline, "offline", false, "never reach a network; what the store lacks is an error")
	fl.IntVarP(&f.jobs, "jobs", "j", 0, "processes a step may run at once (default one a CPU); never changes "+
		"the result")
	fl.BoolVar(&f.noObjects, "no-object-cache", false, "compile everything anew; the result is the same")
}

// config makes the builder's Config for the recipe that the user named, or recipes/default.
func (a *app) config(ctx context.Context, f recipeFlags, args []string) (inputs.Config, error) {
	arg := "recipes/default"
	if len(args) > 0 {
		arg = args[0]
	}
	path := recipe.Find(arg)
	if _, err := os.Stat(path); err != nil {
		return inputs.Config{}, fmt.Errorf("recipe: %w; name a folder with a %s, or the file itself", err,
			recipe.FileName)
	}
	archive := cmp.Or(f.archive, a.getenv("KATABUILD_ARCHIVE"))
	for flag, value := range map[string]string{"archive-keyring": f.keyring, "security-archive": f.security} {
		if value != "" && archive == "" {
			return inputs.Config{}, &usage.Error{Err: fmt.Errorf("--%s goes with --archive, or KATABUILD_ARCHIVE",
				flag)}
		}
	}
	access, err := f.registry.access(a.getenv)
	if err != nil {
		return inputs.Config{}, err
	}
	s, err := a.useStore(ctx)
	if err != nil {
		return inputs.Config{}, err
	}
	var mirror fetch.Mirror
	if f.sources != "" {
		if f.offline {
			return inputs.Config{}, &usage.Error{Err: errors.New("--sources does not go with --offline, which " +
				"brings nothing")}
		}
		if mirror, err = release.Sources(ctx, f.sources, access); err != nil {
			return inputs.Config{}, fmt.Errorf("--sources: %w", err)
		}
	}
	cc := besideUs("katabuild-cc")
	if f.noObjects {
		cc = ""
	}
	return inputs.Config{
		CC: cc, Mirror: mirror,
		Recipe: path, Lock: f.lock, Store: s, Arch: f.arch, Toolchain: f.toolchain,
		Agent:     func(of arch.Arch) string { return a.agentPath(f.agent, of) },
		RegoAgent: func(of arch.Arch) string { return besideUs("kata-agent-rego-" + of.Name) },
		Offline:   f.offline, Jobs: f.jobs, Now: time.Now,
		HTTPArchive: archive, SecurityArchive: f.security,
		ArchiveKeyring: f.keyring,
		Snapshot:       cmp.Or(f.snapshot, a.getenv("KATABUILD_SNAPSHOT")), Registries: access,
		ToolFolders: filepath.SplitList(a.getenv("PATH")), Go: goTool(), Env: os.Environ(),
	}, nil
}

// agentPath is the agent the user names, or the one that came with this program.
func (a *app) agentPath(flag string, of arch.Arch) string {
	if flag != "" {
		return flag
	}
	if env := a.getenv("KATABUILD_AGENT"); env != "" {
		return env
	}
	return besideUs("kata-agent-" + of.Name)
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

// goTool finds the Go tool-chain; only recipes with u-root commands need one.
func goTool() string {
	for _, g := range []string{"go", "/usr/local/go/bin/go"} {
		if p, err := exec.LookPath(g); err == nil {
			return p
		}
	}
	return ""
}
