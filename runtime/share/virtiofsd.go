package share

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/katabuild/katabuild/runtime/child"
)

// Programs are where distributions put virtiofsd, first choice first.
var Programs = []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/qemu/virtiofsd", "/usr/bin/virtiofsd"}

// FindProgram is the first of Programs that exists.
func FindProgram() (string, error) {
	for _, p := range Programs {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", &child.MissingError{Program: "virtiofsd"}
}

// Daemon is a virtiofsd that serves one folder to one QEMU.
type Daemon struct {
	*child.Process
	socket string
}

// DaemonConfig is how to start one.
type DaemonConfig struct {
	Program string // an absolute path; empty is FindProgram's
	Dir     string // what is served
	Socket  string // QEMU connects here; removed by Stop
	Cache   string // never (none), auto or always; empty is auto
	Extra   []string
}

// helpTime bounds asking a virtiofsd which of the two it is.
const helpTime = 5 * time.Second

// StartDaemon starts a virtiofsd. There are two, QEMU's in C, until QEMU 7.2, and its successor in Rust, and their options differ.
func StartDaemon(ctx context.Context, c DaemonConfig) (*Daemon, error) {
	if c.Program == "" {
		p, err := FindProgram()
		if err != nil {
			return nil, err
		}
		c.Program = p
	}
	ctx, cancel := context.WithTimeout(ctx, helpTime)
	defer cancel()
	// Either prints its help and succeeds; what it prints tells which it is.
	help, err := exec.CommandContext(ctx, c.Program, "--help").CombinedOutput()
	if errors.Is(err, os.ErrNotExist) {
		return nil, &child.MissingError{Program: c.Program}
	}
	if err != nil && len(help) == 0 {
		return nil, fmt.Errorf("%s --help: %w", c.Program, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.Socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket for virtiofsd: %w", err)
	}
	l.SetUnlinkOnClose(false) // virtiofsd accepts on it
	f, err := l.File()
	if err := errors.Join(err, l.Close()); err != nil {
		return nil, fmt.Errorf("socket for virtiofsd: %w", err)
	}
	defer f.Close()
	p, err := child.Start("virtiofsd", c.argv(strings.Contains(string(help), "--shared-dir")), []*os.File{f})
	if err != nil {
		return nil, errors.Join(err, os.Remove(c.Socket))
	}
	return &Daemon{Process: p, socket: c.Socket}, nil
}

// argv is the command line. The socket is inherited as descriptor 3.
func (c DaemonConfig) argv(rust bool) []string {
	cache := c.Cache
	if cache == "" {
		cache = "auto"
	}
	if rust {
		if cache == "none" {
			cache = "never"
		}
		// The guest must see file capabilities and user attributes, and every mount as one of its own: inode numbers are unique then.
		return append([]string{c.Program, "--fd=3", "--shared-dir=" + c.Dir, "--cache=" + cache, "--announce-submounts", "--xattr"}, c.Extra...)
	}
	if cache == "never" {
		cache = "none"
	}
	argv := []string{c.Program, "--fd=3", "-f", "-o", "source=" + c.Dir, "-o", "cache=" + cache, "-o", "announce_submounts", "-o", "xattr"}
	return append(argv, c.Extra...)
}

// Stop ends it. Calling it again is a no-op.
func (d *Daemon) Stop(ctx context.Context) error {
	err := d.Process.Stop(ctx, nil)
	if e := os.Remove(d.socket); e != nil && !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}
