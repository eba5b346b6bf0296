package ext4

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

// hostFolder has what a plain user can make, times in whole seconds because mke2fs keeps no more.
func hostFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "usr/many"), 0o755))
	for i := range 400 {
		must(os.WriteFile(fmt.Sprintf("%s/usr/many/a rather long name for a file %03d", dir, i),
			fmt.Appendf(nil, "%d", i), 0o644))
	}
	b := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{}).Read(b)
	must(os.WriteFile(filepath.Join(dir, "big"), b, 0o600))
	must(os.Symlink("usr/many", filepath.Join(dir, "short")))
	must(os.Symlink("/"+strings.Repeat("long/", 60), filepath.Join(dir, "long")))
	must(os.Link(filepath.Join(dir, "big"), filepath.Join(dir, "usr/big too")))
	f, err := os.Create(filepath.Join(dir, "holes"))
	must(err)
	for i := range int64(40) { // more pieces than fit in an inode
		_, err = f.WriteAt([]byte("piece"), i*100000)
		must(err)
	}
	_, err = f.WriteAt([]byte("end"), 6<<20)
	must(errors.Join(err, f.Close()))
	must(filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		return errors.Join(err, exec.Command("touch", "-h", "-d", "@1700000000", p).Run())
	}))
	return dir
}

func TestImagesOfMke2fsAreRead(t *testing.T) {
	testenv.Require(t, testenv.Tool("mke2fs"))
	dir := hostFolder(t)
	want, err := tree.FromDir(dir, tree.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string]string{
		"the default":                "",
		"4 KiB blocks":               "-b 4096",
		"2 KiB blocks, no checksums": "-b 2048 -O ^metadata_csum",
		"block maps, as ext3":        "-O ^extents,^64bit,^flex_bg,^metadata_csum,^huge_file -b 1024",
		"block maps, as ext2": "-O ^has_journal,^extents,^64bit,^dir_index,^extra_isize,^flex_bg," +
			"^metadata_csum -b 4096",
		"inodes of 128 bytes":               "-I 128",
		"inodes of 512 bytes":               "-I 512",
		"32-bit block numbers":              "-O ^64bit",
		"a checksum seed":                   "-O metadata_csum_seed",
		"everything new":                    "-O ea_inode,large_dir,orphan_file",
		"groups of few blocks":              "-b 1024 -g 1024",
		"folders without index or types":    "-O ^dir_index,^filetype",
		"no journal, no flexible groups":    "-O ^has_journal,^flex_bg",
		"32-bit block numbers and no extra": "-O ^64bit,^extra_isize",
	} {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "img")
			cmd := append(append([]string{"-q", "-t", "ext4", "-d", dir}, strings.Fields(args)...), image, "20M")
			if out, err := exec.Command("mke2fs", cmd...).CombinedOutput(); err != nil {
				t.Fatalf("mke2fs %q: %v: %s", cmd, err, out)
			}
			_, got := open(t, image)
			if err := got.Remove("/lost+found"); err != nil {
				t.Error(err)
			}
			mine, theirs := want.Root(), got.Root() // mke2fs makes its own root
			theirs.Mode, theirs.UID, theirs.GID, theirs.Time = mine.Mode, mine.UID, mine.GID, mine.Time
			same(t, want, got)
		})
	}
	for name, args := range map[string]string{"data in inodes": "-O inline_data", "clusters": "-O bigalloc",
		"groups of groups": "-O meta_bg,^resize_inode"} {
		image := filepath.Join(t.TempDir(), "img")
		cmd := append(append([]string{"-q", "-t", "ext4"}, strings.Fields(args)...), image, "40M")
		if out, err := exec.Command("mke2fs", cmd...).CombinedOutput(); err != nil {
			t.Fatalf("mke2fs %q: %v: %s", cmd, err, out)
		}
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := Open(f, 40<<20); !errors.Is(err, errUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A value too large for a block, in an inode of its own, written by the kernel.
func TestValuesInInodesOfTheirOwnAreRead(t *testing.T) {
	testenv.Require(t, root, testenv.Tool("mke2fs"), testenv.Tool("setfattr"))
	image := filepath.Join(t.TempDir(), "img")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-O", "ea_inode", image,
		"20M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir, unmount := mount(t, image, "loop,rw")
	value := strings.Repeat("0123456789", 2000)
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("setfattr", "-n", "user.large", "-v", value,
		filepath.Join(dir, "f")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	unmount()
	_, got := open(t, image)
	n, err := got.Lookup("/f")
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := n.Xattr("user.large"); !ok || string(v) != value {
		t.Errorf("%d bytes, want %d", len(v), len(value))
	}
}

// tiny is a tree whose image is a few blocks long and has every structure that a reader meets.
func tiny(t testing.TB) *tree.Tree {
	tr := tree.New()
	put(t, tr, "/d/e", &tree.Node{Mode: 0o755})
	f := put(t, tr, "/d/f", &tree.Node{Kind: tree.File, Mode: 0o644, Content: tree.Bytes([]byte("content"))})
	f.SetXattr("user.a", []byte("inline"))
	put(t, tr, "/d/x", &tree.Node{Kind: tree.FIFO}).SetXattr("trusted.b", bytes.Repeat([]byte("block"), 30))
	if err := tr.Link("/d/f", "/link"); err != nil {
		t.Fatal(err)
	}
	put(t, tr, "/s", &tree.Node{Kind: tree.Symlink, Target: "d/f"})
	put(t, tr, "/t", &tree.Node{Kind: tree.Symlink, Target: strings.Repeat("t", 100)})
	put(t, tr, "/dev", &tree.Node{Kind: tree.CharDevice, Major: 4000, Minor: 70000})
	pieces := make([]treetest.Piece, 6) // a tree of extents of two levels
	for i := range pieces {
		pieces[i] = treetest.Piece{Offset: int64(i) * 3 * blockSize, Bytes: []byte{byte(i), 1}}
	}
	put(t, tr, "/h", &tree.Node{Kind: tree.File, Content: &treetest.Sparse{Length: 1 << 20, Pieces: pieces}})
	for i := range 20 { // an index
		put(t, tr, fmt.Sprintf("/n/%0240d", i), &tree.Node{Kind: tree.Socket})
	}
	return tr
}

// memory is an image in memory.
type memory []byte

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	if need := int(at) + len(b); need > len(*m) {
		*m = append(*m, make([]byte, need-len(*m))...)
	}
	return copy((*m)[at:], b), nil
}

func tinyImage(t testing.TB) []byte {
	var m memory
	if _, err := Write(context.Background(), &m, tiny(t), Options{}); err != nil {
		t.Fatal(err)
	}
	return m
}

// unsealed is an image that says it has no checksums, so that a change reaches further than the next one.
func unsealed(b []byte) []byte {
	b = bytes.Clone(b)
	binary.LittleEndian.PutUint32(b[superOffset+0x64:], binary.LittleEndian.Uint32(b[superOffset+0x64:])&^roChecksums)
	return b
}

func readTree(b []byte) (*tree.Tree, error) {
	im, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	return im.Tree()
}

func TestEveryFlippedBitOfMetadataIsFound(t *testing.T) {
	whole := tinyImage(t)
	if tr, err := readTree(whole); err != nil {
		t.Fatal(err)
	} else {
		same(t, tiny(t), tr)
	}
	p, err := newPlan(tiny(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	type span struct{ from, to int64 }
	// what checksums cover
	sealed := []span{{superOffset, superOffset + superSize}, {blockSize, blockSize + descriptorSize}}
	add := func(number uint64) {
		sealed = append(sealed, span{int64(number) * blockSize, int64(number+1) * blockSize})
	}
	for _, x := range p.xattrs {
		add(x.at)
	}
	for _, i := range p.inodes {
		at := int64(p.inodeTables[0])*blockSize + int64(i.num-1)*inodeSize
		sealed = append(sealed, span{at, at + inodeSize})
		for _, n := range i.nodes {
			add(n)
		}
		if i.folder != nil {
			for k := range uint64(i.folder.blocks()) {
				add(i.extents[0].block + k)
			}
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, s := range sealed {
		for range 20 {
			at := s.from + rng.Int64N(s.to-s.from)
			whole[at] ^= 4
			if _, err := readTree(whole); err == nil && !slack(whole, p, at) {
				t.Errorf("a bit at %d, in what lies from %d to %d, went unseen", at, s.from, s.to)
			}
			whole[at] ^= 4
		}
	}
}

// slack is what the checksum of an index leaves out: what is not in use.
func slack(b []byte, p *plan, at int64) bool {
	block := b[at/blockSize*blockSize:][:blockSize]
	within := int(at % blockSize)
	for _, i := range p.inodes {
		if i.folder != nil && i.folder.leaves != nil && at/blockSize == int64(i.extents[0].block) {
			count := int(le.Uint16(block[indexHeader+2:]))
			return within >= indexHeader+count*indexEntry && within < blockSize-8
		}
	}
	return false
}

func TestLoopsAndLiesAreRefused(t *testing.T) {
	p, err := newPlan(tiny(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	byPath := map[string]*inode{}
	for _, i := range p.inodes {
		byPath[i.path()] = i
	}
	inodeAt := func(path string) int64 {
		return int64(p.inodeTables[0])*blockSize + int64(byPath[path].num-1)*inodeSize
	}
	for name, change := range map[string]func(b []byte){
		"a folder in itself": func(b []byte) { // "/d/e" becomes "/d"
			d := b[byPath["/d"].extents[0].block*blockSize:]
			le.PutUint32(d[24:], byPath["/d"].num)
		},
		"two folders in one block": func(b []byte) { copy(b[inodeAt("/d/e")+0x28:][:60], b[inodeAt("/d")+0x28:][:60]) },
		"a node of extents in itself": func(b []byte) {
			node := byPath["/h"].nodes[0]
			n := b[node*blockSize:]
			le.PutUint16(n[6:], 1)
			le.PutUint32(n[extentHeader+4:], uint32(node))
			le.PutUint16(b[inodeAt("/h")+0x28+6:], 2)
		},
		"a file behind the image": func(b []byte) {
			le.PutUint32(b[inodeAt("/d/f")+0x28+20:],
				uint32(len(b)/blockSize))
		},
		"a longer run than the image": func(b []byte) { le.PutUint16(b[inodeAt("/d/f")+0x28+16:], 30000) },
		"a name with a slash":         func(b []byte) { b[byPath["/d"].extents[0].block*blockSize+24+8] = '/' },
		"a name twice":                func(b []byte) { b[byPath["/d"].extents[0].block*blockSize+24+12+8] = 'e' },
		"an entry of no length": func(b []byte) {
			le.PutUint16(
				b[byPath["/d"].extents[0].block*blockSize+24+4:], 0)
		},
		"an entry longer than the block": func(b []byte) {
			le.PutUint16(
				b[byPath["/d"].extents[0].block*blockSize+24+4:], 5000)
		},
		"an entry for the journal": func(b []byte) {
			le.PutUint32(
				b[byPath["/d"].extents[0].block*blockSize+24:], 8)
		},
		"an entry for no inode": func(b []byte) {
			le.PutUint32(
				b[byPath["/d"].extents[0].block*blockSize+24:], 4000)
		},
		"an entry of another kind": func(b []byte) { b[byPath["/d"].extents[0].block*blockSize+24+7] = 1 },
		"a parent that is none": func(b []byte) {
			le.PutUint32(
				b[byPath["/d"].extents[0].block*blockSize+12:], 13)
		},
		"a folder longer than its blocks": func(b []byte) { le.PutUint32(b[inodeAt("/d")+4:], 3*blockSize) },
		"a folder of half a block":        func(b []byte) { le.PutUint32(b[inodeAt("/d")+4:], blockSize/2) },
		"a mode that is none":             func(b []byte) { le.PutUint16(b[inodeAt("/d/f"):], 0o644) },
		"an attribute behind the inode":   func(b []byte) { le.PutUint16(b[inodeAt("/d/f")+inlineStart+4+2:], 90) },
		"attributes behind the image":     func(b []byte) { le.PutUint32(b[inodeAt("/d/x")+0x68:], 1<<30) },
		"attributes that are none":        func(b []byte) { le.PutUint32(b[inodeAt("/d/x")+0x68:], 1) },
		"a link without a target":         func(b []byte) { le.PutUint32(b[inodeAt("/s")+4:], 0) },
		"a link too long":                 func(b []byte) { le.PutUint32(b[inodeAt("/t")+4:], 5000) },
		"more fields than an inode":       func(b []byte) { le.PutUint16(b[inodeAt("/d/f")+0x80:], 200) },
		"inodes behind the image":         func(b []byte) { le.PutUint32(b[blockSize+8:], uint32(len(b)/blockSize)) },
		"more blocks than the image": func(b []byte) {
			le.PutUint32(b[superOffset+4:],
				uint32(len(b)/blockSize+1))
		},
		"groups of no blocks":      func(b []byte) { le.PutUint32(b[superOffset+0x20:], 0) },
		"groups of one block":      func(b []byte) { le.PutUint32(b[superOffset+0x20:], 1) },
		"groups of no inodes":      func(b []byte) { le.PutUint32(b[superOffset+0x28:], 0) },
		"blocks of a gigabyte":     func(b []byte) { le.PutUint32(b[superOffset+0x18:], 20) },
		"inodes of 100 bytes":      func(b []byte) { le.PutUint16(b[superOffset+0x58:], 100) },
		"descriptors of 100 bytes": func(b []byte) { le.PutUint16(b[superOffset+0xfe:], 100) },
	} {
		b := unsealed(tinyImage(t))
		change(b)
		if _, err := readTree(b); err == nil {
			t.Errorf("%s: no error", name)
		} else if !errors.Is(err, errDamaged) && !errors.Is(err, tree.ErrIsDir) {
			t.Errorf("%s: %v: want ErrDamaged", name, err)
		}
	}
	if _, err := Open(bytes.NewReader(make([]byte, 8192)), 8192); !errors.Is(err, errFormat) {
		t.Errorf("zeros: %v", err)
	}
	whole := tinyImage(t)
	for n := 0; n < len(whole); n += 1500 {
		if _, err := readTree(whole[:n]); err == nil {
			t.Errorf("cut to %d bytes: no error", n)
		}
	}
}

// Whatever an image says, reading it ends, in memory that goes with its size. Inputs are changes to an image without
// checksums, four bytes of where and two of what each: whole images are too long for the fuzzer to get anywhere.
func FuzzOpen(f *testing.F) {
	base := unsealed(tinyImage(f))
	p, err := newPlan(tiny(f), Options{})
	if err != nil {
		f.Fatal(err)
	}
	change := func(at int64, v uint16) []byte { return le.AppendUint16(le.AppendUint32(nil, uint32(at)), v) }
	f.Add([]byte{})
	f.Add(change(superOffset+0x64, 0x46b)) // with checksums, all of which are right
	f.Add(change(superOffset+0x18, 0))     // blocks of 1 KiB
	for _, i := range p.inodes {
		at := int64(p.inodeTables[0])*blockSize + int64(i.num-1)*inodeSize
		f.Add(change(at+0x22, 0))                                 // a map of blocks in place of extents
		f.Add(change(at+0x28+6, 1))                               // a tree of extents that is deeper
		f.Add(append(change(at+4, 0xf000), change(at+6, 0xf)...)) // longer
		if len(i.extents) > 0 {
			f.Add(change(int64(i.extents[0].block)*blockSize+24, 2)) // a folder that holds the root
		}
	}
	f.Fuzz(func(t *testing.T, changes []byte) {
		b := bytes.Clone(base)
		for ; len(changes) >= 6; changes = changes[6:] {
			if at := int64(le.Uint32(changes)); at+2 <= int64(len(b)) {
				copy(b[at:], changes[4:6])
			}
		}
		readAnything(t, b)
	})
}

// readAnything reads an image to the end, and insists that what it says makes sense.
func readAnything(t *testing.T, b []byte) {
	tr, err := readTree(b)
	if err != nil {
		return
	}
	n := 0
	err = tr.Walk(func(p string, node *tree.Node, _ bool) error {
		if n++; n > len(b) {
			t.Fatalf("%d names in %d bytes", n, len(b))
		}
		if node.Content == nil {
			return nil
		}
		at := int64(0)
		for _, r := range node.Content.Data() {
			if r.Offset < at || r.Length <= 0 || r.End() > node.Size() {
				t.Fatalf("%s: %v in %d bytes", p, r, node.Size())
			}
			at = r.End()
		}
		r, err := node.Content.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		part := make([]byte, 10000)
		for _, at := range []int64{0, 4090, node.Size() - 5000} {
			if at >= 0 {
				r.ReadAt(part, at)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
