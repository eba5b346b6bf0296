package objcache

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Server is a program that runs with a cache of objects.
type Server struct {
	Compilers string   // the folder with a compiler by each name, every one a link to this program
	Levels    []string // folders with objects; the first may be written to, the others are only read
	Report    string   // a file to be made, which ReadReport reads
	Args      []string // the program and its arguments
	Env       []string
	Now       func() time.Time
}

// Run starts the program, serves its compilers until it ends, and returns its exit code. What is wrong with the cache
// is no error.
func (s Server) Run() (int, error) {
	path := ""
	for _, kv := range s.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	program := s.Args[0]
	if !strings.Contains(program, "/") {
		if program = lookUp(path, program); program == "" {
			return 127, fmt.Errorf("%s: not found in %s", s.Args[0], path)
		}
	}
	env := s.Env
	end, err := s.listen(&env)
	if err != nil {
		env, end = s.Env, func() {} // it compiles everything
	}
	cmd := exec.Cmd{Path: program, Args: s.Args, Env: env, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	err = cmd.Run()
	end()
	st := cmd.ProcessState
	if st == nil {
		return 127, err
	}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return st.ExitCode(), nil
}

// listen starts to serve, and adds to env what compilers need. end waits for what is being kept.
func (s Server) listen(env *[]string) (end func(), err error) {
	dir, err := os.MkdirTemp("", "objects-")
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "socket")
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	var levels []level
	for i, d := range s.Levels {
		levels = append(levels, level{dir: d, writable: i == 0})
	}
	c := &cache{tree: newTree(s.Now), levels: levels}
	report := s.newReport()
	var kept sync.WaitGroup
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			kept.Go(func() {
				defer conn.Close()
				s.answer(c, conn, report)
			})
		}
	}()
	*env = append([]string{socketVariable + "=" + socket}, s.Env...)
	for i, kv := range *env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			(*env)[i] = "PATH=" + s.Compilers + ":" + v
		}
	}
	return func() {
		l.Close()
		done := make(chan struct{})
		go func() { kept.Wait(); close(done) }()
		select { // somebody else than a compiler may have called, and never ask
		case <-done:
		case <-time.After(10 * time.Second):
		}
		report.close()
		os.RemoveAll(dir)
	}, nil
}

// answer serves one compiler.
func (s Server) answer(cache *cache, conn net.Conn, report *reporter) {
	data, err := readFrame(conn)
	if err != nil {
		return
	}
	q, err := decodeQuestion(data)
	if err != nil {
		return
	}
	c, ok := newCall(q.compiler, q.dir, q.env, q.args)
	if !ok {
		return
	}
	start := s.Now()
	if e, object, ok := cache.restore(&c); ok {
		report.add(Object{Name: c.object, Cached: true, CPU: time.Duration(e.cpu) * time.Microsecond,
			Bytes: sizeOf(object)})
		_ = writeFrame(conn, append([]byte{hit}, e.message...))
		return
	}
	if writeFrame(conn, []byte{miss}) != nil {
		return
	}
	said, err := readFrame(conn)
	if err != nil || len(said) < 8 {
		return // the compiler failed
	}
	cpu := binary.LittleEndian.Uint64(said)
	m, err := cache.take(&c)
	_ = writeFrame(conn, []byte{miss})
	report.add(Object{Name: c.object, CPU: time.Duration(cpu) * time.Microsecond, Bytes: sizeOf(m.object)})
	if err == nil {
		cache.keep(&c, m, said[8:], cpu, start)
	}
}

// reporter writes down what was compiled.
type reporter struct {
	mu sync.Mutex
	f  *os.File
	w  *bufio.Writer
}

func (s Server) newReport() *reporter {
	f, err := os.OpenFile(s.Report, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return &reporter{}
	}
	return &reporter{f: f, w: bufio.NewWriter(f)}
}

func (r *reporter) add(o Object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f != nil {
		r.w.WriteString(o.line()) // a report that is short says so
	}
}

func (r *reporter) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f != nil {
		_ = errors.Join(r.w.Flush(), r.f.Close())
		r.f = nil
	}
}
