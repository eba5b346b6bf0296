package child

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/katabuild/katabuild/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestCloneArgsAreTheKernels(t *testing.T) {
	if n := unsafe.Sizeof(cloneArgs{}); n != cloneArgsSize {
		t.Error(n)
	}
	if n := unsafe.Offsetof(cloneArgs{}.cgroup); n != 80 {
		t.Error(n)
	}
	if len(steps) != int(stepExec)+1 {
		t.Error(len(steps))
	}
}

// keeper is a process with a user namespace of its own, and its pidfd.
func keeper(t *testing.T) (*exec.Cmd, int) {
	t.Helper()
	me := func(id int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
	}
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWUTS,
		UidMappings: me(os.Getuid()), GidMappings: me(os.Getgid())}
	testenv.Require(t, testenv.Func(testenv.UserNamespaces, cmd.Start))
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return cmd, fd
}

// run runs a shell in the namespaces of a keeper and returns what it prints and how it ends.
func run(t *testing.T, fd, flags int, script string) (string, int) {
	t.Helper()
	return runNew(t, fd, flags, 0, script)
}

// runNew likewise, and in new namespaces beside.
func runNew(t *testing.T, fd, flags, fresh int, script string) (string, int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c := Command{Program: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin", "X=y"},
		Files: []*os.File{null, w, w}, Process: fd, Flags: flags, New: fresh, Group: -1}
	pid, err := c.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var s unix.WaitStatus
	if _, err := unix.Wait4(pid, &s, 0, nil); err != nil {
		t.Fatal(err)
	}
	return string(out), s.ExitStatus()
}

func TestAUserNamespaceIsJoinedByAProgramWithThreads(t *testing.T) {
	if !testenv.Inside(t, 0) { // to have the rights that the other namespaces ask for
		return
	}
	k, fd := keeper(t)
	for _, flags := range []int{unix.CLONE_NEWUSER, unix.CLONE_NEWUSER | unix.CLONE_NEWUTS} {
		got, code := run(t, fd, flags, "readlink /proc/self/ns/user; readlink /proc/self/ns/uts; id -u; grep SigBlk "+
			"/proc/self/status | tr -d '\t'; pwd; echo $X; ls /proc/self/fd | grep -c '^6[4-9]$'; exit 7")
		link := func(pid int, name string) string {
			l, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + name)
			if err != nil {
				t.Fatal(err)
			}
			return l + "\n"
		}
		uts := os.Getpid()
		if flags&unix.CLONE_NEWUTS != 0 {
			uts = k.Process.Pid
		}
		// None of the copies made above maxFiles is left open.
		want := link(k.Process.Pid, "user") + link(uts, "uts") + "0\nSigBlk:0000000000000000\n/\ny\n0\n"
		if got != want || code != 7 {
			t.Errorf("%q, %d, want %q", got, code, want)
		}
	}
}

func TestNamespacesThatAreMadeBelongToTheUserNamespace(t *testing.T) {
	k, _ := keeper(t)
	user, err := os.Open("/proc/" + strconv.Itoa(k.Process.Pid) + "/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	own, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.Readlink("/proc/" + strconv.Itoa(k.Process.Pid) + "/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	for fresh, number := range map[int]bool{unix.CLONE_NEWUTS: false, unix.CLONE_NEWUTS | unix.CLONE_NEWPID: true} {
		// To set the name asks for rights in the user namespace that the UTS namespace belongs to.
		got, code := runNew(t, int(user.Fd()), unix.CLONE_NEWUSER, fresh,
			"readlink /proc/self/ns/user; readlink /proc/self/ns/uts; hostname inside && hostname; echo $$; exit 7")
		f := strings.Fields(got)
		if code != 7 || len(f) != 4 || f[0] != theirs || f[1] == own || f[2] != "inside" || (f[3] == "1") != number {
			t.Errorf("%#x: %q, %d, want %s and another than %s", fresh, got, code, theirs, own)
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	garbage := t.TempDir() + "/garbage"
	if err := os.WriteFile(garbage, []byte("\x00garbage"), 0o755); err != nil {
		t.Fatal(err)
	}
	for fresh, want := range map[int]error{unix.CLONE_NEWPID: unix.ENOEXEC,
		unix.CLONE_NEWPID | unix.CLONE_THREAD: unix.EINVAL, unix.CLONE_THREAD: unix.EINVAL} {
		c := Command{Program: garbage, Args: []string{"x"}, Process: int(user.Fd()), Flags: unix.CLONE_NEWUSER,
			New: fresh, Group: -1}
		if fresh == unix.CLONE_THREAD {
			c.New = unix.CLONE_NEWUSER | unix.CLONE_NEWUTS | 1<<62 // no flag of unshare(2)
		}
		if _, err := c.Start(); !errors.Is(err, want) {
			t.Errorf("%#x: %v, want %v", fresh, err, want)
		}
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid != 0 || err != nil { // there is the keeper
		t.Errorf("a child is left: %d, %v", pid, err)
	}
}

func TestWhatCannotBeStartedIsNamedAndCollected(t *testing.T) {
	k, fd := keeper(t)
	start := func(program string, flags int) error {
		_, err := (&Command{Program: program, Args: []string{"x"}, Process: fd, Flags: flags, Group: -1}).Start()
		return err
	}
	garbage := t.TempDir() + "/garbage"
	if err := os.WriteFile(garbage, []byte("\x00garbage"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		program string
		flags   int
		want    error
		words   string
	}{
		{"/no/such", unix.CLONE_NEWUSER, unix.ENOENT, "/no/such"},
		{garbage, unix.CLONE_NEWUSER, unix.ENOEXEC, "execute the program"},
		{"/bin/sh", unix.CLONE_NEWUSER | unix.CLONE_THREAD, unix.EINVAL, "join namespaces"},
	} {
		if err := start(c.program, c.flags); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %v", c.program, err, c.want)
		}
	}
	k.Process.Kill()
	k.Wait()
	if err := start("/bin/sh", unix.CLONE_NEWUSER); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the namespace of a process that ended: %v", err)
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a child is left: %d, %v", pid, err)
	}
}

// TestForksAmongBusyThreads is for what a fork in a Go program is feared for: locks that nobody in the child will ever
// release.
func TestForksAmongBusyThreads(t *testing.T) {
	_, fd := keeper(t)
	stop := make(chan struct{})
	defer close(stop)
	for range 4 {
		go func() {
			var keep [][]byte
			for {
				select {
				case <-stop:
					return
				default:
				}
				if keep = append(keep, make([]byte, 4096)); len(keep) > 100 {
					keep = nil
					runtime.Gosched()
				}
			}
		}()
	}
	before, _ := os.ReadDir("/proc/self/fd")
	for i := range 50 {
		if got, code := run(t, fd, unix.CLONE_NEWUSER, "echo "+strconv.Itoa(i)); got != strconv.Itoa(i)+"\n" ||
			code != 0 {
			t.Fatal(got, code)
		}
	}
	if after, _ := os.ReadDir("/proc/self/fd"); len(after) > len(before)+2 {
		t.Errorf("%d files before, %d after", len(before), len(after))
	}
}
