package main

import (
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/manpage"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/record"
)

// app is what every command shares: the streams, the environment and the global flags.
type app struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string

	configFile string
	suffix     string // of the installation that this program is of
	showPaths  bool
	dirs       record.Dirs
}

const long = `kata-runtime shows how the runtime makes the virtual machine that a pod runs in, whether this host
can, and how the pods that run are doing.

Its configuration, configuration.toml, has the names, sections, search order, drop-ins and annotations of Kata
Containers, so that a configuration of Kata's can be used here. What has no effect here is said.

Environment: KATA_CONF_FILE (one of the default paths; as in Kata, no other).
Exit codes: 0 done, 1 error, 2 wrong usage; exec with a command: the command's own.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "kata-runtime", Short: "show how the runtime is configured, and how its pods are", Long: long,
		Version: version,
	}
	root.RunE = func(c *cobra.Command, _ []string) error {
		if a.showPaths {
			_, err := fmt.Fprintln(a.out, strings.Join(config.Paths(), "\n"))
			return err
		}
		return c.Help()
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("kata-runtime {{.Version}}\n")
	root.Flags().BoolVar(&a.showPaths, "show-default-config-paths", false,
		"print where the configuration is looked for, and end")
	f := root.PersistentFlags()
	f.StringVar(&a.configFile, "config", "", "the configuration (default: the first of --show-default-config-paths)")
	f.StringVar(&a.configFile, "kata-config", "", "the same as --config, by Kata's other name")
	f.StringVar(&a.dirs.State, "root", record.DefaultState, "`folder` of the pods' records and sockets")
	root.AddCommand(a.checkCmd(), a.configCmd(), a.cpCmd(), a.debugCmd(), a.directVolumeCmd(), a.envCmd(), a.execCmd(),
		a.factoryCmd(), a.installCmd(), a.iptablesCmd(), a.logsCmd(), a.metricsCmd(), a.monitorCmd(), a.policyCmd(),
		a.rollbackCmd(), a.stateCmd(), a.traceCmd(), a.traceForwardCmd(), a.uninstallCmd(), a.upgradeCmd(),
		a.verifyInstallCmd(), a.versionCmd())
	root.AddCommand(manpage.Command(root))
	usage.Apply(root)
	return root
}

// load reads the configuration of a pod without annotations.
func (a *app) load() (*config.Loaded, error) {
	return config.Load(config.Options{Path: a.configFile, Environment: a.getenv("KATA_CONF_FILE"), Suffix: a.suffix})
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Args: cobra.NoArgs, Short: "print the version",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.out, "kata-runtime %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS,
				runtime.GOARCH)
			return err
		},
	}
}
