package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/template"
)

// FakeWord has this program be a keeper whose guest is a process that sleeps.
const FakeWord = "fake"

func sampleKey() template.Key {
	d := digest.Of(nil)
	return template.Key{Manifest: d, Machine: d, Program: d, CPU: d, Katabuild: "v1"}
}

// FakeKeep is that keeper.
func FakeKeep() error {
	if _, err := factory.ReadOrder(); err != nil {
		return err
	}
	c, err := net.FileConn(os.NewFile(keeperFD, "owner"))
	if err != nil {
		return err
	}
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	g := guest{Key: sampleKey(), PID: cmd.Process.Pid, Keeper: os.Getpid(), Argv: []string{"sleep"}, Ready: 1}
	if err := send(c.(*net.UnixConn), &answer{Version: version, Guest: &g}, null, null,
		os.NewFile(uintptr(fd), "process")); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		_, _ = c.Read(make([]byte, 1)) // the owner's end
		close(gone)
		_ = cmd.Process.Kill()
	}()
	err = cmd.Wait()
	select {
	case <-gone:
		return nil
	default:
		return send(c.(*net.UnixConn), child.Ended{Why: "it slept: " + err.Error()})
	}
}

func TestMessagesKeepTheirForm(t *testing.T) {
	g := &guest{Key: sampleKey(), PID: 7, Keeper: 6, Argv: []string{"qemu", "-S"}, Ready: 1700000000,
		Template: &verdict.Template{Digest: digest.Of(nil), Made: 1600000000, Attested: digest.Of(nil)}}
	s := &Status{Wanted: 2, Started: 3, Handed: 1, Waiting: []Waiting{{PID: 7, Ready: 1700000000}}}
	for name, v := range map[string]any{
		"request.json": &request{Version: version, Want: wantGuest, Key: sampleKey()},
		"guest.json":   &answer{Version: version, Guest: g}, "status.json": &answer{Version: version, Status: s},
		"refusal.json": &answer{Version: version, Refusal: "no guest waits"},
	} {
		b := encoded(t, v)
		golden.Check(t, name, b)
		documenttest.Strict(t, b, func(b []byte) error {
			var err error
			if name == "request.json" {
				_, err = decodeRequest(b)
			} else {
				_, err = decodeAnswer(b)
			}
			return err
		})
	}
	for _, bad := range []*answer{{Version: version}, {Version: version, Refusal: "x", Status: s},
		{Version: version, Guest: &guest{}}, {Version: 2, Refusal: "x"}} {
		if _, err := decodeAnswer(encoded(t, bad)); err == nil {
			t.Errorf("%+v is an answer", bad)
		}
	}
	if _, err := decodeRequest(encoded(t, &request{Version: version, Want: "all"})); err == nil {
		t.Error("somebody wants all")
	}
}

// encoded is a message as it is sent.
func encoded(t testing.TB, v any) []byte {
	t.Helper()
	ours, theirs := connected(t)
	if err := send(ours, v); err != nil {
		t.Fatal(err)
	}
	b, files, err := receive(theirs)
	if err != nil || len(files) > 0 {
		t.Fatal(files, err)
	}
	return b
}

func connected(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	x, y, err := seqPair()
	if err != nil {
		t.Fatal(err)
	}
	var conns []*net.UnixConn
	for _, f := range []*os.File{x, y} {
		c, err := net.FileConn(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		conns = append(conns, c.(*net.UnixConn))
	}
	return conns[0], conns[1]
}

func FuzzAnswer(f *testing.F) {
	f.Add(encoded(f, &answer{Version: version, Refusal: "no guest waits"}))
	f.Add(encoded(f, &answer{Version: version, Status: &Status{Waiting: []Waiting{}}}))
	f.Add([]byte("{}")) // no version
	f.Fuzz(func(_ *testing.T, b []byte) {
		if a, err := decodeAnswer(b); err == nil && a.Guest != nil {
			_, _ = a.Guest.held(nil) // without files
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add(encoded(f, &request{Version: version, Want: wantStatus}))
	f.Add([]byte("[]")) // no object
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = decodeRequest(b) })
}

// fakePool serves guests that are processes which sleep, until the test ends or end is called.
func fakePool(t *testing.T, number int) (endpoint string, configured *atomic.Int64, end func() error) {
	t.Helper()
	configured = &atomic.Int64{}
	configured.Store(int64(number))
	endpoint, end = served(t, func(f *config.Factory) string {
		f.VMCacheNumber = int(configured.Load())
		return string(rune('a' + f.VMCacheNumber))
	})
	return endpoint, configured, end
}

// configuredPool serves such guests until the test ends, with settings that can be changed.
func configuredPool(t *testing.T, set func(*config.Factory)) (endpoint string, change func(func(*config.Factory))) {
	t.Helper()
	var now atomic.Pointer[config.Factory]
	change = func(set func(*config.Factory)) {
		f := config.Default().Factory
		if was := now.Load(); was != nil {
			f = *was
		}
		set(&f)
		now.Store(&f)
	}
	change(set)
	endpoint, _ = served(t, func(f *config.Factory) string {
		*f = *now.Load()
		return fmt.Sprintf("%+v", *f)
	})
	return endpoint, change
}

// served has a daemon whose configuration load makes, and says what of it is to be made anew.
func served(t *testing.T, load func(*config.Factory) string) (endpoint string, end func() error) {
	t.Helper()
	testenv.Require(t, testenv.Tool("sleep"))
	dir := t.TempDir()
	g := filepath.Join(dir, "guest")
	if err := documenttest.WriteGuest(g); err != nil {
		t.Fatal(err)
	}
	endpoint = filepath.Join(dir, "pool", "cache.sock")
	read := func() (factory.Order, string, error) {
		o := factory.Order{Config: config.Default()}
		o.Config.VM.Guest = g
		of := load(&o.Config.Factory)
		return o, of, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, Options{Endpoint: endpoint, Keeper: []string{"/proc/self/exe", FakeWord}, Load: read,
			Log: slog.New(slog.DiscardHandler)})
	}()
	var err error
	ended := false
	end = func() error {
		if !ended {
			ended = true
			cancel()
			err = <-done
		}
		return err
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	return endpoint, end
}

// until waits for a status.
func until(t *testing.T, endpoint string, is func(*Status) bool) *Status {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		s, err := Ask(t.Context(), endpoint)
		if err == nil && is(s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("%+v, %v", s, err)
		}
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

func TestAGuestBelongsToWhoeverHasItsKeeper(t *testing.T) {
	endpoint, configured, end := fakePool(t, 2)
	full := func(s *Status) bool { return len(s.Waiting) == 2 }
	first := until(t, endpoint, full).Waiting[0].PID
	other := sampleKey()
	other.Katabuild = "v2"
	if _, err := Take(t.Context(), endpoint, other); err == nil || !strings.Contains(err.Error(),
		"the 2 guests that wait are for another") {
		t.Errorf("a guest of another key: %v", err)
	}
	taken, err := Take(t.Context(), endpoint, sampleKey())
	if err != nil {
		t.Fatal(err)
	}
	if taken.PID != first || taken.Ready != 1 || !alive(taken.PID) || !alive(taken.Keeper) {
		t.Errorf("taken: %+v, want process %d", taken, first)
	}
	process, err := child.Adopt("sleeper", taken.PID, taken.Process, taken.Held.Keeper)
	if err != nil {
		t.Fatal(err)
	}
	if err := taken.Close(); err != nil {
		t.Error(err)
	}
	s := until(t, endpoint, full)
	if s.Handed != 1 || s.Started != 3 {
		t.Errorf("%+v", s)
	}

	configured.Store(1) // another configuration
	s = until(t, endpoint, func(s *Status) bool { return s.Dropped == 2 && len(s.Waiting) == 1 })
	left := s.Waiting[0].PID
	if err := end(); err != nil {
		t.Error(err)
	}
	if alive(left) {
		t.Error("a guest outlives the daemon that it waits at")
	}
	if !alive(taken.PID) {
		t.Error("a guest that was handed over ends with the daemon")
	}
	if err := unix.Kill(taken.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-process.Done()
	if err := process.ExitError(); err == nil || err.Error() != "it slept: signal: terminated" {
		t.Errorf("its end: %v", err)
	}
	if err := process.Stop(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if _, err := Take(t.Context(), endpoint, sampleKey()); err == nil {
		t.Error("somebody answers")
	}
}

func TestAGuestThatNobodyAdoptsEnds(t *testing.T) {
	endpoint, _, _ := fakePool(t, 1)
	until(t, endpoint, func(s *Status) bool { return len(s.Waiting) == 1 })
	taken, err := Take(t.Context(), endpoint, sampleKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := taken.Close(); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(time.Minute); alive(taken.PID); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it goes on")
		}
	}
}

func TestADaemonThatDoesNotAnswerIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	endpoint := filepath.Join(dir, "s")
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: endpoint, Net: network})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Take(t.Context(), endpoint, sampleKey()); err == nil || !strings.Contains(err.Error(),
		"no answer within 200ms") {
		t.Error(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(t.Context(), endpoint, sampleKey()); err == nil || !strings.Contains(err.Error(),
		"other users may write") {
		t.Errorf("a folder of everybody: %v", err)
	}
}

func TestTheSocketIsInAFolderOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	endpoint := filepath.Join(dir, "s")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := listen(t.Context(), endpoint); err == nil || !strings.Contains(err.Error(), "mode 0700") {
		t.Errorf("a folder that others may enter: %v", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, lock, err := listen(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := listen(t.Context(), endpoint); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("a second one: %v", err)
	}
	for _, c := range []io.Closer{l, lock} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestThePoolKeepsItsBudget(t *testing.T) {
	for waiting, most := range map[int]int{1: 511, 0: 255} {
		if s := beyond(waiting, 256, most); !strings.Contains(s, fmt.Sprintf("have %d MiB together", most)) {
			t.Errorf("%d wait: %q", waiting, s)
		}
	}
	if s := beyond(1, 256, 512) + beyond(1000, 256, 0); s != "" {
		t.Error(s)
	}
	began := time.Unix(1000, 0)
	if got := restUntil(began, 3*time.Second, 25); !got.Equal(began.Add(12 * time.Second)) {
		t.Error(got)
	}
	if got := restUntil(began, time.Hour, 0); time.Until(got) > 0 {
		t.Error(got)
	}
	if processorTime(os.Getpid()) != processorTime(os.Getpid(), 1<<30) {
		t.Error("a process that is not there has taken time")
	}

	endpoint, change := configuredPool(t, func(f *config.Factory) { f.VMCacheNumber, f.VMCacheMemory = 3, 600 })
	s := until(t, endpoint, func(s *Status) bool { return len(s.Waiting) == 2 && s.Why != "" })
	if !strings.Contains(s.Why, "may have 600 MiB together") || s.Wanted != 3 {
		t.Errorf("%+v", s)
	}
	change(func(f *config.Factory) { f.VMCacheMemory = 0 })
	until(t, endpoint, func(s *Status) bool { return len(s.Waiting) == 3 })
}

func TestPodsGoFirst(t *testing.T) {
	if s := noRoom(256, 500); !strings.Contains(s, "the host has 500 MiB") {
		t.Error(s)
	}
	if s := noRoom(256, 512) + noRoom(256, 0); s != "" {
		t.Error(s)
	}
	if availableMiB() == 0 {
		t.Error("this host does not say what memory it has")
	}
}
