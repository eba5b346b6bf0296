package oci

import (
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katabuild/katabuild/agent/oci/hostgroup"
)

// showGroups says how a container sees its control groups on a host of version 1: a folder with a mount of each
// hierarchy, from the container's group on. On others the mount stays as it is.
func showGroups(mounts []specs.Mount, g *hostgroup.Groups, host *hostgroup.Host) []specs.Mount {
	if host.V2() {
		return mounts
	}
	var out []specs.Mount
	for _, m := range mounts {
		if m.Type != "cgroup" {
			out = append(out, m)
			continue
		}
		var words []string // without those of the file system, which are another's
		for _, o := range m.Options {
			if slices.Contains([]string{"ro", "rw", "nosuid", "nodev", "noexec", "relatime"}, o) {
				words = append(words, o)
			}
		}
		out = append(out, specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs",
			Options: append(slices.Clone(words), "mode=755")})
		for _, s := range host.Shown(g) {
			if s.Folder == "" { // of a user who has no control groups
				continue
			}
			out = append(out, specs.Mount{Destination: path.Join(m.Destination, s.Name), Type: "bind", Source: s.Folder,
				Options: append([]string{"bind"}, words...)})
			if name := filepath.Base(s.Name); strings.Contains(name, ",") { // programs look for each alone
				for c := range strings.SplitSeq(name, ",") {
					out = append(out, specs.Mount{Destination: path.Join(m.Destination, c), Type: "bind",
						Source: s.Folder, Options: append([]string{"bind"}, words...)})
				}
			}
		}
	}
	return out
}
