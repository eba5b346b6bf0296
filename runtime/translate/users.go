package translate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/katabuild/katabuild/runtime/share"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Users are the numbers of a pod's user namespace: its first container makes it on the host, and the others join it by
// a path there. In the guest each container has one of its own with the same numbers. The zero value is of a pod
// without.
type Users struct {
	UIDs, GIDs []specs.LinuxIDMapping
}

// of gives a container in the guest the numbers of its user namespace on the host, and returns those of the pod.
func (u Users) of(host, guest *specs.Spec) (Users, error) {
	if !slices.ContainsFunc(host.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }) {
		return u, nil
	}
	if len(host.Linux.UIDMappings) > 0 && len(u.UIDs) == 0 {
		u.UIDs, u.GIDs = host.Linux.UIDMappings, host.Linux.GIDMappings
	}
	if len(guest.Linux.UIDMappings) == 0 {
		guest.Linux.UIDMappings, guest.Linux.GIDMappings = u.UIDs, u.GIDs
	}
	if len(guest.Linux.UIDMappings) == 0 {
		return u, errors.New("the container joins a user namespace, and neither it nor the pod's first container " +
			"says which numbers it has")
	}
	for _, m := range slices.Concat(guest.Linux.UIDMappings, guest.Linux.GIDMappings) {
		if m.Size == 0 || uint64(m.HostID)+uint64(m.Size) > 1<<32 || uint64(m.ContainerID)+uint64(m.Size) > 1<<32 {
			return u, fmt.Errorf("user namespace: %d numbers from %d as %d: want numbers of 32 bits", m.Size,
				m.ContainerID, m.HostID)
		}
	}
	return u, nil
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
