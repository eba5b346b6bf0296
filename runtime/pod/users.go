package pod

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/katabuild/katabuild/runtime/share"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// users is the user namespace of a pod: its first container makes it on the host, and the others join it by a path
// there. In the guest each container has one of its own with the same numbers. The zero value is of a pod without.
type users struct {
	mu         sync.Mutex
	uids, gids []specs.LinuxIDMapping // guarded by mu, as is gids
}

// of gives a container in the guest the numbers of its user namespace on the host.
func (u *users) of(host, guest *specs.Spec) error {
	if !slices.ContainsFunc(host.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }) {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(host.Linux.UIDMappings) > 0 && len(u.uids) == 0 {
		u.uids, u.gids = host.Linux.UIDMappings, host.Linux.GIDMappings
	}
	if len(guest.Linux.UIDMappings) == 0 {
		guest.Linux.UIDMappings, guest.Linux.GIDMappings = u.uids, u.gids
	}
	if len(guest.Linux.UIDMappings) == 0 {
		return errors.New("the container joins a user namespace, and neither it nor the pod's first container says " +
			"which numbers it has")
	}
	for _, m := range slices.Concat(guest.Linux.UIDMappings, guest.Linux.GIDMappings) {
		if m.Size == 0 || uint64(m.HostID)+uint64(m.Size) > 1<<32 || uint64(m.ContainerID)+uint64(m.Size) > 1<<32 {
			return fmt.Errorf("user namespace: %d numbers from %d as %d: want numbers of 32 bits", m.Size,
				m.ContainerID, m.HostID)
		}
	}
	return nil
}

// ownersOf are the owners that a volume's files are to show: its own, or, where it only says that it has some, those of
// the container.
func ownersOf(m specs.Mount, s *specs.Spec) share.Owners {
	uids, gids := m.UIDMappings, m.GIDMappings
	if len(uids) == 0 && (slices.Contains(m.Options, "idmap") || slices.Contains(m.Options, "ridmap")) {
		uids, gids = s.Linux.UIDMappings, s.Linux.GIDMappings
	}
	convert := func(list []specs.LinuxIDMapping) (out []share.IDMap) {
		for _, m := range list {
			out = append(out, share.IDMap{Inside: m.ContainerID, Outside: m.HostID, Size: m.Size})
		}
		return out
	}
	return share.Owners{UIDs: convert(uids), GIDs: convert(gids)}
}
