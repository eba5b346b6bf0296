package qemu

import (
	"context"
	"errors"
	"fmt"

	"github.com/katabuild/katabuild/runtime/machine"
)

// PlugNIC gives a running guest a network interface, and says where the guest finds it, as the guest API wants it. It
// fails with machine.ErrNoPlace where there is no place. The interface stays until the sandbox ends.
func (v *VM) PlugNIC(ctx context.Context, n machine.NIC) (pciPath string, err error) {
	port, err := v.takePort()
	if err != nil {
		return "", fmt.Errorf("plug in the interface %s: %w", n.MAC, err)
	}
	id, pciPath := rootPort(port)
	netdev, device := "plugged-"+id, "nic-"+id
	defer func() {
		if err != nil {
			err = fmt.Errorf("plug in the interface %s: %w", n.MAC, err)
			v.freePort(port)
		}
	}()
	if err := v.addNetdev(ctx, netdev, n); err != nil {
		return "", err
	}
	arguments := map[string]any{"driver": "virtio-net-pci", "id": device, "bus": id, "netdev": netdev, "mac": n.MAC,
		"romfile": ""}
	q := NIC{MTU: n.MTU, Queues: n.Queues, QueueSize: n.QueueSize}
	if n.Socket != "" {
		q.VhostUser = socket(n.Socket)
	} else if v.plan.Config.IOMMUPlatform {
		arguments["iommu_platform"] = "on"
	}
	for _, o := range q.device() {
		arguments[o.name] = o.value
	}
	if err := v.qmp(ctx, "device_add", arguments); err != nil {
		err = errors.Join(err, v.qmp(ctx, "netdev_del", map[string]any{"id": netdev}))
		if n.Socket != "" {
			err = errors.Join(err, v.qmp(ctx, "chardev-remove", map[string]any{"id": netdev}))
		}
		return "", err
	}
	return pciPath, nil
}

// addNetdev gives QEMU what moves an interface's packets: a tap, or the connection to a back end.
func (v *VM) addNetdev(ctx context.Context, id string, n machine.NIC) error {
	if n.Socket == "" {
		if _, err := v.command(ctx, "getfd", map[string]any{"fdname": id}, n.Tap); err != nil {
			return err
		}
		if err := v.qmp(ctx, "netdev_add", map[string]any{"type": "tap", "id": id, "fd": id}); err != nil {
			return errors.Join(err, v.qmp(ctx, "closefd", map[string]any{"fdname": id}))
		}
		return nil
	}
	if !v.plan.Config.sharesMemory() {
		return errors.New("its back end would read the guest's memory, which this machine does not share")
	}
	conn, err := connect(n.Socket) // which QEMU's user could not
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := v.addSocket(ctx, id, conn); err != nil {
		return err
	}
	if err := v.qmp(ctx, "netdev_add", map[string]any{"type": "vhost-user", "id": id, "chardev": id,
		"queues": max(n.Queues, 1)}); err != nil {
		return errors.Join(err, v.qmp(ctx, "chardev-remove", map[string]any{"id": id}))
	}
	return nil
}
