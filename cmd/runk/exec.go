package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/agent/oci"
)

// words are what exec's flags say of a process.
type words struct {
	process, cwd, user, label, apparmor string
	env, caps                           []string
	groups                              []int
	tty, noNew                          bool
}

// exitExec is runc's exit code where exec starts no process.
const exitExec = 255

func (a *app) execCmd() *cobra.Command {
	var w words
	var how oci.Execution
	c := &cobra.Command{
		Use: "exec ID [COMMAND [ARGUMENT...]]", Args: cobra.MinimumNArgs(1),
		Short: "start another process in a container",
		Long: `exec starts a process in a container that runs. What flags do not say is as the container's first process
has it; --process has all of it in a file. Its exit code is the process's.`,
		Example: "  runk exec web1 ps",
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the id is the process's
	streams(f, &how.Streams)
	f.StringVarP(&w.process, "process", "p", "", "`file` with the process, as the specification has it")
	f.StringVar(&w.cwd, "cwd", "", "working `folder`")
	f.StringVarP(&w.user, "user", "u", "", "`UID[:GID]`")
	f.StringVar(&w.label, "process-label", "", "SELinux `label`")
	f.StringVar(&w.apparmor, "apparmor", "", "AppArmor `profile`")
	f.StringArrayVarP(&w.env, "env", "e", nil, "`NAME=VALUE` more in the environment; again for more")
	f.StringArrayVarP(&w.caps, "cap", "c", nil, "`CAPABILITY` more; again for more")
	f.IntSliceVarP(&w.groups, "additional-gids", "g", nil, "`GIDS` more")
	f.BoolVarP(&w.tty, "tty", "t", false, "give it a terminal")
	f.BoolVar(&w.noNew, "no-new-privs", false, "it gets no rights by executing programs")
	f.BoolVarP(&how.Detached, "detach", "d", false, "leave the process running")
	f.BoolVar(&how.EvenPaused, "ignore-paused", false, "also in a paused container")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		none := func(err error) error { return &exitCode{exitExec, err} }
		ct, err := a.runtime().Load(args[0])
		if err != nil {
			return none(err)
		}
		p, err := w.of(ct, args[1:])
		if err != nil {
			return none(err)
		}
		s, err := ct.Exec(cmd.Context(), p, how)
		if err != nil {
			return none(err)
		}
		if how.Detached {
			return nil
		}
		code, err := a.stay(cmd.Context(), s)
		if err != nil {
			return none(err)
		}
		return ended(code)
	}
	return c
}

// of is the process.
func (w *words) of(ct *oci.Container, args []string) (*specs.Process, error) {
	if w.process != "" {
		if len(args) > 0 {
			return nil, errors.New("--process has the command, and it is given, too")
		}
		b, err := os.ReadFile(w.process)
		if err != nil {
			return nil, fmt.Errorf("process: %w", err)
		}
		var p specs.Process
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, fmt.Errorf("process %s: %w", w.process, err)
		}
		return &p, nil
	}
	if len(args) == 0 {
		return nil, errors.New("no command: give one behind the id, or --process")
	}
	spec, err := ct.Spec()
	if err != nil {
		return nil, err
	}
	p := specs.Process{Cwd: "/"}
	if spec.Process != nil {
		p = *spec.Process
	}
	p.Args, p.Terminal = args, w.tty
	p.Env = append(p.Env, w.env...)
	p.NoNewPrivileges = p.NoNewPrivileges || w.noNew
	if w.cwd != "" {
		p.Cwd = w.cwd
	}
	if w.label != "" {
		p.SelinuxLabel = w.label
	}
	if w.apparmor != "" {
		p.ApparmorProfile = w.apparmor
	}
	if len(w.caps) > 0 {
		more := specs.LinuxCapabilities{}
		if p.Capabilities != nil {
			more = *p.Capabilities
		}
		more.Bounding, more.Effective = append(more.Bounding, w.caps...), append(more.Effective, w.caps...)
		more.Permitted, more.Ambient = append(more.Permitted, w.caps...), append(more.Ambient, w.caps...)
		p.Capabilities = &more
	}
	for _, g := range w.groups {
		if g < 0 {
			return nil, fmt.Errorf("group %d: not a number of one", g)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
	}
	if w.user != "" {
		if p.User.UID, p.User.GID, err = userOf(w.user, p.User.GID); err != nil {
			return nil, err
		}
	}
	return &p, nil
}

// userOf reads UID[:GID].
func userOf(s string, group uint32) (uid, gid uint32, err error) {
	u, g, both := strings.Cut(s, ":")
	n, err := strconv.ParseUint(u, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("user %q: want UID[:GID]", s)
	}
	if !both {
		return uint32(n), group, nil
	}
	m, err := strconv.ParseUint(g, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("user %q: want UID[:GID]", s)
	}
	return uint32(n), uint32(m), nil
}
