package pod

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/oci"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/network"
	"github.com/katabuild/katabuild/runtime/translate"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// growth is what decides how large the machine has to be.
type growth struct {
	mu    sync.Mutex      // held while the machine grows; guards what follows
	base  machine.Size    // for the guest itself
	said  Size            // what the pod was said to need when it started
	sizes map[string]Size // of its containers
}

// wanted is the size that all containers fit in. g.mu is held.
func (g *growth) wanted() machine.Size {
	var sum Size
	for _, s := range g.sizes {
		sum.MilliCPUs += s.MilliCPUs
		sum.MemoryMiB += s.MemoryMiB
	}
	cpus := max(sum.MilliCPUs, g.said.MilliCPUs)
	return machine.Size{CPUs: g.base.CPUs + int((cpus+999)/1000), MemoryMiB: g.base.MemoryMiB + max(sum.MemoryMiB,
		g.said.MemoryMiB)}
}

// resize notes what a container may use and makes the machine large enough for all of them. A machine that cannot grow
// is no error.
func (p *Pod) resize(ctx context.Context, id string, s Size) error {
	g := &p.growth
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sizes == nil {
		g.sizes = map[string]Size{}
	}
	g.sizes[id] = s
	if p.cfg.Runtime.StaticSandboxResourceMgmt {
		return nil
	}
	want := g.wanted()
	want.CPUs = min(want.CPUs, runtime.NumCPU()) // more would only take turns
	before := p.vm.Size()
	if want.CPUs <= before.CPUs && want.MemoryMiB <= before.MemoryMiB {
		return nil
	}
	now, err := p.vm.Grow(ctx, want)
	if errors.Is(err, machine.ErrNoGrowth) {
		p.log.Info("the machine stays as it is", "container", id, "err", err)
		err = nil
	}
	if now != before {
		p.log.Info("the machine grows", "container", id, "cpus", now.CPUs, "memory",
			fmt.Sprintf("%d MiB", now.MemoryMiB))
		req := &katapb.OnlineCPUMemRequest{Wait: true, NbCpus: uint32(now.CPUs),
			CpuOnly: now.MemoryMiB == before.MemoryMiB}
		if _, e := p.link.OnlineCPUMem(ctx, req); e != nil {
			err = errors.Join(err, fmt.Errorf("have the guest use %d processors and %d MiB of memory: %w", now.CPUs,
				now.MemoryMiB, e))
		}
	}
	return err
}

// Update changes what a container may use.
func (p *Pod) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	ctx, cancel := context.WithTimeout(ctx, agentlink.RequestTime)
	defer cancel()
	p.growth.mu.Lock()
	s := p.growth.sizes[id]
	p.growth.mu.Unlock()
	if n := SizeOf(r); n != (Size{}) { // what is not said stays
		if n.MilliCPUs != 0 {
			s.MilliCPUs = n.MilliCPUs
		}
		if n.MemoryMiB != 0 {
			s.MemoryMiB = n.MemoryMiB
		}
	}
	if err := p.resize(ctx, id, s); err != nil {
		return err
	}
	_, err := p.link.UpdateContainer(ctx, &katapb.UpdateContainerRequest{ContainerId: id,
		Resources: oci.ResourcesToWire(translate.Resources(r))})
	return err
}

// watchNetwork gives the guest the interfaces that come after its start.
func (p *Pod) watchNetwork(ctx context.Context) {
	err := p.net.Watch(ctx, func(e *network.Endpoint) error {
		ctx, cancel := context.WithTimeout(ctx, agentlink.RequestTime)
		defer cancel()
		path, err := p.vm.PlugNIC(ctx, nicOf(e))
		if err != nil {
			return err
		}
		i := e.Interface()
		i.DevicePath = path
		if _, err := p.link.UpdateInterface(ctx, &katapb.UpdateInterfaceRequest{Interface: i}); err != nil {
			return fmt.Errorf("set it up in the guest: %w", err)
		}
		p.log.Info("an interface came later", "interface", e.Name)
		return p.updateRoutes(ctx)
	})
	if err != nil {
		p.log.Warn("interfaces that come later will not reach the guest", "err", err)
	}
}
