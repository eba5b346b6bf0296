package translate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestReadOnlyIsAboutTheTopAndRroAboutAll(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	dir := t.TempDir()
	plain, mounted, file := dir+"/plain", dir+"/plain-and-more", dir+"/file"
	for _, d := range []string{plain, mounted + "/sub"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mounted+"/sub", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(mounted, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		source, options string
		access          share.Access
		alone           bool
	}{
		{plain, "rbind rw", share.Writable, false}, {plain, "rbind ro", share.ReadOnly, false},
		{plain, "rbind ro rro", share.ReadOnlyAll, false},
		{mounted, "ro", share.ReadOnly, true}, {dir + "/link", "ro", share.ReadOnly, true},
		{mounted, "rro", share.ReadOnlyAll, false}, {mounted, "", share.Writable, false},
		{mounted, "rro ro", share.ReadOnlyAll, false}, {file, "ro", share.ReadOnly, false},
	} {
		f, err := ThisHost{}.Stat(c.source)
		if err != nil {
			t.Fatal(err)
		}
		access, alone, err := accessOf(ThisHost{}, specs.Mount{Source: c.source,
			Options: strings.Fields(c.options)}, f)
		if access != c.access || alone != c.alone || err != nil {
			t.Errorf("%s %q: %v %v %v", filepath.Base(c.source), c.options, access, alone, err)
		}
	}
	if err := unix.Unmount(mounted+"/sub", 0); err != nil {
		t.Error(err)
	}
}

func TestDevicesOfTheGuestAreMountedByName(t *testing.T) {
	f, err := ThisHost{}.Stat("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	m := specs.Mount{Destination: "/etc/motd", Type: "bind", Source: "/somewhere/else", Options: []string{"rbind",
		"ro"}}
	if got := ownDevice(ThisHost{Root: root}, m, f); got != nil {
		t.Error("a device without a name:", got)
	}
	uevent := filepath.Join(root, "sys/dev/char/1:3/uevent")
	for text, want := range map[string]string{"MAJOR=1\nMINOR=3\nDEVNAME=null\nDEVMODE=0666\n": "/dev/null",
		"DEVNAME=net/tun\n": "/dev/net/tun", "DEVNAME=../x\n": "", "MAJOR=1\n": ""} {
		if err := os.MkdirAll(filepath.Dir(uevent), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(uevent, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got := ownDevice(ThisHost{Root: root}, m, f)
		switch {
		case got == nil && want == "":
		case got == nil || got.Source != want || got.Destination != m.Destination || !slices.Equal(got.Options,
			[]string{"rbind", "ro", agentapi.GuestDevice}):
			t.Errorf("%q: %+v, want %s", text, got, want)
		}
	}
}

func TestWhoMayUseEveryDeviceMayUseTheGuests(t *testing.T) {
	one := int64(1)
	all := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
	for what, c := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  int
	}{
		"nothing": {}, "all": {[]specs.LinuxDeviceCgroup{{Access: "rwm"}, all}, 1},
		"none":    {[]specs.LinuxDeviceCgroup{all, {Access: "rwm"}}, 0},
		"one":     {[]specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: &one, Minor: &one, Access: "rwm"}}, 0},
		"to read": {[]specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "r"}}, 0},
	} {
		s := guestSpec(&specs.Spec{Root: &specs.Root{}, Process: &specs.Process{},
			Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: c.rules}}}, true)
		if got := s.Linux.Resources.Devices; len(got) != c.want || c.want == 1 &&
			(!got[0].Allow || got[0].Type != "a") {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

func TestVolumesOfTheKubelet(t *testing.T) {
	for path, want := range map[string]string{
		"/var/lib/kubelet/pods/u/volumes/kubernetes.io~configmap/cfg": "kubernetes.io~configmap",
		"/x/pods/u/volumes/kubernetes.io~empty-dir/tmp/":              "kubernetes.io~empty-dir",
		"/x/pods/u/volumes/kubernetes.io~configmap":                   "",
		"/srv/data": "",
		"/":         "",
	} {
		if got := plugin(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	for in, want := range map[string]string{"ro rprivate": "rbind ro rprivate", "rbind rslave rw": "rbind rslave rw",
		"rbind rshared": "rbind rslave", "bind shared": "bind slave", "bind": "bind", "": "rbind"} {
		if got := strings.Join(guestOptions(strings.Fields(in)), " "); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestACopyHasANameOfItsSource(t *testing.T) {
	if a, b := copyName("/var/a/hosts"), copyName("/var/b/hosts"); a == b || a != copyName("/var//a/hosts") ||
		!strings.HasSuffix(a, "-hosts") || strings.Contains(a, "/") {
		t.Error(a, b)
	}
	if n := copyName("/"); !filepath.IsLocal(n) {
		t.Error(n)
	}
}
