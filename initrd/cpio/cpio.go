// Package cpio writes and reads newc archives, the form in which the kernel takes its initial file system.
//
// Linux: Documentation/driver-api/early-userspace/buffer-format.rst. The writer writes what it is told, checked; who
// comes first, which numbers inodes get and what folders are missing is the caller's business.
package cpio

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Sizes of the format, in bytes.
const (
	headerSize = 6 + 13*8     // "070701" and 13 fields of 8 hexadecimal digits
	align      = 4            // of the end of a name and of a body
	maxName    = 4096         // the kernel's PATH_MAX, with the NUL at the end
	maxSize    = 1<<32 - 1    // of a body: its field has 32 bits
	magic      = "070701"     // newc; 070702 would carry checksums
	trailer    = "TRAILER!!!" // name of the entry that ends an archive
)

// Types of files, the upper bits of Header.Mode: those of stat(2).
const (
	TypeMask    = 0o170000
	TypeSocket  = 0o140000
	TypeSymlink = 0o120000
	TypeRegular = 0o100000
	TypeBlock   = 0o060000
	TypeDir     = 0o040000
	TypeChar    = 0o020000
	TypeFIFO    = 0o010000
)

// PermMask is the rest of Header.Mode: permissions, set-uid, set-gid and sticky bits.
const PermMask = 0o7777

// Header is one entry.
type Header struct {
	Name                     string // relative, clean, without a leading slash; "." is the root folder
	Mode                     uint32 // type and permissions, as st_mode
	UID, GID                 uint32
	Inode                    uint32 // with Links above 1, entries of the same number are hard links to each other
	Links                    uint32
	Time                     int64  // seconds since 1970, at most 32 bits
	Size                     int64  // of the body: a regular file's bytes, a symbolic link's target; else 0
	DeviceMajor, DeviceMinor uint32 // of the device that a TypeChar or TypeBlock stands for
}

// check holds what both the writer and the reader insist on.
func (h *Header) check() error {
	if err := checkName(h.Name); err != nil {
		return err
	}
	switch {
	case h.Mode&^(TypeMask|PermMask) != 0:
		return fmt.Errorf("mode %o: bits beyond type and permissions", h.Mode)
	case h.Time < 0 || h.Time > maxSize:
		return fmt.Errorf("time %d does not fit in 32 bits", h.Time)
	case h.Size < 0:
		return fmt.Errorf("size %d", h.Size)
	case h.Size > maxSize:
		return fmt.Errorf("size %d: newc ends at 4 GiB - 1", h.Size)
	case h.Links == 0:
		return errors.New("no links: an entry is at least one")
	}
	device := false
	switch h.Mode & TypeMask {
	case TypeRegular:
	case TypeSymlink:
		if h.Size == 0 || h.Size >= maxName {
			return fmt.Errorf("symbolic link to %d bytes: want 1 to %d", h.Size, maxName-1)
		}
	case TypeDir:
		if h.Size != 0 {
			return errors.New("a folder with a body")
		}
	case TypeChar, TypeBlock:
		device = true
		if h.Size != 0 {
			return errors.New("a device with a body")
		}
	case TypeFIFO, TypeSocket:
		if h.Size != 0 {
			return errors.New("a FIFO or socket with a body")
		}
	default:
		return fmt.Errorf("mode %o: no such type of file", h.Mode)
	}
	// <linux/kdev_t.h>, new_decode_dev: 12 bits of major and 20 of minor number.
	if device && (h.DeviceMajor >= 1<<12 || h.DeviceMinor >= 1<<20) {
		return fmt.Errorf("device %d:%d: want at most 4095:1048575", h.DeviceMajor, h.DeviceMinor)
	}
	if !device && (h.DeviceMajor != 0 || h.DeviceMinor != 0) {
		return errors.New("device numbers on what is no device")
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "" || path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../"):
		return fmt.Errorf("name %q: want a clean relative path", name)
	case len(name)+1 > maxName:
		return fmt.Errorf("name of %d bytes: want at most %d", len(name), maxName-1)
	case strings.Contains(name, "\x00"):
		return fmt.Errorf("name %q holds a NUL", name)
	case name == trailer:
		return fmt.Errorf("name %q ends an archive", name)
	}
	return nil
}

// padding is how many bytes are missing to the next multiple of align.
func padding(n int64) int { return int(-n & (align - 1)) }

var zeros [align]byte
