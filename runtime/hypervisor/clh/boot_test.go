package clh_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/hypervisor/clh"
	"github.com/katabuild/katabuild/runtime/hypervisor/clh/clhtest"
	"github.com/katabuild/katabuild/runtime/hypervisor/podlifetest"
	"github.com/katabuild/katabuild/runtime/hypervisor/rest/resttest"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/pod"
)

func TestMain(m *testing.M) {
	if clhtest.Is(os.Args) {
		os.Exit(clhtest.Main(os.Args))
	}
	os.Exit(m.Run())
}

// options are those of a pod whose hypervisor is the strict server, with a QEMU that emulates behind it.
func options(t *testing.T) pod.Options {
	t.Helper()
	return podlifetest.Options(t, config.HypervisorCLH, resttest.Program(t, t.TempDir(), clh.Program),
		os.Getenv("KATABUILD_TEST_GUEST"), clh.Hypervisor{StandIn: true})
}

func TestAPodLivesByCloudHypervisorsRequests(t *testing.T) {
	podlifetest.Live(t, options(t), nil)
}

// TestAGuestThatResetsItselfEndsTheMachine is about Cloud Hypervisor, which would start the guest anew.
func TestAGuestThatResetsItselfEndsTheMachine(t *testing.T) {
	o := options(t)
	o.Config.VM.KernelParams = append(o.Config.VM.KernelParams, "root=/dev/none")
	_, err := pod.Start(t.Context(), o)
	if err == nil || !errors.Is(err, machine.ErrGuestEnded) && !strings.Contains(err.Error(), "panic") {
		t.Fatal(err)
	}
}
