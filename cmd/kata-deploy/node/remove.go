package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/katabuild/katabuild/releases/install"
)

// remove takes the runtime off the node: first the label, so that no new pod comes; then, when its pods have ended, the
// installation; the other labels last, for whoever waits for that.
func (n *node) remove(ctx context.Context) error {
	n.offer, n.memory, n.kept = nil, "", nil
	if err := n.set(ctx, map[string]string{runtimeLabel: ""}); err != nil {
		return err
	}
	if err := n.drain(ctx); err != nil {
		return err
	}
	if err := n.restart(ctx); err != nil {
		return err
	}
	if err := n.set(ctx, map[string]string{releaseLabel: "", installedLabel: ""}); err != nil {
		return err
	}
	return n.setReady("absent")
}

// errOtherwise is that the runtime is asked for again, while it was to go.
var errOtherwise = errors.New("the runtime is to be present again")

// drain waits for pods to end, and uninstalls.
func (n *node) drain(ctx context.Context) error {
	if n.since.IsZero() {
		n.since = time.Now()
	}
	for told := false; ; told = true {
		over := time.Since(n.since) >= n.Drain
		err := n.uninstall(ctx, over && n.Force)
		if !errors.Is(err, install.ErrInUse) {
			return err
		}
		if over {
			return fmt.Errorf("%v are over: %w; no new ones come", n.Drain, err)
		}
		if !told {
			n.log.Info("waiting for pods to end", "for", n.Drain, "error", err)
		}
		if wanted, err := n.wanted(); err == nil && wanted != absent {
			return errOtherwise
		}
		if !sleep(ctx, look) {
			return ctx.Err()
		}
	}
}

// uninstall takes everything off the host.
func (n *node) uninstall(ctx context.Context, force bool) (err error) {
	i, err := n.hold(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	o, _, err := i.Options()
	if err != nil {
		return err
	}
	ch, err := i.PlanUninstall(force)
	if errors.Is(err, install.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	n.tell(ch)
	if ch.Restart {
		if err := n.owe(o.Units()); err != nil {
			return err
		}
	}
	if err := i.Uninstall(ch); err != nil {
		return err
	}
	if _, err := i.PlanUninstall(force); !errors.Is(err, install.ErrNone) {
		return errors.Join(fmt.Errorf("something is left in %s", n.Prefix), err)
	}
	n.log.Info("everything is taken off this host")
	return nil
}
