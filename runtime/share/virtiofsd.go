package share

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/katabuild/katabuild/runtime/child"
)

// Daemon is a virtiofsd that serves one folder to one QEMU.
type Daemon struct {
	*child.Process
	socket string
}

// DaemonConfig is how to start one.
type DaemonConfig struct {
	Program Program
	Dir     string // what is served
	Socket  string // QEMU connects here; removed by Stop
	Cache   string // never (none), auto or always; empty is auto
	Extra   []string
}

// StartDaemon starts a virtiofsd.
func StartDaemon(c DaemonConfig) (*Daemon, error) {
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
	p, err := child.Start("virtiofsd", c.argv(), []*os.File{f})
	if err != nil {
		return nil, errors.Join(err, os.Remove(c.Socket))
	}
	return &Daemon{Process: p, socket: c.Socket}, nil
}

// argv is the command line. The socket is inherited as descriptor 3. The guest must see file capabilities and user
// attributes, and every mount as one of its own: inode numbers are unique then. With access control lists it is the
// guest that applies them, and folders' default ones instead of the umask.
func (c DaemonConfig) argv() []string {
	cache := c.Cache
	if cache == "" {
		cache = "auto"
	}
	if c.Program.Rust {
		if cache == "none" {
			cache = "never"
		}
		argv := []string{c.Program.Path, "--fd=3", "--shared-dir=" + c.Dir, "--cache=" + cache,
			"--announce-submounts", "--xattr"}
		if c.Program.ACLs {
			argv = append(argv, "--posix-acl")
		}
		if cache == "never" && c.Program.KillPriv {
			// Without a memory of the file's content the guest leaves it to the daemon to clear set-id bits when
			// somebody writes.
			argv = append(argv, "--killpriv-v2")
		}
		return append(argv, c.Extra...)
	}
	if cache == "never" {
		cache = "none"
	}
	argv := []string{c.Program.Path, "--fd=3", "-f", "-o", "source=" + c.Dir, "-o", "cache=" + cache, "-o",
		"announce_submounts", "-o", "xattr"}
	if c.Program.ACLs {
		argv = append(argv, "-o", "posix_acl")
	}
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
