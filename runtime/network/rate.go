package network

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// rateHandle is the number of the queues that bound a rate, by which they are known.
const rateHandle = 0x4b42

// Sizes of a queue that bounds a rate: what may pass at once, so that a timer of the kernel that is late by some
// milliseconds costs nothing, and what may wait. tc-tbf(8).
const (
	leastBurst = 128 << 10 // bytes
	burstTime  = 20 * time.Millisecond
	waitTime   = 50 * time.Millisecond
)

// bounded is the queue that lets bits a second leave an interface.
func bounded(l netlink.Link, bits int64) *netlink.Tbf {
	rate := float64(max(bits/8, 1)) // bytes a second
	burst := max(rate*burstTime.Seconds(), leastBurst)
	// The kernel counts in ticks the time that the burst takes.
	ticks := burst / rate * 1e6 * netlink.TickInUsec()
	return &netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT,
		Handle: netlink.MakeHandle(rateHandle, 0)}, Rate: uint64(rate),
		Buffer: uint32(min(ticks, math.MaxUint32)),
		Limit:  uint32(min(burst+rate*waitTime.Seconds(), math.MaxUint32))}
}

// bound bounds what leaves an interface. 0 is no bound.
func bound(l netlink.Link, bits int64) error {
	if bits == 0 {
		return nil
	}
	if err := netlink.QdiscAdd(bounded(l, bits)); err != nil {
		return fmt.Errorf("bound the rate of %s by tc's tbf: %w", l.Attrs().Name, err)
	}
	return nil
}

// unbound takes the queue away that bound made.
func unbound(l netlink.Link, q netlink.Qdisc) error {
	if q.Type() != "tbf" || q.Attrs().Handle != netlink.MakeHandle(rateHandle, 0) {
		return nil
	}
	if err := netlink.QdiscDel(q); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove the queue of %s: %w", l.Attrs().Name, err)
	}
	return nil
}
