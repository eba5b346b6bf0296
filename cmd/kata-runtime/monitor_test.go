package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/katabuild/katabuild/runtime/management"
	"github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/record"
)

// loaded is a pod whose guest has a load.
type loaded struct{ management.Pod } // nil: nothing else is asked

func (loaded) GuestMetrics(context.Context) (string, error) {
	return "kata_guest_load{item=\"load1\"} 0.5\n", nil
}

// startWatched ROOT ID: a pod with a management socket.
func startWatched(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: watched ROOT ID")
	}
	root := ts.MkAbs(args[0])
	r, err := newRecord(args[1])
	ts.Check(err)
	ts.Check(writeRecord(root, r))
	s, err := management.Serve(management.Options{Dirs: record.Dirs{State: root}, ID: args[1], Pod: loaded{},
		Calls: &metrics.Durations{}, Agent: &metrics.Durations{}, Log: slog.New(slog.DiscardHandler)})
	ts.Check(err)
	ts.Defer(func() { ts.Check(s.Close()) })
}

// freePort sets PORT to a TCP port that nobody has.
func freePort(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv("PORT", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	ts.Check(l.Close())
}

// startTime is how long a server in the background may take until it answers.
const startTime = 30 * time.Second

// get PATH FILE asks the server on PORT, once it is there, and puts its answer into FILE.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: get PATH FILE")
	}
	for end := time.Now().Add(startTime); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://127.0.0.1:" + ts.Getenv("PORT") + args[0])
		if err != nil && time.Now().Before(end) {
			continue
		}
		ts.Check(err)
		b, err := io.ReadAll(resp.Body)
		ts.Check(err)
		ts.Check(resp.Body.Close())
		if resp.StatusCode != http.StatusOK {
			ts.Fatalf("%s: %s", args[0], resp.Status)
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o644))
		return
	}
}
