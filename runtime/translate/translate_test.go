package translate

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// fakeHost is a host with these files, so that tests have devices without being root. What is not there is an error.
type fakeHost struct {
	files   map[string]File
	tmpfs   map[string]uint64 // sizes
	mounts  []string          // folders with mounts below
	devices map[string]string // names by "KIND MAJOR:MINOR"
	texts   map[string]string
	volumes map[string]*directvolume.Info // assigned directly
}

func (h fakeHost) DirectVolume(path string) (*directvolume.Info, error) {
	if i, there := h.volumes[path]; there {
		return i, nil
	}
	return nil, directvolume.ErrNone
}

func (h fakeHost) Stat(path string) (File, error) {
	if f, there := h.files[path]; there {
		return f, nil
	}
	return File{}, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
}

func (h fakeHost) Tmpfs(path string) (uint64, bool) {
	size, is := h.tmpfs[path]
	return size, is
}

func (h fakeHost) MountsBelow(dir string) (bool, error) {
	if _, there := h.files[dir]; !there {
		return false, fs.ErrNotExist
	}
	return slices.Contains(h.mounts, dir), nil
}

func (h fakeHost) DeviceName(kind string, major, minor int64) (string, error) {
	if n, there := h.devices[fmt.Sprintf("%s %d:%d", kind, major, minor)]; there {
		return n, nil
	}
	return "", fmt.Errorf("no %s device %d:%d: %w", kind, major, minor, fs.ErrNotExist)
}

func (h fakeHost) Read(path string, limit int64) ([]byte, error) {
	if s, there := h.texts[path]; there && int64(len(s)) <= limit {
		return []byte(s), nil
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// kubelet is the folder of a pod's volumes.
const kubelet = "/var/lib/kubelet/pods/uid/volumes/"

// someHost has a file of each kind.
func someHost() fakeHost {
	dir := File{Mode: unix.S_IFDIR | 0o2770, GID: 5, Dev: 1, Node: 2}
	return fakeHost{
		files: map[string]File{
			"/dir": dir, "/deep": dir, "/file": {Mode: unix.S_IFREG | 0o600}, "/pipe": {Mode: unix.S_IFIFO},
			"/socket": {Mode: unix.S_IFSOCK}, "/dev/null": {Mode: unix.S_IFCHR, Major: 1, Minor: 3},
			"/dev/odd": {Mode: unix.S_IFCHR, Major: 9}, "/dev/sda": {Mode: unix.S_IFBLK, Major: 8},
			kubelet + "kubernetes.io~empty-dir/memory": dir, kubelet + "kubernetes.io~empty-dir/disk": dir,
			kubelet + "kubernetes.io~configmap/words": dir, "/a": {Mode: unix.S_IFREG}, "/b": {Mode: unix.S_IFREG},
			"/rw": {Mode: unix.S_IFREG},
		},
		tmpfs:   map[string]uint64{kubelet + "kubernetes.io~empty-dir/memory": 4096},
		mounts:  []string{"/deep"},
		devices: map[string]string{"char 1:3": "null", "block 8:0": "sda", "block 8:1": "sda1"},
		texts:   map[string]string{"/a.tree": `{"roothash":"` + strings.Repeat("ab", 32) + `","hashoffset":8192}`},
	}
}

// sketchOf writes what a plan has besides the specification, line by line.
func sketchOf(p *Plan) string {
	var out []string
	add := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	for _, m := range p.Spec.Mounts {
		add("mount %s %s from %s %v", m.Type, m.Destination, m.Source, m.Options)
	}
	for _, s := range p.Storages {
		add("storage %s %s at %s %v", s.Driver, s.Source, s.MountPoint, s.Options)
	}
	for _, d := range p.Spec.Linux.Devices {
		add("node %s %s %d:%d", d.Path, d.Type, d.Major, d.Minor)
	}
	for _, d := range p.Disks {
		add("plug %s for %s, read-only %v, exclusive %v", d.File, d.What, d.ReadOnly, d.Exclusive)
	}
	for _, b := range p.Binds {
		add("bind %s for %s, access %d, alone %v, claimed %v", b.Source, b.What, b.Access, b.Alone, b.Claimed)
	}
	for _, c := range p.Copies {
		add("copy %s for %s to %s", c.Source, c.What, c.Path)
	}
	for _, n := range p.Notes {
		add("%s %s", n.Level, n.Text)
	}
	return strings.Join(out, "\n")
}

// asked is a container with a root that is a folder.
func asked(mounts ...specs.Mount) Container {
	return Container{ID: "c1", Bundle: "/bundle", Spec: &specs.Spec{Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{}, Linux: &specs.Linux{}, Mounts: mounts}}
}

func TestAVolumeBecomesWhatAGuestCanHave(t *testing.T) {
	empty := kubelet + "kubernetes.io~empty-dir/"
	words := kubelet + "kubernetes.io~configmap/words"
	shared, alone := Pod{Shared: true}, Pod{}
	guestDevices := Pod{Shared: true, GuestDevices: true}
	sandbox := "/run/kata-containers/sandbox/"
	const left = "WARN a socket, pipe or device of the host does not work in the guest; it is left out"
	for what, c := range map[string]struct {
		pod  Pod
		m    specs.Mount
		want string
	}{
		"a file system":  {shared, specs.Mount{Type: "tmpfs", Source: "tmpfs"}, "mount tmpfs /x from tmpfs []"},
		"control groups": {shared, specs.Mount{Type: "cgroup", Source: "/host"}, "mount cgroup /x from cgroup []"},
		"a folder": {shared, specs.Mount{Source: "/dir", Options: []string{"rbind", "ro"}},
			"mount bind /x from NAME [rbind ro]\nbind /dir for mount at /x, access 1, alone false, claimed true"},
		"a folder with mounts": {shared, specs.Mount{Source: "/deep", Options: []string{"rbind", "ro"}},
			"mount bind /x from NAME [rbind]\nbind /deep for mount at /x, access 1, alone true, claimed true"},
		"a file of another owner": {shared, specs.Mount{Source: "/file", Options: []string{"idmap", "rbind"},
			UIDMappings: []specs.LinuxIDMapping{{Size: 1}}},
			"mount bind /x from NAME [rbind]\nbind /file for mount at /x, access 0, alone false, claimed true"},
		"one that is to be seen outside": {shared, specs.Mount{Source: "/dir", Options: []string{"rshared"}},
			"mount bind /x from NAME [rbind rslave]\n" +
				"bind /dir for mount at /x, access 0, alone false, claimed true\n" +
				"WARN what a container mounts in its guest cannot appear on the host; it sees the host's mounts " +
				"(Bidirectional is as HostToContainer)"},
		"words that change": {shared, specs.Mount{Source: words, Options: []string{"ro"}},
			"mount bind /x from /run/kata-containers/c1/watchable/name [rbind ro]\n" +
				"storage watchable-bind NAME at /run/kata-containers/c1/watchable/name [rbind ro]\n" +
				"bind " + words + " for mount at /x, access 1, alone false, claimed false"},
		"words that are copied": {alone, specs.Mount{Source: words},
			"mount bind /x from " + share.GuestPath(copyName(words)) + " [rbind]\n" +
				"copy " + words + " for mount at /x to " + share.GuestPath(copyName(words))},
		"memory": {shared, specs.Mount{Source: empty + "memory"}, "mount bind /x from " + sandbox +
			"ephemeral/memory [rbind]\nstorage ephemeral tmpfs at " + sandbox +
			"ephemeral/memory [size=4096 mode=2770 fsgid=5]"},
		"an empty folder": {alone, specs.Mount{Source: empty + "disk"}, "mount bind /x from " + sandbox +
			"local/disk [rbind]\nstorage local local at " + sandbox + "local/disk [mode=2770 fsgid=5]"},
		"an empty folder of the host's": {shared, specs.Mount{Source: empty + "disk"}, "mount bind /x from NAME " +
			"[rbind]\nbind " + empty + "disk for mount at /x, access 0, alone false, claimed true"},
		"the pod's memory": {shared, specs.Mount{Source: "/dir", Destination: "/dev/shm/"},
			"mount bind /dev/shm/ from " + Shm + " [rbind]"},
		"what is the host's": {shared, specs.Mount{Source: "/dir", Destination: "/sys/x"},
			"WARN a mount of the host's has no place in the guest"},
		"a disk": {alone, specs.Mount{Source: "/dev/sda"},
			"node /x b 0:1\nplug /dev/sda for mount at /x, read-only false, exclusive true"},
		"a disk to read": {alone, specs.Mount{Source: "/dev/sda", Options: []string{"ro"}},
			"node /x b 0:1\nplug /dev/sda for mount at /x, read-only true, exclusive false"},
		"a pipe":     {shared, specs.Mount{Source: "/pipe"}, left},
		"a socket":   {shared, specs.Mount{Source: "/socket"}, left},
		"a device":   {shared, specs.Mount{Source: "/dev/null"}, left},
		"an odd one": {guestDevices, specs.Mount{Source: "/dev/odd"}, left},
		"a device that the guest has": {guestDevices, specs.Mount{Source: "/dev/null"},
			"mount bind /x from /dev/null [rbind " + agentapi.GuestDevice + "]"},
		"what is not there": {shared, specs.Mount{Source: "/none"}, "mount at /x: stat /none: file does not exist"},
	} {
		if c.m.Destination == "" {
			c.m.Destination = "/x"
		}
		if c.m.Type == "" {
			c.m.Type = "bind"
		}
		a := asked(c.m)
		a.Rootfs = []share.Mount{{Type: "ext4", Source: "/rw", Options: []string{"loop"}}}
		p, err := Translate(c.pod, someHost(), a)
		got := fmt.Sprint(err)
		if err == nil {
			for _, b := range p.Binds {
				p.Bound(b, "name", false)
			}
			got = sketchOf(p)
		}
		if want := strings.ReplaceAll(c.want, "NAME", share.GuestPath("name")); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
		}
	}
}

func TestLocksOfAnotherPodAreRefusedWhereTheVolumeIs(t *testing.T) {
	p, err := Translate(Pod{Shared: true}, someHost(), asked(
		specs.Mount{Destination: "/p", Type: "proc", Source: "proc"},
		specs.Mount{Destination: "/x", Type: "bind", Source: "/dir"}))
	if err != nil {
		t.Fatal(err)
	}
	p.Bound(p.Binds[0], "name", true)
	if m := p.Spec.Mounts; len(m[0].Options) > 0 || !slices.Equal(m[1].Options, []string{"rbind",
		agentapi.ForeignLocks}) {
		t.Errorf("%+v", m)
	}
}

func TestDevicesArePluggedByTheirRules(t *testing.T) {
	n := func(i int64) *int64 { return &i }
	rule := func(minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: n(8), Minor: n(minor), Access: access}
	}
	a := asked(specs.Mount{Destination: "/v", Type: "bind", Source: "/dev/sda", Options: []string{"ro"}})
	a.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "b", Major: 8}, {Path: "/dev/y", Type: "b",
		Major: 8, Minor: 1}, {Path: "/dev/null", Type: "c", Major: 1, Minor: 3}}
	a.Spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{rule(0, "rw"), rule(1, "r")}}
	p, err := Translate(Pod{Shared: true}, someHost(), a)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range p.Disks {
		p.Plugged(d, fmt.Sprintf("0%d/00", i))
	}
	want := "node /dev/x b 0:1\nnode /dev/y b 0:2\nnode /dev/null c 1:3\nnode /v b 0:3\n" +
		"plug /dev/sda for device /dev/x, read-only false, exclusive true\n" +
		"plug /dev/sda1 for device /dev/y, read-only true, exclusive false\n" +
		"plug /dev/sda for mount at /v, read-only true, exclusive false"
	if got := sketchOf(p); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	for i, path := range []string{"/dev/x", "/dev/y", "/v"} {
		if d := p.Devices[i]; d.ContainerPath != path || d.Id != fmt.Sprintf("0%d/00", i) || d.Type != "blk" {
			t.Errorf("%+v", d)
		}
	}
	if a.Spec.Linux.Devices[0].Major != 8 {
		t.Error("the caller's specification was changed")
	}
}

func TestARootHasSeveralWaysAndTheLastIsTheHosts(t *testing.T) {
	layer := func(path string) share.Mount {
		return share.Mount{Type: "erofs", Source: path, Options: []string{"ro", "loop"}}
	}
	rw := share.Mount{Type: "ext4", Source: "/rw", Options: []string{"rw", "loop"}}
	over := share.Mount{Type: "format/overlay", Source: "overlay",
		Options: []string{"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 2 }}"}}
	const disks, name = "/run/kata-containers/c1/disk", share.GuestDir + "/c1/rootfs"
	for what, c := range map[string]struct {
		shared bool
		rootfs []share.Mount
		want   []string // an error is one line
	}{
		"a folder":                    {true, nil, []string{name + " of /bundle/rootfs"}},
		"mounts":                      {true, []share.Mount{{Type: "bind"}, {Type: "bind"}}, []string{name + " by 2"}},
		"a folder that is not shared": {false, nil, []string{"root file system: shared_fs is none"}},
		"a disk":                      {false, []share.Mount{rw}, []string{disks + " of /rw ext4 [rw]"}},
		"a disk, or the host's": {true, []share.Mount{rw}, []string{disks + " of /rw ext4 [rw]",
			name + " by 1"}},
		"layers": {true, []share.Mount{rw, layer("/a"), layer("/b"), over}, []string{
			disks + " of /a erofs [ro LOWER], /b erofs [ro LOWER], /rw ext4 [rw UPPER]",
			disks + " of pack [/a /b] erofs [ro LOWER PART 1], pack [/a /b] erofs [ro LOWER PART 2], " +
				"/rw ext4 [rw UPPER]",
			name + " by 4"}},
		"a tree of no layer": {true, []share.Mount{{Type: "ext4", Source: "/a", Options: []string{"loop",
			share.VerityOption + "/a.tree"}}}, []string{"root file system: /a: a hash tree"}},
	} {
		a := asked()
		a.Rootfs = c.rootfs
		p, err := Translate(Pod{Shared: c.shared}, someHost(), a)
		if err != nil {
			if len(c.want) != 1 || !strings.HasPrefix(err.Error(), c.want[0]) {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		var got []string
		for _, r := range p.Roots {
			var words []string
			for i, d := range r.Disks {
				if d.File == "" {
					d.File = fmt.Sprintf("pack %v", r.Pack)
				}
				words = append(words, fmt.Sprintf("%s %s %v", d.File, r.storages[i].Fstype, r.storages[i].Options))
			}
			switch {
			case len(r.Mounts) > 0 && r.Name != "":
				got = append(got, fmt.Sprintf("%s by %d", r.Path, len(r.Mounts)))
			case r.Name != "":
				got = append(got, r.Path+" of "+r.Folder)
			default:
				got = append(got, r.Path+" of "+strings.Join(words, ", "))
			}
		}
		for i := range c.want {
			c.want[i] = strings.NewReplacer("LOWER", layerMulti+" "+layerLower, "UPPER", layerMulti+" "+layerUpper,
				"PART ", layerGPT+" "+layerPartition).Replace(c.want[i])
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

func TestARootOfDisksIsMountedBeforeVolumes(t *testing.T) {
	a := asked(specs.Mount{Destination: "/x", Type: "bind", Source: kubelet + "kubernetes.io~empty-dir/disk"})
	a.Rootfs = []share.Mount{{Type: "ext4", Source: "/rw", Options: []string{"loop"}}}
	p, err := Translate(Pod{}, someHost(), a)
	if err != nil {
		t.Fatal(err)
	}
	p.Rooted(p.Roots[0], []string{"02/01"})
	if len(p.Storages) != 2 || p.Storages[0].Source != "02/01" || p.Storages[1].Driver != "local" ||
		p.Spec.Root.Path != p.Roots[0].Path {
		t.Errorf("%v, root at %s", p.Storages, p.Spec.Root.Path)
	}
}

func TestWhatAnAgentCannotDoIsAnError(t *testing.T) {
	profile := func(c *Container) { c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{} }
	for what, c := range map[string]struct {
		pod    Pod
		change func(*Container)
		says   string // empty is no error
	}{
		"a profile":                   {Pod{}, profile, "seccomp"},
		"a profile that is not sent":  {Pod{NoSeccomp: true}, profile, ""},
		"processes of another":        {Pod{}, func(c *Container) { c.PIDOf = "c0" }, "the processes of c0"},
		"processes that it can share": {Pod{PIDOf: true}, func(c *Container) { c.PIDOf = "c0" }, ""},
		"no processes": {Pod{PIDOf: true}, func(c *Container) {
			c.Spec.Annotations = map[string]string{agentapi.PIDOf: "c0"}
		}, ""},
		"no process": {Pod{}, func(c *Container) { c.Spec.Process = nil }, "lacks process"},
		"a user namespace": {Pod{}, func(c *Container) {
			c.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: "/x"}}
		}, "which numbers"},
	} {
		a := asked()
		c.change(&a)
		c.pod.Shared = true
		p, err := Translate(c.pod, someHost(), a)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil && p.Spec.Annotations[agentapi.PIDOf] != a.PIDOf {
			t.Errorf("%s: %v", what, p.Spec.Annotations)
		}
	}
}

func FuzzTranslate(f *testing.F) {
	f.Add([]byte(`{"process": {}, "root": {"path": "/"}, "linux": {
		"devices": [{"type": "b", "major": 8, "path": "/dev/x"}],
		"resources": {"devices": [{"allow": true, "type": "b", "major": 8, "minor": 0, "access": "rw"}]}},
		"mounts": [{"destination": "/x", "type": "bind", "source": "/dir", "options": ["ro"]},
		{"destination": "/y", "type": "bind", "source": "/dev/sda"}]}`), true, "erofs", "/a", "ro,loop")
	f.Add([]byte(`{"process": {}, "root": {}, "linux": {}}`), false, "ext4", "/rw", "loop")
	f.Fuzz(func(t *testing.T, b []byte, shared bool, kind, source, options string) {
		var spec specs.Spec
		if json.Unmarshal(b, &spec) != nil {
			return
		}
		p, err := Translate(Pod{Shared: shared, GuestDevices: true}, someHost(), Container{ID: "c1", Spec: &spec,
			Rootfs: []share.Mount{{Type: kind, Source: source, Options: strings.Split(options, ",")}}})
		if err != nil {
			return
		}
		if len(p.Roots) == 0 {
			t.Error("a container without a root")
		}
		for _, d := range p.Disks {
			p.Plugged(d, "01/00")
		}
		for _, b := range p.Binds {
			if !shared {
				t.Errorf("%+v without a shared folder", b)
			}
			p.Bound(b, "name", true)
		}
		for _, d := range p.Devices {
			if d.Id == "" {
				t.Errorf("a device without a place: %v", d)
			}
		}
		for _, m := range p.Spec.Mounts {
			if isBind(m) && m.Type == "bind" && m.Source == "" {
				t.Errorf("a bind of nothing: %+v", m)
			}
		}
	})
}

func TestFilesAreReadUpToALimit(t *testing.T) {
	path := file(t, t.TempDir()+"/f")
	if b, err := (ThisHost{}).Read(path, 0); len(b) > 0 || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := (ThisHost{}).Read("/proc/self/status", 3); err == nil {
		t.Errorf("%q", b)
	}
	if _, err := (ThisHost{}).Read(path+"x", 3); err == nil {
		t.Error("a file that is not there is read")
	}
	if _, is := (ThisHost{}).Tmpfs("/proc"); is {
		t.Error("proc is a tmpfs")
	}
}

func TestWhatIsOfTheHostAloneStaysThere(t *testing.T) {
	quota, limit := int64(1), int64(2)
	s := &specs.Spec{
		Hostname: "h", Root: &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{Args: []string{"sh"}, SelinuxLabel: "x", ApparmorProfile: "y"},
		Hooks:   &specs.Hooks{Poststop: []specs.Hook{{Path: "/hook"}}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc"}},
		Linux: &specs.Linux{
			CgroupsPath: "/kubepods/x", MountLabel: "z", Seccomp: &specs.LinuxSeccomp{},
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "network", Path: "/n"},
				{Type: "ipc", Path: "/i"}, {Type: "mount"}, {Type: "cgroup"}},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{}}, CPU: &specs.LinuxCPU{Quota: &quota, Cpus: "0-3", Mems: "0"},
				Memory:  &specs.LinuxMemory{Limit: &limit},
				BlockIO: &specs.LinuxBlockIO{}, Network: &specs.LinuxNetwork{},
			},
		},
	}
	before, _ := json.Marshal(s)
	g := guestSpec(s, true)
	if after, _ := json.Marshal(s); string(after) != string(before) {
		t.Errorf("the caller's specification became %s", after)
	}
	b, _ := json.Marshal(g)
	want := `{"ociVersion":"","process":{"user":{"uid":0,"gid":0},"args":["sh"],"cwd":""},` +
		`"root":{"path":"rootfs","readonly":true},"hostname":"h",` +
		`"linux":{"resources":{"memory":{"limit":2},"cpu":{"quota":1}},` +
		`"namespaces":[{"type":"ipc"},{"type":"mount"}],"seccomp":{"defaultAction":""}}}`
	if string(b) != want {
		t.Errorf("%s\nwant %s", b, want)
	}
	if guestSpec(s, false).Linux.Seccomp != nil {
		t.Error("a profile is sent where none is wanted")
	}
}
