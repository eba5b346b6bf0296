package pod

import (
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katabuild/katabuild/runtime/machine"
)

// Size is what the containers of a pod may use together. The zero value is nothing said.
type Size struct {
	MilliCPUs int64 // thousandths of a processor
	MemoryMiB int
}

// SizeOf is what one container may use.
func SizeOf(r *specs.LinuxResources) Size {
	var s Size
	if r == nil {
		return s
	}
	if c := r.CPU; c != nil && c.Quota != nil && *c.Quota > 0 && c.Period != nil && *c.Period > 0 {
		s.MilliCPUs = int64(math.Ceil(float64(*c.Quota) * 1000 / float64(*c.Period)))
	}
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
		s.MemoryMiB = mebibytes(*m.Limit)
	}
	return s
}

// maxSizeMiB bounds a limit that means "none": whoever allows a container more than this has no limit in mind.
const maxSizeMiB = 1 << 22

func mebibytes(bytes int64) int {
	mib := bytes >> 20
	if bytes&(1<<20-1) != 0 {
		mib++
	}
	if mib > maxSizeMiB {
		return 0
	}
	return int(mib)
}

// add makes the machine larger by what the containers may use: the configuration's size is for the guest itself.
func (s Size) add(m *machine.Size, hostCPUs int) {
	m.MemoryMiB += s.MemoryMiB
	m.CPUs = max(m.CPUs, min(m.CPUs+int((s.MilliCPUs+999)/1000), hostCPUs))
}
