package serve

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestDevicesThatTheGuestLacksAreLeftOut(t *testing.T) {
	own := func(source string) specs.Mount {
		return specs.Mount{Destination: "/x", Source: source, Options: []string{"rbind", agentapi.GuestDevice}}
	}
	other := specs.Mount{Destination: "/y", Source: "/nowhere", Options: []string{"rbind"}}
	kept, left := deviceMounts("/", []specs.Mount{own("/dev/null"), own("/dev/nosuch"), other, own("/dev"),
		own("/dev/../etc/passwd")})
	if len(kept) != 2 || kept[0].Source != "/dev/null" || !slices.Equal(kept[0].Options, []string{"rbind"}) ||
		kept[1].Source != "/nowhere" {
		t.Errorf("%+v", kept)
	}
	if strings.Join(left, " ") != "/dev/nosuch /dev /dev/../etc/passwd" {
		t.Error(left)
	}
}

func TestAllDevicesAreThoseOfTheMachine(t *testing.T) {
	list, err := allDevices("/dev")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range list {
		names = append(names, d.Path)
		if strings.HasPrefix(d.Path, "/dev/pts/") || strings.HasPrefix(d.Path, "/dev/shm/") ||
			d.Path == "/dev/ptmx" || d.Path == "/dev/console" {
			t.Errorf("%s is each container's own", d.Path)
		}
		if d.Path == "/dev/null" && (d.Type != "c" || d.Major != 1 || d.Minor != 3 || d.FileMode == nil) {
			t.Errorf("%+v", d)
		}
	}
	if !slices.Contains(names, "/dev/null") {
		t.Error(names)
	}
	dir := t.TempDir() // without devices
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := allDevices(dir); len(list) > 0 || err != nil {
		t.Error(list, err)
	}
}
