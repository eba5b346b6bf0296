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
	if _, err := v.command(ctx, "getfd", map[string]any{"fdname": netdev}, n.Tap); err != nil {
		return "", err
	}
	if err := v.qmp(ctx, "netdev_add", map[string]any{"type": "tap", "id": netdev, "fd": netdev}); err != nil {
		return "", errors.Join(err, v.qmp(ctx, "closefd", map[string]any{"fdname": netdev}))
	}
	arguments := map[string]any{"driver": "virtio-net-pci", "id": device, "bus": id, "netdev": netdev, "mac": n.MAC,
		"romfile": ""}
	if n.MTU > 0 {
		arguments["host_mtu"] = n.MTU
	}
	if err := v.qmp(ctx, "device_add", arguments); err != nil {
		return "", errors.Join(err, v.qmp(ctx, "netdev_del", map[string]any{"id": netdev}))
	}
	return pciPath, nil
}
