package jail

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/testenv"
)

func TestMain(m *testing.M) {
	Main()
	if len(os.Args) > 1 && os.Args[1] == probeArg {
		probe()
		unix.Exit(0) // not os.Exit, after which a test with coverage prints a warning
	}
	os.Exit(m.Run())
}

var userNamespaces = testenv.Func(testenv.UserNamespaces, func() error { return Check(context.Background()) })

// sh runs a shell script in a jail and returns what it wrote.
func sh(t *testing.T, script string, binds ...Bind) (string, error) {
	t.Helper()
	testenv.Require(t, userNamespaces)
	var out bytes.Buffer
	_, err := Command{Args: []string{"sh", "-c", script}, Binds: binds, Stdout: &out, Stderr: &out}.Run(t.Context())
	return out.String(), err
}

func mustSh(t *testing.T, script string, binds ...Bind) string {
	t.Helper()
	out, err := sh(t, script, binds...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func TestNoInterfaceButLoopback(t *testing.T) {
	out := mustSh(t, "sed -n 's/^ *\\([^:]*\\):.*/\\1/p' /proc/net/dev")
	if strings.TrimSpace(out) != "lo" {
		t.Errorf("interfaces in the jail: %q", out)
	}
}

func TestEnvironmentIsFixed(t *testing.T) {
	t.Setenv("KATABUILD_SECRET", "x")
	t.Setenv("LANG", "tr_TR.UTF-8")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	got := mustSh(t, "env | grep -v '^_=\\|^OLDPWD=' | sort; umask; uname -n; pwd")
	want := "HOME=/build\nLC_ALL=C\nLOGNAME=katabuild\nPATH=" + Path +
		"\nPWD=/\nSHELL=/bin/sh\nTERM=dumb\nTZ=UTC\nUSER=katabuild\n0022\nkatabuild\n/\n"
	if got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestCannotWriteOutsideWritableBinds(t *testing.T) {
	dir, seen := t.TempDir(), t.TempDir()
	out := mustSh(t, `
for p in /x /usr/x /etc/x /bin/x /dev/x /seen/x /proc/sys/kernel/hostname; do
	(echo 1 > $p) 2>/dev/null && echo "could write $p"
done
mount -t tmpfs none /tmp 2>/dev/null && echo could mount
mount -o remount,rw / 2>/dev/null && echo could remount
hostname x 2>/dev/null && echo could rename
echo ok > /build/x
echo ok > /tmp/x
cat /build/x /tmp/x`, Bind{Host: dir, Jail: "/build", Writable: true}, Bind{Host: seen, Jail: "/seen"})
	if out != "ok\nok\n" {
		t.Errorf("got:\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
		t.Error(err)
	}
}

func TestHostPathsAreHidden(t *testing.T) {
	dir := t.TempDir()
	out := mustSh(t, "ls -d "+dir+" /home /root /work /var 2>/dev/null; cd /build; pwd; grep -c . "+
		"/proc/self/mountinfo >/dev/null; ls /",
		Bind{Host: dir, Jail: "/build", Writable: true})
	first, rest, _ := strings.Cut(out, "\n")
	if first != "/build" {
		t.Errorf("working folder or a host path: %q", first)
	}
	for p := range strings.FieldsSeq(rest) {
		switch {
		case strings.HasPrefix(p, "lib"), p == "bin", p == "sbin", p == "usr", p == "etc", p == "dev", p == "proc",
			p == "tmp", p == "build":
		default:
			t.Errorf("/%s is visible", p)
		}
	}
}

func TestOtherProcessesAreHidden(t *testing.T) {
	if out := mustSh(t, "ls -d /proc/[0-9]* | wc -l"); strings.TrimSpace(out) > "5" {
		t.Errorf("%s processes visible", strings.TrimSpace(out))
	}
}

func TestNoCapabilities(t *testing.T) {
	out := mustSh(t, "grep -E '^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status")
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if want := map[bool]string{true: "1", false: "0000000000000000"}[f[0] == "NoNewPrivs:"]; f[1] != want {
			t.Errorf("%s", line)
		}
	}
}

func TestExitCodeAndSignalArePassedOn(t *testing.T) {
	var exit *ExitError
	if _, err := sh(t, "exit 7"); !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("exit 7: %v", err)
	}
	if _, err := sh(t, "kill -TERM $$"); !errors.As(err, &exit) || exit.Signal != syscall.SIGTERM {
		t.Errorf("kill -TERM: %v", err)
	}
}

func TestMissingProgramIsNamed(t *testing.T) {
	testenv.Require(t, userNamespaces)
	_, err := Command{Args: []string{"no-such-program"}}.Run(t.Context())
	var exit *ExitError
	if err == nil || errors.As(err, &exit) || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("got %v", err)
	}
}

func TestMissingBindIsNamed(t *testing.T) {
	testenv.Require(t, userNamespaces)
	_, err := Command{Args: []string{"true"}, Binds: []Bind{{Host: "/no/such/folder", Jail: "/build"}}}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "/no/such/folder") {
		t.Errorf("got %v", err)
	}
}

// heartbeat is a script that leaves behind a background process, in a session of its own, that keeps growing a file.
const heartbeat = `setsid sh -c 'trap "" TERM HUP INT; while :; do echo >> /build/beat; sleep 0.02; done' &
while ! [ -s /build/beat ]; do sleep 0.01; done
`

// mustBeQuiet fails unless the heartbeat has started and stopped.
func mustBeQuiet(t *testing.T, dir string) {
	t.Helper()
	size := func() int64 {
		fi, err := os.Stat(filepath.Join(dir, "beat"))
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size()
	}
	before := size()
	time.Sleep(100 * time.Millisecond) // in which nothing may happen: five times as long as a beat
	if after := size(); after != before {
		t.Errorf("a process of the jail is still alive: %d bytes, then %d", before, after)
	}
}

func TestCancelKillsEverything(t *testing.T) {
	testenv.Require(t, userNamespaces)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var start time.Time
	_, err := Command{
		Args:   []string{"sh", "-c", heartbeat + "echo; sleep 100"},
		Binds:  []Bind{{Host: dir, Jail: "/build", Writable: true}},
		Stdout: writerFunc(func(p []byte) (int, error) { start = time.Now(); cancel(); return len(p), nil }),
	}.Run(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v to die", d)
	}
	mustBeQuiet(t, dir)
}

func TestNothingOutlivesTheProgram(t *testing.T) {
	dir := t.TempDir()
	mustSh(t, heartbeat, Bind{Host: dir, Jail: "/build", Writable: true})
	mustBeQuiet(t, dir)
}

func TestOrphansAreReaped(t *testing.T) {
	// Each subshell leaves a child whose parent dies first; unreaped, they would stay as zombies.
	out := mustSh(t, "set -- /proc/[0-9]*; n=$#; for i in 1 2 3 4 5; do (true & ) ; done; i=0; "+
		"while set -- /proc/[0-9]*; [ $# -gt $n ] && [ $i -lt 500 ]; do sleep 0.01; i=$((i+1)); done; echo $(($# - n))")
	if strings.TrimSpace(out) != "0" {
		t.Errorf("%s zombies", strings.TrimSpace(out))
	}
}

func TestUsageCountsGrandchildren(t *testing.T) {
	testenv.Require(t, userNamespaces)
	u, err := Command{
		Args: []string{"sh", "-c", "sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done'; true"}}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if u.CPU < 10*time.Millisecond || u.Wall < u.CPU/8 {
		t.Errorf("usage %+v", u)
	}
}

func TestWorksForAPlainUser(t *testing.T) {
	testenv.Require(t, userNamespaces, testenv.Root)
	dir, err := os.MkdirTemp("/var/tmp", "jail-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "jail.test")
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run",
		"Interface|Environment|Outside|Hidden|Capabilities|ExitCode|Cancel|Outlives|Flood", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, testenv.Variable+"=user-namespaces")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestCannotWriteOutside")) ||
		!bytes.Contains(out, []byte("--- PASS: TestTheProcessLimitEndsAFlood")) {
		t.Errorf("as user 65534: %v\n%s", err, out)
	}
}

func TestForbiddenNamespacesAreExplained(t *testing.T) {
	cause := errors.New("start the jail: operation not permitted")
	for name, c := range map[string]struct {
		sysctls map[string]string
		want    string
	}{
		"debian":   {map[string]string{sysctlClone: "0"}, sysctlClone + " is 0"},
		"limit":    {map[string]string{sysctlClone: "1", sysctlMax: "0"}, sysctlMax + " is 0"},
		"apparmor": {map[string]string{sysctlMax: "1000", sysctlAppArmor: "1"}, "AppArmor"},
		"seccomp":  {map[string]string{sysctlMax: "1000"}, "seccomp"},
	} {
		err := explain(cause, true, func(n string) string { return c.sysctls[n] })
		if !errors.Is(err, errForbidden) || !errors.Is(err, cause) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := explain(cause, false, readSysctl); errors.Is(err, errForbidden) {
		t.Errorf("not forbidden, yet %v", err)
	}
}
