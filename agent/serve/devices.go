package serve

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// guestDevices gives a container the devices of the guest that it asks for: those that are mounted by name, and all of
// them where its rules allow it to use every device, as those of a privileged container do.
func (f *full) guestDevices(id string, spec *specs.Spec) error {
	var left []string
	spec.Mounts, left = deviceMounts("/", spec.Mounts)
	for _, d := range left {
		f.s.Log.Warn("the guest does not have a device of the host; its mount is left out", "container", id, "device",
			d)
	}
	if !usesAll(spec.Linux.Resources) || slices.ContainsFunc(spec.Mounts,
		func(m specs.Mount) bool { return filepath.Clean(m.Destination) == "/dev" && m.Type == "bind" }) {
		return nil
	}
	list, err := allDevices("/dev")
	if err != nil {
		return err
	}
	for _, d := range list {
		if !slices.ContainsFunc(spec.Linux.Devices, func(o specs.LinuxDevice) bool { return o.Path == d.Path }) {
			spec.Linux.Devices = append(spec.Linux.Devices, d)
		}
	}
	return nil
}

// deviceMounts are the mounts without those of devices that are not in the guest, whose names it returns too.
func deviceMounts(root string, mounts []specs.Mount) (kept []specs.Mount, left []string) {
	for _, m := range mounts {
		if slices.Contains(m.Options, agentapi.GuestDevice) {
			m.Options = slices.DeleteFunc(slices.Clone(m.Options),
				func(o string) bool { return o == agentapi.GuestDevice })
			var st unix.Stat_t
			if !strings.HasPrefix(filepath.Clean(m.Source), "/dev/") || unix.Lstat(filepath.Join(root, m.Source),
				&st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
				left = append(left, m.Source)
				continue
			}
		}
		kept = append(kept, m)
	}
	return kept, left
}

// usesAll says whether the last of the rules that is about all devices allows everything. config-linux.md, "Device
// allowlist".
func usesAll(r *specs.LinuxResources) bool {
	all := false
	if r == nil {
		return false
	}
	for _, d := range r.Devices {
		if (d.Type == "" || d.Type == "a") && d.Major == nil && d.Minor == nil {
			all = d.Allow && (d.Access == "" || d.Access == "rwm")
		}
	}
	return all
}

// ownFolders of /dev hold what is each container's own, as do the links and ptmx.
var ownFolders = []string{"pts", "shm", "mqueue"}

// allDevices are the device files below dir, which is the guest's /dev.
func allDevices(dir string) ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) { // a device that was unplugged meanwhile
				return nil
			}
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if e.IsDir() {
			if slices.Contains(ownFolders, rel) {
				return filepath.SkipDir
			}
			return nil
		}
		if e.Type()&os.ModeDevice == 0 || rel == "ptmx" || rel == "console" {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return nil
		}
		d := specs.LinuxDevice{Path: "/dev/" + rel, Type: "b", Major: int64(unix.Major(st.Rdev)),
			Minor: int64(unix.Minor(st.Rdev)), UID: &st.Uid, GID: &st.Gid}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			d.Type = "c"
		}
		mode := os.FileMode(st.Mode & 0o777)
		d.FileMode = &mode
		out = append(out, d)
		return nil
	})
	return out, err
}
