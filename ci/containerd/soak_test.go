package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/nest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// podsVariable is how many pods of mixed kinds TestSoak runs one after another on each containerd: 20 by default.
const podsVariable = "KATABUILD_TEST_PODS"

// soakKinds are pods of different lives, each removed when it returns.
var soakKinds = []struct {
	name string
	run  func(t *testing.T, c *client, n *node, serial int, see func(id string))
}{
	{"a task to its end", func(t *testing.T, c *client, _ *node, _ int, _ func(string)) {
		if r := c.ctr(t, nil, c.run(c.id(), []string{"--rm"}, "sh", "-c", "echo out; exit 3")...); r.code != 3 ||
			r.out != "out\n" {
			t.Errorf("%+v", r)
		}
	}},
	{"a program that is not there", func(t *testing.T, c *client, _ *node, _ int, _ func(string)) {
		if r := c.ctr(t, nil, c.run(c.id(), []string{"--rm"}, "/no/such/program")...); r.code == 0 {
			t.Errorf("it ran: %+v", r)
		}
	}},
	{"a task with an exec, killed", func(t *testing.T, c *client, _ *node, _ int, see func(string)) {
		id := c.detach(t, nil, "toolbox", "pause")
		if r := c.exec(t, id, "echo", "x"); r.out != "x\n" {
			t.Errorf("%+v", r)
		}
		see(id)
	}},
	{"a volume that is written", func(t *testing.T, c *client, _ *node, _ int, _ func(string)) {
		dir := t.TempDir()
		mount := "type=bind,src=" + dir + ",dst=/v,options=rbind:rw"
		if r := c.ctr(t, nil, c.run(c.id(), []string{"--rm", "--mount", mount}, "sh", "-c",
			"echo x >/v/f")...); r.code != 0 {
			t.Errorf("%+v", r)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(b) != "x\n" {
			t.Errorf("%q, %v", b, err)
		}
	}},
	{"a pod of two containers", func(t *testing.T, _ *client, n *node, serial int, see func(string)) {
		p := n.run(t, n.podConfig(fmt.Sprintf("soak%d", serial+1)))
		one := p.start(t, nil, "toolbox", "pause")
		if out := p.output(t, nil, "echo", "two"); out != "two\n" {
			t.Errorf("got %q", out)
		}
		if r := one.exec(t, "true"); r.code != 0 {
			t.Errorf("%+v", r)
		}
		see(p.id)
	}},
	{"a pod with a limit that its container exceeds", func(t *testing.T, _ *client, n *node, serial int,
		_ func(string)) {
		p := n.run(t, n.podConfig(fmt.Sprintf("soak%d", serial+1)))
		c := p.start(t, func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 32 << 20 }, "toolbox",
			"eat", "64")
		if s := c.wait(t); s.ExitCode == 0 {
			t.Errorf("%+v", s)
		}
	}},
}

// TestSoak runs pods one after another: nothing of them is left, and what serves them does not grow.
func TestSoak(t *testing.T) {
	testenv.Require(t, testenv.Asked(faultVariable, "test-faults"))
	onGuests(t, func(t *testing.T, c *client) {
		n := newNode(t, c.setting)
		daemons := processes("containerd", "\x00--config\x00", filepath.Dir(c.Socket))
		if len(daemons) == 0 {
			t.Fatalf("no containerd serves %s", c.Socket)
		}
		daemon := slices.Min(daemons) // its shims are started by it
		var most held
		machines := 0 // KiB of the largest QEMU
		see := func(id string) {
			if pid := processes("containerd-shim-", "\x00-id\x00"+id+"\x00", "\x00serve\x00"); len(pid) == 1 {
				most.rssKiB = max(most.rssKiB, statusOf(t, pid[0], "VmRSS"))
				most.ownKiB = max(most.ownKiB, statusOf(t, pid[0], "RssAnon"))
			}
			for _, pid := range processes("qemu-system-", "-"+id+"\x00") {
				machines = max(machines, statusOf(t, pid, "VmRSS"))
			}
		}
		// The first pod of a containerd makes the bridge, which stays.
		t.Run("the first pod", func(t *testing.T) { soakKinds[4].run(t, c, n, -1, see) })
		before, err := nest.Look()
		if err != nil {
			t.Fatal(err)
		}
		pods := number(t, podsVariable, 20)
		start := time.Now()
		first, last := 0, 0
		for i := range pods {
			k := soakKinds[i%len(soakKinds)]
			if !t.Run(fmt.Sprintf("%d %s", i+1, k.name), func(t *testing.T) { k.run(t, c, n, i, see) }) {
				return
			}
			if i == min(pods/4, 100) { // caches and pools have filled
				first = statusOf(t, daemon, "RssAnon")
			}
			last = statusOf(t, daemon, "RssAnon")
		}
		left, err := nest.LeftSince(before, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range left {
			t.Errorf("left behind: %s", l)
		}
		t.Logf("%d pods in %v; containerd's own memory %d KiB, then %d; the largest shim %d KiB, %d its own; the "+
			"largest QEMU %d KiB",
			pods, time.Since(start).Round(time.Second), first, last, most.rssKiB, most.ownKiB, machines)
		// containerd keeps what it knows of content and images; Go gives memory back late.
		if allowance := 32 << 10; last > first+allowance {
			t.Errorf("containerd's own memory grew from %d to %d KiB", first, last)
		}
		if allowance := 24 << 10; most.rssKiB > allowance {
			t.Errorf("a shim had %d KiB, want at most %d", most.rssKiB, allowance)
		}
	})
}
