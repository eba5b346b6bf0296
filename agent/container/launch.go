package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/katabuild/katabuild/agent/container/cgroup"
	"github.com/katabuild/katabuild/agent/container/child"
	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/agent/reap"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// IsStage says whether a program with these arguments was started as a stage, and so shall call Stage before anything
// else. It may be process 1 then, of a container.
func IsStage(args []string) bool {
	return len(args) == 2 && args[0] == stage.Name && (args[1] == stage.Word || args[1] == stage.WordAhead)
}

// Stage is the life of such a program. It never returns.
func Stage() { stage.Main() }

// stageEnvironment keeps the Go runtime small and quiet: the stage lives for milliseconds.
var stageEnvironment = []string{"GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1"}

// launch is how to start a stage.
type launch struct {
	plan  *stage.Plan
	clone int
	group *cgroup.Group
	join  []join
	into  *Process // join the pid namespace of this one, and hand its pidfd over
	// namespaces of into that the stage is started in, as it cannot join them; with the user's all but the mounts
	enter      int
	uids, gids []specs.LinuxIDMapping // of a new user namespace
	owner      string                 // the path of a user namespace to join, which then owns all that is made
	stdio      Stdio
	oom        *int
	trees      []*os.File // detached mounts of the plan
	recruit    *recruit   // the stage to use; nil starts one
}

// user says whether the process is in a user namespace of its own.
func (l *launch) user() bool { return len(l.uids) > 0 || l.owner != "" }

// highFD is above all files that a stage is started with, which take the place of whatever has their numbers.
const highFD = 100

// sealed is the program to execute as a stage: itself where nobody can write to it, and else a copy that cannot be
// changed. A process in a container may find its way to the stage's program; CVE-2019-5736.
func sealed(self string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(self, &st); err != nil {
		return "", fmt.Errorf("program of the stage: %w", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return self, nil
	}
	in, err := os.Open(self)
	if err != nil {
		return "", fmt.Errorf("program of the stage: %w", err)
	}
	defer in.Close()
	fd, err := unix.MemfdCreate(stage.Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 there is no MFD_EXEC, and every memfd can be executed
		fd, err = unix.MemfdCreate(stage.Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return "", fmt.Errorf("program of the stage: make a copy: %w", err)
	}
	out := os.NewFile(uintptr(fd), stage.Name)
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return "", fmt.Errorf("program of the stage: copy: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(out.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return "", fmt.Errorf("program of the stage: seal: %w", err)
	}
	high, err := unix.FcntlInt(out.Fd(), unix.F_DUPFD_CLOEXEC, highFD)
	if err != nil {
		return "", fmt.Errorf("program of the stage: %w", err)
	}
	return "/proc/self/fd/" + strconv.Itoa(high), nil
}

// firstRoot says whether the root is the kernel's first one, which has no device to be mounted from.
func firstRoot() bool {
	all, err := mountinfo.Self()
	if err != nil {
		return false
	}
	for _, m := range all {
		if m.Point == "/" {
			return m.Type == "rootfs"
		}
	}
	return true // a root that mountinfo does not list
}

// launch starts a stage. The process is known to the reaper; its control must be read.
func (r *Runner) launch(ctx context.Context, c *Container, l *launch) (*Process, *control, error) {
	sio, files, err := newStreams(r, l.stdio, l.plan.Process.Terminal)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	started, ctl := r.launchAhead(ctx, l, files)
	if started == nil {
		if started, ctl, err = r.launchNow(l, files); err != nil {
			sio.close()
			return nil, nil, err
		}
		setOOM(started.Pid, l.oom)
	}
	p := &Process{c: c, id: c.id, pid: started.Pid, child: started, io: sio, done: make(chan struct{}),
		drained: make(chan struct{}), pidfd: -1}
	p.openPidfd()
	r.goes(p.watch)
	return p, ctl, nil
}

// launchAhead uses the stage that was started ahead, if there is one and it can serve. If it cannot be used, for
// whatever reason, the usual way is open, and says what is wrong if it is not the stage.
func (r *Runner) launchAhead(ctx context.Context, l *launch, files []*os.File) (*reap.Child, *control) {
	s := l.recruit
	l.recruit = nil
	if s == nil {
		return nil, nil
	}
	if err := s.give(ctx, l, files); err != nil {
		r.cfg.Log.Warn("a stage that was started ahead is of no use: " + err.Error())
		s.dismiss()
		return nil, nil
	}
	return s.child, s.ctl
}

// launchNow starts a stage.
func (r *Runner) launchNow(l *launch, files []*os.File) (_ *reap.Child, _ *control, err error) {
	self, err := r.self()
	if err != nil {
		return nil, nil, err
	}
	plan, err := memfd(l.plan)
	if err != nil {
		return nil, nil, err
	}
	defer plan.Close()
	ours, theirs, err := sockets()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	defer func() {
		if err != nil {
			ours.close()
		}
	}()
	group, err := l.group.Open()
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(group)
	cmd := &exec.Cmd{
		Path: self, Args: []string{stage.Name, stage.Word}, Env: stageEnvironment, Dir: "/",
		Stdin: files[0], Stdout: files[1], Stderr: files[2], ExtraFiles: []*os.File{theirs, plan},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: uintptr(l.clone), UseCgroupFD: true, CgroupFD: group},
	}
	if len(l.uids) > 0 {
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = mappings(l.uids), mappings(l.gids)
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		cmd.SysProcAttr.Credential = &syscall.Credential{}
	}
	pidfd := -1
	if l.into != nil {
		if pidfd, err = l.into.dupPidfd(); err != nil {
			return nil, nil, err
		}
		f := os.NewFile(uintptr(pidfd), "pidfd")
		defer f.Close()
		if l.enter&unix.CLONE_NEWUSER != 0 {
			// Root of a user namespace may not look into every process in it, which joining by pidfd asks for.
			// setns(2).
			if f, err = openMounts(l.into.pid, pidfd); err != nil {
				return nil, nil, err
			}
			defer f.Close()
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, l.trees...)
	var owner *os.File
	if l.owner != "" {
		if owner, err = os.Open(l.owner); err != nil {
			return nil, nil, fmt.Errorf("user namespace: %w", err)
		}
		defer owner.Close()
	}
	var started *reap.Child
	start := func() error {
		for _, j := range l.join {
			fd, err := unix.Open(j.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open namespace %s: %w", j.path, err)
			}
			err = unix.Setns(fd, j.flag)
			unix.Close(fd)
			if err != nil {
				return fmt.Errorf("join namespace %s: %w", j.path, err)
			}
		}
		if pidfd >= 0 {
			if err := unix.Setns(pidfd, unix.CLONE_NEWPID); err != nil {
				return fmt.Errorf("join the process namespace of the container: %w", err)
			}
		}
		var err error
		switch {
		case owner != nil:
			c := child.Command{
				Program: self, Args: cmd.Args, Env: cmd.Env, Files: append(files, cmd.ExtraFiles...),
				Process: int(owner.Fd()), Flags: unix.CLONE_NEWUSER,
				New: l.clone, Group: group,
			}
			started, err = r.cfg.Reaper.StartWith(c.Start)
		case l.enter != 0:
			c := child.Command{
				Program: self, Args: cmd.Args, Env: cmd.Env, Files: append(files, cmd.ExtraFiles...), Process: pidfd,
				Flags: l.enter, Group: group,
			}
			started, err = r.cfg.Reaper.StartWith(c.Start)
		default:
			started, err = r.cfg.Reaper.Start(cmd)
		}
		if err != nil {
			return fmt.Errorf("start the stage: %w", err)
		}
		return nil
	}
	if len(l.join) > 0 || pidfd >= 0 {
		err = onThread(r.cfg.Guard, start)
	} else {
		err = start()
	}
	if err != nil {
		return nil, nil, err
	}
	return started, ours, nil
}

// openMounts opens the mount namespace of the process that has this pidfd.
func openMounts(pid, pidfd int) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, fmt.Errorf("mounts of the container: %w", err)
	}
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil { // it ended, and its number may be another's
		f.Close()
		return nil, fmt.Errorf("mounts of the container: %w", err)
	}
	return f, nil
}

// setOOM sets how likely the kernel kills a process for want of memory; without a wish as likely as any other, whatever
// the agent's own is. A process that has ended, or a value below what is permitted, is no reason to fail.
func setOOM(pid int, value *int) {
	n := 0
	if value != nil {
		n = *value
	}
	os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(n)), 0)
}

func mappings(list []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, m := range list {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID),
			Size: int(m.Size)})
	}
	return out
}

// onThread runs f on a thread that ends with it, so that f may change the thread's namespaces.
func onThread(guard func(), f func() error) error {
	ended := make(chan error, 1)
	var run func()
	run = func() {
		defer guard()
		runtime.LockOSThread() // never unlocked: that is what ends the thread
		if unix.Gettid() == os.Getpid() {
			// The first thread cannot end before the others. Hold it while another one is found.
			inner := make(chan struct{})
			go func() {
				defer close(inner)
				run()
			}()
			<-inner
			runtime.UnlockOSThread()
			return
		}
		ended <- f()
	}
	go run()
	return <-ended
}

// memfd holds the plan for the stage to read.
func memfd(p *stage.Plan) (*os.File, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	fd, err := unix.MemfdCreate("plan", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	f := os.NewFile(uintptr(fd), "plan")
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, fmt.Errorf("plan: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, fmt.Errorf("plan: %w", err)
	}
	return f, nil
}

// control is the agent's end of the socket to a stage.
type control struct {
	conn *net.UnixConn
	file *os.File // the last one received, until taken

	unread bool           // the stage ended before it read all that was written to it
	kept   *stage.Message // what peek has read
	cause  error          // likewise
}

func sockets() (*control, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket to the stage: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "stage")
	ours := os.NewFile(uintptr(fds[0]), "stage")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("socket to the stage: %w", err)
	}
	return &control{conn: conn.(*net.UnixConn)}, theirs, nil
}

func (c *control) close() {
	c.conn.Close()
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

func (c *control) takeFile() *os.File {
	f := c.file
	c.file = nil
	return f
}

// leave lets the stage go on.
func (c *control) leave() error {
	if _, err := c.conn.Write([]byte{1}); err != nil {
		return io.EOF // the stage is gone, and its end says more
	}
	return nil
}

// stageError is what a stage could not do.
type stageError struct {
	text  string
	errno syscall.Errno
}

func (e *stageError) Error() string { return e.text }
func (e *stageError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// peek waits for a message that next will return.
func (c *control) peek(ctx context.Context) error {
	m, err := c.next(ctx)
	c.kept, c.cause = &m, err
	return err
}

// next reads a message. io.EOF means that the stage is no more; Failed comes as an error.
func (c *control) next(ctx context.Context) (stage.Message, error) {
	if m := c.kept; m != nil {
		c.kept = nil
		return *m, c.cause
	}
	c.conn.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, stage.MaxMessage)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.conn.ReadMsgUnix(b, oob)
	if ctx.Err() != nil {
		return stage.Message{}, ctx.Err()
	}
	if err != nil || n == 0 {
		// A socket that is closed with something in it to be read resets the connection. net/unix/af_unix.c,
		// unix_release_sock.
		c.unread = errors.Is(err, unix.ECONNRESET)
		return stage.Message{}, io.EOF
	}
	if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) > 0 {
			unix.SetNonblock(fds[0], true)
			c.file = os.NewFile(uintptr(fds[0]), "terminal")
		}
	}
	var m stage.Message
	if err := json.Unmarshal(b[:n], &m); err != nil {
		return m, fmt.Errorf("message of the stage: %w", err)
	}
	if m.Kind == stage.Failed {
		return m, &stageError{m.Text, syscall.Errno(m.Errno)}
	}
	return m, nil
}

// removeFolder removes a container's folder after unmounting all in it. What cannot be unmounted is not removed from
// within.
func removeFolder(dir string) error {
	mounts, err := mountinfo.Self()
	if err != nil {
		return fmt.Errorf("mounts below %s: %w", dir, err)
	}
	for i := len(mounts) - 1; i >= 0; i-- { // what was mounted last lies on top
		if p := mounts[i].Point; p == dir || strings.HasPrefix(p, dir+string(filepath.Separator)) {
			if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil &&
				!errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", p, err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}
