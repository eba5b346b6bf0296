package pool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/filelock"
	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/metrics"
)

// network is the socket's kind: messages keep their borders, so that files stay with theirs.
const network = "unixpacket"

// Times of the daemon.
const (
	lookTime   = time.Second      // between two looks at configuration, guests and memory
	serveTime  = time.Second      // for one request
	firstPause = 10 * time.Second // before the next attempt after a guest did not start, doubled each time
	longPause  = 10 * time.Minute // the most of them
	endTime    = 10 * time.Second // for keepers to end
)

// maxAsking is how many are answered at once.
const maxAsking = 16

// Options are what a daemon needs.
type Options struct {
	Endpoint string // path of the socket, in a folder of its own
	// Keeper are the arguments, its name first, with which this very program calls Keep.
	Keeper []string
	// Maker are those with which it calls factory.Serve. Without any, no template is made.
	Maker []string
	// Load reads the configuration again, and what says when guests of it are to be made anew.
	Load func() (factory.Order, string, error)
	Log  *slog.Logger
}

// pool is the daemon's state.
type pool struct {
	o    Options
	kick chan struct{} // has one when there may be something to do

	mu      sync.Mutex // guards what follows
	order   factory.Order
	of      string // what Load said last
	waiting []*entry
	status  Status
	stop    context.CancelCauseFunc // ends the start of a guest; nil where none is started
	next    time.Time               // no start before that, for the processor time of the last
	failed  int                     // attempts, one after the other
	pause   time.Time               // no attempt before that
	why     error                   // the last one failed
	keepers sync.WaitGroup
}

// entry is a guest that waits.
type entry struct {
	guest guest
	files []*os.File
}

// alive says whether the guest's hypervisor runs.
func (e *entry) alive() bool {
	return unix.PidfdSendSignal(int(e.files[fileProcess].Fd()), 0, nil, 0) == nil
}

// Serve keeps guests ready until ctx ends, and ends those that still wait then.
func Serve(ctx context.Context, o Options) (err error) {
	l, lock, err := listen(ctx, o.Endpoint)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // nothing was written to it
	p := &pool{o: o, kick: make(chan struct{}, 1)}
	if p.order, p.of, err = o.Load(); err != nil {
		return errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { p.watch(ctx) })
	wg.Go(func() { p.fill(ctx) })
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	o.Log.Info("the pool is there", "socket", o.Endpoint, "guests", p.order.Config.Factory.VMCacheNumber)
	err = p.accept(l, &wg)
	ended := ctx.Err() != nil
	cancel()
	wg.Wait()
	p.drop(func(*entry) bool { return true })
	done := make(chan struct{})
	go func() { p.keepers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(endTime):
		err = errors.Join(err, fmt.Errorf("keepers of guests do not end within %v", endTime))
	}
	if ended && errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

// listen makes the socket, in a folder that its owner alone may enter.
func listen(ctx context.Context, endpoint string) (_ *net.UnixListener, lock *os.File, err error) {
	dir := filepath.Dir(endpoint)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(owned.Above(dir), owned.Folder(dir)); err != nil {
		return nil, nil, fmt.Errorf("folder of the socket: %w", err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm()&0o077 != 0 {
		return nil, nil, errors.Join(fmt.Errorf("folder of the socket: %s: want one that its owner alone may enter, "+
			"mode 0700", dir), err)
	}
	now, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if lock, err = filelock.Exclusive(now, filepath.Join(dir, ".lock")); err != nil {
		return nil, nil, fmt.Errorf("another daemon serves there: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := os.Remove(endpoint); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		return nil, nil, err
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: endpoint, Net: network})
	if err != nil {
		return nil, nil, err
	}
	if err := os.Chmod(endpoint, 0o600); err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, lock, nil
}

// accept answers until the listener is closed.
func (p *pool) accept(l *net.UnixListener, wg *sync.WaitGroup) error {
	asking := make(chan struct{}, maxAsking)
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return err
		}
		asking <- struct{}{}
		wg.Go(func() {
			defer func() { <-asking }()
			if err := p.answer(c); err != nil {
				p.o.Log.Warn("a request", "err", err)
			}
			_ = c.Close() // what was to be said was
		})
	}
}

func (p *pool) answer(c *net.UnixConn) error {
	if err := errors.Join(c.SetDeadline(time.Now().Add(serveTime)), peer(c)); err != nil {
		return err
	}
	b, files, err := receive(c)
	if err != nil {
		return err
	}
	closeAll(files)
	r, err := decodeRequest(b)
	if err != nil {
		return errors.Join(err, send(c, &answer{Version: version, Refusal: err.Error()}))
	}
	if r.Want == wantStatus {
		return send(c, &answer{Version: version, Status: p.now()})
	}
	e, why := p.take(r)
	if e == nil {
		return send(c, &answer{Version: version, Refusal: why})
	}
	err = send(c, &answer{Version: version, Guest: &e.guest}, e.files...)
	closeAll(e.files) // the message has its own; the guest ends where nobody reads it
	p.mu.Lock()
	if err == nil {
		p.status.Handed++
	} else {
		p.status.Dropped++
	}
	p.mu.Unlock()
	p.wake()
	if err == nil {
		p.o.Log.Info("a guest was handed over", "qemu", e.guest.PID)
	}
	return err
}

// take takes the guest that waits longest of those that fit.
func (p *pool) take(r *request) (*entry, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	others := 0
	for i, e := range p.waiting {
		if e.guest.Key != r.Key {
			others++
			continue
		}
		if !e.alive() {
			continue // the next look removes it
		}
		p.waiting = append(p.waiting[:i:i], p.waiting[i+1:]...)
		return e, ""
	}
	if others > 0 {
		return nil, fmt.Sprintf("the %d guests that wait are for another guest, configuration or hypervisor", others)
	}
	return nil, "no guest waits"
}

// now is the pool's status.
func (p *pool) now() *Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Wanted, s.Making, s.Waiting = p.order.Config.Factory.VMCacheNumber, p.stop != nil, []Waiting{}
	for _, e := range p.waiting {
		if !e.alive() {
			continue // the next look removes it
		}
		w := Waiting{PID: e.guest.PID, Ready: e.guest.Ready}
		if e.guest.Template != nil {
			w.Template = string(e.guest.Template.Digest)
		}
		s.Waiting = append(s.Waiting, w)
	}
	return &s
}

// wake has the pool look what there is to do.
func (p *pool) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// drop lets go of guests, which end then.
func (p *pool) drop(which func(*entry) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var stay []*entry
	for _, e := range p.waiting {
		if !which(e) {
			stay = append(stay, e)
			continue
		}
		closeAll(e.files)
		p.status.Dropped++
	}
	p.waiting = stay
}

// watch looks whether the configuration has changed, and whether guests have ended by themselves.
func (p *pool) watch(ctx context.Context) {
	tick := time.NewTicker(lookTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.drop(func(e *entry) bool { return !e.alive() })
		order, of, err := p.o.Load()
		if err != nil { // somebody may be at it
			of = "unreadable: " + err.Error()
		}
		p.mu.Lock()
		changed := of != p.of
		p.of = of
		if changed {
			p.order.Config.Factory.VMCacheNumber = 0
			if err == nil {
				p.order = order
			}
			p.failed, p.pause, p.next = 0, time.Time{}, time.Time{}
			if p.stop != nil {
				p.stop(errors.New("the configuration has changed"))
			}
		}
		p.mu.Unlock()
		if changed {
			p.o.Log.Info("the configuration has changed, and the guests that wait are ended", "err", err)
			p.drop(func(*entry) bool { return true })
		}
		p.wake()
	}
}

// fill starts guests, one after the other, until ctx ends.
func (p *pool) fill(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
		}
		for p.one(ctx) {
		}
	}
}

// one starts one guest where one is wanted, and says whether it did.
func (p *pool) one(ctx context.Context) bool {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.mu.Lock()
	order, of := p.order, p.of
	why := p.enough(order)
	p.status.Why = why
	if why == "" {
		p.stop = cancel
	}
	p.mu.Unlock()
	if why != "" || ctx.Err() != nil {
		return false
	}
	began := time.Now()
	p.makeTemplate(ctx, order)
	e, err := p.start(ctx, order)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop = nil
	if err == nil {
		p.next = restUntil(began, processorTime(e.guest.PID, e.guest.Keeper), order.Config.Factory.VMCacheCPU)
	}
	switch {
	case err != nil && context.Cause(ctx) != nil: // it was not wanted any more
		return false
	case err != nil:
		p.status.Failed++
		pause := min(firstPause<<min(p.failed, 10), longPause)
		p.failed, p.pause, p.why = p.failed+1, time.Now().Add(pause), err
		p.status.Why = p.pausing()
		p.o.Log.Warn("a guest does not start", "err", err, "again_in", pause)
		return false
	case of != p.of:
		closeAll(e.files)
		p.status.Dropped++
		return true
	}
	p.failed = 0
	p.status.Started++
	p.waiting = append(p.waiting, e)
	p.o.Log.Info("a guest waits", "qemu", e.guest.PID, "waiting", len(p.waiting))
	return true
}

// makeTemplate has the template made that guests are to come from, where there is none and one is to be made without
// being asked for. Without it they boot.
func (p *pool) makeTemplate(ctx context.Context, o factory.Order) {
	if f := &o.Config.Factory; !f.EnableTemplate || !f.AutomaticTemplate || len(p.o.Maker) == 0 {
		return
	}
	cfg, err := o.Machine()
	if err != nil || !factory.Of(&o.Config, o.Version).Lacks(cfg) {
		return // whoever starts the guest tells what is wrong
	}
	maker, err := factory.StartMaker(p.o.Maker, o)
	if err != nil {
		p.o.Log.Warn("no template is made", "err", err)
		return
	}
	p.o.Log.Info("a template is made for the guests that come", "maker", maker.PID())
	factory.Await(ctx, maker, p.o.Log)
}

// enough says why no guest is to be started now; empty where one is. p.mu is held.
func (p *pool) enough(o factory.Order) string {
	if len(p.waiting) >= o.Config.Factory.VMCacheNumber {
		return "as many wait as are wanted"
	}
	if time.Until(p.pause) > 0 {
		return p.pausing()
	}
	if time.Until(p.next) > 0 {
		return fmt.Sprintf("starting guests may take %d %% of a processor, and the next is started at %s",
			o.Config.Factory.VMCacheCPU, p.next.UTC().Format(time.RFC3339))
	}
	cfg, err := o.Machine()
	if err != nil {
		return err.Error()
	}
	if why := beyond(len(p.waiting), cfg.Size.MemoryMiB, o.Config.Factory.VMCacheMemory); why != "" {
		return why
	}
	return noRoom(cfg.Size.MemoryMiB, availableMiB())
}

// beyond says why no other guest of a size waits beside those that do: together they may have so much memory, where
// budgetMiB is not 0.
func beyond(waiting, guestMiB, budgetMiB int) string {
	if budgetMiB == 0 || (waiting+1)*guestMiB <= budgetMiB {
		return ""
	}
	return fmt.Sprintf("guests that wait may have %d MiB together, and another one has %d beside the %d that wait",
		budgetMiB, guestMiB, waiting)
}

// restUntil is when the next guest may be started, so that starting takes at most that many per cent of a processor in
// the long run; 0 is no bound.
func restUntil(began time.Time, spent time.Duration, percent int) time.Time {
	if percent == 0 {
		return time.Time{}
	}
	return began.Add(spent * 100 / time.Duration(percent))
}

// processorTime is what processes have taken so far; those that are gone count nothing.
func processorTime(pids ...int) (sum time.Duration) {
	for _, pid := range pids {
		if st, err := metrics.ReadStat(pid); err == nil {
			sum += st.CPU()
		}
	}
	return sum
}

// pausing says why nothing is tried for a while. p.mu is held.
func (p *pool) pausing() string {
	return fmt.Sprintf("the last attempt failed, and the next is at %s: %v", p.pause.UTC().Format(time.RFC3339), p.why)
}

// noRoom says why a guest of a size is not started on a host that has that much memory left: pods go first. A host
// that does not say has 0.
func noRoom(guestMiB, leftMiB int) string {
	if leftMiB == 0 || leftMiB >= 2*guestMiB {
		return ""
	}
	return fmt.Sprintf("the host has %d MiB of memory left, and a guest that waits wants twice its %d", leftMiB,
		guestMiB)
}

// availableMiB is what the host can give to programs; proc(5), MemAvailable. 0 is unknown.
func availableMiB() int {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(b)) {
		var kib int
		if n, _ := fmt.Sscanf(l, "MemAvailable: %d kB", &kib); n == 1 {
			return kib >> 10
		}
	}
	return 0
}

// start has a keeper start a guest.
func (p *pool) start(ctx context.Context, o factory.Order) (_ *entry, err error) {
	owner, theirs, err := seqPair()
	if err != nil {
		return nil, err
	}
	defer owner.Close()  // nobody wants the guest then, unless it is the entry's
	defer theirs.Close() // the keeper has its own
	order, err := o.File()
	if err != nil {
		return nil, err
	}
	defer order.Close()
	said := &firstBytes{}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = p.o.Keeper
	cmd.ExtraFiles = []*os.File{order, theirs}
	cmd.Stderr = said
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	// It outlives this process with guests that were handed over, and ends with the connection otherwise.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a keeper: %w", err)
	}
	ended := make(chan error, 1)
	p.keepers.Go(func() { ended <- cmd.Wait() })
	if err := theirs.Close(); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(owner)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	b, files, err := receive(conn.(*net.UnixConn))
	if !stop() && err == nil {
		err = context.Cause(ctx)
		closeAll(files)
	}
	if err != nil {
		_ = errors.Join(conn.Close(), owner.Close())
		select {
		case e := <-ended:
			err = fmt.Errorf("%w: %w: %s", err, e, said)
		case <-time.After(endTime):
		}
		return nil, err
	}
	a, err := decodeAnswer(b)
	if err == nil && (a.Guest == nil || len(files) != fileKeeper) {
		err = errors.New("a keeper offers something else than a guest")
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	if s := said.String(); s != "" {
		p.o.Log.Info("a keeper says", "text", strings.TrimSpace(s))
	}
	own, err := duplicate(owner)
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return &entry{*a.Guest, append(files, own)}, nil
}

// seqPair is a connection between this process and a keeper.
func seqPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("connection to a keeper: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "keeper"), os.NewFile(uintptr(fds[1]), "owner"), nil
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "duplicate", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// firstBytes keeps the first of what a keeper says.
type firstBytes struct {
	mu sync.Mutex
	b  []byte
}

// maxSaid is how much that is, in bytes.
const maxSaid = 4096

func (f *firstBytes) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.b = append(f.b, b[:min(len(b), maxSaid-len(f.b))]...)
	return len(b), nil
}

func (f *firstBytes) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.b)
}
