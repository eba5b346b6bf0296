package sandbox

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
)

// defaultGuest starts the guest that containers run in, on a q35 with a shell on its debug console.
func defaultGuest(t *testing.T, change func(*Config)) *Sandbox {
	t.Helper()
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File("KATABUILD_TEST_GUEST"),
		testenv.Tool("qemu-system-x86_64"))
	dir := os.Getenv("KATABUILD_TEST_GUEST")
	g, err := guest.ReadFolder(dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Guest: g, Hypervisor: qemu.Hypervisor{}, Machine: "q35", Words: []string{"agent.debug_console",
		"agent.debug_console_vport=1026"}}
	change(&cfg)
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// shell is what a command says in the guest.
func shell(t *testing.T, s *Sandbox, command string) string {
	t.Helper()
	c, err := s.Dial(t.Context(), 1026)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "stty -echo; echo be''gin; %s; echo en''d; exit\n", command); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	begun := false
	for lines := bufio.NewScanner(c); lines.Scan(); {
		switch l := strings.TrimRight(lines.Text(), "\r"); {
		case strings.HasSuffix(l, "begin"):
			begun = true
		case l == "end":
			return out.String()
		case begun:
			out.WriteString(l + "\n")
		}
	}
	t.Fatalf("the shell ends after %q", out.String())
	return ""
}

func agentOf(t *testing.T, s *Sandbox) katapb.AgentServiceService {
	t.Helper()
	var c net.Conn
	c, err := s.Dial(t.Context(), agentapi.Port)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(c)
	t.Cleanup(func() { _ = client.Close() })
	return katapb.NewAgentServiceClient(client)
}

func TestTheMemoryOfAMachineGrows(t *testing.T) {
	s := defaultGuest(t, func(c *Config) { c.Max, c.MemorySlots = machine.Size{CPUs: 3, MemoryMiB: 1000}, 2 })
	agent := agentOf(t, s)
	started := s.Size()
	for _, x := range []struct {
		want, more int
		err        string
	}{
		{1, 0, ""},
		{started.MemoryMiB + 200, 256, ""},
		{2000, 256 + 384, "2000 MiB of memory are wanted, and the machine can have 896"},
		{980, 256 + 384, "all 2 slots are taken"},
	} {
		have := machine.Size{CPUs: started.CPUs, MemoryMiB: started.MemoryMiB + x.more}
		now, err := s.Grow(t.Context(), machine.Size{CPUs: 1, MemoryMiB: x.want})
		if now != have || (err == nil) != (x.err == "") || err != nil && !strings.Contains(err.Error(), x.err) {
			t.Fatalf("want %d: have %v, %v; want %v, %s", x.want, now, err, have, x.err)
		}
		if _, err := agent.OnlineCPUMem(t.Context(), &katapb.OnlineCPUMemRequest{Wait: true,
			NbCpus: uint32(now.CPUs)}); err != nil {
			t.Fatalf("%v\n%s", err, shell(t, s, "cd /sys/devices/system; head cpu/online memory/*/state; dmesg | tail"))
		}
		var kib int
		out := shell(t, s, "head -n 1 /proc/meminfo")
		if _, err := fmt.Sscanf(out, "MemTotal: %d kB", &kib); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		if mib := kib >> 10; mib > now.MemoryMiB || mib < now.MemoryMiB-60 {
			t.Errorf("the guest uses %d MiB, want nearly %d", mib, now.MemoryMiB)
		}
	}
}

// Under TCG the guest does not take them: this is QEMU's side.
func TestProcessorsArePluggedIn(t *testing.T) {
	s := defaultGuest(t, func(c *Config) { c.Max.CPUs, c.Hypervisor = 3, qemu.Hypervisor{CPUsUnderTCG: true} })
	for _, x := range []struct {
		want, have int
		err        string
	}{{2, 2, ""}, {5, 3, "5 processors are wanted, and the machine can have 3"}} {
		now, err := s.Grow(t.Context(), machine.Size{CPUs: x.want})
		if now.CPUs != x.have || (err == nil) != (x.err == "") || err != nil && !strings.Contains(err.Error(), x.err) {
			t.Errorf("want %d: have %v, %v", x.want, now, err)
		}
		answer, err := s.vm.(*qemu.VM).Query(t.Context(), "query-cpus-fast", nil)
		var list []any
		if err := errors.Join(err, json.Unmarshal(answer, &list)); err != nil || len(list) != x.have {
			t.Errorf("QEMU has %d processors, want %d: %v", len(list), x.have, err)
		}
	}
}

func TestAMachineWithoutRoomStaysAsItIs(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"microvm": func(c *Config) {
			c.Machine, c.Max, c.MemorySlots = "microvm", machine.Size{CPUs: 2, MemoryMiB: 1024},
				2
		},
		"q35": func(*Config) {},
	} {
		s := defaultGuest(t, change)
		before := s.Size()
		now, err := s.Grow(t.Context(), machine.Size{CPUs: before.CPUs + 1, MemoryMiB: before.MemoryMiB + 1})
		if !errors.Is(err, machine.ErrNoGrowth) || now != before {
			t.Errorf("%s: %v, %v", name, now, err)
		}
	}
}
