package cdi

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// described is a device of a vendor; the file is that of /dev/null.
const described = `{"cdiVersion": "0.6.0", "kind": "example.com/nic", "devices": [
{"name": "0", "containerEdits": {"deviceNodes": [
  {"path": "/dev/vfio/7", "type": "c", "major": 240, "minor": 0}, {"path": "/dev/vfio/vfio", "type": "c", "major": 10,
  "minor": 196}], "env": ["NIC=0"],
  "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/nic", "options": ["ro"]}]}},
{"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/vfio/8", "type": "c", "major": 240, "minor": 1}]}}],
"containerEdits": {"env": ["VENDOR=example"]}}`

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// folder is one that nobody else may write to.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func asks(device string) *specs.Spec {
	return &specs.Spec{Version: "1.2.0", Annotations: map[string]string{"cdi.k8s.io/nic": device},
		Process: &specs.Process{Env: []string{"A=b"}}, Linux: &specs.Linux{}}
}

func TestAContainerGetsWhatAVendorDescribes(t *testing.T) {
	etc, run := folder(t), folder(t)
	write(t, etc, "nic.json", described)
	write(t, run, "other.yaml", "cdiVersion: 0.6.0\nkind: example.com/gpu\ndevices: [{name: a, containerEdits: "+
		"{env: [GPU=a]}}]\n")
	write(t, run, "readme.txt", "not a description")
	folders := []string{etc, run, "/no/such/folder"}

	s := asks("example.com/nic=0,example.com/nic=1")
	s.Annotations["cdi.k8s.io/gpu"] = "example.com/gpu=a"
	got, err := Inject(s, folders)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, d := range got.Linux.Devices {
		paths = append(paths, d.Path)
	}
	slices.Sort(paths)
	if !slices.Equal(paths, []string{"/dev/vfio/7", "/dev/vfio/8", "/dev/vfio/vfio"}) ||
		!slices.Equal(got.Process.Env, []string{"A=b", "GPU=a", "VENDOR=example", "NIC=0"}) || len(got.Mounts) != 1 ||
		got.Mounts[0].Destination != "/nic" {
		t.Errorf("%v, %v, %v", paths, got.Process.Env, got.Mounts)
	}
	if len(s.Linux.Devices) != 0 || len(s.Process.Env) != 1 {
		t.Error("the specification that was given is another one now")
	}
	again, err := Inject(got, folders)
	if err != nil || fmt.Sprint(again.Process.Env, len(again.Linux.Devices), len(again.Mounts)) !=
		fmt.Sprint(got.Process.Env, 3, 1) {
		t.Errorf("once more: %v, %v", again, err)
	}
	none := &specs.Spec{Annotations: map[string]string{"x": "y"}}
	if got, err := Inject(none, folders); got != none || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWhatCannotBeInjectedIsNamed(t *testing.T) {
	dir := folder(t)
	file := write(t, dir, "nic.json", described)
	for says, device := range map[string]string{
		"unresolvable CDI devices example.com/nic=9": "example.com/nic=9",
		`invalid CDI device name "nic"`:              "nic",
		"example.com/gpu=":                           "example.com/gpu=",
	} {
		if _, err := Inject(asks(device), []string{dir}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", device, err, says)
		}
	}
	write(t, dir, "broken.json", `{"cdiVersion": "0.6.0", "kind": "example.com/gpu", "devices": 7}`)
	if _, err := Inject(asks("example.com/gpu=a"), []string{dir}); err == nil ||
		!strings.Contains(err.Error(), "broken.json") {
		t.Errorf("a broken description: %v", err)
	}
	if err := os.Chmod(file, 0o622); err != nil {
		t.Fatal(err)
	}
	if _, err := Inject(asks("example.com/nic=0"), []string{dir}); err == nil ||
		!strings.Contains(err.Error(), "other users may write to it") {
		t.Errorf("a description of others: %v", err)
	}
	if err := os.Chmod(dir, 0o722); err != nil {
		t.Fatal(err)
	}
	if _, err := Inject(asks("example.com/nic=0"), []string{dir}); err == nil ||
		!strings.Contains(err.Error(), "other users may write to it") {
		t.Errorf("a folder of others: %v", err)
	}
}
