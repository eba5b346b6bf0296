// Package node keeps one node of a cluster as it is asked to be: with the runtime of a release, checked and labelled,
// or without any trace of it.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/releases/install"
	"github.com/katabuild/katabuild/releases/install/distribution"
)

// DefaultWork is the folder for what is being taken, and for the file that says ready.
const DefaultWork = "/run/kata-deploy"

// Config says how a node is to be.
type Config struct {
	Version string // of this program

	Host string // folder where the host's root file system is mounted
	Node string // name

	Release    string // its place
	Policy     string // a file; empty where the release is a folder that the image vouches for
	Registries registry.Access

	Distribution string // a row of the table, or auto
	// Options say where the installation lies. An empty ContainerdConfig is the distribution's.
	Options install.Options
	Prefix  string

	Restart string        // auto, none or a unit
	Check   string        // required or warn
	State   string        // a file that says present or absent; empty for present
	Drain   time.Duration // how long pods may take to end before an uninstall
	Force   bool          // uninstall while pods run

	Work     string // folder
	Interval time.Duration
	Kubelet  time.Duration // how long the kubelet may take to know the handler, before that is a failure
	Retry    time.Duration // the first pause after a failure
}

// API is what is asked of the API server. Its methods may be called by several goroutines.
type API interface {
	// Labels are those of a node.
	Labels(ctx context.Context, node string) (map[string]string, error)
	// Handlers are the names of handlers that the node's kubelet knows; none where it does not tell.
	Handlers(ctx context.Context, node string) ([]string, error)
	// Label sets labels of a node, and takes those away whose value is nil.
	Label(ctx context.Context, node string, change map[string]*string) error
	// Labelled are the names of nodes with a label of that value, or of so many of them as a line can tell.
	Labelled(ctx context.Context, key, value string) ([]string, error)
	// SetData sets keys of a ConfigMap; others stay.
	SetData(ctx context.Context, namespace, name string, data map[string]string) error
	// Away says whether an error is that the API server cannot answer now.
	Away(err error) bool
}

// Distributions are the words of Config.Distribution beside auto.
func Distributions() []string { return distribution.Names() }

// readyName is the file in the work folder that says ready, and why.
const readyName = "ready"

// Ready says what the node is ready as; an error is that it is not.
func Ready(work string) (string, error) {
	data, err := os.ReadFile(filepath.Join(work, readyName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("the node is not ready yet, or no more; the log of run says why")
	}
	return strings.TrimSpace(string(data)), err
}

// Words of Config.
const (
	restartAuto = "auto"
	restartNone = "none"
	checkWarn   = "warn"
)

// maxPause is the longest pause after failures.
const maxPause = 5 * time.Minute

// glance is how often the file of the state is looked at.
const glance = time.Second

// node is a node that is being kept.
type node struct {
	Config
	api   API
	log   *slog.Logger
	host  host
	offer *release  // what the place offers; nil until it has been asked
	ready string    // what the file says; empty where it is not there
	since time.Time // when pods were first waited for, to take the runtime off; zero for not
	read  install.Read
	looks int // since every byte was read

	memory string // name of the file that remembers metadata of roles; empty where the policy has none
	kept   []byte // its bytes as the host has them
}

// Run keeps a node as it is asked to be until ctx ends. Then everything stays as it is, labels included.
func Run(ctx context.Context, cfg Config, api API, log *slog.Logger) error {
	n := &node{Config: cfg, api: api, log: log, host: host{cfg.Host}, read: install.Read{}}
	if err := os.MkdirAll(cfg.Work, 0o700); err != nil {
		return err
	}
	// A volume is writable for everybody by its mode, and what is remembered of roles may not lie in such a folder.
	if err := os.Chmod(cfg.Work, 0o700); err != nil {
		return err
	}
	if err := n.setReady(""); err != nil { // of a container that ended
		return err
	}
	log.Info("kata-deploy begins", "version", cfg.Version, "node", cfg.Node, "host", cfg.Host)
	last := ""
	for pause := cfg.Retry; ; {
		wanted, err := n.wanted()
		if err == nil && wanted != last { // ready as what it was is not ready as what it is to be
			last, err = wanted, n.setReady("")
		}
		if err == nil {
			err = n.bring(ctx, wanted)
		}
		if ctx.Err() != nil {
			log.Info("kata-deploy ends; all stays as it is")
			return nil
		}
		wait := cfg.Interval
		switch {
		case errors.Is(err, errOtherwise):
			wait = 0
		case err != nil:
			n.failed(ctx, err, pause)
			wait, pause = pause, min(2*pause, maxPause)
		default:
			pause = cfg.Retry
		}
		n.pause(ctx, wait, wanted)
	}
}

// bring brings the node to a state.
func (n *node) bring(ctx context.Context, wanted string) error {
	if wanted == absent {
		return n.remove(ctx)
	}
	n.since = time.Time{}
	return n.keep(ctx)
}

// wanted is the state that is asked for.
func (n *node) wanted() (string, error) {
	if n.State == "" {
		return present, nil
	}
	data, err := regular.ReadFile(n.State, 64)
	if errors.Is(err, fs.ErrNotExist) {
		return present, nil
	}
	if err != nil {
		return "", fmt.Errorf("state: %w", err)
	}
	word := strings.TrimSpace(string(data))
	if word != present && word != absent {
		return "", fmt.Errorf("state %s: %q: want %s or %s", n.State, word, present, absent)
	}
	return word, nil
}

// failed says what is wrong, and takes the label away, so that no new pod comes. An API server that cannot answer now
// says nothing about the node: what was ready stays so.
func (n *node) failed(ctx context.Context, err error, pause time.Duration) {
	if n.api.Away(err) && n.ready != "" {
		n.log.Warn("the API server cannot answer now; the node stays as it is", "error", err, "again_in", pause)
		return
	}
	n.log.Error("the node is not what it should be", "error", err, "again_in", pause)
	if err := n.setReady(""); err != nil {
		n.log.Error("the readiness file cannot be removed", "error", err)
	}
	if err := n.set(ctx, map[string]string{runtimeLabel: ""}); err != nil {
		n.log.Warn("the label of the node cannot be taken away now", "error", err)
	}
}

// pause waits, until the state that is asked for is another one.
func (n *node) pause(ctx context.Context, d time.Duration, was string) {
	for end := time.Now().Add(d); time.Until(end) > 0 && ctx.Err() == nil; {
		sleep(ctx, min(glance, time.Until(end)))
		if now, err := n.wanted(); err == nil && now != was {
			return
		}
	}
}

// setReady says what the node is ready as; empty is that it is not ready.
func (n *node) setReady(what string) error {
	file := filepath.Join(n.Work, readyName)
	if what == "" {
		n.ready = ""
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if what == n.ready {
		return nil
	}
	if err := atomicfile.Write(file, []byte(what+"\n"), 0o644); err != nil {
		return err
	}
	n.ready = what
	n.log.Info("ready", "as", what)
	return nil
}

// tell says what a change does.
func (n *node) tell(ch *install.Change) {
	for _, s := range ch.Steps {
		for l := range strings.Lines(s) {
			n.log.Info("host: " + strings.TrimRight(l, "\n"))
		}
	}
}
