package sandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
)

// PlugNIC gives a running guest a network interface, and says where the guest finds it, as the guest API wants it. It
// fails with ErrNoPlug where there is no place. The interface stays until the sandbox ends.
func (s *Sandbox) PlugNIC(ctx context.Context, n NIC) (pciPath string, err error) {
	port, err := s.takePort()
	if err != nil {
		return "", fmt.Errorf("plug in the interface %s: %w", n.MAC, err)
	}
	id, pciPath := qemu.RootPort(port)
	netdev, device := "plugged-"+id, "nic-"+id
	defer func() {
		if err != nil {
			err = fmt.Errorf("plug in the interface %s: %w", n.MAC, err)
			s.freePort(port)
		}
	}()
	if _, err := s.command(ctx, "getfd", map[string]any{"fdname": netdev}, n.Tap); err != nil {
		return "", err
	}
	if err := s.qmp(ctx, "netdev_add", map[string]any{"type": "tap", "id": netdev, "fd": netdev}); err != nil {
		return "", errors.Join(err, s.qmp(ctx, "closefd", map[string]any{"fdname": netdev}))
	}
	arguments := map[string]any{"driver": "virtio-net-pci", "id": device, "bus": id, "netdev": netdev, "mac": n.MAC,
		"romfile": ""}
	if n.MTU > 0 {
		arguments["host_mtu"] = n.MTU
	}
	if err := s.qmp(ctx, "device_add", arguments); err != nil {
		return "", errors.Join(err, s.qmp(ctx, "netdev_del", map[string]any{"id": netdev}))
	}
	return pciPath, nil
}
