package metrics

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/promtext"
)

// bounds are the upper ends of a histogram's buckets in milliseconds, as Kata's: 1 to 512.
var bounds = []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512}

// Durations count how long things took, by what they were. The zero value is empty. Its methods may be called from
// several goroutines.
type Durations struct {
	mu sync.Mutex
	by map[string]*histogram // guarded by mu
}

type histogram struct {
	buckets [11]int64 // of bounds, each without those below it; the last is what took longer
	sum     time.Duration
}

// Observe counts one.
func (d *Durations) Observe(action string, took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = map[string]*histogram{}
	}
	h := d.by[action]
	if h == nil {
		h = &histogram{}
		d.by[action] = h
	}
	i := 0
	for i < len(bounds) && took > bounds[i]*time.Millisecond {
		i++
	}
	h.buckets[i]++
	h.sum += took
}

// Family is a histogram of all, with a label for what they were; without the label where that is empty.
func (d *Durations) Family(name, help, label string) promtext.Family {
	f := promtext.Family{Name: name, Help: help, Kind: promtext.Histogram}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, action := range slices.Sorted(maps.Keys(d.by)) {
		h, of := d.by[action], ""
		if label != "" {
			of = promtext.Labels(label, action)
		}
		var n int64
		for i, in := range h.buckets {
			n += in
			le := "+Inf"
			if i < len(bounds) {
				le = promtext.Int(int64(bounds[i]))
			}
			f.Samples = append(f.Samples, promtext.Sample{Suffix: "_bucket",
				Labels: promtext.Join(of, promtext.Labels("le", le)), Value: promtext.Int(n)})
		}
		f.Samples = append(f.Samples,
			promtext.Sample{Suffix: "_sum", Labels: of,
				Value: promtext.Value(float64(h.sum) / float64(time.Millisecond))},
			promtext.Sample{Suffix: "_count", Labels: of, Value: promtext.Int(n)})
	}
	return f
}
