package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/agent/reap"
	"github.com/katabuild/katabuild/internal/testenv"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[0] == stage.Name {
		stage.Main()
	}
	os.Exit(m.Run())
}

// launcher starts stages of this test program. The test must be inside namespaces of its own: it collects all children.
func launcher(t *testing.T) *Launcher {
	t.Helper()
	r, err := reap.New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	go r.Run(ctx)
	return &Launcher{Reaper: r, Guard: func() {},
		Self: sync.OnceValues(func() (string, error) { return Sealed("/proc/self/exe") })}
}

// streams are /dev/null and a file for both outputs.
func streams(t *testing.T) (files []*os.File, out string) {
	t.Helper()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	out = filepath.Join(t.TempDir(), "out")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return []*os.File{null, f, f}, out
}

// arrived says that a stage is in its control group.
func arrived() <-chan error {
	c := make(chan error)
	close(c)
	return c
}

func TestAStageWaitsForItsPlanOrTheEnd(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	l := launcher(t)
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		end  func(*Stage)
		want int // exit code
	}{
		"the agent is gone": {func(s *Stage) { s.Control.Close() }, 0},
		"it is not needed":  {(*Stage).End, 128 + int(unix.SIGKILL)},
	} {
		s, err := l.StartAhead()
		if err != nil {
			t.Fatal(err)
		}
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.Child.Pid)); err != nil || ns == own {
			t.Errorf("its process namespace is %s, %v", ns, err)
		}
		score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.Child.Pid))
		if err != nil || strings.TrimSpace(string(score)) != "1000" {
			t.Errorf("oom_score_adj %q, %v", score, err)
		}
		c.end(s)
		// One that is not needed may see the end of the agent's socket before the signal.
		if e, err := s.Child.Wait(t.Context()); err != nil || e.Code != c.want && e.Code != 0 {
			t.Errorf("%s: ended with %d, want %d, %v", name, e.Code, c.want, err)
		}
	}
}

func TestAStageBecomesTheProgramOfItsPlan(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	l := launcher(t)
	root := t.TempDir()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/program", self, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := l.StartAhead()
	if err != nil {
		t.Fatal(err)
	}
	defer s.End()
	files, out := streams(t)
	r := &Request{Clone: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS, Plan: &stage.Plan{
		Root: &stage.Root{Path: root}, Hostname: "own", Mounts: libraries(t, root),
		Process: stage.Process{Args: []string{"/program", "-test.list=^TestAStageBecomes"}, Cwd: "/"},
	}}
	if !r.Fits() {
		t.Error("a stage that was started ahead is not for a plain container")
	}
	if err := s.HandOver(t.Context(), r, files, arrived()); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Control.Next(t.Context()); err != nil || m.Kind != stage.Created {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := s.Control.Continue(); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Control.Next(t.Context()); err != nil || m.Kind != stage.Exec {
		t.Fatalf("%+v, %v", m, err)
	}
	if m, err := s.Control.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("the program runs, and the stage says %+v, %v", m, err)
	}
	e, err := s.Child.Wait(t.Context())
	said, err2 := os.ReadFile(out)
	if err := errors.Join(err, err2); err != nil || e.Code != 0 || !strings.HasPrefix(string(said),
		"TestAStageBecomesTheProgramOfItsPlan\n") {
		t.Errorf("ended with %d and said %q, %v", e.Code, said, err)
	}
}

// libraries are the mounts of the folders in which the C library is, for a test program that was linked with it.
func libraries(t *testing.T, root string) []stage.Mount {
	t.Helper()
	var out []stage.Mount
	for _, dir := range []string{"/usr", "/lib", "/lib64"} {
		fi, err := os.Lstat(dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			t.Fatal(err)
		case fi.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(dir)
			if err := errors.Join(err, os.Symlink(target, root+dir)); err != nil {
				t.Fatal(err)
			}
		default:
			out = append(out, stage.Mount{Name: dir, Destination: dir, Source: dir, Bind: true, Recursive: true})
		}
	}
	return out
}

func TestAStageThatCannotServeSaysWhy(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	l := launcher(t)
	files, _ := streams(t)
	r := &Request{Clone: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Plan: &stage.Plan{
		Root: &stage.Root{Path: "/no/such/root"}, Process: stage.Process{Args: []string{"x"}, Cwd: "/"}}}
	s, err := l.StartAhead()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.HandOver(t.Context(), r, files, arrived()); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Control.Next(t.Context()); !errors.Is(err, unix.ENOENT) ||
		!strings.Contains(err.Error(), "/no/such/root") {
		t.Errorf("a plan that cannot be: %+v, %v", m, err)
	}
	s.End()
	<-s.Child.Done()
	for name, spoil := range map[string]func(s *Stage, r *Request) (<-chan error, string){
		"it has ended": func(s *Stage, _ *Request) (<-chan error, string) {
			if err := s.Child.Signal(unix.SIGKILL); err != nil {
				t.Error(err)
			}
			<-s.Child.Done()
			return arrived(), "hand over the plan"
		},
		"it did not get into its group": func(*Stage, *Request) (<-chan error, string) {
			c := make(chan error, 1)
			c <- errors.New("no such group")
			return c, "no such group"
		},
		"a namespace is not there": func(_ *Stage, r *Request) (<-chan error, string) {
			r.Join = []stage.Join{{Path: "/no/such/namespace", Flag: unix.CLONE_NEWIPC}}
			return arrived(), "/no/such/namespace"
		},
	} {
		s, err := l.StartAhead()
		if err != nil {
			t.Fatal(err)
		}
		own := *r
		ready, want := spoil(s, &own)
		if err := s.HandOver(t.Context(), &own, files, ready); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
		s.End()
		<-s.Child.Done()
	}
}

func TestTheProgramOfAStageCannotBeChanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	copied, err := Sealed(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(copied); err != nil || string(b) != "program" {
		t.Errorf("the copy is %q, %v", b, err)
	}
	if err := os.WriteFile(copied, []byte("another"), 0o755); err == nil {
		t.Error("the copy was written to")
	}
	if _, err := Sealed(file + "-none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}

func TestThreeWaysToStart(t *testing.T) {
	ids := []specs.LinuxIDMapping{{HostID: 1000, Size: 10}}
	namespaces := unix.CLONE_NEWNS | unix.CLONE_NEWPID
	for name, c := range map[string]struct {
		r    Request
		want starter
		fits bool
	}{
		"a container": {Request{Clone: namespaces}, &cloned{namespaces: namespaces}, true},
		"a container in the processes of another": {Request{Clone: unix.CLONE_NEWNS},
			&cloned{namespaces: unix.CLONE_NEWNS}, false},
		"a container with users of its own": {Request{Clone: namespaces, UIDs: ids, GIDs: ids},
			&cloned{namespaces: namespaces, uids: ids, gids: ids}, false},
		"another process": {Request{Into: &Container{Pidfd: 7}}, &cloned{}, false},
		"another process, in a time namespace": {Request{Into: &Container{Pidfd: 7, Enter: unix.CLONE_NEWTIME}},
			&forked{process: 7, flags: unix.CLONE_NEWTIME}, false},
	} {
		got, err := starterOf(&c.r)
		if err != nil || !reflect.DeepEqual(got, c.want) || c.r.Fits() != c.fits {
			t.Errorf("%s: %+v, %v, ahead: %v", name, got, err, c.r.Fits())
		}
	}
	r := Request{Clone: namespaces, Owner: "/proc/self/ns/user"}
	got, err := starterOf(&r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.close()
	if f, ok := got.(*forked); !ok || f.flags != unix.CLONE_NEWUSER || f.fresh != namespaces || f.file == nil ||
		f.process != int(f.file.Fd()) || r.Fits() {
		t.Errorf("a container with the users of another: %+v", got)
	}
	if got, err := starterOf(&Request{Owner: "/no/such/namespace"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("users of nobody: %+v, %v", got, err)
	}
}

func TestAControlReadsWhatAStageSays(t *testing.T) {
	c, theirs, err := sockets()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say := func(b []byte, files ...int) {
		t.Helper()
		if err := unix.Sendmsg(int(theirs.Fd()), b, unix.UnixRights(files...), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	message := func(m stage.Message) []byte {
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	say(message(stage.Message{Kind: stage.Terminal}), int(null.Fd()))
	if m, err := c.Next(t.Context()); err != nil || m.Kind != stage.Terminal {
		t.Errorf("%+v, %v", m, err)
	}
	f := c.TakeFile()
	if f == nil || c.TakeFile() != nil {
		t.Fatal("a file is taken once")
	}
	f.Close()
	say(message(stage.Message{Kind: stage.Created}))
	if err := c.peek(t.Context()); err != nil {
		t.Error(err)
	}
	if m, err := c.Next(t.Context()); err != nil || m.Kind != stage.Created {
		t.Errorf("what was looked at before: %+v, %v", m, err)
	}
	say(message(stage.Message{Kind: stage.Failed, Text: "too bad", Errno: int(unix.EBUSY)}))
	if m, err := c.Next(t.Context()); !errors.Is(err, unix.EBUSY) || err.Error() != "too bad" {
		t.Errorf("%+v, %v", m, err)
	}
	say(message(stage.Message{Kind: stage.Failed, Text: "no number"}))
	if m, err := c.Next(t.Context()); err == nil || errors.Unwrap(err) != nil {
		t.Errorf("%+v, %v", m, err)
	}
	say([]byte("garbage"))
	if m, err := c.Next(t.Context()); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%+v, %v", m, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if m, err := c.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %+v, %v", m, err)
	}
	if err := c.Continue(); err != nil {
		t.Error(err)
	}
	theirs.Close() // with something in it to be read
	if m, err := c.Next(t.Context()); !errors.Is(err, io.EOF) || !c.unread {
		t.Errorf("it ended: %+v, %v, unread: %v", m, err, c.unread)
	}
	if err := c.Continue(); !errors.Is(err, io.EOF) {
		t.Errorf("it has ended: %v", err)
	}
}
