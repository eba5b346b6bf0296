package shim

import (
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/flow"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// phase is how far a process is.
type phase int

const (
	created phase = iota
	started
	ended
)

// process is a process as containerd knows it.
type process struct {
	id, exec string // of the container, and of the process in it: empty is the first
	stdio    stdio
	spec     *specs.Process // of an added process
	ended    chan struct{}  // closed at the end
	output   sync.WaitGroup
	stdin    sync.Once

	mu         sync.Mutex // guards what follows
	phase      phase
	code       int
	exitedAt   time.Time
	guest      *agentlink.Process // nil until it exists
	files      files
	killedAt   time.Time // zero before the first SIGKILL
	inputEnded bool      // containerd has asked for the end of the input, perhaps before the process exists
}

func newProcess(id, exec string, s stdio) *process {
	return &process{id: id, exec: exec, stdio: s, ended: make(chan struct{})}
}

// claim says whether the caller is the one who starts the process.
func (p *process) claim() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != created {
		return false
	}
	p.phase = started
	return true
}

func (p *process) unclaim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == started {
		p.phase = created
	}
}

func (p *process) state() (phase, int, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase, p.code, p.exitedAt
}

func (p *process) exit(code int) {
	p.mu.Lock()
	p.phase, p.code, p.exitedAt = ended, code, time.Now()
	p.mu.Unlock()
	close(p.ended)
}

// killed notes that the process is killed now, and returns when it was first, and whether that was before.
func (p *process) killed(now time.Time) (first time.Time, again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killedAt.IsZero() {
		p.killedAt = now
		return now, false
	}
	return p.killedAt, true
}

// open opens where the process's streams lead on the host.
func (p *process) open(namespace, id string) error {
	f, err := p.stdio.open(namespace, id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.files = f
	p.mu.Unlock()
	return nil
}

// running is the process in the guest; nil before it exists.
func (p *process) running() *agentlink.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.guest
}

// host is the host's ends of the streams.
func (p *process) host() files {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.files
}

// run has the streams flow between the host and the process.
func (p *process) run(q *agentlink.Process, log *slog.Logger) {
	p.mu.Lock()
	p.guest = q
	files, inputEnded := p.files, p.inputEnded
	p.mu.Unlock()
	if inputEnded && files.stdin != nil {
		files.stdin.CloseWrite()
	}
	copyOut := func(to io.WriteCloser, from io.ReadCloser, name string) {
		if to == nil || from == nil {
			return
		}
		p.output.Go(func() {
			if err := flow.Copy(to, from); err != nil {
				log.Debug("copy output", "container", p.id, "process", p.exec, "stream", name, "err", err)
			}
			_ = to.Close()   // the reader sees the end
			_ = from.Close() // nothing more is read
		})
	}
	copyOut(files.stdout, q.Stdout, "stdout")
	copyOut(files.stderr, q.Stderr, "stderr")
	if files.stdin != nil && q.Stdin != nil {
		go func() {
			if err := flow.Copy(q.Stdin, files.stdin); err != nil {
				log.Debug("copy input", "container", p.id, "process", p.exec, "err", err)
			}
			p.endStdin()
		}()
	}
}

// closeStdin is the end of file for the process, after all that was written. Calling it again is a no-op.
func (p *process) closeStdin() {
	p.mu.Lock()
	p.inputEnded = true
	in := p.files.stdin
	p.mu.Unlock()
	if in != nil {
		in.CloseWrite() // the copy comes to its end, and ends the process's
	}
}

// endStdin ends it at once. Calling it again is a no-op.
func (p *process) endStdin() {
	p.stdin.Do(func() {
		if in := p.host().stdin; in != nil {
			_ = in.Close() // only read from
		}
		if q := p.running(); q != nil {
			_ = q.CloseStdin() // the process may have ended
		}
	})
}

// outputDone waits until all output has been handed over, for at most d.
func (p *process) outputDone(d time.Duration) {
	done := make(chan struct{})
	go func() {
		p.output.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(d):
	}
}

// close takes the streams away.
func (p *process) close() {
	p.outputDone(outputTime)
	p.endStdin()
	if q := p.running(); q != nil {
		_ = q.Close() // a stream cut short on purpose
	}
	files := p.host()
	files.close()
}
