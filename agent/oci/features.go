package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/katabuild/katabuild/agent/container/blueprint"
)

// Features is what this runtime can do, as the specification's features.md has it.
func Features() features.Features {
	yes, no := true, false
	hooks := []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
	return features.Features{
		OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version, Hooks: hooks, MountOptions: blueprint.MountOptions(),
		Linux: &features.Linux{
			Namespaces:      blueprint.NamespaceTypes(),
			Capabilities:    blueprint.CapabilityNames(^uint64(0)),
			Cgroup:          &features.Cgroup{V1: &yes, V2: &yes, Systemd: &no, SystemdUser: &no, Rdma: &yes},
			Seccomp:         &features.Seccomp{Enabled: &yes},
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
		},
	}
}
