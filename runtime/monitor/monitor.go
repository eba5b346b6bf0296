// Package monitor is one server a node that tells Prometheus of all pods: it asks each pod's management socket, and
// says which numbers are of which pod.
//
// In come the folders with the pods' sockets and, from a container engine, the pods' names; out come pages over HTTP,
// by the paths and with the labels of Kata Containers' kata-monitor. What a pod says is bounded in size and time, so
// that no pod costs the others' numbers. It starts and changes nothing. docs/monitoring.md.
package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/promtext"
	"github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/record"
)

// What a pod may cost.
const (
	podTime  = 3 * time.Second // as Kata's
	podBytes = 4 << 20         // of its answer, unpacked
	atOnce   = 8               // pods that are asked at the same time
	requests = 4               // that are answered at the same time; others are told to come again
)

// namesEvery is how often, at most, the container engine is asked for names; namesTime is how long it may take.
const (
	namesEvery = 5 * time.Second
	namesTime  = time.Second
)

// Name is what Kubernetes calls a pod. The zero value is a pod that it does not know.
type Name struct{ UID, Name, Namespace string }

// Options are what to watch.
type Options struct {
	Folders []string // each with a folder a pod that has its socket; one that is not there has none
	// Names are the pods' names by id; nil knows none.
	Names func(context.Context) (map[string]Name, error)
	Log   *slog.Logger
}

// Monitor watches. Get one from New. Its methods may be called from several goroutines.
type Monitor struct {
	o        Options
	client   *http.Client
	requests chan struct{} // a token for each that is answered

	mu              sync.Mutex // guards what follows
	names           map[string]Name
	asked           time.Time // for names
	scrapes, failed int64

	took metrics.Durations
}

// New makes one.
func New(o Options) *Monitor {
	return &Monitor{o: o, requests: make(chan struct{}, requests), client: &http.Client{
		Timeout: podTime,
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				socket, _ := ctx.Value(socketKey{}).(string)
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// socketKey is the context's key of the socket that a request goes to.
type socketKey struct{}

// sandboxes are the pods that have a socket, by id, with its path.
func (m *Monitor) sandboxes() map[string]string {
	out := map[string]string{}
	for _, dir := range m.o.Folders {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.o.Log.Warn("list pods", "err", err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name(), record.MonitorSocketName)
			if record.CheckID(e.Name()) != nil || out[e.Name()] != "" {
				continue
			}
			if st, err := os.Lstat(path); err == nil && st.Mode().Type() == fs.ModeSocket {
				out[e.Name()] = path
			}
		}
	}
	return out
}

// get asks a pod.
func (m *Monitor) get(ctx context.Context, socket, path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, socketKey{}, socket), podTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://shim"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := m.client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() // only read from
	b, err := io.ReadAll(io.LimitReader(resp.Body, podBytes+1))
	switch {
	case err != nil:
		return "", err
	case len(b) > podBytes:
		return "", fmt.Errorf("the answer has more than %d bytes", podBytes)
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%s: %.200q", resp.Status, b)
	}
	return string(b), nil
}

// podLabels are those that say which pod a number is of. No number has them from elsewhere.
var podLabels = []string{"sandbox_id", "cri_uid", "cri_name", "cri_namespace"}

// families are the numbers of a pod.
func (m *Monitor) families(ctx context.Context, socket string) ([]promtext.Family, error) {
	text, err := m.get(ctx, socket, "/metrics")
	if err != nil {
		return nil, err
	}
	families, dropped := promtext.Parse(text, promtext.Limits{Line: 8 << 10, Families: 1024, Samples: 20000,
		Family: func(name string) bool { return !strings.HasPrefix(name, ownPrefix) },
		Label:  func(name string) bool { return !slices.Contains(podLabels, name) }})
	if dropped > 0 {
		m.o.Log.Debug("lines that are no numbers", "socket", socket, "lines", dropped)
	}
	for i, f := range families {
		// Of the shim, where it is Kata's: so does its monitor.
		if strings.HasPrefix(f.Name, "go_") || strings.HasPrefix(f.Name, "process_") {
			families[i].Name = "kata_shim_" + f.Name
		}
	}
	return families, nil
}

// all are the numbers of all pods, each with its pod's labels.
func (m *Monitor) all(ctx context.Context, filter func(name string) bool) []promtext.Family {
	pods := m.sandboxes()
	names := m.namesOf(ctx, pods)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards lists
	lists := map[string][]promtext.Family{}
	slots := make(chan struct{}, atOnce)
	for id, socket := range pods {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			families, err := m.families(ctx, socket)
			if err != nil {
				m.count(&m.failed)
				m.o.Log.Warn("numbers of a pod", "sandbox", id, "err", err)
				return
			}
			n := names[id]
			labels := promtext.Labels("sandbox_id", id, "cri_uid", n.UID, "cri_name", n.Name, "cri_namespace",
				n.Namespace)
			families = slices.DeleteFunc(families, func(f promtext.Family) bool { return !filter(f.Name) })
			for _, f := range families {
				for i := range f.Samples {
					f.Samples[i].Labels = promtext.Join(f.Samples[i].Labels, labels)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			lists[id] = families
		})
	}
	wg.Wait()
	var sorted [][]promtext.Family
	for _, id := range slices.Sorted(maps.Keys(lists)) {
		sorted = append(sorted, lists[id])
	}
	return promtext.Merge(sorted...)
}

// namesOf are the pods' names. The container engine is asked when there is a pod without one, and not too often.
func (m *Monitor) namesOf(ctx context.Context, pods map[string]string) map[string]Name {
	m.mu.Lock()
	defer m.mu.Unlock()
	unknown := false
	for id := range pods {
		if _, known := m.names[id]; !known {
			unknown = true
		}
	}
	if m.o.Names == nil || !unknown || time.Since(m.asked) < namesEvery {
		return m.names
	}
	ctx, cancel := context.WithTimeout(ctx, namesTime)
	defer cancel()
	names, err := m.o.Names(ctx)
	m.asked = time.Now()
	if err != nil {
		m.o.Log.Warn("names of pods", "err", err)
		return m.names
	}
	m.names = names
	return names
}

func (m *Monitor) count(n *int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	*n++
}

// ownPrefix begins the names of what the monitor says of itself.
const ownPrefix = "kata_monitor_"

// self are the monitor's own numbers.
func (m *Monitor) self() []promtext.Family {
	one := func(name, help string, kind promtext.Kind, n int64) promtext.Family {
		return promtext.Family{Name: ownPrefix + name, Help: help, Kind: kind,
			Samples: []promtext.Sample{{Value: promtext.Int(n)}}}
	}
	running := int64(len(m.sandboxes()))
	m.mu.Lock()
	scrapes, failed := m.scrapes, m.failed
	m.mu.Unlock()
	out := append(metrics.Self(ownPrefix),
		one("running_shim_count", "Pods that have a management socket.", promtext.Gauge, running),
		m.took.Family(ownPrefix+"scrape_durations_histogram_milliseconds", "Durations of scrapes of all pods.", ""),
		one("scrape_count", "Scrapes.", promtext.Counter, scrapes),
		one("scrape_failed_count", "Pods that did not answer a scrape.", promtext.Counter, failed))
	slices.SortFunc(out, func(a, b promtext.Family) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
