package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/disk"
	"github.com/katabuild/katabuild/agent/storage/mount"
	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// The options by which several storages make up one mount, that of containerd's erofs snapshotter: disks with a layer
// each below, and one to write to.
const (
	layerPrefix   = "X-kata."
	layerMulti    = layerPrefix + "multi-layer=true"
	layerUpper    = layerPrefix + "overlay-upper"
	layerLower    = layerPrefix + "overlay-lower"
	layerGPT      = layerPrefix + "gpt-partitioned=true"
	layerNumber   = layerPrefix + "partition-number="
	layerMkdir    = layerPrefix + "mkdir.path="
	layerVerity   = layerPrefix + "dmverity-enabled"
	verityOptions = disk.VerityOptions
)

// maxLayers is what an overlay takes. fs/overlayfs/params.h, OVL_MAX_STACK.
const maxLayers = 500

// isLayer says whether a storage is one of several that make up a mount.
func isLayer(s *katapb.Storage) bool {
	return s.GetDriver() == multiLayer || slices.Contains(s.GetOptions(), layerMulti)
}

// layer is one storage's part, decided.
type layer struct {
	source, driver, fstype string
	upper                  bool
	partition              int // 0 is the whole disk
	folders                []string
	verity                 *disk.Verity
	driverOptions          []string
	how                    mount.Options
}

// readLayer reads the options of a storage.
func readLayer(s *katapb.Storage) (layer, error) {
	l := layer{source: s.Source, fstype: s.Fstype, driver: s.Driver, driverOptions: s.DriverOptions}
	if l.driver == multiLayer {
		l.driver = disk.DriverOf(s.Source)
	}
	var lower, gpt, guarded bool
	var words, rest []string
	for _, o := range s.Options {
		var err error
		value, isNumber := strings.CutPrefix(o, layerNumber)
		folder, isFolder := strings.CutPrefix(o, layerMkdir)
		word, isVerity := strings.CutPrefix(o, verityOptions)
		switch {
		case o == layerMulti:
		case o == layerUpper || o == layerUpper+"=true":
			l.upper = true
		case o == layerLower || o == layerLower+"=true":
			lower = true
		case o == layerGPT:
			gpt = true
		case o == layerVerity || o == layerVerity+"=true":
			guarded = true
		case isNumber:
			if l.partition, err = strconv.Atoi(value); err != nil || l.partition < 1 || l.partition > 128 {
				return layer{}, fmt.Errorf("option %s: want the number of a partition", o)
			}
		case isFolder:
			l.folders = append(l.folders, folder)
		case isVerity:
			words = append(words, word)
		case strings.HasPrefix(o, layerPrefix):
			return layer{}, fmt.Errorf("option %s: this agent does not know it", o)
		case o == "loop": // for hosts, where a layer is a file
		default:
			rest = append(rest, o)
		}
	}
	l.how = mount.Parse(rest)
	switch {
	case l.upper == lower:
		return layer{}, fmt.Errorf("layer %s: want either %s or %s", s.Source, layerUpper, layerLower)
	case l.partition != 0 && !gpt:
		return layer{}, fmt.Errorf("layer %s: a partition number without %s", s.Source, layerGPT)
	case gpt && l.partition == 0:
		return layer{}, fmt.Errorf("layer %s: %s without a partition number", s.Source, layerGPT)
	case l.fstype == "":
		return layer{}, fmt.Errorf("layer %s: want a type of file system", s.Source)
	case guarded && l.upper:
		return layer{}, fmt.Errorf("layer %s: what is written to cannot be behind dm-verity", s.Source)
	case len(words) > 0 && !guarded:
		// Refused rather than mounted without: somebody wanted it checked.
		return layer{}, fmt.Errorf("layer %s: options of dm-verity without %s", s.Source, layerVerity)
	}
	if lower {
		l.how.Flags |= unix.MS_RDONLY
	}
	if guarded {
		v, err := disk.ReadVerity(words)
		if err != nil {
			return layer{}, fmt.Errorf("layer %s: %w", s.Source, err)
		}
		l.verity = &v
	}
	return l, nil
}

// readLayers reads the storages of one mount: the lower layers, the topmost first, and the one to write to, or nil.
func readLayers(storages []*katapb.Storage) (lowers []layer, upper *layer, _ error) {
	for _, s := range storages {
		l, err := readLayer(s)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case !l.upper:
			lowers = append(lowers, l)
		case upper != nil:
			return nil, nil, errors.New("two layers to write to")
		default:
			upper = &l
		}
	}
	if len(lowers) == 0 || len(lowers) > maxLayers {
		return nil, nil, fmt.Errorf("%d lower layers: want 1 to %d", len(lowers), maxLayers)
	}
	return lowers, upper, nil
}

// mountLayers mounts the lower layers, the topmost first in the request, what is written to, and an overlay of them.
func mountLayers(ctx context.Context, m *Manager, r request, u *undo) error {
	lowers, upper, err := readLayers(r.layers)
	if err != nil {
		return err
	}
	base := place.Root(m.c.Run).Join(r.container, "multi-layer")
	u.add(base.RemoveEmpty) // last; were something still mounted in it, its files must not go
	var folders []string
	for i, l := range lowers {
		at := base.Join(fmt.Sprintf("lower-%d", i))
		if err := m.mountLayer(ctx, l, at, fmt.Sprintf("%.64s-%d", r.container, i), u); err != nil {
			return err
		}
		folders = append(folders, at.String())
	}
	up := base.Join("upper")
	if err := m.mountUpper(ctx, upper, up, u); err != nil {
		return err
	}
	if err := overlayLayers(folders, upper, up, r.at, u); err != nil {
		return err
	}
	return own(r.s.FsGroup, r.at)
}

// mountUpper mounts what is written to; without a layer for that it is memory.
func (m *Manager) mountUpper(ctx context.Context, upper *layer, at place.Place, u *undo) error {
	switch {
	case upper == nil:
		return mounted("upper", "tmpfs", at, mount.Options{Data: []string{"mode=0755"}}, u)
	case upper.fstype == "tmpfs":
		return mounted("upper", "tmpfs", at, upper.how, u)
	default:
		return m.mountLayer(ctx, *upper, at, "", u)
	}
}

// overlayLayers mounts an overlay of folders, the topmost first, and of what is mounted at up, after it has made there
// the folders that the layer to write to asks for.
func overlayLayers(lower []string, upper *layer, up, at place.Place, u *undo) error {
	top := place.Root(up.String())
	folders := []place.Place{top.Join("upper"), top.Join("work")}
	if upper != nil {
		for _, f := range upper.folders {
			p, err := folderOf(top, f)
			if err != nil {
				return err
			}
			folders = append(folders, p)
		}
	}
	for _, p := range folders {
		h, err := p.MakeDirs(place.DirMode, nil)
		if err != nil {
			return err
		}
		h.Close()
	}
	o := mount.Overlay{Lower: lower, Upper: folders[0].String(), Work: folders[1].String()}
	return overlaid(o, at, mount.Options{}, u)
}

// folderOf is a folder to make on what is written to: PATH, or PATH:MODE. A path may begin with a reference to that
// mount in Kata's form, "{{ mount N }}".
func folderOf(up place.Place, s string) (place.Place, error) {
	path, _, _ := strings.Cut(s, ":")
	if strings.HasPrefix(path, "{{") {
		_, rest, ok := strings.Cut(path, "}}")
		if !ok {
			return place.Place{}, fmt.Errorf("option %s%s: no }} after its mount reference", layerMkdir, s)
		}
		path = rest
	}
	path = strings.TrimPrefix(path, up.String())
	return place.In([]string{up.String()}, up.String()+"/"+strings.TrimLeft(path, "/"))
}

// mountLayer mounts one disk, behind dm-verity where it asks for that. name is for the device-mapper.
func (m *Manager) mountLayer(ctx context.Context, l layer, at place.Place, name string, u *undo) error {
	disks := m.disks()
	d, err := disks.Find(ctx, l.driver, l.source)
	if err != nil {
		return err
	}
	if l.partition > 0 {
		if d, err = disks.Partition(ctx, d, l.partition); err != nil {
			return err
		}
	}
	if err := d.MakeNode(); err != nil {
		return err
	}
	if l.upper {
		if err := m.makeFileSystem(ctx, d, l.driverOptions); err != nil {
			return err
		}
	}
	if l.verity != nil {
		name = "katabuild-layer-" + name
		if d, err = disks.Guard(*l.verity, d, name); err != nil {
			return fmt.Errorf("dm-verity of layer %s: %w", l.source, err)
		}
		u.add(func() error { return disks.Unguard(name) })
	}
	return mounted(d.Node, l.fstype, at, l.how, u)
}
