package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/agent/storage/disk"
	"github.com/katabuild/katabuild/agent/storage/mount"
)

// disks finds the disks of this guest.
func (m *Manager) disks() disk.Finder { return disk.Finder{Root: m.c.Root, Devices: m.c.Devices} }

// mountBlock mounts a disk.
func mountBlock(ctx context.Context, m *Manager, r request, u *undo) error {
	if r.s.Fstype == "" {
		return fmt.Errorf("driver %s: want a type of file system", r.driver.name)
	}
	d, err := m.disks().Find(ctx, r.driver.name, r.s.Source)
	if err != nil {
		return err
	}
	if err := d.MakeNode(); err != nil {
		return err
	}
	if err := m.makeFileSystem(ctx, d, r.s.DriverOptions); err != nil {
		return err
	}
	if err := mounted(d.Node, r.s.Fstype, r.at, mount.Parse(r.s.Options), u); err != nil {
		return err
	}
	return own(r.s.FsGroup, r.at)
}

// The options of a driver that change a disk.
const (
	createFileSystem = "create_filesystem"
	encryptionKey    = "encryption_key="
)

// mkfsExt4 are the arguments for a disk that lives as long as its sandbox: no journal, nothing reserved, few and small
// inodes.
var mkfsExt4 = []string{"-q", "-F", "-O", "^has_journal", "-m", "0", "-i", "163840", "-I", "128"}

// makeFileSystem makes one where the host asks for it.
func (m *Manager) makeFileSystem(ctx context.Context, d disk.Disk, driverOptions []string) error {
	for _, o := range driverOptions {
		if strings.HasPrefix(o, encryptionKey) {
			// It must not end up on the disk in clear.
			return fmt.Errorf("driver option %s: this agent does not encrypt disks", o)
		}
	}
	if !slices.Contains(driverOptions, createFileSystem) {
		return nil
	}
	if m.c.Programs == nil {
		return errors.New("driver option create_filesystem: this agent runs no programs")
	}
	if _, err := m.c.Programs.Run(ctx, nil, "mkfs.ext4", append(slices.Clone(mkfsExt4), d.Node)...); err != nil {
		return fmt.Errorf("make a file system on %s: %w", d.Node, err)
	}
	return nil
}
