package translate

import (
	"reflect"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/runtime/share"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestContainersHaveTheUsersOfTheirPod(t *testing.T) {
	spec := func(maps ...specs.LinuxIDMapping) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{UIDMappings: maps, GIDMappings: maps}}
	}
	in := func(path string, maps ...specs.LinuxIDMapping) *specs.Spec {
		s := spec(maps...)
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: path}}
		return s
	}
	numbers := specs.LinuxIDMapping{ContainerID: 0, HostID: 65536, Size: 65536}
	var u Users
	guest := spec()
	if _, err := u.of(spec(), guest); err != nil || guest.Linux.UIDMappings != nil {
		t.Errorf("a pod without: %+v, %v", guest.Linux, err)
	}
	if _, err := u.of(in("/proc/1/ns/user"), spec()); err == nil || !strings.Contains(err.Error(), "which numbers") {
		t.Errorf("numbers that nobody says: %v", err)
	}
	u, err := u.of(in("", numbers), spec(numbers))
	if err != nil {
		t.Error(err)
	}
	if _, err := u.of(in("/proc/1/ns/user"), guest); err != nil || !reflect.DeepEqual(guest.Linux.UIDMappings,
		[]specs.LinuxIDMapping{numbers}) ||
		!reflect.DeepEqual(guest.Linux.GIDMappings, []specs.LinuxIDMapping{numbers}) {
		t.Errorf("one that joins: %+v, %v", guest.Linux, err)
	}
	for _, bad := range []specs.LinuxIDMapping{{Size: 0}, {HostID: 1<<32 - 1, Size: 2}, {ContainerID: 1<<32 - 1,
		Size: 2}} {
		if _, err := u.of(in("", bad), spec(bad)); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestOwnersOfVolumes(t *testing.T) {
	of := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 65536, Size: 10}}
	other := []specs.LinuxIDMapping{{ContainerID: 5, HostID: 7, Size: 1}}
	s := &specs.Spec{Linux: &specs.Linux{UIDMappings: of, GIDMappings: of}}
	owners := func(m share.IDMap) share.Owners { return share.Owners{UIDs: []share.IDMap{m}, GIDs: []share.IDMap{m}} }
	for what, c := range map[string]struct {
		m    specs.Mount
		want share.Owners
	}{
		"none": {specs.Mount{Options: []string{"rbind"}}, share.Owners{}},
		"its own": {specs.Mount{UIDMappings: other, GIDMappings: other},
			owners(share.IDMap{Inside: 5, Outside: 7, Size: 1})},
		"those of the user ns": {specs.Mount{Options: []string{"idmap"}},
			owners(share.IDMap{Outside: 65536, Size: 10})},
		"those, and what below": {specs.Mount{Options: []string{"ridmap"}},
			owners(share.IDMap{Outside: 65536, Size: 10})},
	} {
		if got := ownersOf(c.m, s); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", what, got, c.want)
		}
	}
}
