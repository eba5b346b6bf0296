package probe

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/testenv"
)

func noGuard() {}

func TestAnswersAreInOrderOnceEach(t *testing.T) {
	got := Run(noGuard, []string{"zzz", "core.calls", "core.network", "core.calls"})
	var names []string
	for _, p := range got {
		names = append(names, p.Name)
		if want := p.Name != "zzz"; p.Met != want || (p.Detail == "") != want {
			t.Errorf("%+v", p)
		}
	}
	if !slices.Equal(names, []string{"core.calls", "core.network", "zzz"}) {
		t.Error(names)
	}
	if d := got[2].Detail; d != "this agent has no such probe" {
		t.Error(d)
	}
}

func TestADetailFitsTheReport(t *testing.T) {
	p := answer("x", errors.New(strings.Repeat("é", report.MaxDetail)))
	if p.Met || len(p.Detail) > report.MaxDetail || strings.ContainsRune(p.Detail, '\ufffd') {
		t.Errorf("%d bytes", len(p.Detail))
	}
	if p := answer("x", errors.New("")); p.Met || p.Detail == "" {
		t.Errorf("an error without words: %+v", p)
	}
}

func TestAProbeIsGivenUpAndAPanicReachesTheGuard(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	if err := bounded(noGuard, time.Millisecond, func() error { <-hold; return nil }); err == nil ||
		!strings.Contains(err.Error(), "within 1ms") {
		t.Error(err)
	}
	caught := make(chan any, 1)
	guard := func() {
		if v := recover(); v != nil {
			caught <- v
		}
	}
	_ = bounded(guard, 10*time.Millisecond, func() error { panic("in a probe") })
	if v := <-caught; v != "in a probe" {
		t.Error(v)
	}
}

// TestWhatEveryKernelHas runs what this machine's kernel can prove to a user in namespaces of its own, as it has what
// such a user needs.
func TestWhatEveryKernelHas(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS|syscall.CLONE_NEWIPC) {
		return
	}
	for _, p := range Run(noGuard, []string{"core.calls", "core.clock", "core.file-systems", "core.network",
		"core.programs", "ipc-notify.core-dumps", "memory.tmpfs", "namespaces.ipc"}) {
		if p.Name == "memory.tmpfs" && strings.Contains(p.Detail, "an attribute: operation not permitted") {
			continue // trusted attributes are for the first user namespace alone
		}
		if !p.Met {
			t.Errorf("%+v", p)
		}
	}
	if err := starts("/proc/self/exe", 0); err == nil {
		t.Error("a program that is there and starts was taken for one that is not")
	}
}

func TestAThreadsNamespacesAndFilterEndWithIt(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	inside := ""
	if err := (threads{noGuard}).network(func() error {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	})(); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Readlink("/proc/self/ns/net"); after != before || inside == before {
		t.Errorf("%s, inside %s, then %s", before, inside, after)
	}
	if err := (threads{noGuard}).thread(filter)(); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); errno != 0 {
		t.Errorf("the filter outlives its thread: %v", errno)
	}
}

// TestNetlinkKnowsWhatIsNotThere: the answers on which probes of networks rest, from this machine's kernel.
func TestNetlinkKnowsWhatIsNotThere(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	testenv.Require(t, testenv.Func(testenv.Veth, func() error {
		return one(unix.NETLINK_ROUTE, newLink(dummy, "probe0", "veth", 0, nil))
	}))
	if err := one(unix.NETLINK_ROUTE, newLink(101, "probe1", "none-such", 0, nil)); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("an interface of no kind: %v", err)
	}
	if err := newAction("none-such"); err == nil {
		t.Error("an action of no kind is there")
	}
	if err := family("none-such")(); err == nil {
		t.Error("a family of no name is there")
	}
	if err := diag(200, make([]byte, 20)); err == nil {
		t.Error("sockets of no family are listed")
	}
	testenv.Require(t, testenv.Func(testenv.NFTables, func() error {
		answers, err := ask(unix.NETLINK_NETFILTER, batch(newTableOf(familyInet))...)
		if err == nil && answers[1] != 0 {
			err = fmt.Errorf("no table can be made: error %d", answers[1])
		}
		return err
	}))
	if err := expressionsOf(familyInet, []string{"none-such"}); err == nil || !strings.Contains(err.Error(),
		"none-such") {
		t.Errorf("an expression of no name: %v", err)
	}
	if err := expressionsOf(familyInet, []string{"counter", "meta", "immediate"}); err != nil {
		t.Errorf("expressions that nftables always has: %v", err)
	}
}

func TestTheLastWordOfACommandLineCounts(t *testing.T) {
	for line, want := range map[string]string{"": "", "psi=1": "1", "a psi=1 psi=0\n": "0", "xpsi=1": "", "psi": ""} {
		if got := wordOf(line, "psi"); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// FuzzNetlink: whatever a datagram holds, it is read within its bounds and to its end.
func FuzzNetlink(f *testing.F) {
	f.Add(join(u32(20), u16(unix.NLMSG_ERROR), u16(0), u32(1), u32(0), u32(0)))
	f.Add(join(u32(16), u16(unix.NLMSG_DONE), u16(0), u32(1), u32(0)))
	f.Add(join(u32(0), u16(unix.NLMSG_ERROR), u16(0), u32(1), u32(0))) // a message of no length
	f.Add(join(u32(19), u16(unix.NLMSG_ERROR), u16(0), u32(1), u32(0), u32(0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		ends(b, func(uint32, unix.Errno) { n++ })
		if n > len(b)/unix.SizeofNlMsghdr {
			t.Errorf("%d answers in %d bytes", n, len(b))
		}
	})
}
