package translate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/runtime/share"
)

// file makes an empty file.
func file(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestADiskIsNotMountedByTheHost(t *testing.T) {
	disk := file(t, filepath.Join(t.TempDir(), "disk"))
	for what, c := range map[string]struct {
		m       share.Mount
		disk    bool
		ro      bool
		options string
	}{
		"a file with loop": {share.Mount{Type: "ext4", Source: disk, Options: []string{"loop", "ro"}},
			true, true, "ro"},
		"a file to write to": {share.Mount{Type: "ext4", Source: disk, Options: []string{"rw", "loop",
			"X-a=b"}}, true, false, "rw"},
		"a file without loop": {share.Mount{Type: "ext4", Source: disk}, false, false, ""},
		"an overlay": {share.Mount{Type: "overlay", Source: disk, Options: []string{"loop"}},
			false, false, ""},
		"a file that is not there": {share.Mount{Type: "ext4", Source: disk + "x", Options: []string{"loop"}},
			false, false, ""},
		"xfs, whose copies have one UUID": {share.Mount{Type: "xfs", Source: disk, Options: []string{"loop"}}, true,
			false, "nouuid"},
		"a layer": {share.Mount{Type: "erofs", Source: disk, Options: []string{"loop"}}, true, true,
			""},
		"a layer on several disks": {share.Mount{Type: "erofs", Source: disk, Options: []string{"loop", "device=/x"}},
			false, false, ""},
		"a character device": {share.Mount{Type: "ext4", Source: "/dev/null"}, false, false, ""},
	} {
		d, ok := diskOf(ThisHost{}, c.m)
		if ok != c.disk || ok && (d.readOnly != c.ro || strings.Join(d.options, ",") != c.options) {
			t.Errorf("%s: %+v, %v", what, d, ok)
		}
	}
}

// erofs makes the mounts of containerd's erofs snapshotter in dir: a layer for each name, and what is written with
// block or in folders.
func erofs(t *testing.T, dir string, block bool, names ...string) []share.Mount {
	t.Helper()
	var list []share.Mount
	first := 0
	options := []string{"workdir=" + dir + "/work", "upperdir=" + dir + "/fs"}
	if block {
		first = 1
		list = append(list, share.Mount{Type: "ext4", Source: file(t, dir+"/rwlayer.img"),
			Options: []string{"rw", "loop"}})
		options = []string{
			share.MkdirOption + "{{ mount 0 }}/upper:0755", share.MkdirOption + "{{ mount 0 }}/work:0755",
			"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper",
		}
	}
	for _, n := range names {
		list = append(list, share.Mount{Type: "erofs", Source: file(t, dir+"/"+n), Options: []string{"ro", "loop"}})
	}
	lower := fmt.Sprintf("lowerdir={{ overlay %d %d }}", first, first+len(names)-1)
	if len(names) == 1 {
		lower = fmt.Sprintf("lowerdir={{ mount %d }}", first)
	}
	return append(list, share.Mount{Type: "format/mkdir/overlay", Source: "overlay", Options: append(options, lower)})
}

// sketch writes a plan in short: the names of its disks, > before the one that is written to.
func sketch(p rootPlan) string {
	var words []string
	for _, d := range p.disks {
		w := filepath.Base(d.file)
		if d.upper {
			w = ">" + w
		}
		if p.overlay && d.readOnly == d.upper { // a layer that would be written to, or the other way round
			w += "?"
		}
		words = append(words, w)
	}
	if p.overlay {
		words = append(words, "overlay")
	}
	if p.memory {
		words = append(words, "memory")
	}
	return strings.Join(words, " ")
}

func TestLayersBecomeDisksWhereTheSnapshotterAllows(t *testing.T) {
	for what, c := range map[string]struct {
		mounts func(dir string) []share.Mount
		shared bool
		want   string // empty: the host mounts
	}{
		"layers and a disk to write to": {func(d string) []share.Mount {
			return erofs(t, d, true, "top",
				"base")
		}, true, "top base >rwlayer.img overlay"},
		"one layer": {func(d string) []share.Mount { return erofs(t, d, true, "only") }, false,
			"only >rwlayer.img overlay"},
		"a folder to write to, which the guest sees": {func(d string) []share.Mount {
			return erofs(t, d, false, "top",
				"base")
		}, true, ""},
		"a folder to write to, which it does not": {func(d string) []share.Mount {
			return erofs(t, d, false, "top",
				"base")
		}, false, "top base overlay memory"},
		"a view of several": {func(d string) []share.Mount {
			m := erofs(t, d, false, "top", "base")
			m[2].Options = []string{"ro", "lowerdir={{ overlay 0 1 }}"}
			return m
		}, true, "top base overlay"},
		"a view of one that is bound": {func(d string) []share.Mount {
			return []share.Mount{erofs(t, d, false, "only")[0], {Type: "format/bind", Source: "{{ mount 0 }}",
				Options: []string{"ro", "rbind"}}}
		}, true, "only"},
		"layers that containerd mounted": {func(d string) []share.Mount {
			return []share.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a:/b",
				"upperdir=/u", "workdir=/w"}}}
		}, true, ""},
		"a folder among the layers": {func(d string) []share.Mount {
			m := erofs(t, d, true, "top", "base")
			m[3].Options[4] = "lowerdir={{ mount 1 }}:/folder"
			return m
		}, true, ""},
		"a layer on several disks": {func(d string) []share.Mount {
			m := erofs(t, d, true, "top", "base")
			m[2].Options = append(m[2].Options, "device=/x")
			return m
		}, true, ""},
		"a folder of another name to write to": {func(d string) []share.Mount {
			m := erofs(t, d, true, "top", "base")
			m[3].Options[3] = "upperdir={{ mount 0 }}/other"
			return m
		}, true, ""},
		"no mounts":  {func(string) []share.Mount { return nil }, true, ""},
		"two mounts": {func(string) []share.Mount { return []share.Mount{{Type: "bind"}, {Type: "bind"}} }, true, ""},
		"a bind":     {func(string) []share.Mount { return []share.Mount{{Type: "bind", Source: "/x"}} }, false, ""},
		"one file":   {func(d string) []share.Mount { return erofs(t, d, true, "x")[:1] }, true, "rwlayer.img"},
		"another end": {func(d string) []share.Mount {
			m := erofs(t, d, true,
				"x")
			m[2].Type = "format/tmpfs"
			return m
		}, true, ""},
	} {
		p, err := planRoot(ThisHost{}, c.mounts(t.TempDir()), c.shared)
		if got := sketch(p); (err == nil) != (c.want != "") || err == nil && got != c.want || err != nil &&
			!errors.Is(err, errHostMounts) {
			t.Errorf("%s: %q, %v, want %q", what, got, err, c.want)
		}
	}
	// What nobody can mount is an error, and never a root without what was asked for.
	d := t.TempDir()
	good := erofs(t, d, true, "top", "base")
	for what, change := range map[string]func(m []share.Mount){
		"a layer that is not there":     func(m []share.Mount) { m[3].Options[4] = "lowerdir={{ overlay 1 7 }}" },
		"no layers":                     func(m []share.Mount) { m[3].Options = m[3].Options[:4] },
		"a disk to write to, read-only": func(m []share.Mount) { m[0].Options = []string{"ro", "loop"} },
		"a file system to make":         func(m []share.Mount) { m[3].Type = "format/mkfs/overlay" },
	} {
		m := slices.Clone(good)
		for i := range m {
			m[i].Options = slices.Clone(m[i].Options)
		}
		change(m)
		if p, err := planRoot(ThisHost{}, m, true); err == nil || errors.Is(err, errHostMounts) {
			t.Errorf("%s: %q, %v", what, sketch(p), err)
		}
	}
	// Layers that show other owners are the host's to mount.
	m := slices.Clone(good)
	m[3].Options = append(slices.Clone(m[3].Options), "uidmap=0:1:2", "gidmap=0:1:2")
	if p, err := planRoot(ThisHost{}, m, true); !errors.Is(err, errHostMounts) {
		t.Errorf("other owners: %q, %v", sketch(p), err)
	}
}

func TestTheAgentIsAskedForLayers(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.WriteFile(tree, []byte(`{"roothash":"`+strings.Repeat("ab", 32)+`","hashoffset":8192}`),
		0o644); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		d       rootDisk
		overlay bool
		want    string // empty is an error
	}{
		"a disk alone": {rootDisk{fstype: "ext4", options: []string{"noatime"}}, false, "ext4 noatime"},
		"a lower layer": {rootDisk{fstype: "erofs", readOnly: true}, true,
			"erofs ro X-kata.multi-layer=true X-kata.overlay-lower"},
		"one with ro": {rootDisk{fstype: "erofs", options: []string{"ro"}, readOnly: true}, true,
			"erofs ro X-kata.multi-layer=true X-kata.overlay-lower"},
		"the upper": {rootDisk{fstype: "ext4", upper: true}, true,
			"ext4 X-kata.multi-layer=true X-kata.overlay-upper"},
		"one with tree": {rootDisk{fstype: "erofs", readOnly: true, verity: tree}, true,
			"erofs ro X-kata.multi-layer=true X-kata.overlay-lower X-kata.dmverity-enabled " +
				"X-kata.dmverity.roothash=" + strings.Repeat("ab", 32) + " X-kata.dmverity.hashoffset=8192"},
		"a tree of none": {rootDisk{fstype: "erofs", readOnly: true, verity: tree + "x"}, true, ""},
		"a tree alone":   {rootDisk{fstype: "erofs", readOnly: true, verity: tree}, false, ""},
	} {
		s, err := c.d.storage(ThisHost{}, c.overlay)
		if err != nil {
			if c.want != "" {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		if got := s.Fstype + " " + strings.Join(s.Options, " "); got != c.want || s.Driver != "blk" {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

func TestAPackedPlanNamesPartitions(t *testing.T) {
	p := rootPlan{overlay: true, disks: []rootDisk{{file: "top", readOnly: true}, {file: "base", readOnly: true},
		{file: "rw", upper: true}}}
	q := p.packed()
	if got := fmt.Sprintf("%q %d, %q %d, %q %d of %q", q.disks[0].file, q.disks[0].partition, q.disks[1].file,
		q.disks[1].partition, q.disks[2].file, q.disks[2].partition, q.pack); got !=
		`"" 1, "" 2, "rw" 0 of ["top" "base"]` {
		t.Error(got)
	}
	if p.disks[0].file != "top" {
		t.Error("the plan before was changed")
	}
	s, err := rootDisk{fstype: "erofs", readOnly: true, partition: 2}.storage(ThisHost{}, true)
	want := "ro X-kata.multi-layer=true X-kata.overlay-lower X-kata.gpt-partitioned=true X-kata.partition-number=2"
	if err != nil || strings.Join(s.Options, " ") != want {
		t.Errorf("%v, %v", s, err)
	}
}
func FuzzDecodeVerity(f *testing.F) {
	f.Add([]byte(`{"roothash":"00ff","hashoffset":4096}`))
	f.Add([]byte(`{"roothash":"x,y","hashoffset":-1}`)) // what would be other options
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeVerity(b)
		if err == nil && (v.HashOffset <= 0 || strings.Trim(v.RootHash, "0123456789abcdefABCDEF") != "" ||
			v.RootHash == "") {
			t.Errorf("%+v of %q", v, b)
		}
	})
}

func FuzzPlanRoot(f *testing.F) {
	f.Add("erofs", "ro,loop", "format/mkdir/overlay", "lowerdir={{ mount 0 }},upperdir=/x,workdir=/y")
	// our own names for mounts
	f.Add("ext4", "rw,loop", "format/overlay", "lowerdir=layer 0:layer 1,upperdir=layer 7/upper,workdir=layer 7/work")
	f.Fuzz(func(t *testing.T, a, optionsA, b, optionsB string) {
		p, err := planRoot(ThisHost{}, []share.Mount{
			{Type: a, Source: "/proc/self/exe", Options: strings.Split(optionsA, ",")},
			{Type: b, Source: "{{ mount 0 }}", Options: strings.Split(optionsB, ",")},
		}, false)
		if err == nil && len(p.disks) == 0 {
			t.Errorf("a plan without disks: %+v", p)
		}
		for _, d := range p.disks {
			if err == nil && d.file != "/proc/self/exe" {
				t.Errorf("a disk of %q", d.file)
			}
		}
	})
}
