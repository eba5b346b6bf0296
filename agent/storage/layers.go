package storage

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/dmverity"
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
	verityOptions = layerPrefix + "dmverity."
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
	verity                 *verity
	driverOptions          []string
	how                    how
}

// readLayer reads the options of a storage.
func readLayer(s *katapb.Storage) (layer, error) {
	l := layer{source: s.Source, fstype: s.Fstype, driver: s.Driver, driverOptions: s.DriverOptions}
	if l.driver == multiLayer {
		l.driver = driverOf(s.Source)
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
	l.how = parseOptions(rest)
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
		l.how.flags |= unix.MS_RDONLY
	}
	if guarded {
		v, err := readVerity(words)
		if err != nil {
			return layer{}, fmt.Errorf("layer %s: %w", s.Source, err)
		}
		l.verity = &v
	}
	return l, nil
}

// driverOf guesses a disk's bus from its source, where a storage does not say it.
func driverOf(source string) string {
	switch {
	case strings.HasPrefix(source, "/dev/"):
		return "mmioblk"
	case scsiName.MatchString(source):
		return "scsi"
	case ccwBus.MatchString(source):
		return "blk-ccw"
	}
	return "blk"
}

// mountLayers mounts the lower layers, the topmost first in the request, what is written to, and an overlay of them.
// Without a layer to write to there is memory.
func mountLayers(ctx context.Context, m *Manager, r request, u *undo) error {
	var lowers []layer
	var upper *layer
	for _, s := range r.layers {
		l, err := readLayer(s)
		if err != nil {
			return err
		}
		switch {
		case !l.upper:
			lowers = append(lowers, l)
		case upper != nil:
			return errors.New("two layers to write to")
		default:
			upper = &l
		}
	}
	if len(lowers) == 0 || len(lowers) > maxLayers {
		return fmt.Errorf("%d lower layers: want 1 to %d", len(lowers), maxLayers)
	}
	base := place{m.c.Run, filepath.Join(r.container, "multi-layer")}
	u.add(base.removeEmpty) // last; were something still mounted in it, its files must not go
	o := overlay{}
	for i, l := range lowers {
		at := place{base.root, filepath.Join(base.rest, fmt.Sprintf("lower-%d", i))}
		if err := m.mountLayer(ctx, l, at, fmt.Sprintf("%.64s-%d", r.container, i), u); err != nil {
			return err
		}
		o.lower = append(o.lower, at.String())
	}
	up := place{base.root, filepath.Join(base.rest, "upper")}
	switch {
	case upper != nil && upper.fstype == "tmpfs", upper == nil:
		h := how{data: []string{"mode=0755"}}
		if upper != nil {
			h = upper.how
		}
		if err := mounted("upper", "tmpfs", up, h, u); err != nil {
			return err
		}
	default:
		if err := m.mountLayer(ctx, *upper, up, "", u); err != nil {
			return err
		}
	}
	o.upper, o.work = filepath.Join(up.String(), "upper"), filepath.Join(up.String(), "work")
	folders := []string{o.upper, o.work}
	if upper != nil {
		for _, f := range upper.folders {
			p, err := folderOf(up, f)
			if err != nil {
				return err
			}
			folders = append(folders, p.String())
		}
	}
	for _, f := range folders {
		p, err := placeIn([]string{up.String()}, f)
		if err != nil {
			return err
		}
		h, err := p.makeDirs(dirMode, nil)
		if err != nil {
			return err
		}
		h.close()
	}
	if err := o.mount(r.at, how{}, u); err != nil {
		return err
	}
	return own(r.s.FsGroup, r.at)
}

// folderOf is a folder to make on what is written to: PATH, or PATH:MODE. A path may begin with a reference to that
// mount in Kata's form, "{{ mount N }}".
func folderOf(up place, s string) (place, error) {
	path, _, _ := strings.Cut(s, ":")
	if strings.HasPrefix(path, "{{") {
		_, rest, ok := strings.Cut(path, "}}")
		if !ok {
			return place{}, fmt.Errorf("option %s%s: no }} after its mount reference", layerMkdir, s)
		}
		path = rest
	}
	path = strings.TrimPrefix(path, up.String())
	return placeIn([]string{up.String()}, up.String()+"/"+strings.TrimLeft(path, "/"))
}

// mountLayer mounts one disk, behind dm-verity where it asks for that. name is for the device-mapper.
func (m *Manager) mountLayer(ctx context.Context, l layer, at place, name string, u *undo) error {
	d, err := m.disk(ctx, l.driver, l.source)
	if err != nil {
		return err
	}
	if l.partition > 0 {
		if d, err = m.partition(ctx, d, l.partition); err != nil {
			return err
		}
	}
	if err := d.file(); err != nil {
		return err
	}
	if l.upper {
		if err := m.makeFileSystem(ctx, d, l.driverOptions); err != nil {
			return err
		}
	}
	if l.verity != nil {
		if d, err = m.guard(*l.verity, d, "katabuild-layer-"+name, u); err != nil {
			return fmt.Errorf("dm-verity of layer %s: %w", l.source, err)
		}
	}
	return mounted(d.node, l.fstype, at, l.how, u)
}

// verity is what a host says of a layer's hash tree, which lies behind its data. A superblock may say where the tree
// begins, and how many blocks of data there are.
type verity struct {
	dmverity.Table
	offset       int64 // of the hash area, in bytes
	noSuperblock bool
}

// readVerity reads the options below X-kata.dmverity. Root hash and offset are needed.
func readVerity(words []string) (verity, error) {
	v := verity{Table: dmverity.Params{Salt: dmverity.NoSalt, DataBlockSize: dmverity.BlockSize,
		HashBlockSize: dmverity.BlockSize}.Table(0), offset: -1}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch key {
		case "roothash":
			v.RootHash = strings.ToLower(value)
		case "salt":
			if v.Salt = strings.ToLower(value); v.Salt == "" {
				v.Salt = dmverity.NoSalt
			}
		case "algorithm":
			v.Algorithm = value
		case "hashoffset":
			v.offset, err = strconv.ParseInt(value, 10, 64)
		case "blocksize":
			v.DataBlockSize, err = strconv.ParseInt(value, 10, 32)
		case "hashsize":
			v.HashBlockSize, err = strconv.ParseInt(value, 10, 32)
		case "hashtype":
			v.HashType, err = strconv.ParseInt(value, 10, 8)
		case "no-superblock":
			v.noSuperblock = value == "" || value == "true"
		default:
			err = errors.New("this agent does not know it")
		}
		if err != nil {
			return verity{}, fmt.Errorf("option %s%s: %w", verityOptions, w, err)
		}
	}
	return v, v.check()
}

// check is wider than that of dmverity.Params: layers are made by others.
func (v verity) check() error {
	sizes := map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}
	block := func(n int64) bool { return n >= 512 && n <= 65536 && n&(n-1) == 0 }
	isHex := func(s string) bool { _, err := hex.DecodeString(s); return err == nil }
	switch {
	case sizes[v.Algorithm] == 0:
		return fmt.Errorf("dm-verity: hash algorithm %q: want sha256, sha384 or sha512", v.Algorithm)
	case !isHex(v.RootHash) || len(v.RootHash) != 2*sizes[v.Algorithm]:
		return fmt.Errorf("dm-verity: root hash %q: want %d hexadecimal digits", v.RootHash, 2*sizes[v.Algorithm])
	case v.Salt != dmverity.NoSalt && (!isHex(v.Salt) || len(v.Salt) > 2*dmverity.MaxSalt):
		return fmt.Errorf("dm-verity: salt %q: want at most %d hexadecimal digits", v.Salt, 2*dmverity.MaxSalt)
	case !block(v.DataBlockSize) || !block(v.HashBlockSize):
		return fmt.Errorf("dm-verity: blocks of %d and %d bytes: want powers of 2 from 512 to 65536", v.DataBlockSize,
			v.HashBlockSize)
	case v.HashType != 0 && v.HashType != 1:
		return fmt.Errorf("dm-verity: hash type %d: want 0 or 1", v.HashType)
	case v.offset <= 0 || v.offset%v.HashBlockSize != 0 || v.offset%v.DataBlockSize != 0:
		return fmt.Errorf("dm-verity: hash offset %d: want a multiple of both block sizes", v.offset)
	}
	return nil
}

// target is the table of a layer on one device: data first, hashes from the offset on. s is the superblock there, or
// nil.
func (v verity) target(d devmapper.Device, s *dmverity.Superblock) (devmapper.Target, error) {
	t := v.Table
	t.DataBlocks, t.HashStart = v.offset/v.DataBlockSize, v.offset/v.HashBlockSize
	if s != nil {
		if s.Algorithm != t.Algorithm || s.DataBlockSize != t.DataBlockSize || s.HashBlockSize != t.HashBlockSize ||
			s.HashType != t.HashType {
			return devmapper.Target{}, fmt.Errorf(
				"its superblock says %s, blocks of %d and %d, type %d; the host said otherwise", s.Algorithm,
				s.DataBlockSize, s.HashBlockSize, s.HashType)
		}
		if t.Salt != dmverity.NoSalt && t.Salt != s.Salt {
			return devmapper.Target{}, errors.New("its superblock has another salt than the host said")
		}
		if s.DataBlocks < 1 || s.DataBlocks > t.DataBlocks {
			return devmapper.Target{}, fmt.Errorf("its superblock says %d blocks of data, but %d are before it",
				s.DataBlocks, t.DataBlocks)
		}
		t.Salt, t.DataBlocks = s.Salt, s.DataBlocks
		t.HashStart++ // the tree begins with the block after the superblock's
	}
	return devmapper.VerityTarget(t, d, d), nil
}

// guard puts a disk behind dm-verity.
func (m *Manager) guard(v verity, d disk, name string, u *undo) (disk, error) {
	var s *dmverity.Superblock
	if !v.noSuperblock {
		b, err := readAt(d.node, v.offset, dmverity.SuperblockSize)
		if err != nil {
			return disk{}, err
		}
		there, err := dmverity.ParseSuperblock(b)
		if err != nil {
			return disk{}, err
		}
		s = &there
	}
	target, err := v.target(d.number, s)
	if err != nil {
		return disk{}, err
	}
	control, err := devmapper.Open(m.c.Root)
	if err != nil {
		return disk{}, err
	}
	defer control.Close()
	number, err := control.Create(name, target)
	if number != (devmapper.Device{}) {
		u.add(func() error { return m.removeMapped(name) })
	}
	if err != nil {
		return disk{}, err
	}
	node, err := filepath.EvalSymlinks(filepath.Join(m.c.Root, "sys/dev/block", number.String()))
	if err != nil {
		return disk{}, err
	}
	guarded := disk{name: filepath.Base(node), number: number, node: filepath.Join(m.c.Root, "dev",
		filepath.Base(node))}
	return guarded, guarded.file()
}

// removeMapped removes a device of the device-mapper, once nobody has it open.
func (m *Manager) removeMapped(name string) error {
	control, err := devmapper.Open(m.c.Root)
	if err != nil {
		return err
	}
	return errors.Join(control.Remove(name), control.Close())
}

func readAt(path string, offset int64, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, offset); err != nil {
		return nil, fmt.Errorf("read %d bytes at %d of %s: %w", n, offset, path, err)
	}
	return b, nil
}
