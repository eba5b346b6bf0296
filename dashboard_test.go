package katabuild_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/agent/metrics"
	"github.com/katabuild/katabuild/internal/promtext"
	"github.com/katabuild/katabuild/runtime/management"
	host "github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/monitor"
	"github.com/katabuild/katabuild/runtime/record"
)

// dashboard is what of a Grafana dashboard says which numbers are shown.
type dashboard struct {
	Title  string
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
	Templating struct {
		List []struct{ Name, Query string }
	}
}

// selected is a family in an expression of Prometheus' language, and the labels that choose of it.
var selected = regexp.MustCompile(`\b(kata(?:build)?_[a-z_]+)(\{[^}]*\})?`)

// chosen is a label that an expression compares with a value, or with some.
var chosen = regexp.MustCompile(`([a-z_]+)=~?"([^"$]*)"`)

func TestTheDashboardShowsNumbersThatThereAre(t *testing.T) {
	text, err := os.ReadFile("docs/monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	families, dropped := promtext.Parse(scrape(t), promtext.Limits{})
	if dropped > 0 || len(families) == 0 {
		t.Fatalf("%d families, %d lines are none", len(families), dropped)
	}
	shown := 0
	look := func(where, expression string) {
		for _, m := range selected.FindAllStringSubmatch(expression, -1) {
			shown++
			var labels []string
			for _, l := range chosen.FindAllStringSubmatch(m[2], -1) {
				for value := range strings.SplitSeq(l[2], "|") {
					labels = append(labels, l[1]+`="`+value+`"`)
				}
			}
			if !there(families, m[1], labels) {
				t.Errorf("%s: nobody has %s", where, m[0])
			}
		}
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			look(p.Title, q.Expr)
		}
	}
	for _, v := range d.Templating.List {
		look(v.Name, v.Query)
	}
	if shown < 20 {
		t.Errorf("it shows %d families", shown)
	}
}

// there says whether there is a family with numbers that have these labels, each of them one.
func there(families []promtext.Family, name string, labels []string) bool {
	base := name
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		base = strings.TrimSuffix(base, suffix)
	}
	i := slices.IndexFunc(families, func(f promtext.Family) bool {
		return f.Name == name || f.Name == base && f.Kind == promtext.Histogram
	})
	return i >= 0 && len(families[i].Samples) > 0 && !slices.ContainsFunc(labels, func(l string) bool {
		return !slices.ContainsFunc(families[i].Samples, func(s promtext.Sample) bool {
			return strings.Contains(","+s.Labels, ","+l)
		})
	})
}

// scrape is what Prometheus gets of a node with one pod, whose processes and guest are this process and machine.
func scrape(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kb") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	dirs := record.Dirs{State: dir + "/s"}
	f, err := record.Begin(dirs, record.Record{ID: "p"})
	if err == nil {
		self := record.ProcessOf(os.Getpid())
		err = f.Note(func(r *record.Record) { r.State, r.QEMU, r.VirtioFSD = record.Running, self, self })
	}
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	var calls host.Durations
	calls.Observe("create", time.Millisecond)
	s, err := management.Serve(management.Options{Dirs: dirs, ID: "p", Pod: machine{}, Calls: &calls, Agent: &calls,
		Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := monitor.New(monitor.Options{Folders: []string{dirs.WithDefaults().Monitor}, Log: quiet})
	web := httptest.NewServer(m.Handler())
	defer web.Close()
	r, err := web.Client().Get(web.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// machine is a pod whose guest is this machine.
type machine struct{ management.Pod }

// GuestMetrics implements management.Pod.
func (machine) GuestMetrics(context.Context) (string, error) { return new(metrics.Collector).Collect() }
