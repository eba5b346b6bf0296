package directvolume

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// good is a description as Kata Containers' direct-volume writes it.
const good = `{"volume-type":"block","device":"/dev/sdb","fstype":"ext4","metadata":{"fsGroup":"3000","fsGroupChange` +
	`Policy":"OnRootMismatch","driver":"x"},"options":["noatime"]}`

func TestADescriptionIsReadStrictly(t *testing.T) {
	i, err := Parse([]byte(good))
	if err != nil || i.Type != Block || i.Device != "/dev/sdb" || i.FSType != "ext4" || i.ReadOnly() ||
		!slices.Equal(i.Options, []string{"noatime"}) {
		t.Fatalf("%+v, %v", i, err)
	}
	if g, err := i.Group(); err != nil || *g != (Group{ID: 3000, OnMismatch: true}) {
		t.Errorf("%+v, %v", g, err)
	}
	for text, want := range map[string]string{
		"": "EOF", "{}": "no volume-type", good + "{}": "behind the description", good + "x": "behind the description",
		strings.Replace(good, "/dev/sdb", "/dev/../etc/shadow", 1): "want an absolute path",
		strings.Replace(good, "/dev/sdb", "", 1):                   "want an absolute path",
		strings.Replace(good, `"ext4"`, `""`, 1):                   "no fstype",
		strings.Replace(good, `"3000"`, `"-1"`, 1):                 "want the number of a group",
		strings.Replace(good, `"3000"`, `"4294967296"`, 1):         "want the number of a group",
		strings.Replace(good, "OnRootMismatch", "Never", 1):        "want Always or OnRootMismatch",
		strings.Replace(good, "fstype", "fs-type", 1):              `unknown field "fs-type"`,
		strings.Replace(good, "fstype", "FSType", 1):               `unknown field "FSType"`,
		strings.Replace(good, `"fstype"`, `"device"`, 1):           `"device" stands twice`,
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestTypesHaveOtherWords(t *testing.T) {
	for word, want := range map[string]string{"block": Block, "blk": Block, "directvol": Block, "vfiovol": VFIO,
		"vfio-blk": VFIO, "spdkvol": SPDK, "odd": "odd"} {
		if got := (&Info{Type: word}).Kind(); got != want {
			t.Errorf("%s is %s, want %s", word, got, want)
		}
	}
}

func TestVolumesComeAndGo(t *testing.T) {
	root := filepath.Join(t.TempDir(), "volumes")
	const path = "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pv/mount"
	i, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(root, path); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	if err := Add(root, path, i); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(root, path); err != nil || got.Device != i.Device {
		t.Errorf("%+v, %v", got, err)
	}
	for _, pod := range []string{"b", "a"} {
		if err := Record(root, path, pod); err != nil {
			t.Error(err)
		}
	}
	for _, pod := range []string{"../x", infoName, "a/b"} {
		if err := Record(root, path, pod); err == nil {
			t.Errorf("%s was noted", pod)
		}
	}
	if pods, err := Pods(root, path); err != nil || !slices.Equal(pods, []string{"a", "b"}) {
		t.Errorf("%q, %v", pods, err)
	}
	if err := Forget(root, path, "a"); err != nil {
		t.Error(err)
	}
	if pods, err := Pods(root, path); err != nil || !slices.Equal(pods, []string{"b"}) {
		t.Errorf("%q, %v", pods, err)
	}
	// What others could have written is not believed.
	info := filepath.Join(root, Name(path), infoName)
	if err := os.Chmod(info, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(root, path); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("what everybody may write to: %v", err)
	}
	if err := os.WriteFile(info, []byte(strings.Repeat(" ", maxInfo+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(info, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(root, path); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("what is too large: %v", err)
	}
	if err := Remove(root, path); err != nil {
		t.Error(err)
	}
	if _, err := Pods(root, path); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	if err := Remove(root, path); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	long := "/" + strings.Repeat("x", 200)
	if err := Add(root, long, i); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a path too long for a name: %v", err)
	}
	if _, err := Read(root, long); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"volume-type":"spdkvol","device":"/x","metadata":null,"options":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := Parse(data)
		if err != nil {
			return
		}
		if err := i.check(); err != nil || !filepath.IsAbs(i.Device) {
			t.Errorf("%+v, %v", i, err)
		}
	})
}
