package child

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
	"golang.org/x/sys/unix"
)

var root = testenv.Root

func TestMappedReadsAUserNamespacesMap(t *testing.T) {
	for table, want := range map[string]bool{
		"         0          0 4294967295\n":             true,
		"0 1000 1\n":                                     false,
		"0 1000 1\n1 100000 65536\n":                     false,
		fmt.Sprintf("0 1000 1\n%d 5 10\n", FirstUser+90): true,
		fmt.Sprintf("%d 5 10\n", FirstUser+91):           false,
		fmt.Sprintf("%d 5 10\n", FirstUser+80):           false,
		"":                                               false,
		"nonsense\n\n-1 -1 -1\n0 0\n999999999999999999999999 1 1\n": false,
	} {
		if got := mapped(table, FirstUser+90); got != want {
			t.Errorf("%q: %v", table, got)
		}
	}
}

// behind runs a script of sh behind barriers and returns what it wrote to descriptor 3, with the process while it still
// waits for the end of descriptor 4.
func behind(t *testing.T, w *Isolation, script string) (*Process, string) {
	t.Helper()
	testenv.Require(t, root, testenv.Tool("sh"))
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := StartIn("shell", []string{"/bin/sh", "-c", "{ " + script + "\n} >&3 2>&1; exec 3>&-; read x <&4"},
		[]*os.File{out, in}, Options{Isolation: w})
	if err != nil {
		t.Fatal(err)
	}
	out.Close()
	in.Close()
	t.Cleanup(func() {
		hold.Close()
		if err := p.Stop(t.Context(), nil); err != nil {
			t.Error(err)
		}
	})
	read := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(r, 1<<20))
		read <- b
	}()
	select {
	case b := <-read:
		return p, string(b)
	case <-time.After(20 * time.Second):
		t.Fatal("the shell says nothing")
		return nil, ""
	}
}

// status reads fields of /proc/PID/status as the host sees them.
func status(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for l := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(l, ":")
		m[k] = strings.Join(strings.Fields(v), " ")
	}
	return m
}

func namespace(t *testing.T, pid, kind string) string {
	t.Helper()
	s, err := os.Readlink("/proc/" + pid + "/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAProgramBehindWallsIsNobodyAndSeesNothing(t *testing.T) {
	testenv.Require(t, root)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "open"), []byte("open"), 0o666); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.SysvShmCtl(memory, unix.IPC_RMID, nil)         // best effort
	leaked, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0) // without O_CLOEXEC, as those of whoever started us
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked) // only read from
	p, out := behind(t, &Isolation{}, `
		echo files: $(ls -l /proc/self/fd)
		echo root: /*
		echo etc: $(ls -A /etc)
		echo dev: $(ls -A /dev)
		ls -d /proc/`+strconv.Itoa(os.Getpid())+` && echo SEES
		cat /etc/shadow; cat `+dir+`/open
		echo x > /file; echo x > /usr/file; echo x > /dev/file
		kill -0 `+strconv.Itoa(os.Getpid())+` && echo KILLS
		cat /dev/null && head -c 4 /dev/urandom | wc -c
		ls /proc/sys`)
	if m := p.Missing(); m != nil {
		t.Errorf("missing: %q", m)
	}
	links := ""
	for _, d := range []string{"/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin"} {
		if _, err := os.Lstat(d); err == nil {
			links += d + " "
		}
	}
	for _, want := range []string{"/usr", "dev: full null random urandom zero\n", "cat: /etc/shadow: No such file",
		"cat: " + dir + "/open: No such file", "cannot create /file: Read-only",
		"cannot create /usr/file: Read-only", "cannot create /dev/file: Read-only", "\n4\n",
		"/proc/sys': No such file"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in what it says", want)
		}
	}
	var top string
	for l := range strings.Lines(out) {
		if r, ok := strings.CutPrefix(l, "root: "); ok {
			top = r
		}
		if e, ok := strings.CutPrefix(l, "etc:"); ok {
			for _, f := range strings.Fields(e) {
				if f != "ld.so.cache" && f != "alternatives" {
					t.Errorf("it sees /etc/%s", f)
				}
			}
		}
	}
	for _, d := range strings.Fields(top) {
		if !strings.Contains(links+"/usr /dev /proc /etc /nix /gnu ", d+" ") {
			t.Errorf("it sees %s", d)
		}
	}
	if strings.Contains(out, "/passwd") {
		t.Error("it has a file that was left open")
	}
	if strings.Contains(out, "SEES") {
		t.Error("it sees a process of the host")
	}
	if strings.Contains(out, "KILLS") {
		t.Error("it can signal a process of the host")
	}
	s := status(t, p.PID())
	ids := strings.Fields(s["Uid"])
	id, err := strconv.Atoi(ids[0])
	if err != nil || id < FirstUser || id > FirstUser+1<<22 {
		t.Errorf("user %s", s["Uid"])
	}
	same := strings.Join([]string{ids[0], ids[0], ids[0], ids[0]}, " ")
	for field, want := range map[string]string{
		"Uid": same, "Gid": same, "Groups": "", "NoNewPrivs": "1",
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
	} {
		if s[field] != want {
			t.Errorf("%s is %q, want %q", field, s[field], want)
		}
	}
	for _, kind := range []string{"mnt", "pid", "ipc"} {
		if namespace(t, strconv.Itoa(p.PID()), kind) == namespace(t, "self", kind) {
			t.Errorf("it is in the host's namespace %s", kind)
		}
	}
	if t.Failed() {
		t.Log(out)
	}

	q, _ := behind(t, &Isolation{}, "true")
	if other := status(t, q.PID())["Uid"]; other == s["Uid"] {
		t.Errorf("two programs have user %s", other)
	}
}

func TestAProgramThatNeedsRootsRightsHasNoOthers(t *testing.T) {
	testenv.Require(t, root)
	dir := t.TempDir()
	w := &Isolation{Capabilities: []uintptr{unix.CAP_CHOWN, unix.CAP_FOWNER}, Why: "it makes files of others",
		Folder: dir}
	p, out := behind(t, w, `
		echo hello > `+dir+`/file; chown 7:8 `+dir+`/file
		ls /root`)
	if !strings.Contains(out, "'/root': No such file") {
		t.Errorf("it sees root's files: %s", out)
	}
	if m := strings.Join(p.Missing(), "\n"); m != "a user of its own: it makes files of others" {
		t.Errorf("missing: %q", m)
	}
	s := status(t, p.PID())
	for field, want := range map[string]string{"Uid": "0 0 0 0", "CapInh": "0000000000000000",
		"CapPrm": "0000000000000009", "CapEff": "0000000000000009", "CapBnd": "0000000000000009"} {
		if s[field] != want {
			t.Errorf("%s is %q, want %q", field, s[field], want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "file"), &st); err != nil || st.Uid != 7 || st.Gid != 8 {
		t.Errorf("the file in its folder: %v, owners %d and %d: %s", err, st.Uid, st.Gid, out)
	}
}

func TestAProgramThatOthersMayNotRunStaysRootWithoutCapabilities(t *testing.T) {
	testenv.Require(t, root, testenv.Tool("sh"))
	b, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	shell := filepath.Join(t.TempDir(), "bin", "sh")
	if err := errors.Join(os.Mkdir(filepath.Dir(shell), 0o700), os.WriteFile(shell, b, 0o700)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := StartIn("shell", []string{shell, "-c", "cat /proc/self/status >&3"}, []*os.File{w},
		Options{Isolation: &Isolation{}})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := io.Copy(&out, r); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if m := strings.Join(p.Missing(), "\n"); !strings.Contains(m, "a user of its own: "+shell+" has mode 0700") {
		t.Errorf("missing: %q", m)
	}
	for _, want := range []string{"Uid:\t0\t0\t0\t0", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000",
		"NoNewPrivs:\t1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %s (%v)", want, out.String(), p.ExitError())
		}
	}
}

func TestAFolderCanBeSeenToRead(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755), // which others may enter
		os.WriteFile(filepath.Join(dir, "word"), []byte("seen\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	_, got := behind(t, &Isolation{ReadOnly: []string{dir, "/no/such/folder"}},
		fmt.Sprintf("read word <%s/word; echo $word; echo x >%s/new && echo written", dir, dir))
	if !strings.HasPrefix(got, "seen\n") || strings.Contains(got, "written") ||
		!strings.Contains(got, "Read-only file system") {
		t.Errorf("%q", got)
	}
}
