package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/releases/install"
	"github.com/katabuild/katabuild/releases/install/distribution"
	"github.com/katabuild/katabuild/releases/refusal"
)

// looksPerRead is after how many looks every byte of the release is read again, whatever the kernel says of its file:
// an hour, as it is by default.
const looksPerRead = 60

// keep brings the node to what is asked for: installed, checked, labelled. What is so already costs a look.
func (n *node) keep(ctx context.Context) error {
	if n.looks++; n.looks > looksPerRead {
		n.looks = 0
		clear(n.read)
	}
	o, err := n.options()
	if err != nil {
		return err
	}
	// Whoever has all nodes cleared waits for this label, so that it is there before anything else is.
	if err := n.set(ctx, map[string]string{installedLabel: name(n.Options.Suffix)}); err != nil {
		return err
	}
	r, err := n.wantedRelease(ctx)
	if err = errors.Join(err, n.remember(ctx)); err != nil {
		return err
	}
	if err := n.install(ctx, r, o); err != nil {
		return err
	}
	if err := n.remember(ctx); err != nil { // the first installation has a place for it only now
		return err
	}
	if err := n.restart(ctx); err != nil {
		return err
	}
	if err := n.check(ctx, o); err != nil {
		return err
	}
	if err := n.known(ctx, o.RuntimeClass()); err != nil {
		return err
	}
	if err := n.set(ctx, map[string]string{runtimeLabel: "true", releaseLabel: labelValue(r.version)}); err != nil {
		return err
	}
	if err := n.setReady("installed " + r.version); err != nil {
		return err
	}
	return n.collect(ctx)
}

// options are those for this host.
func (n *node) options() (install.Options, error) {
	o := n.Options
	root, err := os.OpenRoot(n.Host)
	if err != nil {
		return o, fmt.Errorf("the host's root file system: %w", err)
	}
	found, err := distribution.Find(root.FS(), n.Distribution)
	if err = errors.Join(err, root.Close()); err != nil {
		return o, fmt.Errorf("distribution: %w", err)
	}
	own := o.ContainerdConfig
	o = o.On(found)
	if own != "" {
		if o.Layout.Main != "" || o.Layout.DropIns != "" {
			return o, fmt.Errorf("distribution: %s makes containerd's main file anew, so that %s would not last: name "+
				"the distribution containerd with it", o.Layout.Name, own)
		}
		o.ContainerdConfig = own
	}
	o.Place = n.Release
	return o, nil
}

// wantedRelease is what the place offers, which is asked once: otherwise all nodes would change at the same moment.
// Where it cannot be asked now, what was installed from there before stays, so that a node comes back without its
// registry.
func (n *node) wantedRelease(ctx context.Context) (*release, error) {
	if n.offer != nil {
		return n.offer, nil
	}
	r, err := n.ask(ctx)
	if err == nil {
		n.offer = r
		n.log.Info("release is offered", "place", n.Release, "release", r.id, "version", r.version)
		return r, nil
	}
	if _, refused := errors.AsType[*refusal.Error](err); refused {
		return nil, err
	}
	i, oerr := install.Open(n.Host, n.Prefix, false)
	if oerr != nil {
		return nil, err
	}
	defer i.Close()
	was, ok, oerr := i.Options()
	id, ierr := i.InForce()
	if !ok || oerr != nil || ierr != nil || was.Place != n.Release {
		return nil, err
	}
	n.log.Warn("the place cannot be asked now; what was installed from there stays", "error", err, "release", id)
	version := id
	if at := strings.LastIndex(id, "-"); at > 0 {
		version = id[:at]
	}
	return &release{id: id, version: version}, nil
}

// install makes a release the one in force, with what files of it lack or differ.
func (n *node) install(ctx context.Context, r *release, o install.Options) error {
	done, err := n.change(ctx, o, func(i *install.Installation) (*install.Change, error) {
		has, err := i.Has(r.id)
		if err != nil || !has {
			return nil, err
		}
		ch, err := i.PlanInstalled(r.id, o)
		if err != nil || ch.NeedsSource() {
			return nil, err
		}
		return ch, nil
	})
	if done || err != nil {
		return err
	}
	if r.part == nil {
		return fmt.Errorf("release %s is not as it was installed, and its place cannot be asked now: %s", r.id,
			n.Release)
	}
	src, err := n.take(ctx, r)
	if err != nil {
		return err
	}
	_, err = n.change(ctx, o, func(i *install.Installation) (*install.Change, error) { return i.Plan(src, o) })
	if err != nil {
		return err // what was taken is there for the next time
	}
	return n.sweep()
}

// change makes a planned change, and says whether there was a plan.
func (n *node) change(ctx context.Context, o install.Options,
	plan func(*install.Installation) (*install.Change, error)) (done bool, err error) {
	i, err := n.hold(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	ch, err := plan(i)
	if err != nil || ch == nil {
		return false, err
	}
	if ch.Nothing() {
		return true, nil
	}
	n.tell(ch)
	if ch.Restart {
		if err := n.owe(o.Units()); err != nil {
			return false, err
		}
	}
	var copied int64
	tell := n.progress("copied")
	if err := i.Apply(ch, func(b int64) { copied += b; tell(copied, ch.Bytes) }); err != nil {
		return false, err
	}
	n.log.Info("release is in force", "release", ch.Release, "before", ch.Before)
	return true, nil
}

// tries is how often an installation is asked for that another command changes.
const tries = 15

// hold takes hold of the installation, to change it.
func (n *node) hold(ctx context.Context) (*install.Installation, error) {
	for t := 1; ; t++ {
		i, err := install.Open(n.Host, n.Prefix, true)
		if err == nil {
			i.Remember(n.read)
		}
		if !errors.Is(err, install.ErrBusy) || t == tries {
			return i, err
		}
		n.log.Info("waiting", "for", err)
		if !sleep(ctx, look) {
			return nil, ctx.Err()
		}
	}
}

// owedName is the file in the work folder that names units which have to be restarted, so that a container that ends
// between the change and the restart makes up for it.
const owedName = "restart"

func (n *node) owe(units []string) error {
	return atomicfile.Write(filepath.Join(n.Work, owedName), []byte(strings.Join(units, " ")), 0o600)
}

// restart has the container runtime read its configuration anew, where that is owed. Its containers go on, this one
// among them; a signal waits for it.
func (n *node) restart(ctx context.Context) error {
	file := filepath.Join(n.Work, owedName)
	data, err := regular.ReadFile(file, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := n.restartUnits(context.WithoutCancel(ctx), strings.Fields(string(data))); err != nil {
		return err
	}
	return os.Remove(file)
}

func (n *node) restartUnits(ctx context.Context, units []string) error {
	named := n.Restart != restartAuto && n.Restart != restartNone
	if named {
		units = []string{n.Restart}
	}
	if len(units) == 0 {
		n.log.Info("nothing is restarted: the distribution reads the change by itself")
		return nil
	}
	names := strings.Join(units, " or ")
	ctl := n.host.systemd()
	if n.Restart == restartNone || ctl == "" {
		why := "no systemd runs here"
		if n.Restart == restartNone {
			why = "--restart none"
		}
		n.log.Warn("restart it on this node for it to read its configuration", "what", names, "why", why)
		return nil
	}
	var done bool
	for _, u := range units {
		if !named {
			if _, err := n.host.run(ctx, ctl, "is-active", "--quiet", u); err != nil {
				continue // not what runs here
			}
		}
		n.log.Info("restarting", "unit", u)
		if said, err := n.host.run(ctx, ctl, "restart", u); err != nil {
			return fmt.Errorf("%w: %s", err, said)
		}
		done = true
	}
	if !done { // pods would come, and find a runtime that has not read of it
		return fmt.Errorf("no unit %s is active on this node: name the one that runs the container runtime with "+
			"--restart, or say --restart none and restart it yourself", names)
	}
	return nil
}

// check asks the installed runtime whether pods can run here.
func (n *node) check(ctx context.Context, o install.Options) error {
	said, err := n.host.run(ctx, o.RuntimePath(), "check")
	if err == nil {
		if n.ready == "" {
			n.log.Info("kata-runtime check passes")
		}
		return nil
	}
	var missing []string
	for l := range strings.Lines(said) {
		if l = strings.TrimSpace(l); strings.HasPrefix(l, "missing ") || strings.HasPrefix(l, "kata-runtime: ") {
			missing = append(missing, l)
		}
	}
	if len(missing) == 0 {
		missing = []string{said}
	}
	err = fmt.Errorf("%w: %s", err, strings.Join(missing, "; "))
	// What rules for devices refuse is EPERM, whatever the file's mode. Linux: Documentation/admin-guide/cgroup-v2.rst,
	// device controller.
	if errors.Is(n.host.opens("dev/kvm"), unix.EPERM) {
		err = fmt.Errorf("%w; this container may not open /dev/kvm, so the check says nothing about pods: make its "+
			"pod privileged", err)
	}
	if n.Check == checkWarn {
		n.log.Warn("pods may not run here; --check=warn goes on", "error", err)
		return nil
	}
	return err
}

// known waits until the node's kubelet knows the handler: it asks the container runtime now and then, and has no pod
// run by a handler that it has not heard of. A kubelet that tells of no handlers is not waited for.
func (n *node) known(ctx context.Context, handler string) error {
	if n.ready != "" {
		return nil
	}
	for end := time.Now().Add(n.Kubelet); ; {
		names, err := n.api.Handlers(ctx, n.Node)
		if err != nil || len(names) == 0 || slices.Contains(names, handler) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("the kubelet does not know the handler %s after %v, only %s: its container runtime has "+
				"not read its configuration anew; restart that on this node", handler, n.Kubelet,
				strings.Join(slices.DeleteFunc(names, func(s string) bool { return s == "" }), ", "))
		}
		if !sleep(ctx, min(glance, max(time.Until(end), time.Millisecond))) {
			return ctx.Err()
		}
	}
}

// collect removes releases that nobody uses. That it cannot is no reason to be less than ready.
func (n *node) collect(ctx context.Context) error {
	i, err := n.hold(ctx)
	if err != nil {
		return err
	}
	removed, _, err := i.Collect(false)
	if err = errors.Join(err, i.Close()); err != nil {
		n.log.Warn("releases that nobody uses are kept", "error", err)
	}
	for _, r := range removed {
		n.log.Info("removed a release that nobody uses", "release", r)
	}
	return nil
}

// sleep waits; that ctx ended is false.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
