package sandbox

import (
	"time"

	"github.com/katabuild/katabuild/internal/spans"
	"github.com/katabuild/katabuild/runtime/trace"
)

// traceStages makes spans of what the host saw of a boot: of each moment, the time since the one before it.
func traceStages(boot *trace.Span, began time.Time, timeline []Moment) {
	if boot == nil {
		return
	}
	last := began
	for _, m := range timeline {
		at := began.Add(m.After)
		boot.Past("until "+m.Name, last, at)
		last = at
	}
}

// maxGuestMoments bounds what is made of a guest's timeline; ours has some ten moments.
const maxGuestMoments = 32

// traceGuest does the same with the guest's own moments, which Merge has put into the host's time.
func traceGuest(boot *trace.Span, began time.Time, merged []Moment) {
	if boot == nil {
		return
	}
	var last time.Time
	n := 0
	for _, m := range merged {
		if !m.Guest || n == maxGuestMoments {
			continue
		}
		n++
		at := began.Add(m.After)
		if !last.IsZero() { // the first is when the kernel starts
			boot.Past("guest until "+m.Name, last, at, spans.Attribute{Key: trace.GuestKey, Value: "boot timeline"})
		}
		last = at
	}
}
