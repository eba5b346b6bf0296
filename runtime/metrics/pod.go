package metrics

import (
	"path/filepath"

	"github.com/katabuild/katabuild/internal/promtext"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/record"
)

// podPrefix begins the names of what Kata has no name for.
const podPrefix = "katabuild_pod_"

// Pod is what a pod's record says.
func Pod(r *record.Record) []promtext.Family {
	one := func(name, help, labels string, value bool) promtext.Family {
		v := "0"
		if value {
			v = "1"
		}
		return promtext.Family{Name: podPrefix + name, Help: help, Kind: promtext.Gauge,
			Samples: []promtext.Sample{{Labels: labels, Value: v}}}
	}
	result := Verdict(r)
	return []promtext.Family{
		one("up", "Whether the shim and the virtual machine run.", "",
			r.Shim.Alive() && r.QEMU.Alive() && r.State == record.Running),
		one("info", "What the pod is; the value is always 1.",
			promtext.Labels("sandbox", r.ID, "guest", GuestName(r), "verdict", result), true),
		one("attested", "Whether the guest is the one that was built.", "", result == verdict.Attested),
		{Name: podPrefix + "containers", Help: "Containers of the pod.", Kind: promtext.Gauge,
			Samples: []promtext.Sample{{Value: promtext.Int(int64(len(r.Containers)))}}},
	}
}

// GuestName is the guest's name, as far as a record has it.
func GuestName(r *record.Record) string {
	if r.Verdict != nil {
		return r.Verdict.Guest
	}
	if n := len(r.Files); n > 0 { // without a manifest the last is the initrd or the image
		return filepath.Base(r.Files[n-1].Path)
	}
	return filepath.Base(r.Guest)
}

// Verdict is what attestation said, or a dash where nothing was asked.
func Verdict(r *record.Record) string {
	if r.Verdict == nil {
		return "-"
	}
	return r.Verdict.Result
}
