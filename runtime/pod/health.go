package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
)

// ErrStuck says that a process in the guest does not end although it was killed, as one that waits in the kernel for a
// device that never answers.
var ErrStuck = errors.New("a process in the guest outlives SIGKILL")

// watch gives the pod up when its agent no longer answers, until ctx or the guest ends.
func (p *Pod) watch(ctx context.Context) {
	if err := p.link.Watch(ctx, p.log); err != nil && p.vm.Why() == nil {
		p.lose(err)
	}
}

// lose gives the pod up: why is the first reason given.
func (p *Pod) lose(why error) {
	p.lost.Do(func() {
		p.sickErr = why
		p.link.Lose(why)
		close(p.sick)
	})
}

// because puts why a pod is of no use any more before an error that follows from it.
func (p *Pod) because(err error) error {
	if p.vm != nil {
		p.graceFor(err)
	}
	why := p.reason()
	if why == nil || errors.Is(err, why) {
		return err
	}
	return fmt.Errorf("%w (%w)", explain(why), err)
}

// reason is why a pod is of no use any more; nil while it is. QEMU's is the better one of two, unless its end follows
// from the other.
func (p *Pod) reason() error {
	var sick error
	select {
	case <-p.sick:
		sick = p.sickErr
	default:
	}
	if p.vm != nil && !errors.Is(sick, ErrStuck) {
		if w := p.vm.Why(); w != nil {
			p.starved.Do(func() { p.ended = p.outOfMemory(w) })
			return p.ended
		}
	}
	return sick
}

// ErrOutOfMemory says that the host ended processes of a pod, since its control group had no memory left.
var ErrOutOfMemory = errors.New(
	"the host had no more memory for the pod: its control group's limit has to hold the guest's memory and " +
		"what QEMU, virtiofsd and the shim need themselves")

// outOfMemory puts that reason before what followed from it.
func (p *Pod) outOfMemory(err error) error {
	if err == nil || p.cgroup.OOMKills() == 0 {
		return err
	}
	return fmt.Errorf("%w (%w)", ErrOutOfMemory, err)
}

// betterReason is why the pod is of no use any more, where its guest has ended and a call failed because of that; nil
// where it has not.
func (p *Pod) betterReason(err error) error {
	p.graceFor(err)
	if p.vm.Why() == nil {
		return nil
	}
	return p.Why()
}

// graceFor waits a moment for QEMU's end where err says that its connections ended: it may be seen later, and is the
// better reason.
func (p *Pod) graceFor(err error) {
	if _, broken := errors.AsType[*net.OpError](err); !broken && !errors.Is(err, ttrpc.ErrClosed) {
		return
	}
	select {
	case <-p.vm.Done():
	case <-time.After(endGrace):
	}
}

// GiveUp ends the waiting for a guest that is to end anyway: why is what requests fail with from here on. Sick is
// closed then.
func (p *Pod) GiveUp(why error) { p.lose(why) }

// watchFS gives the pod up when the program that shares its files ends, until ctx does: the guest waits for it in vain,
// and cannot be given another.
func (p *Pod) watchFS(ctx context.Context) {
	select {
	case <-p.fs.Done():
	case <-ctx.Done():
		return
	}
	// It ends with QEMU too, whose reason is the better one.
	select {
	case <-time.After(fsGrace):
	case <-ctx.Done():
		return
	}
	p.lose(fsGone(p.fs.ExitError(), strings.TrimSpace(p.fs.Stderr())))
}

// fsGone is one line of how virtiofsd ended and what it said at last; it talks when nothing is wrong too.
func fsGone(err error, said string) error {
	how := "it ended"
	if err != nil {
		how = strings.TrimSuffix(err.Error(), ": "+said)
	}
	if said != "" {
		how += "; its last words: " + said[strings.LastIndexByte(said, '\n')+1:]
	}
	return fmt.Errorf("the program that serves the pod's files is gone: %s", how)
}

// endGrace is how much later than the end of the agent's connection QEMU's may be seen.
const endGrace = time.Second

// fsGrace is how much later than virtiofsd's end QEMU's may be seen.
const fsGrace = 300 * time.Millisecond
