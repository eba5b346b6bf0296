package translate

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/share"
	"golang.org/x/sys/unix"
)

// Root is one way to bring a root file system into the guest: as Disks, or by the host, which shares it.
type Root struct {
	Path  string // in the guest
	Disks []Disk // none: the host shares it
	// Pack are the files of layers that become one disk with a partition each, for a guest without a place for each.
	Pack []string

	Name   string        // in the shared folder, where the host shares it
	Mounts []share.Mount // what the host mounts there; none is the folder Folder
	Folder string

	Notes []Note // for the log, where it is taken

	storages []*katapb.Storage // one for each of Disks
}

// rootPlan is how a root file system gets into the guest by disks, decided: one disk that has all of it, or layers for
// an overlay, the topmost first.
type rootPlan struct {
	disks   []rootDisk
	overlay bool
	pack    []string // the files that are the partitions of one disk
	// memory: the snapshotter has a folder for what the container writes, and the guest's memory takes its place.
	memory bool
}

// rootDisk is a disk of a root file system.
type rootDisk struct {
	file, fstype string
	options      []string
	readOnly     bool
	upper        bool   // the layer that is written to
	partition    int    // of the disk that has it; 0 is a disk of its own
	verity       string // the file that describes its hash tree; empty is none
}

// errHostMounts says that the host has to mount a root file system.
var errHostMounts = errors.New("the host has to mount it")

// planRoot decides whether mounts of a snapshotter can be disks of the guest. errHostMounts, with a reason, says that
// they cannot. shared says whether there is a folder for what the host mounts: without one more is done in the guest.
func planRoot(host Host, mounts []share.Mount, shared bool) (rootPlan, error) {
	switch {
	case len(mounts) == 0:
		return rootPlan{}, fmt.Errorf("%w: it is a folder", errHostMounts)
	case len(mounts) == 1:
		d, ok := diskOf(host, mounts[0])
		if !ok {
			return rootPlan{}, fmt.Errorf("%w: %s is no disk", errHostMounts, mounts[0].Type)
		}
		return rootPlan{disks: []rootDisk{d}}, nil
	case !share.IsChain(mounts):
		return rootPlan{}, fmt.Errorf("%w: mounts over each other", errHostMounts)
	}
	// The last mount says what those before it are for. They get names that are no paths.
	points := make([]string, len(mounts)-1)
	for i := range points {
		points[i] = layerName + strconv.Itoa(i)
	}
	last, err := mounts[len(mounts)-1].Resolve(points, mounts)
	if err != nil {
		return rootPlan{}, err
	}
	of := func(point string) (rootDisk, error) {
		n, err := strconv.Atoi(strings.TrimPrefix(point, layerName))
		if !strings.HasPrefix(point, layerName) || err != nil || n < 0 || n >= len(points) {
			return rootDisk{}, fmt.Errorf("%w: %s is a folder of the host", errHostMounts, point)
		}
		d, ok := diskOf(host, mounts[n])
		if !ok {
			return rootDisk{}, fmt.Errorf("%w: %s is no disk", errHostMounts, mounts[n].Type)
		}
		return d, nil
	}
	switch last.Type {
	case "bind":
		d, err := of(last.Source)
		d.readOnly = d.readOnly || slices.Contains(last.Options, "ro")
		return rootPlan{disks: []rootDisk{d}}, err
	case "overlay":
		return planOverlay(last.Options, of, shared)
	}
	return rootPlan{}, fmt.Errorf("%w: layers for a file system of type %s", errHostMounts, last.Type)
}

// layerName begins the names that mounts have while a plan is made.
const layerName = "layer "

// planOverlay makes a plan of an overlay's options. of finds the disk that is mounted at a point.
func planOverlay(options []string, of func(point string) (rootDisk, error), shared bool) (rootPlan, error) {
	p := rootPlan{overlay: true}
	var upper, work string
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			for _, point := range strings.Split(value, ":") {
				d, err := of(point)
				if err != nil {
					return rootPlan{}, err
				}
				d.readOnly = true
				p.disks = append(p.disks, d)
			}
		case "upperdir":
			upper = value
		case "workdir":
			work = value
		case "uidmap", "gidmap":
			return rootPlan{}, fmt.Errorf("%w: its layers show other owners", errHostMounts)
		}
	}
	point, isUpper := strings.CutSuffix(upper, "/upper") // the names that the agent uses too
	switch {
	case len(p.disks) == 0:
		return rootPlan{}, errors.New("an overlay without lower layers")
	case upper == "": // read-only: what the guest writes to memory is nobody's
	case strings.HasPrefix(upper, layerName) && isUpper && work == point+"/work":
		d, err := of(point)
		if err != nil {
			return rootPlan{}, err
		}
		if d.readOnly || d.verity != "" {
			return rootPlan{}, fmt.Errorf("%s is to be written to, and is read-only", d.file)
		}
		d.upper = true
		p.disks = append(p.disks, d)
	case strings.HasPrefix(upper, layerName):
		return rootPlan{}, fmt.Errorf("%w: folders %s and %s of a disk", errHostMounts, upper, work)
	// only the guest checks hash trees
	case shared && !slices.ContainsFunc(p.disks, func(d rootDisk) bool { return d.verity != "" }):
		return rootPlan{}, fmt.Errorf("%w: the snapshotter wants what is written in %s", errHostMounts, upper)
	default:
		p.memory = true
	}
	return p, nil
}

// diskOf is the disk that a mount is of: a block device, or a file of one.
func diskOf(host Host, m share.Mount) (rootDisk, bool) {
	switch m.Type {
	case "ext4", "xfs", "btrfs", "erofs":
	default:
		return rootDisk{}, false
	}
	d := rootDisk{file: m.Source, fstype: m.Type, readOnly: slices.Contains(m.Options, "ro") || m.Type == "erofs"}
	file := false
	for _, o := range m.Options {
		verity, isVerity := strings.CutPrefix(o, share.VerityOption)
		switch {
		case isVerity:
			d.verity = verity
		case o == "loop":
			file = true
		case strings.HasPrefix(o, "device="): // more than one disk for one file system
			return rootDisk{}, false
		case strings.HasPrefix(strings.ToLower(o), "x-"):
		default:
			d.options = append(d.options, o)
		}
	}
	if m.Type == "xfs" { // two snapshots of one image have the same UUID
		d.options = append(d.options, "nouuid")
	}
	f, err := host.Stat(m.Source)
	if err != nil {
		return rootDisk{}, false
	}
	return d, f.is(unix.S_IFBLK) || f.is(unix.S_IFREG) && file
}

// root decides how the container's root comes into the guest: as disks where it is made of disks and the guest has
// places for them, else by the shared folder.
func (p *Plan) root(pod Pod, host Host, c Container) error {
	plan, err := planRoot(host, c.Rootfs, pod.Shared)
	switch {
	case err == nil:
		// the shared folder is read-only at its top
		at := "/run/kata-containers/" + c.ID + "/disk"
		plans := []rootPlan{plan}
		if packed := plan.packed(); len(packed.pack) > 1 {
			plans = append(plans, packed)
		}
		for _, plan := range plans {
			r, err := plan.root(host, at)
			if err != nil {
				return err
			}
			if plan.memory {
				r.Notes = []Note{c.warning("what the container writes is in the guest's memory and goes with the " +
					"container: its layers are disks, and the snapshotter gives no disk to write to")}
			}
			p.Roots = append(p.Roots, r)
		}
	case !errors.Is(err, errHostMounts):
		return err
	case !pod.Shared:
		return fmt.Errorf("shared_fs is none, and the snapshotter gives no block device (%w); use one that does, or "+
			"virtio-fs", err)
	case len(c.Rootfs) > 1:
		n := c.warning("the host mounts the root file system", slog.Any("err", err))
		n.Level = slog.LevelDebug
		p.Notes = append(p.Notes, n)
	}
	if pod.Shared {
		p.Roots = append(p.Roots, sharedRoot(c))
	}
	return nil
}

// sharedRoot has the host mount the root file system into the shared folder.
func sharedRoot(c Container) Root {
	r := Root{Name: c.ID + "/rootfs", Mounts: c.Rootfs, Folder: c.Spec.Root.Path}
	r.Path = share.GuestPath(r.Name)
	if !filepath.IsAbs(r.Folder) {
		r.Folder = filepath.Join(c.Bundle, r.Folder)
	}
	return r
}

// root is the way by the disks of the plan, which the agent mounts at a folder of the guest. The host never reads a
// file system that a container writes.
func (p rootPlan) root(host Host, at string) (Root, error) {
	r := Root{Path: at, Pack: p.pack}
	for _, d := range p.disks {
		s, err := d.storage(host, p.overlay)
		if err != nil {
			return r, err
		}
		s.MountPoint = at
		r.storages = append(r.storages, s)
		r.Disks = append(r.Disks, Disk{File: d.file, ReadOnly: d.readOnly})
	}
	return r, nil
}

// packed is the plan with its lower layers on one disk.
func (p rootPlan) packed() rootPlan {
	if !p.overlay {
		return p
	}
	p.disks = slices.Clone(p.disks)
	for i := range p.disks {
		if d := &p.disks[i]; !d.upper {
			p.pack = append(p.pack, d.file)
			d.file, d.partition = "", len(p.pack)
		}
	}
	return p
}

// The options of layers, as Kata Containers' agent knows them.
const (
	layerMulti     = "X-kata.multi-layer=true"
	layerUpper     = "X-kata.overlay-upper"
	layerLower     = "X-kata.overlay-lower"
	layerGPT       = "X-kata.gpt-partitioned=true"
	layerPartition = "X-kata.partition-number="
	layerVerity    = "X-kata.dmverity"
)

// storage is what the agent is asked for; where the disk is and where it is to be mounted are not known yet.
func (d rootDisk) storage(host Host, overlay bool) (*katapb.Storage, error) {
	s := &katapb.Storage{Driver: "blk", Fstype: d.fstype, Options: slices.Clone(d.options)}
	if d.readOnly && !slices.Contains(s.Options, "ro") {
		s.Options = append(s.Options, "ro")
	}
	switch {
	case !overlay && d.verity != "":
		return nil, fmt.Errorf("%s: a hash tree of what is no layer", d.file)
	case !overlay:
		return s, nil
	case d.upper:
		s.Options = append(s.Options, layerMulti, layerUpper)
	default:
		s.Options = append(s.Options, layerMulti, layerLower)
	}
	if d.partition > 0 {
		s.Options = append(s.Options, layerGPT, layerPartition+strconv.Itoa(d.partition))
	}
	if d.verity == "" {
		return s, nil
	}
	v, err := readVerity(host, d.verity)
	if err != nil {
		return nil, err
	}
	s.Options = append(s.Options, layerVerity+"-enabled", layerVerity+".roothash="+v.RootHash,
		fmt.Sprintf("%s.hashoffset=%d", layerVerity, v.HashOffset))
	return s, nil
}

// layerTree describes the hash tree of a layer. containerd, docs/snapshotters/erofs.md: a JSON file beside it; the rest
// is in the tree's superblock.
type layerTree struct {
	RootHash   string `json:"roothash"`
	HashOffset int64  `json:"hashoffset"`
}

// maxVerity bounds the description of a hash tree, in bytes.
const maxVerity = 4096

func readVerity(host Host, file string) (layerTree, error) {
	b, err := host.Read(file, maxVerity)
	if err != nil {
		return layerTree{}, err
	}
	v, err := decodeVerity(b)
	if err != nil {
		return layerTree{}, fmt.Errorf("hash tree described by %s: %w", file, err)
	}
	return v, nil
}

func decodeVerity(b []byte) (layerTree, error) {
	var v layerTree
	if err := json.Unmarshal(b, &v); err != nil {
		return layerTree{}, err
	}
	if v.RootHash == "" || strings.Trim(v.RootHash, "0123456789abcdefABCDEF") != "" || v.HashOffset <= 0 {
		return layerTree{}, fmt.Errorf("root hash %q at %d", v.RootHash, v.HashOffset)
	}
	return v, nil
}
