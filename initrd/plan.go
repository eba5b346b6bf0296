package initrd

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/initrd/cpio"
	"github.com/katabuild/katabuild/internal/digest"
)

// planned is an entry of the archive, decided but not yet written.
type planned struct {
	header cpio.Header // without Size where source is set
	source string
	data   []byte
	digest digest.Digest
	link   string // name of the entry that this one is a hard link to, for people
}

// base is what every initrd holds: what the kernel opens before any program runs, and where the init mounts.
func base(a Agent) []File {
	return []File{
		{Path: "/dev", Kind: Dir},
		// The kernel opens it as the first process's standard streams.
		{Path: "/dev/console", Kind: Char, Major: 5, Minor: 1, Mode: new(uint32(0o600))},
		// Go programs open it for streams that are missing, and end if they cannot.
		{Path: "/dev/null", Kind: Char, Major: 1, Minor: 3, Mode: new(uint32(0o666))},
		{Path: "/etc", Kind: Dir},
		{Path: "/init", Source: a.Path, Digest: a.Digest, Mode: new(uint32(0o755))},
		{Path: "/proc", Kind: Dir, Mode: new(uint32(0o555))},
		{Path: "/run", Kind: Dir},
		{Path: "/sys", Kind: Dir, Mode: new(uint32(0o555))},
		{Path: "/tmp", Kind: Dir, Mode: new(uint32(0o1777))},
	}
}

// plan decides the entries of the archive and their order. It touches no file.
func (r Request) plan() ([]planned, error) {
	switch r.compression() {
	case none, zstandard:
	default:
		return nil, fmt.Errorf("initrd: compression %q: want %q or %q", r.Compression, none, zstandard)
	}
	files := map[string]File{} // by name
	for _, f := range base(r.Agent) {
		files[f.Path[1:]] = f
	}
	given := map[string]bool{}
	for _, f := range r.Files {
		if err := f.check(); err != nil {
			return nil, fmt.Errorf("initrd: file %s: %w", f.Path, err)
		}
		name := f.Path[1:]
		switch {
		case name == "init":
			return nil, fmt.Errorf("initrd: file %s: that is the agent", f.Path)
		case given[name]:
			return nil, fmt.Errorf("initrd: file %s: given twice", f.Path)
		}
		given[name] = true
		files[name] = f
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	for _, name := range names {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			switch above, ok := files[dir]; {
			case !ok:
				files[dir] = File{Path: "/" + dir, Kind: Dir}
			case above.Kind != Dir:
				return nil, fmt.Errorf("initrd: file /%s: /%s above it is no folder", name, dir)
			}
		}
	}
	return order(files, r.Time)
}

// order sorts the files by name, so that folders come before what is in them, and numbers their inodes. Names of one
// file get the same number, and its bytes come with the last of them.
func order(files map[string]File, time int64) ([]planned, error) {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)

	groups := map[string][]int{} // positions in out of all names of a file, by its first name
	out := make([]planned, 0, len(names))
	for i, name := range names {
		f, target := files[name], name
		if f.Kind == HardLink {
			target = f.Target[1:]
			t, ok := files[target]
			// the kernel copies symbolic links instead of linking them
			if !ok || t.Kind == HardLink || t.Kind == Dir || t.Kind == Symlink {
				return nil, fmt.Errorf(
					"initrd: file %s: a hard link to %s, which is no file, device or FIFO of this initrd", f.Path,
					f.Target)
			}
			f = t
		}
		p := f.planned(name, time)
		if target != name {
			p.link = target
		}
		groups[target] = append(groups[target], i)
		out = append(out, p)
	}
	inode := uint32(0)
	for i, name := range names {
		target := name
		if out[i].link != "" {
			target = out[i].link
		}
		group := groups[target]
		if group[0] != i {
			continue
		}
		inode++
		for k, j := range group {
			h := &out[j].header
			h.Inode = inode
			switch {
			case h.Mode&cpio.TypeMask == cpio.TypeDir:
				h.Links = 2
			default:
				h.Links = uint32(len(group))
			}
			if k < len(group)-1 {
				out[j].source, out[j].data, out[j].digest, h.Size = "", nil, "", 0
			}
		}
	}
	return out, nil
}

func (f File) planned(name string, time int64) planned {
	p := planned{source: f.Source, data: f.Data, digest: f.Digest}
	kind, mode := uint32(cpio.TypeRegular), uint32(0o644)
	switch f.Kind {
	case Dir:
		kind, mode = cpio.TypeDir, 0o755
	case Symlink:
		kind, mode = cpio.TypeSymlink, 0o777
		p.data = []byte(f.Target)
	case Char:
		kind, mode = cpio.TypeChar, 0o600
	case Block:
		kind, mode = cpio.TypeBlock, 0o600
	case FIFO:
		kind, mode = cpio.TypeFIFO, 0o600
	}
	if f.Mode != nil {
		mode = *f.Mode
	}
	p.header = cpio.Header{
		Name: name, Mode: kind | mode, UID: f.UID, GID: f.GID, Time: time, Size: int64(len(p.data)),
		DeviceMajor: f.Major, DeviceMinor: f.Minor,
	}
	return p
}

// check refuses fields that do not go together.
func (f File) check() error {
	if !guestPath(f.Path) {
		return fmt.Errorf("want a clean absolute path below /")
	}
	body := f.Source != "" || f.Data != nil || f.Digest != ""
	device := f.Kind == Char || f.Kind == Block
	link := f.Kind == Symlink || f.Kind == HardLink
	switch {
	case f.Mode != nil && *f.Mode&^cpio.PermMask != 0:
		return fmt.Errorf("mode %o: want permission bits only", *f.Mode)
	case body && f.Kind != Regular:
		return fmt.Errorf("a %s has no bytes of its own", f.Kind)
	case f.Source != "" && f.Data != nil:
		return fmt.Errorf("both a source and data")
	case f.Digest != "" && f.Source == "":
		return fmt.Errorf("a digest without a source")
	case link != (f.Target != ""):
		return fmt.Errorf("a target belongs to a symlink or a hardlink")
	case f.Kind == HardLink && !guestPath(f.Target):
		return fmt.Errorf("target %s: want a clean absolute path below /", f.Target)
	case f.Kind == HardLink && (f.Mode != nil || f.UID != 0 || f.GID != 0):
		return fmt.Errorf("a hard link has the mode and owner of its target")
	case !device && (f.Major != 0 || f.Minor != 0):
		return fmt.Errorf("device numbers belong to a char or block device")
	}
	switch f.Kind {
	case Regular, Dir, Symlink, HardLink, Char, Block, FIFO:
		return nil
	}
	return fmt.Errorf("kind %q: no such kind of file", f.Kind)
}

// guestPath says whether p is a path of a file in the guest.
func guestPath(p string) bool {
	return strings.HasPrefix(p, "/") && p != "/" && path.Clean(p) == p && !strings.Contains(p, "\x00")
}
