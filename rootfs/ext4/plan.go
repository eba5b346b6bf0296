package ext4

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"path"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// inode is one file of the tree and where it goes.
type inode struct {
	n      *tree.Node
	num    uint32
	links  int
	parent *inode // of the first name; the root is its own
	name   string // the first

	entries []entry // of a folder, until it is packed
	folder  *folder
	extents []extent
	nodes   []uint64 // blocks of the extents' tree
	inline  []byte   // attributes behind the inode
	shared  *xattrBlock
	blocks  uint64 // of everything, as i_blocks counts
}

func (i *inode) path() string {
	var parts []string
	for ; i.parent != i; i = i.parent {
		parts = append([]string{i.name}, parts...)
	}
	return "/" + path.Join(parts...)
}

// pathError names the file of a tree that could not be written.
func (i *inode) pathError(err error) error { return fmt.Errorf("ext4: %s: %w", i.path(), err) }

// plan is an image, decided: every number in it is known, and no content has been read.
type plan struct {
	o        Options
	inodes   []*inode // by number: the root, then firstInode and on
	journal  *inode   // nil without
	seed     hashSeed
	xattrs   []*xattrBlock // in order of their blocks
	warnings []string
	id       hash.Hash // of all that the tree says

	groups         int
	descriptors    uint64 // blocks of descriptors
	inodesPerGroup uint32
	blockBitmaps   uint64 // the first group's; the others follow
	inodeBitmaps   uint64
	inodeTables    []uint64
	blocks         uint64
	free           []run // in order
	uuid           [16]byte
	checksums      uint32 // where they begin
}

func newPlan(t *tree.Tree, o Options) (*plan, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	p := &plan{o: o, id: sha256.New(), uuid: o.UUID}
	fmt.Fprintf(p.id, "katabuild ext4 1\n%q %d %d %v\n", o.Label, o.Time, o.FreeSpace, o.Journal)
	seen := map[*tree.Node]*inode{}
	root := p.add(t.Root(), nil, "")
	if err := p.descend(root, seen); err != nil {
		return nil, err
	}
	// Names are hashed with a seed that another tree has not, so that nobody can choose names that hash alike. It comes
	// from the tree, not from the UUID, because the UUID may depend on contents, and how long a folder is must be known
	// before they are read.
	s := sha256.Sum256(append([]byte("katabuild ext4 hash seed\n"), p.id.Sum(nil)...))
	for i := range p.seed {
		p.seed[i] = le.Uint32(s[4*i:])
	}
	shared := map[string]*xattrBlock{}
	for _, i := range p.inodes {
		if err := p.prepare(i, shared); err != nil {
			return nil, i.pathError(err)
		}
	}
	return p, p.layOut()
}

// add gives a file its number.
func (p *plan) add(n *tree.Node, parent *inode, name string) *inode {
	i := &inode{n: n, parent: parent, name: name, num: rootInode}
	if parent == nil {
		i.parent = i
	} else {
		i.num = firstInode + uint32(len(p.inodes)) - 1
	}
	p.inodes = append(p.inodes, i)
	if c := clamp(n.Time); c != n.Time {
		p.warnings = append(p.warnings, fmt.Sprintf("%s: time %d is not one that ext4 has: written as %d", i.path(),
			n.Time.Sec, c.Sec))
	}
	fmt.Fprintf(p.id, "%d %d %o %d %d %v %d:%d %q %d\n", i.num, n.Kind, n.Mode, n.UID, n.GID, n.Time, n.Major,
		n.Minor, n.Target, n.Size())
	for _, x := range n.Xattrs {
		fmt.Fprintf(p.id, " %q=%q\n", x.Name, x.Value)
	}
	return i
}

// descend numbers all below a folder, a folder before what it holds, names in byte order.
func (p *plan) descend(dir *inode, seen map[*tree.Node]*inode) error {
	dir.links = 2
	names := dir.n.Names()
	dir.entries = make([]entry, 0, len(names))
	for _, name := range names {
		c := dir.n.Child(name)
		i := seen[c]
		if i == nil {
			if len(p.inodes) > 1<<32-1-firstInode {
				return errors.New("ext4: more files than a file system can number")
			}
			i = p.add(c, dir, name)
			if c.Kind == tree.Dir {
				dir.links++
				if err := p.descend(i, seen); err != nil {
					return err
				}
			} else if c.Links() > 1 {
				seen[c] = i
			}
		}
		if c.Kind != tree.Dir {
			i.links++
			if i.links > maxLinks {
				return i.pathError(fmt.Errorf("more than %d names", maxLinks))
			}
		}
		fmt.Fprintf(p.id, " %d %q\n", i.num, name)
		dir.entries = append(dir.entries, entry{name, i})
	}
	if dir.links > maxLinks {
		dir.links = 1 // with dir_nlink: too many to count
	}
	return nil
}

// prepare decides what of a file does not depend on where it goes.
func (p *plan) prepare(i *inode, shared map[string]*xattrBlock) (err error) {
	xs, err := toStored(i.n.Xattrs)
	if err != nil {
		return err
	}
	inline, rest, err := place(xs)
	if err != nil {
		return err
	}
	i.inline = inlineXattrs(inline)
	if len(rest) > 0 {
		x := newXattrBlock(rest)
		if old := shared[string(x.bytes)]; old != nil && old.users < maxSharing {
			x = old
		} else {
			shared[string(x.bytes)] = x
			p.xattrs = append(p.xattrs, x)
		}
		x.users++
		i.shared = x
	}
	switch i.n.Kind {
	case tree.Dir:
		i.folder, err = newFolder(i.entries, p.seed)
		i.entries = nil
	case tree.Symlink:
		if strings.Contains(i.n.Target, "\x00") || len(i.n.Target) > tree.MaxTarget {
			return fmt.Errorf("link to %d bytes", len(i.n.Target))
		}
	case tree.File:
		if size := i.n.Size(); size > maxSize {
			return fmt.Errorf("%d bytes: a file ends at %d", size, int64(maxSize))
		}
	}
	return err
}

// layOut finds the least number of groups that holds everything, and places it all. What lies before the files grows
// with the number of groups, so this is tried from the least that could do upwards.
func (p *plan) layOut() error {
	var demand uint64
	for _, i := range p.inodes {
		demand += p.demand(i)
	}
	free := uint64(divUp(p.o.FreeSpace, blockSize))
	var journal uint64
	if p.o.Journal {
		journal = journalBlocks(demand + free)
	}
	inodes := uint64(firstInode - 1 + len(p.inodes) - 1)
	if p.o.FreeSpace > 0 {
		inodes += uint64(divUp(p.o.FreeSpace, bytesPerInode))
	}
	for groups := max(1, int(divUp(demand+free+journal, blocksPerGroup))); groups <= maxGroups; {
		ok, need := p.place(groups, inodes, journal, free)
		if ok {
			return nil
		}
		groups = max(groups+1, need)
	}
	return fmt.Errorf("ext4: a tree of %d blocks and %d files: want at most %d groups of %d blocks", demand, inodes,
		maxGroups, blocksPerGroup)
}

// demand is how many blocks a file's content takes, at the least.
func (p *plan) demand(i *inode) (n uint64) {
	switch {
	case i.folder != nil:
		return uint64(i.folder.blocks())
	case i.n.Kind == tree.Symlink && len(i.n.Target) >= fastTarget:
		return 1
	}
	for _, r := range dataRuns(i.n) {
		n += r.count
	}
	return n
}

// dataRuns are the blocks of a file that are not holes.
func dataRuns(n *tree.Node) (out []run) {
	if n.Kind != tree.File || n.Content == nil {
		return nil
	}
	for _, r := range n.Content.Data() {
		first, end := uint64(r.Offset)/blockSize, divUp(uint64(r.End()), blockSize)
		if k := len(out) - 1; k >= 0 && out[k].start+out[k].count >= first {
			out[k].count = end - out[k].start
			continue
		}
		out = append(out, run{first, end - first})
	}
	return out
}

// place places everything into so many groups, if they hold it; otherwise it says how many it would take, at the least.
func (p *plan) place(groups int, inodes, journal, free uint64) (ok bool, need int) {
	p.groups, p.free, p.journal = groups, nil, nil
	p.descriptors = divUp(uint64(groups)*descriptorSize, blockSize)
	perGroup := roundUp(divUp(inodes, uint64(groups)), inodesPerBlock)
	if perGroup > 8*blockSize { // a bitmap is one block
		return false, int(divUp(inodes, uint64(8*blockSize)))
	}
	p.inodesPerGroup = uint32(perGroup)
	a := newAllocator(groups, 1+p.descriptors)
	p.blockBitmaps = a.contiguous(uint64(groups))
	p.inodeBitmaps = a.contiguous(uint64(groups))
	p.inodeTables = p.inodeTables[:0]
	for range groups {
		p.inodeTables = append(p.inodeTables, a.contiguous(perGroup/inodesPerBlock))
	}
	if journal > 0 {
		p.journal = &inode{num: journalInode, n: &tree.Node{Kind: tree.File, Mode: 0o600,
			Time: tree.Time{Sec: p.o.Time}}, links: 1}
		p.journal.parent = p.journal
		a.extents(p.journal, []run{{0, journal}})
	}
	// What is not content first: it is read most, and together.
	for _, x := range p.xattrs {
		x.at = a.contiguous(1)
	}
	for _, i := range p.inodes {
		i.extents, i.nodes, i.blocks = nil, nil, 0
		if i.n.Kind != tree.File {
			a.extents(i, []run{{0, p.demand(i)}})
		}
	}
	for _, i := range p.inodes {
		if i.n.Kind == tree.File {
			a.extents(i, dataRuns(i.n))
		}
		if i.shared != nil {
			i.blocks++
		}
	}
	// Every group has at least a block. Where the number of files asks for more groups than their contents do, the rest
	// stays free.
	if last := uint64(groups-1) * blocksPerGroup; a.next+free <= last {
		free = last + 1 - a.next
	}
	for _, r := range a.take(free) {
		a.release(r)
	}
	p.blocks, p.free = a.next, a.free
	need = int(divUp(p.blocks, blocksPerGroup))
	return need == groups, need
}

// allocator hands out blocks from the first on, past those that groups begin with.
type allocator struct {
	next    uint64
	head    uint64   // blocks of superblock and descriptors
	backups []uint64 // where those lie ahead, each head blocks long
	free    []run    // what was passed over, and what is to stay free
}

func newAllocator(groups int, head uint64) *allocator {
	a := &allocator{next: head, head: head}
	for g := 1; g < groups; g++ {
		if isBackup(g) {
			a.backups = append(a.backups, uint64(g)*blocksPerGroup)
		}
	}
	return a
}

// room is how many blocks there are up to the next that are taken.
func (a *allocator) room() uint64 {
	for len(a.backups) > 0 && a.next >= a.backups[0] {
		a.next, a.backups = a.backups[0]+a.head, a.backups[1:]
	}
	if len(a.backups) == 0 {
		return 1 << 62
	}
	return a.backups[0] - a.next
}

func (a *allocator) take(n uint64) (out []run) {
	for n > 0 {
		r := run{count: min(n, a.room())}
		r.start = a.next
		a.next += r.count
		n -= r.count
		out = append(out, r)
	}
	return out
}

// contiguous takes blocks in a row. What is too short for them stays free.
func (a *allocator) contiguous(n uint64) uint64 {
	for room := a.room(); room < n; room = a.room() {
		a.release(run{a.next, room})
		a.next += room
	}
	return a.take(n)[0].start
}

func (a *allocator) release(r run) {
	if k := len(a.free) - 1; k >= 0 && a.free[k].start+a.free[k].count == r.start {
		a.free[k].count += r.count
		return
	}
	a.free = append(a.free, r)
}

// extents gives a file blocks for runs of its own blocks, and for the tree over them.
func (a *allocator) extents(i *inode, runs []run) {
	for _, r := range runs {
		at := uint32(r.start)
		for _, got := range a.take(r.count) {
			i.extents = addRun(i.extents, at, got)
			at += uint32(got.count)
		}
		i.blocks += r.count
	}
	for range extentNodes(len(i.extents)) {
		i.nodes = append(i.nodes, a.contiguous(1))
	}
	i.blocks += uint64(len(i.nodes))
}

func (p *plan) info() Info {
	return Info{Size: int64(p.blocks) * blockSize, Inodes: len(p.inodes), UUID: p.uuid, Warnings: p.warnings}
}
