package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/mount"
	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// request is one mount point to make.
type request struct {
	container string
	driver    driver
	s         *katapb.Storage   // the first, where there are several
	layers    []*katapb.Storage // of multiLayer: all that make up the mount
	at        place.Place
}

// driver makes a kind of mount. What do does it adds to u, also when it fails.
type driver struct {
	name string
	do   func(ctx context.Context, m *Manager, r request, u *undo) error
}

// The names of drivers that are spoken of elsewhere.
const (
	multiLayer = "erofs.multi-layer"
	ephemeral  = "ephemeral"
)

// drivers are all there are. Kata Containers 4.1, Storage.driver; 9p as in its releases before.
var drivers = []driver{
	{"9p", mountShared("9p")},
	{"virtio-fs", mountShared(virtioFS)},
	{"bind", mountBind},
	{"blk", mountBlock},
	{"blk-ccw", mountBlock},
	{"mmioblk", mountBlock},
	{"scsi", mountBlock},
	{"nvdimm", mountBlock},
	{ephemeral, mountEphemeral},
	{"local", makeLocal},
	{"overlayfs", mountOverlay},
	{"watchable-bind", mountWatched},
}

// group makes a request of each storage, and one of all those that make up a multi-layer mount.
func (m *Manager) group(container string, storages []*katapb.Storage) ([]request, error) {
	var requests []request
	for _, s := range storages {
		at, err := place.In(m.c.Below, s.GetMountPoint())
		if err != nil {
			return nil, fmt.Errorf("storage of driver %s: mount point %w", s.GetDriver(), err)
		}
		if at.Rest() == "." {
			return nil, fmt.Errorf("storage of driver %s: mount point %s: %w: it is the folder itself", s.GetDriver(),
				at, place.ErrOutside)
		}
		if isLayer(s) {
			same := func(r request) bool { return r.layers != nil && r.at == at }
			if i := slices.IndexFunc(requests, same); i >= 0 {
				requests[i].layers = append(requests[i].layers, s)
			} else {
				requests = append(requests, request{container, driver{multiLayer, mountLayers}, s,
					[]*katapb.Storage{s}, at})
			}
			continue
		}
		i := slices.IndexFunc(drivers, func(d driver) bool { return d.name == s.GetDriver() })
		if i < 0 {
			return nil, fmt.Errorf("storage %s: this agent has no driver %q", at, s.GetDriver())
		}
		requests = append(requests, request{container: container, driver: drivers[i], s: s, at: at})
	}
	return requests, nil
}

// mounted mounts source at a place, a folder, and notes how to take it away.
func mounted(source, fstype string, at place.Place, h mount.Options, u *undo) error {
	if err := mount.At(source, fstype, at, h); err != nil {
		return err
	}
	u.add(func() error { return mount.Unmount(at) })
	return nil
}

// bound binds an open folder or file at a place, and notes how to take it away.
func bound(from place.Handle, at place.Place, h mount.Options, u *undo) error {
	if err := mount.Bind(from, at, h); err != nil {
		return err
	}
	u.add(func() error { return mount.Unmount(at) })
	return nil
}

// mountShared mounts a folder that the host shares, by its tag, such as kataShared. It mounts nothing else: neither a
// folder of the guest's own, by bind, nor another type of file system, whose options could name one.
func mountShared(fstype string) func(context.Context, *Manager, request, *undo) error {
	return func(ctx context.Context, _ *Manager, r request, u *undo) error {
		h := mount.Parse(r.s.Options)
		switch {
		case r.s.Source == "" || r.s.Fstype != fstype:
			return fmt.Errorf("driver %s: want a source and the type of file system %s, got %q of type %q",
				r.driver.name, fstype, r.s.Source, r.s.Fstype)
		case h.Flags&unix.MS_BIND != 0:
			return fmt.Errorf("driver %s: the option bind is for the driver bind", r.driver.name)
		}
		if err := mountTag(ctx, r, h, u); err != nil {
			return err
		}
		return own(r.s.FsGroup, r.at)
	}
}

// virtioFS is the type of file system of a folder that is shared by virtio-fs.
const virtioFS = "virtiofs"

// Times of waiting for a device with a tag: that of a guest which was restored from a template is plugged in.
const (
	tagTime  = 5 * time.Second
	tagPause = 10 * time.Millisecond
)

// mountTag mounts a folder by its tag. For virtio-fs Linux says EINVAL where it has no device with the tag, yet:
// fs/fuse/virtio_fs.c, virtio_fs_get_tree.
func mountTag(ctx context.Context, r request, h mount.Options, u *undo) error {
	end := time.Now().Add(tagTime)
	for {
		err := mounted(r.s.Source, r.s.Fstype, r.at, h, u)
		if !errors.Is(err, unix.EINVAL) || r.s.Fstype != virtioFS || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(tagPause):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// mountBind makes a folder or file visible a second time.
func mountBind(_ context.Context, m *Manager, r request, u *undo) error {
	src, err := m.source(r.s.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := bound(src, r.at, mount.Parse(r.s.Options), u); err != nil {
		return err
	}
	return own(r.s.FsGroup, r.at)
}

// source opens a folder or file that a request names as a source, below the known folders.
func (m *Manager) source(path string) (place.Handle, error) {
	p, err := place.In(m.c.Below, path)
	if err != nil {
		return -1, fmt.Errorf("source %w", err)
	}
	return p.Open(unix.O_PATH)
}

// makeLocal makes a folder in the guest.
func makeLocal(_ context.Context, _ *Manager, r request, _ *undo) error {
	h := mount.Parse(r.s.Options)
	dir, err := r.at.MakeDirs(place.DirMode, nil)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := modeAndGroup(dir, r.at, &h); err != nil {
		return err
	}
	return own(r.s.FsGroup, r.at)
}

// mountEphemeral mounts memory: a tmpfs, or huge pages.
func mountEphemeral(_ context.Context, m *Manager, r request, u *undo) error {
	h := mount.Parse(r.s.Options)
	mode, hasMode := h.Take("mode")
	gid, hasGID := h.Take("fsgid")
	switch r.s.Fstype {
	case "tmpfs":
	case "hugetlbfs":
		if err := m.reserve(h, u); err != nil {
			return err
		}
	default:
		return fmt.Errorf("driver %s: file system %q: want tmpfs or hugetlbfs", r.driver.name, r.s.Fstype)
	}
	source := r.s.Source
	if source == "" {
		source = r.s.Fstype
	}
	if err := mounted(source, r.s.Fstype, r.at, h, u); err != nil {
		return err
	}
	var again mount.Options
	if hasMode {
		again.Data = append(again.Data, "mode="+mode)
	}
	if hasGID {
		again.Data = append(again.Data, "fsgid="+gid)
	}
	top, err := r.at.Open(unix.O_PATH)
	if err != nil {
		return err
	}
	defer top.Close()
	if err := modeAndGroup(top, r.at, &again); err != nil {
		return err
	}
	return own(r.s.FsGroup, r.at)
}

// modeAndGroup does what mode=, in octal, and fsgid= ask for. A group's folder hands its group down.
func modeAndGroup(dir place.Handle, at place.Place, h *mount.Options) error {
	mode, hasMode := h.Take("mode")
	gid, hasGID := h.Take("fsgid")
	var st unix.Stat_t
	if err := unix.Fstat(int(dir), &st); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	bits := st.Mode & 0o7777
	if hasMode {
		n, err := strconv.ParseUint(mode, 8, 12)
		if err != nil {
			return fmt.Errorf("option mode=%s: want octal digits", mode)
		}
		bits = uint32(n)
	}
	if hasGID {
		n, err := strconv.ParseUint(gid, 10, 31)
		if err != nil {
			return fmt.Errorf("option fsgid=%s: want the number of a group", gid)
		}
		if err := unix.Chown(dir.Path(), -1, int(n)); err != nil {
			return fmt.Errorf("group %d of %s: %w", n, at, err)
		}
		bits |= unix.S_ISGID
	}
	// After the change of group, which clears bits.
	if hasMode || hasGID {
		if err := unix.Chmod(dir.Path(), bits); err != nil {
			return fmt.Errorf("mode %o of %s: %w", bits, at, err)
		}
	}
	return nil
}

// overlayRW is the option of an overlay that is to be writable: its upper folder is in memory, of the container's own.
const (
	overlayRW     = "io.katacontainers.fs-opt.overlay-rw"
	overlayFolder = "io.katacontainers.volume.overlayfs.create_directory="
	hostOptions   = "io.katacontainers." // the other words of this kind are for the host's snapshotters
)

// mountOverlay mounts folders of the guest over each other.
func mountOverlay(_ context.Context, m *Manager, r request, u *undo) error {
	for _, o := range r.s.DriverOptions {
		if folder, ok := strings.CutPrefix(o, overlayFolder); ok {
			p, err := place.In(m.c.Below, folder)
			if err != nil {
				return err
			}
			h, err := p.MakeDirs(place.DirMode, nil)
			if err != nil {
				return err
			}
			h.Close()
		}
	}
	h := mount.Parse(r.s.Options)
	writable := slices.Contains(h.Data, overlayRW)
	h.Data = slices.DeleteFunc(h.Data, func(w string) bool { return strings.HasPrefix(w, hostOptions) })
	lower, ok := h.Take("lowerdir")
	if !ok {
		return fmt.Errorf("driver %s: the options have no lowerdir", r.driver.name)
	}
	o := mount.Overlay{Lower: strings.Split(lower, ":")}
	o.Upper, _ = h.Take("upperdir")
	o.Work, _ = h.Take("workdir")
	if writable {
		mine := place.Root(m.c.Run).Join(r.container)
		upper, work := mine.Join("upper"), mine.Join("work")
		if err := upperFolders(u, upper, work); err != nil {
			return err
		}
		o.Upper, o.Work = upper.String(), work.String()
	}
	for _, p := range slices.Concat(o.Lower, []string{o.Upper, o.Work}) {
		if p == "" {
			continue
		}
		f, err := m.source(p)
		if err != nil {
			return err
		}
		f.Close()
	}
	if err := overlaid(o, r.at, h, u); err != nil {
		return err
	}
	return own(r.s.FsGroup, r.at)
}

// overlaid mounts an overlay at a place, and notes how to take it away.
func overlaid(o mount.Overlay, at place.Place, h mount.Options, u *undo) error {
	if err := o.Mount(at, h); err != nil {
		return err
	}
	u.add(func() error { return mount.Unmount(at) })
	return nil
}

// upperFolders makes the folders that an overlay writes to, and takes them away with what the container wrote.
func upperFolders(u *undo, folders ...place.Place) error {
	for _, at := range folders {
		h, err := at.MakeDirs(place.DirMode, nil)
		if err != nil {
			return err
		}
		h.Close()
		u.add(at.RemoveAll)
	}
	return nil
}
