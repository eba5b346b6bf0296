package shim

import (
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/flow"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/stdio"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// phase is how far a process is.
type phase int

const (
	created phase = iota
	started
	ended
)

// execution is a process as containerd knows it.
type execution struct {
	id, exec string // of the container, and of the process in it: empty is the first
	stdio    stdio.Paths
	spec     *specs.Process // of an added process
	ended    chan struct{}  // closed at the end
	output   sync.WaitGroup
	stdin    sync.Once

	mu         sync.Mutex // guards what follows
	phase      phase
	code       int
	exitedAt   time.Time
	guest      process // nil until it exists
	files      stdio.Files
	killedAt   time.Time // zero before the first SIGKILL
	inputEnded bool      // containerd has asked for the end of the input, perhaps before the process exists
}

func newExecution(id, exec string, s stdio.Paths) *execution {
	return &execution{id: id, exec: exec, stdio: s, ended: make(chan struct{})}
}

// wanted are the streams that lead into the guest.
func (p *execution) wanted() agentlink.Streams {
	return agentlink.Streams{Stdin: p.stdio.Stdin != "", Stdout: p.stdio.Stdout != "",
		Stderr: p.stdio.Stderr != "" && !p.stdio.Terminal}
}

// claim says whether the caller is the one who starts the process.
func (p *execution) claim() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != created {
		return false
	}
	p.phase = started
	return true
}

func (p *execution) unclaim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == started {
		p.phase = created
	}
}

func (p *execution) state() (phase, int, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase, p.code, p.exitedAt
}

func (p *execution) exit(code int) {
	p.mu.Lock()
	p.phase, p.code, p.exitedAt = ended, code, time.Now()
	p.mu.Unlock()
	close(p.ended)
}

// killed notes that the process is killed now, and returns when it was first, and whether that was before.
func (p *execution) killed(now time.Time) (first time.Time, again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killedAt.IsZero() {
		p.killedAt = now
		return now, false
	}
	return p.killedAt, true
}

// open opens where the process's streams lead on the host.
func (p *execution) open(namespace, id string) error {
	f, err := p.stdio.Open(namespace, id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.files = f
	p.mu.Unlock()
	return nil
}

// running is the process in the guest; nil before it exists.
func (p *execution) running() process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.guest
}

// host is the host's ends of the streams.
func (p *execution) host() stdio.Files {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.files
}

// run has the streams flow between the host and the process.
func (p *execution) run(q process, s streams, log *slog.Logger) {
	p.mu.Lock()
	p.guest = q
	files, inputEnded := p.files, p.inputEnded
	p.mu.Unlock()
	if inputEnded && files.Stdin != nil {
		files.Stdin.CloseWrite()
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
	copyOut(files.Stdout, s.stdout, "stdout")
	copyOut(files.Stderr, s.stderr, "stderr")
	if files.Stdin != nil && s.stdin != nil {
		go func() {
			if err := flow.Copy(s.stdin, files.Stdin); err != nil {
				log.Debug("copy input", "container", p.id, "process", p.exec, "err", err)
			}
			p.endStdin()
		}()
	}
}

// closeStdin is the end of file for the process, after all that was written. Calling it again is a no-op.
func (p *execution) closeStdin() {
	p.mu.Lock()
	p.inputEnded = true
	in := p.files.Stdin
	p.mu.Unlock()
	if in != nil {
		in.CloseWrite() // the copy comes to its end, and ends the process's
	}
}

// endStdin ends it at once. Calling it again is a no-op.
func (p *execution) endStdin() {
	p.stdin.Do(func() {
		if in := p.host().Stdin; in != nil {
			_ = in.Close() // only read from
		}
		if q := p.running(); q != nil {
			_ = q.CloseStdin() // the process may have ended
		}
	})
}

// outputDone waits until all output has been handed over, for at most d.
func (p *execution) outputDone(d time.Duration) {
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
func (p *execution) close() {
	p.outputDone(stdio.OutputTime)
	p.endStdin()
	if q := p.running(); q != nil {
		_ = q.Close() // a stream cut short on purpose
	}
	files := p.host()
	files.Close()
}
