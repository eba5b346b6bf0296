package network

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// quietTime is how long nothing must change in a namespace before a new interface is looked at: whoever makes one gives
// it addresses and routes next.
const quietTime = 200 * time.Millisecond

// Watch looks for interfaces that come into the namespace later, as Docker's do, and joins each to a tap; plug gives
// that to the guest. It returns when ctx ends, or when the namespace can no longer be watched. What cannot be joined or
// plugged in is told and left alone.
func (n *Network) Watch(ctx context.Context, plug func(*Endpoint) error) error {
	done := make(chan struct{})
	defer close(done)
	broken := make(chan error, 2)
	links, addresses := make(chan netlink.LinkUpdate, 16), make(chan netlink.AddrUpdate, 16)
	tell := func(err error) {
		select {
		case broken <- err:
		default:
		}
	}
	err := inside(n.o.Netns, func() error {
		return errors.Join(netlink.LinkSubscribeWithOptions(links, done,
			netlink.LinkSubscribeOptions{ErrorCallback: tell}),
			netlink.AddrSubscribeWithOptions(addresses, done, netlink.AddrSubscribeOptions{ErrorCallback: tell}))
	})
	if err != nil {
		return fmt.Errorf("watch the network of %s: %w", n.o.Netns, err)
	}
	// What came between Attach and now is seen without an event.
	quiet := time.NewTimer(quietTime)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return fmt.Errorf("watch the network of %s: %w", n.o.Netns, err)
		case _, ok := <-links:
			if !ok {
				return nil
			}
			quiet.Reset(quietTime)
		case _, ok := <-addresses:
			if !ok {
				return nil
			}
			quiet.Reset(quietTime)
		case <-quiet.C:
			if err := n.rescan(plug); err != nil {
				n.o.Log.Warn("an interface that came later does not reach the guest", "err", err)
			}
		}
	}
}

// rescan joins and plugs in what is new.
func (n *Network) rescan(plug func(*Endpoint) error) error {
	var fresh []*Endpoint
	err := inside(n.o.Netns, func() error {
		before := len(n.Endpoints())
		err := n.scan()
		fresh = n.Endpoints()[before:]
		return err
	})
	errs := []error{err}
	for _, e := range fresh {
		if err := plug(e); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", e.Name, err))
		}
	}
	return errors.Join(errs...)
}
