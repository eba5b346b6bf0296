package pod

import (
	"context"
	"fmt"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/cgroup"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/stats"
	"github.com/katabuild/katabuild/runtime/translate"
)

// GuestMetrics is what the agent says of itself and of the guest, in Prometheus' text format. Whoever reads it trusts
// none of it.
func (p *Pod) GuestMetrics(ctx context.Context) (string, error) {
	m, err := p.link.GetMetrics(ctx, &katapb.GetMetricsRequest{})
	return m.GetMetrics(), err
}

// IPTables are the rules of the guest's packet filter, of IPv4 or IPv6.
func (p *Pod) IPTables(ctx context.Context, v6 bool) ([]byte, error) {
	r, err := p.link.GetIPTables(ctx, &katapb.GetIPTablesRequest{IsIpv6: v6})
	return r.GetData(), err
}

// SetIPTables replaces them.
func (p *Pod) SetIPTables(ctx context.Context, v6 bool, rules []byte) error {
	_, err := p.link.SetIPTables(ctx, &katapb.SetIPTablesRequest{IsIpv6: v6, Data: rules})
	return err
}

// VolumeStats says how full a volume is that is assigned directly, by its path on the host.
func (p *Pod) VolumeStats(ctx context.Context, path string) (*katapb.VolumeStatsResponse, error) {
	return p.link.GetVolumeStats(ctx, &katapb.VolumeStatsRequest{VolumeGuestPath: translate.DirectVolumePath(path)})
}

// ResizeVolume makes the file system of a volume that is assigned directly as large as its file or device, which has
// size bytes at least.
func (p *Pod) ResizeVolume(ctx context.Context, path string, size int64) error {
	v, err := directvolume.Read(directvolume.Root, path)
	if err != nil {
		return fmt.Errorf("volume %s: %w", path, err)
	}
	has, err := p.disks.Resize(ctx, v.Device, p.vm.ResizeDisk)
	if err != nil {
		return fmt.Errorf("volume %s: %w", path, err)
	}
	if has < size {
		return fmt.Errorf("volume %s: %s has %d bytes, want %d: make it larger on the host first", path, v.Device, has,
			size)
	}
	_, err = p.link.ResizeVolume(ctx, &katapb.ResizeVolumeRequest{VolumeGuestPath: translate.DirectVolumePath(path),
		Size: uint64(has)})
	return err
}

// SetPolicy replaces the agent's policy, where the one in force lets it.
func (p *Pod) SetPolicy(ctx context.Context, policy string) error {
	_, err := p.link.SetPolicy(ctx, &katapb.SetPolicyRequest{Policy: policy})
	return err
}

// pingTime bounds the answer to Ping.
const pingTime = 5 * time.Second

// Ping asks the agent whether it is well.
func (p *Pod) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	return p.link.Ping(ctx)
}

// Usage is what the pod's processes use on the host: all in its control group, or QEMU alone where it has none.
func (p *Pod) Usage() (stats.Host, error) {
	if u, ok := p.cgroup.Usage(); ok {
		return stats.Host{Usage: u}, nil
	}
	st, err := metrics.ReadStat(p.vm.PID())
	if err != nil {
		return stats.Host{}, err
	}
	return stats.Host{Usage: cgroup.Usage{CPU: st.CPU(), Memory: uint64(st.ResidentBytes),
		Anonymous: uint64(st.ResidentBytes), Processes: 1}}, nil
}
