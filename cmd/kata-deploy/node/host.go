package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// host is the host whose root file system is mounted in a folder.
type host struct{ root string }

// has says whether something is there; what symbolic links lead out of the folder is not.
func (h host) has(p string) bool {
	r, err := os.OpenRoot(h.root)
	if err != nil {
		return false
	}
	defer r.Close()
	_, err = r.Stat(strings.TrimPrefix(p, "/"))
	return err == nil
}

// file is the first of some files that is there, as this container names it; empty for none.
func (h host) file(paths ...string) string {
	for _, p := range paths {
		if h.has(p) {
			return filepath.Join(h.root, p)
		}
	}
	return ""
}

// opens says what keeps this container from opening a file of the host.
func (h host) opens(p string) error {
	f, err := os.Open(filepath.Join(h.root, p))
	if err != nil {
		return err
	}
	return f.Close()
}

// maxSaid is how much of what a program says is kept, in bytes.
const maxSaid = 64 << 10

// limited keeps the beginning of what is written.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), maxSaid-l.Len())])
	return len(p), nil
}

// patience is how long a program of the host may take: a restart of k3s takes a minute.
const patience = 5 * time.Minute

// run runs a program of the host in its root file system, and returns what it says.
func (h host) run(ctx context.Context, argv ...string) (string, error) {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.WaitDelay = "/", 5*time.Second
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	if path.Clean(h.root) != "/" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: h.root}
	}
	var said limited
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	text := strings.TrimSpace(said.String())
	if err == nil {
		return text, nil
	}
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	return text, fmt.Errorf("%s on the host: %w", strings.Join(argv, " "), err)
}

// systemctl is where hosts have it; the last is NixOS.
var systemctl = []string{"/usr/bin/systemctl", "/bin/systemctl", "/run/current-system/sw/bin/systemctl"}

// systemd is the program that asks the host's systemd; empty where none runs. sd_booted(3).
func (h host) systemd() string {
	if !h.has("/run/systemd/system") {
		return ""
	}
	for _, p := range systemctl {
		if h.has(p) {
			return p
		}
	}
	return ""
}

// authorities are the certificates that the host believes, by which its containerd takes images, too. The names are
// those that Go looks for on Linux.
func (h host) authorities() []string {
	f := h.file("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem")
	if f == "" {
		return nil
	}
	return []string{f}
}
