package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/oci"
)

// streams are flags of the commands that start a process.
func streams(f *pflag.FlagSet, s *oci.Streams) {
	s.Files = [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	f.StringVar(&s.Console, "console-socket", "", "`path` of a UNIX socket that gets the master of the terminal")
	f.StringVar(&s.PidFile, "pid-file", "", "`file` to write the process's number to")
	f.IntVar(&s.Keep, "preserve-fds", 0, "`N`umber of files from 3 on that the process gets")
}

// creation are flags of create and run.
func creation(f *pflag.FlagSet, how *oci.Creation) {
	streams(f, &how.Streams)
	f.StringVarP(&how.Bundle, "bundle", "b", ".", "`folder` with config.json")
	f.BoolVar(&how.NoPivot, "no-pivot", false, "do without pivot_root, for a root that is an initramfs")
	f.Bool("no-new-keyring", false, "accepted, as callers of runc set it: the keyring is new")
	f.Bool("no-subreaper", false, "accepted, as callers of runc set it: processes that lose their parent are collected")
}

func (a *app) createCmd() *cobra.Command {
	var how oci.Creation
	c := &cobra.Command{
		Use: "create ID", Args: cobra.ExactArgs(1), Short: "make a container whose process waits for start",
		Long: `create makes a container of a bundle: a folder with config.json and, as that says, a root file system.
Its process is there when create ends, and waits for start.`,
		Example: "  runk create --bundle web web1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.systemd {
				return errSystemd
			}
			return a.runtime().Create(cmd.Context(), args[0], how)
		},
	}
	creation(c.Flags(), &how)
	return c
}

func (a *app) runCmd() *cobra.Command {
	var how oci.Creation
	var keep bool
	c := &cobra.Command{
		Use: "run ID", Args: cobra.ExactArgs(1), Short: "create, start, wait and delete",
		Long: `run makes a container, starts it, waits for its end and takes it away. Its exit code is the process's, or
128 and the signal that ended it. With --detach it leaves a container that runs.`,
		Example: "  runk run --bundle web web1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.systemd {
				return errSystemd
			}
			ctx := cmd.Context()
			ct, s, err := a.runtime().Run(ctx, args[0], how)
			if err != nil || how.Detached {
				return err
			}
			code, err := a.stay(ctx, s)
			if !keep {
				err = errors.Join(err, ct.Delete(ctx, true))
			}
			if err != nil {
				return err
			}
			return ended(code)
		},
	}
	creation(c.Flags(), &how)
	c.Flags().BoolVarP(&how.Detached, "detach", "d", false, "leave the container running")
	c.Flags().BoolVar(&keep, "keep", false, "leave the container's state when its process has ended")
	return c
}

// ended is the error that makes this program end as a process did.
func ended(code int) error {
	if code == 0 {
		return nil
	}
	return &exitCode{code: code}
}

func (a *app) startCmd() *cobra.Command {
	return a.one(&cobra.Command{Use: "start ID", Short: "start what create made",
		Long:    "start lets the program of a container begin that create has made.",
		Example: "  runk start web1",
	}, func(ctx context.Context, ct *oci.Container) error { return ct.Start(ctx) })
}

// number is a signal: KILL, SIGKILL or 9.
func number(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	if n := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q: want a name like TERM, or a number", s)
}

func (a *app) killCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "kill ID [SIGNAL]", Args: cobra.RangeArgs(1, 2), Short: "send a signal, TERM without one",
		Long: `kill sends a signal to a container's first process, or to all that are in it. Where containers share
processes with others, KILL is always for all.`,
		Example: "  runk kill web1 KILL",
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "to every process in the container, also if the first one has ended")
	c.RunE = func(_ *cobra.Command, args []string) error {
		sig := unix.SIGTERM
		if len(args) > 1 {
			var err error
			if sig, err = number(args[1]); err != nil {
				return err
			}
		}
		ct, err := a.runtime().Load(args[0])
		if err != nil {
			return err
		}
		if all {
			return ct.KillAll(sig)
		}
		return ct.Kill(sig)
	}
	return c
}

func (a *app) deleteCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "delete ID", Args: cobra.ExactArgs(1), Short: "take a container away that has stopped",
		Long: `delete takes away what is left of a container that has stopped, or was never started. With --force it
ends one that runs, and is content when there is none.`,
		Example: "  runk delete --force web1",
		RunE: func(cmd *cobra.Command, args []string) error {
			ct, err := a.runtime().Load(args[0])
			if force && errors.Is(err, oci.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			return ct.Delete(cmd.Context(), force)
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "kill what runs")
	return c
}

func (a *app) pauseCmd() *cobra.Command {
	return a.one(&cobra.Command{Use: "pause ID", Short: "stop every process where it is",
		Long: "pause freezes the control group of a container.", Example: "  runk pause web1",
	}, func(ctx context.Context, ct *oci.Container) error { return ct.Pause(ctx) })
}

func (a *app) resumeCmd() *cobra.Command {
	return a.one(&cobra.Command{Use: "resume ID", Short: "let paused processes go on",
		Long: "resume thaws the control group of a container.", Example: "  runk resume web1",
	}, func(ctx context.Context, ct *oci.Container) error { return ct.Resume(ctx) })
}
