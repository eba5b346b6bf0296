package management

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"slices"

	"github.com/katabuild/katabuild/internal/promtext"
	"github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/record"
)

// metrics answers with all numbers.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	families := append(s.hostFamilies(), s.guestFamilies(r.Context())...)
	slices.SortStableFunc(families, func(a, b promtext.Family) int { return cmp.Compare(a.Name, b.Name) })
	metrics.Write(w, r, promtext.Append(nil, families))
}

// hostFamilies are what the host knows by itself.
func (s *Server) hostFamilies() []promtext.Family {
	out := metrics.Process(metrics.Shim, os.Getpid())
	out = append(out, metrics.Self("kata_shim_")...)
	out = append(out,
		s.o.Calls.Family("kata_shim_rpc_durations_histogram_milliseconds", "Durations of containerd's calls.",
			"action"),
		s.o.Agent.Family("kata_shim_agent_rpc_durations_histogram_milliseconds", "Durations of calls of the agent.",
			"action"))
	r, err := record.Read(s.o.Dirs, s.o.ID)
	if err != nil { // the pod has just ended
		s.o.Log.Debug("metrics", "err", err)
		return out
	}
	out = append(out, metrics.Pod(r)...)
	if r.QEMU.Alive() {
		out = append(out, metrics.Process(metrics.Hypervisor, r.QEMU.PID)...)
		out = append(out, metrics.Network(r.QEMU.PID)...)
	}
	if r.VirtioFSD.Alive() {
		out = append(out, metrics.Process(metrics.VirtioFSD, r.VirtioFSD.PID)...)
	}
	return out
}

// guestFamilies are what the guest says, if it does so in time, and how much of it was none. One request at a time asks
// it.
func (s *Server) guestFamilies(ctx context.Context) []promtext.Family {
	ctx, cancel := context.WithTimeout(ctx, guestTime)
	defer cancel()
	answers, families, dropped := "0", []promtext.Family(nil), 0
	select {
	case s.guest <- struct{}{}:
		text, err := s.o.Pod.GuestMetrics(ctx)
		<-s.guest
		if err != nil {
			s.o.Log.Debug("metrics of the guest", "err", err)
			break
		}
		answers = "1"
		families, dropped = metrics.Guest(text)
	case <-ctx.Done():
	}
	return append(families,
		promtext.Family{Name: "katabuild_pod_guest_answers", Help: "Whether the agent has said its numbers in time.",
			Kind: promtext.Gauge, Samples: []promtext.Sample{{Value: answers}}},
		promtext.Family{Name: "katabuild_pod_guest_lines_dropped",
			Help: "Lines of the guest's numbers that were none, or not the guest's to say.", Kind: promtext.Gauge,
			Samples: []promtext.Sample{{Value: promtext.Int(int64(dropped))}}})
}
