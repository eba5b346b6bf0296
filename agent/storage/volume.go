package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/mount"
	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/mountinfo"
)

// VolumeStats says how full the file system at a path of the guest is: its bytes and its inodes, as the container
// storage interface counts them.
func (m *Manager) VolumeStats(path string) (*katapb.VolumeStatsResponse, error) {
	p, err := place.In(m.c.Below, path)
	if err != nil {
		return nil, fmt.Errorf("volume %w", err)
	}
	h, err := p.Open(unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("volume %s: %w", p, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(h.Path(), &st); err != nil {
		return nil, fmt.Errorf("volume %s: %w", p, err)
	}
	block := uint64(st.Frsize)
	if block == 0 {
		block = uint64(st.Bsize)
	}
	return &katapb.VolumeStatsResponse{
		Usage: []*katapb.VolumeUsage{
			{Unit: katapb.VolumeUsage_BYTES, Total: st.Blocks * block, Available: st.Bavail * block,
				Used: (st.Blocks - st.Bfree) * block},
			{Unit: katapb.VolumeUsage_INODES, Total: st.Files, Available: st.Ffree, Used: st.Files - st.Ffree},
		},
		VolumeCondition: &katapb.VolumeCondition{},
	}, nil
}

// UpdateEphemeral gives memory file systems that are mounted another size: the host does so when the guest got more
// memory.
func (m *Manager) UpdateEphemeral(storages []*katapb.Storage) error {
	for _, s := range storages {
		if s.GetDriver() != ephemeral || s.Fstype == "hugetlbfs" {
			return fmt.Errorf("storage %s: only memory of the driver %s changes its size", s.GetMountPoint(), ephemeral)
		}
		p, err := place.In(m.c.Below, s.GetMountPoint())
		if err != nil {
			return fmt.Errorf("mount point %w", err)
		}
		size, ok := mount.Parse(s.Options).Get("size")
		if !ok {
			return fmt.Errorf("storage %s: the options have no size", p)
		}
		if !strings.HasSuffix(size, "%") {
			if _, err := parseSize(size); err != nil {
				return fmt.Errorf("storage %s: size: %w", p, err)
			}
		}
		if err := resize(p, size); err != nil {
			return err
		}
	}
	return nil
}

func resize(p place.Place, size string) error {
	h, err := p.Open(unix.O_PATH | unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("storage %s: %w", p, ErrNotFound)
	}
	if err != nil {
		return err
	}
	defer h.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(h.Path(), &st); err != nil {
		return fmt.Errorf("storage %s: %w", p, err)
	}
	if st.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("storage %s: not a tmpfs", p)
	}
	// A remount sets every flag of the mount, so those it has are asked for again.
	if err := unix.Mount("", h.Path(), "", unix.MS_REMOUNT|mount.FlagsOf(st), "size="+size); err != nil {
		return fmt.Errorf("storage %s: size %s: %w", p, size, err)
	}
	return nil
}

// StaleMounts looks at every mount below the shared folder, so that the shared file system lets go of those whose
// source is gone on the host.
func (m *Manager) StaleMounts() error {
	all, err := mountinfo.Self()
	if err != nil {
		return err
	}
	shared := filepath.Join(m.c.Run, sharedDir) + "/"
	for _, mounted := range all {
		if !strings.HasPrefix(mounted.Point, shared) {
			continue
		}
		var st unix.Stat_t
		// The look is the deed; what it finds is of no interest.
		_ = unix.Stat(mounted.Point, &st)
	}
	return nil
}

// CopyFile takes a chunk of a file, a folder or a symbolic link below the shared folder, as incoming.Files does.
func (m *Manager) CopyFile(r *katapb.CopyFileRequest) error {
	shared := filepath.Join(m.c.Run, sharedDir)
	at, err := place.In([]string{shared}, r.GetPath())
	if err != nil {
		return fmt.Errorf("copy %w", err)
	}
	if at.Rest() == "." {
		return fmt.Errorf("copy %s: %w: it is the shared folder itself", at, place.ErrOutside)
	}
	h, err := place.Root(m.c.Run).Join(sharedDir).MakeDirs(place.DirMode, nil)
	if err != nil {
		return err
	}
	h.Close()
	return m.incoming.Take(at, r)
}
