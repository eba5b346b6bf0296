package metrics

import (
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/promtext"
)

// What is taken of a guest. Ours says some 400 numbers in 30 families and 40 KiB; one with many processors, disks and
// interfaces says several times that.
const (
	maxGuestText     = 1 << 20
	maxGuestLine     = 4 << 10
	maxGuestFamilies = 256
	maxGuestSamples  = 10000
)

// guestPrefixes begin the names of what a guest may speak of: itself. What is the host's to say it cannot say.
var guestPrefixes = []string{"kata_agent_", "kata_guest_"}

// guestCounter is the one number of a guest that is a counter, of Kata's agent as of ours. The others are gauges,
// whatever the guest says: numbers of several guests are put into one family, which has one kind, and there are readers
// that give up where they disagree.
const guestCounter = "kata_agent_scrape_count"

// hostLabels are the labels that a guest's numbers get on their way, or that have a meaning of their own.
var hostLabels = []string{"sandbox_id", "cri_uid", "cri_name", "cri_namespace", "job", "instance", "le", "quantile"}

// Guest reads what a guest says of itself; dropped is how many of its lines are left out, because they are none, are
// not about itself, are said twice or are too many. What is returned cannot hurt whoever reads it.
func Guest(text string) (families []promtext.Family, dropped int) {
	families, dropped = promtext.Parse(text, promtext.Limits{
		Bytes: maxGuestText, Line: maxGuestLine, Families: maxGuestFamilies, Samples: maxGuestSamples, Simple: true,
		Family: func(name string) bool {
			return slices.ContainsFunc(guestPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		},
		Label: func(name string) bool { return !slices.Contains(hostLabels, name) },
	})
	for i := range families {
		families[i].Kind = promtext.Gauge
		if families[i].Name == guestCounter {
			families[i].Kind = promtext.Counter
		}
	}
	return families, dropped
}
