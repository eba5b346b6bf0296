// Package daemon starts a containerd with folders and sockets of its own, and ends it.
package daemon

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

// version2 is the containerd 2 that is built from its Go module. The distribution brings the other.
const version2 = "2.4.2"

// Release is one containerd.
type Release struct {
	Name string // "1.6" or "2"
	Dir  string // where containerd, ctr and containerd-shim-runc-v2 are
}

// Two says whether this is containerd 2.
func (r Release) Two() bool { return r.Name == "2" }

// Distribution is the containerd that the distribution installed in dir. It must be a 1.6.
func Distribution(ctx context.Context, dir string) (Release, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "containerd"), "--version").Output()
	if err != nil {
		return Release{}, fmt.Errorf("%s/containerd --version: %w", dir, err)
	}
	if f := strings.Fields(string(out)); len(f) < 3 || !strings.HasPrefix(strings.TrimPrefix(f[2], "v"), "1.6.") {
		return Release{}, fmt.Errorf("%s/containerd is %q, want 1.6", dir, strings.TrimSpace(string(out)))
	}
	return Release{Name: "1.6", Dir: dir}, nil
}

// What containerd 2 is built from, and its checksum as a go.sum has it. What it needs in turn is checked against Go's
// checksum database.
const (
	module    = "github.com/containerd/containerd/v2"
	moduleSum = "h1:p6Qg+xbEz8lvwdhHDx0U469xENvp4LgGBx+E7djXkGw="
)

// check says whether a program is there and was built from Version2.
func check(program string) error {
	b, err := buildinfo.ReadFile(program)
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	if b.Main.Path != module || b.Main.Version != "v"+version2 || b.Main.Sum != moduleSum {
		return fmt.Errorf("%s was built from %s %s %s, want v%s %s", program, b.Main.Path, b.Main.Version, b.Main.Sum,
			version2, moduleSum)
	}
	return nil
}

// Built is containerd Version2 in a folder below cache, built there with Go where it is missing or is not what it
// should be, for which a network is needed. It takes a minute or three, once.
func Built(ctx context.Context, cache string) (Release, error) {
	r := Release{Name: "2", Dir: filepath.Join(cache, "containerd-"+version2)}
	programs := []string{"containerd", "ctr", "containerd-shim-runc-v2"}
	if !slices.ContainsFunc(programs, func(p string) bool { return check(filepath.Join(r.Dir, p)) != nil }) {
		return r, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return r, err
	}
	t, err := os.MkdirTemp(cache, "building-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(t)
	args := []string{"install", "-trimpath", "-ldflags=-s -w"}
	for _, p := range programs {
		args = append(args, module+"/cmd/"+p+"@v"+version2)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = t // outside of any module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOTOOLCHAIN=local", "GOFLAGS=", "GOBIN="+t)
	if out, err := cmd.CombinedOutput(); err != nil {
		return r, fmt.Errorf("build containerd %s: %w: %s", version2, err, out)
	}
	for _, p := range programs {
		if err := check(filepath.Join(t, p)); err != nil {
			return r, err
		}
	}
	if err := os.RemoveAll(r.Dir); err != nil {
		return r, err
	}
	return r, os.Rename(t, r.Dir)
}

// Runtime is a runtime handler besides runc.
type Runtime struct {
	Handler string // such as "kata"
	Type    string // such as "io.containerd.kata.v2"
	Config  string // its configuration file; empty for none
	Path    string // folders to put before $PATH, where its shim is
	Program string // what runc's shim runs instead of runc; empty for other shims
	// Sandboxer is who makes pods, "podsandbox" or "shim"; empty is containerd's default. Containerd 2 only.
	Sandboxer string
}

// Config says what to start.
type Config struct {
	Release Release
	Dir     string // everything is below; it must be empty
	Hosts   string // folder of registries' hosts.toml
	Pause   string // reference of the sandbox image
	Bridge  string // name of the CNI bridge
	Subnet  string // three numbers: "10.88.16"
	Runtime *Runtime
	// Programs is a folder to put before $PATH; empty is none.
	Programs string
	// Prepare is called with containerd's configuration before it starts; nil does nothing.
	Prepare func(file string) error
	// Snapshotter is CRI's; empty is overlayfs.
	Snapshotter string
	// Scratch is a file with an empty ext4: the snapshotter blockfile copies it. Empty: there is no such snapshotter.
	// Containerd 2 only.
	Scratch string
	// Writable is how much a container of the snapshotter erofs may write, to a disk, as "64MiB"; empty is a folder.
	// Containerd 2 only.
	Writable string
}

// PlainSuffix follows a handler's name where containerd has no options for it. containerd 2 starts no container with
// users of its own for any other, unless it is runc.
const PlainSuffix = "-plain"

// MTU is that of pods' interfaces, unlike any default.
const MTU = 1400

// Daemon is a running containerd.
type Daemon struct {
	Release Release
	Socket  string
	Conn    *grpc.ClientConn
	Bridge  string // the bridge's address
	cfg     Config
	cmd     *exec.Cmd
	ended   chan struct{}
}

// LogFile is what containerd writes to.
func (d *Daemon) LogFile() string { return filepath.Join(d.cfg.Dir, "log") }

// settings is containerd's configuration.
func (c Config) settings() string {
	var b strings.Builder
	p := func(f string, a ...any) { fmt.Fprintf(&b, f+"\n", a...) }
	version, cri, images := 2, "io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri"
	if c.Release.Two() {
		version, cri, images = 3, "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"
	}
	p("version = %d\nroot = %q\nstate = %q", version, c.Dir+"/root", c.Dir+"/state")
	p("[grpc]\n  address = %q", c.Dir+"/sock")
	p("[plugins.'io.containerd.internal.v1.opt']\n  path = %q", c.Dir+"/opt")
	p("[plugins.'io.containerd.grpc.v1.cri']\n  stream_server_address = '127.0.0.1'\n  stream_server_port = '0'")
	snapshotter := c.Snapshotter
	if snapshotter == "" {
		snapshotter = "overlayfs"
	}
	if c.Release.Two() {
		if c.Scratch != "" {
			p("[plugins.'io.containerd.snapshotter.v1.blockfile']\n  scratch_file = %q\n  fs_type = 'ext4'\n  "+
				"recreate_scratch = true", c.Scratch)
		}
		if c.Writable != "" {
			p("[plugins.'io.containerd.snapshotter.v1.erofs']\n  default_size = %q", c.Writable)
		}
		// The other way to pull unpacks for snapshotters that are listed elsewhere.
		p("[plugins.'%s']\n  snapshotter = %q\n  use_local_image_pull = %v", images, snapshotter, c.Snapshotter != "")
		p("[plugins.'%s'.pinned_images]\n  sandbox = %q", images, c.Pause)
		p("[plugins.'%s']", cri)
	} else {
		p("  sandbox_image = %q", c.Pause)
	}
	// For a host where root may not lower oom_score_adj, such as a container.
	p("  restrict_oom_score_adj = true")
	p("[plugins.'%s'.registry]\n  config_path = %q", images, c.Hosts)
	p("[plugins.'%s'.cni]", cri)
	if c.Release.Two() {
		p("  bin_dirs = ['/usr/lib/cni']")
	} else {
		p("  bin_dir = '/usr/lib/cni'")
	}
	p("  conf_dir = %q", c.Dir+"/cni")
	p("[plugins.'%s'.containerd]\n  default_runtime_name = 'runc'", cri)
	if !c.Release.Two() {
		p("  snapshotter = %q", snapshotter)
	}
	p("[plugins.'%s'.containerd.runtimes.runc]\n  runtime_type = 'io.containerd.runc.v2'", cri)
	if r := c.Runtime; r != nil {
		sandboxer := ""
		if r.Sandboxer != "" {
			sandboxer = fmt.Sprintf("\n  sandboxer = %q", r.Sandboxer)
		}
		p("[plugins.'%s'.containerd.runtimes.%s]\n  runtime_type = %q\n  privileged_without_host_devices = true%s", cri,
			r.Handler, r.Type, sandboxer)
		p("  pod_annotations = ['io.katacontainers.*']\n  container_annotations = ['io.katacontainers.*']")
		// The same, and its configuration is where the environment says.
		p("[plugins.'%s'.containerd.runtimes.%s]\n  runtime_type = %q%s", cri, r.Handler+PlainSuffix, r.Type, sandboxer)
		if r.Config != "" {
			p("[plugins.'%s'.containerd.runtimes.%s.options]\n  ConfigPath = %q", cri, r.Handler, r.Config)
		}
		if r.Program != "" {
			p("[plugins.'%s'.containerd.runtimes.%s.options]\n  BinaryName = %q", cri, r.Handler, r.Program)
		}
	}
	return b.String()
}

func (c Config) network() string {
	return fmt.Sprintf(`{"cniVersion": "0.4.0", "name": %[1]q, "plugins": [
  {"type": "bridge", "bridge": %[1]q, "isGateway": true, "ipMasq": true, "mtu": %[3]d,
   "ipam": {"type": "host-local", "dataDir": %[4]q, "ranges": [[{"subnet": "%[2]s.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`, c.Bridge, c.Subnet, MTU, c.Dir+"/ipam")
}

// Start starts containerd and waits until it answers. Stop must be called.
func Start(ctx context.Context, cfg Config) (*Daemon, error) {
	d := &Daemon{Release: cfg.Release, Socket: cfg.Dir + "/sock", Bridge: cfg.Subnet + ".1", cfg: cfg,
		ended: make(chan struct{})}
	if err := os.MkdirAll(cfg.Dir+"/cni", 0o755); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{"config.toml": cfg.settings(), "cni/10-test.conflist": cfg.network()} {
		if err := os.WriteFile(filepath.Join(cfg.Dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if cfg.Prepare != nil {
		if err := cfg.Prepare(filepath.Join(cfg.Dir, "config.toml")); err != nil {
			return nil, err
		}
	}
	out, err := os.Create(d.LogFile())
	if err != nil {
		return nil, err
	}
	defer out.Close()
	d.cmd = exec.Command(filepath.Join(cfg.Release.Dir, "containerd"), "--config",
		filepath.Join(cfg.Dir, "config.toml"), "--log-level", "debug")
	path := cfg.Release.Dir + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"
	if cfg.Runtime != nil && cfg.Runtime.Path != "" {
		path = cfg.Runtime.Path + ":" + path
	}
	if cfg.Programs != "" {
		path = cfg.Programs + ":" + path
	}
	d.cmd.Env = append(os.Environ(), "PATH="+path)
	if cfg.Runtime != nil && cfg.Runtime.Config != "" {
		d.cmd.Env = append(d.cmd.Env, "KATA_CONF_FILE="+cfg.Runtime.Config)
	}
	d.cmd.Stdout, d.cmd.Stderr = out, out
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = d.cmd.Wait() // how it ended stands in ProcessState
		close(d.ended)
	}()
	if err := d.connect(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start containerd %s: %w\n%s", cfg.Release.Name, err, d.Tail(20)), d.Stop())
	}
	return d, nil
}

func (d *Daemon) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var err error
	if d.Conn, err = grpc.NewClient("unix://"+d.Socket,
		grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return err
	}
	for {
		d.Conn.Connect()
		s := d.Conn.GetState()
		if s == connectivity.Ready {
			return nil
		}
		if s == connectivity.TransientFailure {
			d.Conn.ResetConnectBackoff()
		}
		select {
		case <-d.ended:
			return fmt.Errorf("it ended: %v", d.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("its socket %s was awaited for a minute: %w", d.Socket, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends containerd with SIGTERM, or by force after 20 s, and waits for it. Containers go on: remove them before.
func (d *Daemon) Stop() error {
	if d.Conn != nil {
		_ = d.Conn.Close()
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.ended:
	case <-time.After(20 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.ended
		return errors.New("containerd did not end within 20 s of SIGTERM")
	}
	// CNI leaves the bridge for the next pod.
	if _, err := os.Stat("/proc/sys/net/ipv4/conf/" + d.cfg.Bridge); err == nil {
		if out, err := exec.Command("ip", "link", "delete", d.cfg.Bridge).CombinedOutput(); err != nil {
			return fmt.Errorf("delete bridge %s: %w: %s", d.cfg.Bridge, err, out)
		}
	}
	return nil
}

// Tail is the last lines of the log that are not of level debug.
func (d *Daemon) Tail(n int) string {
	b, err := os.ReadFile(d.LogFile())
	if err != nil {
		return err.Error()
	}
	var lines []string
	for l := range strings.Lines(string(b)) {
		if !strings.Contains(l, "level=debug") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// Ctr is a command of this containerd's ctr in a namespace.
func (d *Daemon) Ctr(namespace string, args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(d.Release.Dir, "ctr"), append([]string{"-a", d.Socket, "-n", namespace},
		args...)...)
}
