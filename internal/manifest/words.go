package manifest

import ()

// The words that a recipe, a component and a manifest have for the same things. Lists have the default first: what a
// guest gets whose recipe says nothing.

// The file systems of a root on a disk.
const (
	EROFS = "erofs"
	Ext4  = "ext4"
)

// FileSystems lists them.
func FileSystems() []string { return []string{EROFS, Ext4} }

// The ways to lay out a disk; docs/formats/disk.md.
const (
	LayoutGPT    = "gpt"
	LayoutMBR    = "mbr"
	LayoutMBRDAX = "mbr-dax"
	LayoutBare   = "bare"
)

// Layouts lists them.
func Layouts() []string { return []string{LayoutGPT, LayoutMBR, LayoutMBRDAX, LayoutBare} }

// The programs that may be PID 1 of a guest.
const (
	InitAgent   = "agent"
	InitSystemd = "systemd"
)

// Inits lists them.
func Inits() []string { return []string{InitAgent, InitSystemd} }

// The ways to give a guest its image.
const (
	VirtioBlk = "virtio-blk"
	NVDIMM    = "nvdimm"
)

// Disks lists them.
func Disks() []string { return []string{VirtioBlk, NVDIMM} }

// The ways to compress an initrd.
const (
	Uncompressed = "none"
	Zstd         = "zstd"
)

// InitrdCompressions lists them.
func InitrdCompressions() []string { return []string{Zstd, Uncompressed} }
