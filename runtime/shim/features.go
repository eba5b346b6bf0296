package shim

import (
	"encoding/json"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/types/known/anypb"
)

// featuresType is the name under which containerd 2 knows the message: containerd, core/runtime/typeurl.go. Its
// encoding is JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// mountOptions are the words that the host or our agent understands, besides those that are a file system's own.
// config.md, "Linux mount options".
var mountOptions = []string{
	"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "iversion", "lazytime", "loud",
	"mand", "noatime", "nodev", "nodiratime", "noexec",
	"noiversion", "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "ratime",
	"rbind", "rdev", "rdiratime", "relatime",
	"remount", "rexec", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid",
	"rnosymfollow", "ro", "rprivate", "rrelatime",
	"rro", "rrw", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "silent", "slave",
	"strictatime", "suid", "symfollow", "sync", "tmpcopyup",
	"unbindable",
}

// ownFeatures are what of the OCI runtime specification holds for containers in our guests: features.md and
// features-linux.md. What is not there is not said to be: a host, such as the kubelet, does without it then.
func ownFeatures() features.Features {
	yes, no := true, false
	return features.Features{
		OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
		// on the host; the others have their place in the guest's hook path
		Hooks:        []string{"prestart", "createRuntime", "poststop"},
		MountOptions: mountOptions,
		Linux: &features.Linux{
			Namespaces: []string{"cgroup", "ipc", "mount", "network", "pid", "user", "uts"},
			// of the host; a guest has version 2
			Cgroup:   &features.Cgroup{V1: &yes, V2: &yes, Systemd: &no, SystemdUser: &no, Rdma: &no},
			Seccomp:  &features.Seccomp{Enabled: &yes},
			Apparmor: &features.Apparmor{Enabled: &no},
			Selinux:  &features.Selinux{Enabled: &no},
			IntelRdt: &features.IntelRdt{Enabled: &no},
			// The host shows its layers and volumes to a guest with the owners that a user namespace has for them.
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
		},
	}
}

// packFeatures is ownFeatures as containerd reads it.
func packFeatures() (*anypb.Any, error) {
	b, err := json.Marshal(ownFeatures())
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: featuresType, Value: b}, nil
}
