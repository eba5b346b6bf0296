package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/releases/install"
)

func (a *app) debugCmd() *cobra.Command {
	var host string
	o := install.Defaults()
	c := &cobra.Command{
		Use: "debug [-- ARGUMENT...]", Short: "write the report of kata-runtime debug on this node",
		Long: `debug runs "kata-runtime debug --output-file -" in the node's own root file system, with the ARGUMENTs
behind it. It is for "kubectl debug node", in a container of this image: what was installed on the node writes the
report, so that the container needs no tools.`,
		Example: `  kata-deploy debug > report.tar.zst
  kata-deploy debug -- --since -10min > report.tar.zst`,
	}
	f := c.Flags()
	f.StringVar(&host, "host", "/host", "`folder` where the host's root file system is mounted")
	f.StringVar(&o.Suffix, "suffix", "", "that of the installation")
	f.StringVar(&o.Bin, "bin", o.Bin, "`folder` of the host where containerd looks for the shim")
	c.RunE = func(c *cobra.Command, args []string) error {
		program := o.RuntimePath()
		if _, err := os.Lstat(filepath.Join(host, program)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the runtime is not installed on this node: there is no %s in %s; --host, --bin and "+
				"--suffix say where to look", program, host)
		}
		cmd := exec.CommandContext(c.Context(), program, append([]string{"debug", "--output-file", "-"}, args...)...)
		cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: host}
		cmd.Stdout, cmd.Stderr = a.out, a.err
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("kata-runtime debug on the node: %w", err)
		}
		return nil
	}
	return c
}
