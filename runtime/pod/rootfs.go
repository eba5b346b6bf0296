package pod

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/share"
)

// rootPlan is how a root file system gets into the guest by disks, decided: one disk that has all of it, or layers for
// an overlay, the topmost first.
type rootPlan struct {
	disks   []rootDisk
	overlay bool
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
func planRoot(mounts []share.Mount, shared bool) (rootPlan, error) {
	switch {
	case len(mounts) == 0:
		return rootPlan{}, fmt.Errorf("%w: it is a folder", errHostMounts)
	case len(mounts) == 1:
		d, ok := diskOf(mounts[0])
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
		d, ok := diskOf(mounts[n])
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
func diskOf(m share.Mount) (rootDisk, bool) {
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
	st, err := os.Stat(m.Source)
	if err != nil {
		return rootDisk{}, false
	}
	block := st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
	return d, block || st.Mode().IsRegular() && file
}

// rootfs brings the container's root into the guest: as disks where it is made of disks and the guest has places for
// them, else by the shared folder.
func (p *Pod) rootfs(ctx context.Context, c Container, have *container, g *inGuest) error {
	plan, err := planRoot(c.Rootfs, p.share != nil)
	if err == nil {
		err = p.diskRoot(ctx, c, have, g, plan)
	}
	if errors.Is(err, machine.ErrNoPlace) {
		err = p.packedRoot(ctx, c, have, g, plan, err)
	}
	if err == nil {
		return nil
	}
	switch unable := errors.Is(err, machine.ErrNoPlace); {
	case !unable && !errors.Is(err, errHostMounts):
		return err
	case p.share == nil && unable:
		return fmt.Errorf("%w; the guest needs a place for each disk, pcie_root_port has their number", err)
	case p.share == nil:
		return fmt.Errorf("shared_fs is none, and the snapshotter gives no block device (%w); use one that does, or "+
			"virtio-fs", err)
	case unable:
		p.log.Warn("the host mounts the root file system, as the guest cannot take its disks", "container", c.ID,
			"err", err)
	case len(c.Rootfs) > 1:
		p.log.Debug("the host mounts the root file system", "container", c.ID, "err", err)
	}
	return p.sharedRoot(c, g)
}

// sharedRoot has the host mount the root file system into the shared folder.
func (p *Pod) sharedRoot(c Container, g *inGuest) error {
	name := c.ID + "/rootfs"
	g.spec.Root.Path = share.GuestPath(name)
	if len(c.Rootfs) > 0 {
		return p.share.Mount(c.ID, name, c.Rootfs)
	}
	path := c.Spec.Root.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.Bundle, path)
	}
	return p.share.Bind(c.ID, name, path, share.Writable, share.Owners{})
}

// diskRoot plugs in the disks of a root file system and has the agent mount them. The host never reads a file system
// that a container writes.
func (p *Pod) diskRoot(ctx context.Context, c Container, have *container, g *inGuest, plan rootPlan) error {
	at := "/run/kata-containers/" + c.ID + "/disk" // the shared folder is read-only at its top
	begin := len(have.disks)
	var storages []*katapb.Storage
	for _, d := range plan.disks {
		s, err := d.storage(plan.overlay)
		if err != nil {
			return err
		}
		disk := machine.Disk{Path: d.file, ReadOnly: d.readOnly}
		if d.partition > 0 {
			if disk.Parts, err = packParts(d.file); err != nil {
				return err
			}
		}
		plugged, err := p.plug(ctx, have, disk)
		if err != nil {
			if errors.Is(err, machine.ErrNoPlace) { // the host will use them
				err = errors.Join(fmt.Errorf("disk %d of %d: %w", len(storages)+1, len(plan.disks), err),
					p.unplug(ctx, have, begin))
			}
			return err
		}
		s.Source, s.MountPoint = plugged.PCIPath, at
		storages = append(storages, s)
	}
	if plan.memory {
		p.log.Warn("what the container writes is in the guest's memory and goes with the container: its layers are "+
			"disks, and the snapshotter gives no disk to write to", "container", c.ID)
	}
	g.storages = append(g.storages, storages...)
	g.spec.Root.Path = at
	return nil
}

// packedRoot tries again with one disk for all lower layers, where that makes a difference; why is why more do not fit.
func (p *Pod) packedRoot(ctx context.Context, c Container, have *container, g *inGuest, plan rootPlan,
	why error) error {
	var files []string
	sum := sha256.New()
	for _, d := range plan.disks {
		if !d.upper {
			files = append(files, d.file)
			fmt.Fprintf(sum, "%q\n", d.file)
		}
	}
	if !plan.overlay || len(files) < 2 {
		return why
	}
	// Containers of one image have one disk.
	dir := filepath.Join(p.dir(), fmt.Sprintf("pack-%.16x", sum.Sum(nil)))
	file := filepath.Join(dir, packFile)
	if !p.isPlugged(file) {
		err := os.RemoveAll(dir) // of a container that is gone
		if err == nil {
			file, err = pack(dir, files)
		}
		if err != nil {
			p.log.Debug("no disk for all layers", "container", c.ID, "err", err)
			return why
		}
	}
	return p.diskRoot(ctx, c, have, g, plan.packed(file))
}

// packed is the plan with its lower layers on one disk.
func (p rootPlan) packed(file string) rootPlan {
	p.disks = slices.Clone(p.disks)
	n := 0
	for i := range p.disks {
		if d := &p.disks[i]; !d.upper {
			n++
			d.file, d.partition = file, n
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
func (d rootDisk) storage(overlay bool) (*katapb.Storage, error) {
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
	v, err := readVerity(d.verity)
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

func readVerity(file string) (layerTree, error) {
	f, err := os.Open(file)
	if err != nil {
		return layerTree{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxVerity+1))
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
	if len(b) > maxVerity {
		return v, fmt.Errorf("more than %d bytes", maxVerity)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return layerTree{}, err
	}
	if v.RootHash == "" || strings.Trim(v.RootHash, "0123456789abcdefABCDEF") != "" || v.HashOffset <= 0 {
		return layerTree{}, fmt.Errorf("root hash %q at %d", v.RootHash, v.HashOffset)
	}
	return v, nil
}
