package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/testenv"
)

// fifo makes a FIFO.
func fifo(t *testing.T, name string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := unix.Mkfifo(p, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOutputWaitsForAReaderAndEnds(t *testing.T) {
	p := fifo(t, "out")
	f, err := (Paths{Stdout: p}).Open("ns", "c1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Stdout.Write([]byte("before anybody reads")); err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go f.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "before anybody reads" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestTheEndOfOutputWaitsForItsReader as the end of the process is told after it.
func TestTheEndOfOutputWaitsForItsReader(t *testing.T) {
	for name, x := range map[string]struct {
		slow  time.Duration
		reads bool
	}{"which reads": {time.Hour, true}, "which does not": {100 * time.Millisecond, false}} {
		t.Run(name, func(t *testing.T) {
			p := fifo(t, "out")
			o, err := newOutput(p)
			if err != nil {
				t.Fatal(err)
			}
			o.slow = x.slow
			if _, err := io.WriteString(o, "words"); err != nil {
				t.Fatal(err)
			}
			r, err := os.Open(p)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			closed := make(chan struct{})
			go func() {
				_ = o.Close() // never fails
				close(closed)
			}()
			select {
			case <-closed:
				t.Error("closed before it was read")
			case <-time.After(50 * time.Millisecond):
			}
			if x.reads {
				if b, err := io.ReadAll(r); err != nil || string(b) != "words" {
					t.Errorf("%q, %v", b, err)
				}
			}
			<-closed
		})
	}
}

// TestOutputIsKeptForAReaderThatComesLate ends a process's output, and deletes the process, before anybody has opened
// the FIFO, as a quick process's may be.
func TestOutputIsKeptForAReaderThatComesLate(t *testing.T) {
	for _, text := range []string{"", "words"} {
		p := fifo(t, "out")
		f, err := (Paths{Stdout: p}).Open("ns", "c1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f.Stdout, text); err != nil {
			t.Fatal(err)
		}
		f.Close()
		select {
		case <-f.Stdout.(*output).done:
			t.Errorf("%q is over before anybody came", text)
		case <-time.After(50 * time.Millisecond): // in which nothing may happen
		}
		read := make(chan string, 1)
		go func() {
			b, err := os.ReadFile(p)
			read <- fmt.Sprint(string(b), err)
		}()
		select {
		case got := <-read:
			if want := fmt.Sprint(text, error(nil)); got != want {
				t.Errorf("read %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("whoever reads %q waits for ever", text)
		}
		<-f.Stdout.(*output).done
	}
}

func TestOutputThatNobodyReadsIsGivenUpOnceTheProcessIsDeleted(t *testing.T) {
	p := fifo(t, "out")
	o, err := newOutput(p)
	if err != nil {
		t.Fatal(err)
	}
	o.patience = time.Millisecond
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-o.done:
		t.Error("given up before the process was deleted")
	case <-time.After(50 * time.Millisecond):
	}
	o.forget()
	<-o.done
	if f, err := os.OpenFile(p, os.O_WRONLY|unix.O_NONBLOCK, 0); !errors.Is(err, unix.ENXIO) {
		t.Errorf("somebody still reads: %v, %v", f, err)
	}
}

func TestInputEndsWhenContainerdSaysSoAndNotBefore(t *testing.T) {
	p := fifo(t, "in")
	f, err := (Paths{Stdin: p}).Open("ns", "c1")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() { b, _ := io.ReadAll(f.Stdin); got <- string(b) }()
	// One client goes, another comes; the last has written more than was read when the end is asked for.
	rest := strings.Repeat("x", 40000)
	var last *os.File
	for _, s := range []string{"hello, ", rest} {
		w, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString(s)
		if last != nil {
			last.Close()
		}
		last = w
	}
	f.Stdin.CloseWrite()
	f.Stdin.CloseWrite()
	last.Close()
	if s := <-got; s != "hello, "+rest {
		t.Errorf("%d bytes", len(s))
	}
	f.Close()
}

func TestInputThatNobodyWritesCanBeClosed(t *testing.T) {
	f, err := (Paths{Stdin: fifo(t, "in")}).Open("ns", "c1")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { _, err := f.Stdin.Read(make([]byte, 1)); ended <- err }()
	testenv.Blocked(t, "stdio.TestInputThatNobodyWritesCanBeClosed.func1")
	if err := f.Stdin.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("it reads on")
	}
}

func TestALoggerGetsBothStreams(t *testing.T) {
	testenv.Require(t, testenv.Tool("sh"))
	dir := t.TempDir()
	program := filepath.Join(dir, "logger")
	script := "#!/bin/sh\nexec 5>&-\ncat <&3 >" + dir + "/out\ncat <&4 >" + dir +
		"/err\necho \"$CONTAINER_ID $CONTAINER_NAMESPACE $*\" >" + dir + "/who\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	u := "binary://" + program + "?b=2&a=1"
	f, err := (Paths{Stdout: u, Stderr: u}).Open("ns", "c1")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(f.Stdout, "to out")
	io.WriteString(f.Stderr, "to err")
	f.Close()
	for name, want := range map[string]string{"out": "to out", "err": "to err", "who": "c1 ns a 1 b 2\n"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, err := (Paths{Stdout: "binary:///no/such/logger"}).Open("ns", "c1"); err == nil ||
		!strings.Contains(err.Error(), "/no/such/logger") {
		t.Error(err)
	}
}

func TestAFileGetsLinesOfBothStreams(t *testing.T) {
	p := filepath.Join(t.TempDir(), "new", "log")
	u := "file://" + p
	f, err := (Paths{Stdout: u, Stderr: u}).Open("ns", "c1")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(f.Stdout, "one\n")
	io.WriteString(f.Stderr, "two\n")
	io.WriteString(f.Stdout, "three\n")
	f.Close()
	if b, err := os.ReadFile(p); err != nil || string(b) != "one\ntwo\nthree\n" {
		t.Errorf("%q, %v", b, err)
	}
}
