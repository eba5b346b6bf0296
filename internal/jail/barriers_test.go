package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/testenv"
)

// probeArg makes this executable try, inside a jail, what the jail's barriers forbid.
const probeArg = "jail-test-probe"

// probe makes system calls and prints the answer of each.
func probe() {
	runtime.LockOSThread()
	say := func(name string, err error) { fmt.Printf("%s: %v\n", name, err) }
	call := func(name string, nr uintptr, args ...uintptr) {
		args = append(args, 0, 0, 0)
		_, _, e := unix.RawSyscall(nr, args[0], args[1], args[2])
		say(name, e)
	}
	for _, family := range []int{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_VSOCK, unix.AF_NETLINK,
		unix.AF_ALG, unix.AF_PACKET} {
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		if err == nil {
			unix.Close(fd)
		}
		say(fmt.Sprintf("family %d", family), err)
	}
	call("keyctl", unix.SYS_KEYCTL, 0, ^uintptr(2)) // KEYCTL_GET_KEYRING_ID of the session
	call("add_key", unix.SYS_ADD_KEY)
	call("request_key", unix.SYS_REQUEST_KEY)
	call("unshare", unix.SYS_UNSHARE, unix.CLONE_FS)
	call("clone", unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_THREAD) // the kernel itself would answer EINVAL
	call("clone3", unix.SYS_CLONE3)
	call("bpf", unix.SYS_BPF)
	call("io_uring", unix.SYS_IO_URING_SETUP)
	call("userfaultfd", unix.SYS_USERFAULTFD, 1<<30)
	call("perf", unix.SYS_PERF_EVENT_OPEN)
	call("ptrace", unix.SYS_PTRACE, unix.PTRACE_TRACEME)
	call("setns", unix.SYS_SETNS)
	call("handle", unix.SYS_OPEN_BY_HANDLE_AT)
	call("module", unix.SYS_FINIT_MODULE)
	call("kexec", unix.SYS_KEXEC_LOAD)
	call("mount", unix.SYS_MOUNT)
	call("x32", 0x40000000|unix.SYS_GETPID)
}

func TestSystemCallsThatLeaveTheJailAreRefused(t *testing.T) {
	testenv.Require(t, userNamespaces)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	_, err = Command{Args: []string{"/probe", probeArg}, Binds: []Bind{{Host: self, Jail: "/probe"}}, Stdout: &out,
		Stderr: &out}.Run(t.Context())
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	want := map[string]string{"family 1": "<nil>", "family 2": "<nil>", "clone3": "function not implemented"}
	for line := range strings.Lines(out.String()) {
		name, got, _ := strings.Cut(strings.TrimSpace(line), ": ")
		expect := "operation not permitted"
		if strings.HasPrefix(name, "family") {
			expect = "address family not supported by protocol"
		}
		if w, ok := want[name]; ok {
			expect = w
		}
		if name == "family 10" { // the machine may have no IPv6
			continue
		}
		if got != expect {
			t.Errorf("%s: %s, want %s", name, got, expect)
		}
	}
	if n := strings.Count(out.String(), "\n"); n != 24 {
		t.Errorf("%d answers:\n%s", n, out.String())
	}
}

func TestOnlyWhatCompilersNeedOfEtcIsShown(t *testing.T) {
	out := mustSh(t, "ls /etc; cat /etc/passwd; find /etc -type f ! -perm -o=r")
	for _, name := range []string{"shadow", "ssl", "ssh", "apt", "hostname", "machine-id", "gshadow"} {
		if strings.Contains(out, name) {
			t.Errorf("%s is in the jail's /etc:\n%s", name, out)
		}
	}
	if !strings.Contains(out, "root:x:0:0:katabuild:/build:/bin/sh") {
		t.Errorf("got %s", out)
	}
}

// keys is that this process may have keys, which a container's seccomp filter may forbid.
var keys = testenv.Func(testenv.Keys, func() error {
	if _, err := os.Stat("/proc/keys"); err != nil {
		return err
	}
	_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_THREAD_KEYRING, true)
	return err
})

func TestTheCallersKeysAreHidden(t *testing.T) {
	testenv.Require(t, userNamespaces, keys)
	runtime.LockOSThread() // keys belong to a thread, and the jail is started from this one
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey("user", "katabuild-jail-test", []byte("secret"), unix.KEY_SPEC_PROCESS_KEYRING)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0)
	if _, err := unix.KeyctlInt(unix.KEYCTL_LINK, id, unix.KEY_SPEC_SESSION_KEYRING, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_SESSION_KEYRING, 0, 0)
	if out := mustSh(t, "cat /proc/keys"); strings.Contains(out, "katabuild-jail-test") {
		t.Errorf("the jail sees the caller's keys:\n%s", out)
	}
}

func TestNoSignalOfAProgramEndsTheJail(t *testing.T) {
	out := mustSh(t, "for s in TERM INT HUP QUIT USR1 USR2 ABRT SEGV BUS ILL ALRM PIPE TRAP SYS KILL STOP; do kill "+
		"-$s 1; done; sleep 0.1; echo alive")
	if out != "alive\n" {
		t.Errorf("got %q", out)
	}
	// A program ignores at most what this process was started with.
	ignored := func(status string) (mask uint64) {
		_, after, _ := strings.Cut(status, "SigIgn:")
		fmt.Sscanf(after, "%x", &mask)
		return mask
	}
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if in := ignored(mustSh(t, "cat /proc/self/status")); in&^ignored(string(own)) != 0 {
		t.Errorf("programs start with signals ignored: %x", in)
	}
}

func TestLimitsEndAProgram(t *testing.T) {
	testenv.Require(t, userNamespaces)
	for name, c := range map[string]struct {
		limits Limits
		script string
		want   string
	}{
		"time": {Limits{Time: 300 * time.Millisecond}, "sleep 60", "took more than 300ms"},
		"disk": {Limits{Disk: 4 << 20}, "i=0; while :; do head -c 1000000 /dev/urandom > /build/f$i; " +
			"i=$((i+1)); done", "bytes to disk"},
		"file":   {Limits{File: 1 << 20}, "head -c 3000000 /dev/zero > /build/f", ""},
		"memory": {Limits{Memory: 2 << 30}, "dd if=/dev/zero of=/dev/null bs=3G count=1", ""},
		"processes": {Limits{Processes: 60}, "for i in $(seq 200); do sleep 9 & done; sleep 20",
			"more than 60 processes"},
		"memory of all": {Limits{Memory: 100 << 20}, "for i in 1 2 3; do " +
			"dd if=/dev/zero bs=45M count=1 2>/build/e$i | sleep 20 & done; wait", "bytes of memory"},
		"tmp": {Limits{Temporary: 1 << 20}, "head -c 3000000 /dev/zero > /tmp/f", ""},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var out bytes.Buffer
			_, err := Command{
				Args: []string{"sh", "-c", c.script}, Limits: c.limits, Stdout: nil, Stderr: &out,
				Binds: []Bind{{Host: t.TempDir(), Jail: "/build", Writable: true}},
			}.Run(ctx)
			var limit *limitError
			var exit *ExitError
			switch {
			case errors.Is(err, context.DeadlineExceeded), c.want == "" && !errors.As(err, &exit),
				c.want != "" && (!errors.As(err, &limit) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s\n%s", err, c.want, out.String())
			}
		})
	}
}

func TestAPlaceForABindFollowsNoLink(t *testing.T) {
	testenv.Require(t, userNamespaces)
	hostile, outside, more := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(hostile, "way")); err != nil {
		t.Fatal(err)
	}
	_, err := Command{Args: []string{"true"}, Binds: []Bind{{Host: hostile, Jail: "/build", Writable: true},
		{Host: more, Jail: "/build/way/in"}}}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "/build/way/in") {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

func TestAReadOnlyBindIsSoBelowToo(t *testing.T) {
	dir := t.TempDir()
	below := filepath.Join(dir, "below")
	testenv.Require(t, userNamespaces, testenv.Func(testenv.Mounts, func() error {
		return errors.Join(os.Mkdir(below, 0o777), unix.Mount("test", below, "tmpfs", 0, "mode=777"))
	}))
	defer unix.Unmount(below, unix.MNT_DETACH)
	if out, err := sh(t, "echo x > /seen/below/f", Bind{Host: dir, Jail: "/seen"}); err == nil {
		t.Errorf("wrote to a mount below a read-only bind: %s", out)
	}
}

// TestTheProcessLimitEndsAFlood has the kernel count, as it does for a plain user and not for root (Linux:
// kernel/fork.c, copy_process). TestWorksForAPlainUser runs it as one where this test is root's.
func TestTheProcessLimitEndsAFlood(t *testing.T) {
	testenv.Require(t, userNamespaces)
	if os.Geteuid() == 0 {
		return
	}
	var out bytes.Buffer
	_, err := Command{
		Args:   []string{"sh", "-c", "i=0; while [ $i -lt 200 ]; do sleep 5 & i=$((i+1)); done; echo all 200"},
		Limits: Limits{Processes: 50}, Stdout: &out, Stderr: &out,
	}.Run(t.Context())
	if exit := (*ExitError)(nil); !errors.As(err, &exit) || !strings.Contains(strings.ToLower(out.String()),
		"fork") || strings.Contains(out.String(), "all 200") {
		t.Errorf("got %v\n%s", err, out.String())
	}
}

// TestTheCallersSessionOfKeysIsLeft counts who holds the caller's session keyring: no program of a jail does, each of
// which would hold one reference. Some threads of the jail's own process 1 do.
func TestTheCallersSessionOfKeysIsLeft(t *testing.T) {
	testenv.Require(t, userNamespaces, keys)
	runtime.LockOSThread() // not unlocked: the thread ends with its keyring
	const name, programs = "katabuild-jail-test-session", 40
	ring, err := unix.KeyctlJoinSessionKeyring(name)
	if err != nil {
		t.Fatal(err)
	}
	holders := func() (n int) {
		data, err := os.ReadFile("/proc/keys")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			// The columns: serial number, flags, references. proc_keys(5)
			if f := strings.Fields(line); len(f) > 2 && f[0] == fmt.Sprintf("%08x", uint32(ring)) {
				fmt.Sscan(f[2], &n)
			}
		}
		return n
	}
	before := holders()
	if before == 0 {
		t.Fatal("the keyring is not there")
	}
	ready, seen := make(chan bool), -1
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan bool)
	go func() {
		defer close(watched)
		defer cancel()
		<-ready
		for range 100 { // the kernel lets go a little later
			if seen = holders(); seen < before+programs {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	_, err = Command{Args: []string{"sh", "-c", fmt.Sprintf("for i in $(seq %d); do sleep 60 & done; echo; wait",
		programs)}, Stdout: writerFunc(func(p []byte) (int, error) { close(ready); return len(p), nil })}.Run(ctx)
	if !errors.Is(err, context.Canceled) {
		close(ready)
		t.Error(err)
	}
	<-watched
	if seen >= before+programs {
		t.Errorf("%d references to the caller's session keyring, %d before the jail", seen, before)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
