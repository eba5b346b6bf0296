package firecracker_test

import (
	"os"
	"testing"

	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/hypervisor/firecracker"
	"github.com/katabuild/katabuild/runtime/hypervisor/firecracker/firecrackertest"
	"github.com/katabuild/katabuild/runtime/hypervisor/podlifetest"
	"github.com/katabuild/katabuild/runtime/hypervisor/rest/resttest"
)

func TestMain(m *testing.M) {
	if firecrackertest.Is(os.Args) {
		os.Exit(firecrackertest.Main(os.Args))
	}
	os.Exit(m.Run())
}

// TestAPodLivesByFirecrackersRequests runs a pod whose hypervisor is the strict server, with a QEMU that emulates
// behind it.
func TestAPodLivesByFirecrackersRequests(t *testing.T) {
	podlifetest.Live(t, podlifetest.Options(t, config.HypervisorFirecracker,
		resttest.Program(t, t.TempDir(), firecracker.Program), os.Getenv("KATABUILD_TEST_GUEST"),
		firecracker.Hypervisor{StandIn: true}), nil)
}
