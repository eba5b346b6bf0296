package shim

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
)

func TestContainerdReadsWhereWeServeAndWhichMountsAreOurs(t *testing.T) {
	const address = "unix:///run/containerd/s/x"
	for _, old := range []int{0, 1} {
		if a, err := startAnswer(address, old); err != nil || a != address {
			t.Errorf("for one who knows version %d: %q, %v", old, a, err)
		}
	}
	for newest, version := range map[int]int32{2: 2, 3: 3, 4: 3} {
		a, err := startAnswer(address, newest)
		if err != nil {
			t.Fatal(err)
		}
		// As containerd 2.4 does: it tries the message's own encoding first.
		var r bootapi.BootstrapResult
		if proto.Unmarshal([]byte(a), &r) == nil {
			t.Errorf("%q is taken for another encoding", a)
		}
		r.Reset()
		if err := json.Unmarshal([]byte(a), &r); err != nil || r.Address != address || r.Protocol != "ttrpc" ||
			r.Version != version {
			t.Errorf("for one who knows version %d: %v, %v", newest, &r, err)
		}
		var own types.MountCapabilities
		if ok, err := r.FindExtension(&own); !ok || err != nil || strings.Join(own.Types, " ") != "erofs" ||
			strings.Join(own.Transforms, " ") != "format mkdir" {
			t.Errorf("our mounts: %v, %v, %v", &own, ok, err)
		}
	}
	b, err := Info("io.containerd.kata.v2", "1")
	if err != nil {
		t.Fatal(err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(b, &info); err != nil ||
		info.Annotations["containerd.io/runtime-allow-mounts"] != "erofs,format/*,mkdir/*" ||
		info.Version.Version != "1" {
		t.Errorf("%v, %v", &info, err)
	}
	var f features.Features
	if err := json.Unmarshal(info.Features.GetValue(), &f); err != nil ||
		info.Features.TypeUrl != "types.containerd.io/opencontainers/runtime-spec/1/features/Features" {
		t.Fatal(info.Features, err)
	}
	if !slices.Contains(f.MountOptions, "rro") || slices.Contains(f.MountOptions, "rshared") ||
		!slices.IsSorted(f.MountOptions) || f.OCIVersionMax != specs.Version {
		t.Errorf("%+v", f)
	}
	if m := f.Linux.MountExtensions; slices.Contains(f.Linux.Namespaces, "user") != *m.IDMap.Enabled ||
		!*f.Linux.Seccomp.Enabled {
		t.Errorf("%+v", f.Linux) // a user namespace is of no use to a host without mounts that have its owners
	}
}
