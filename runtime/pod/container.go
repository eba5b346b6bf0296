package pod

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/oci"
	"github.com/katabuild/katabuild/internal/spans"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/disks"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/stats"
	"github.com/katabuild/katabuild/runtime/trace"
	"github.com/katabuild/katabuild/runtime/translate"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Container is a container to make.
type Container struct {
	ID     string
	Spec   *specs.Spec // as on the host; it is not changed
	Rootfs []share.Mount
	Bundle string // holds Spec.Root.Path where that is relative
	// SharedPID: the container joins the pod's PID namespace.
	SharedPID bool
	// PIDOf is the container of the pod whose PID namespace this one joins; empty for none.
	PIDOf   string
	Streams agentlink.Streams
	// Pause: it is the one that only stands for the pod, and has none of the devices that the pod's annotations for CDI
	// ask for.
	Pause bool
}

// container is what the pod knows of one.
type container struct {
	id    string
	disks []*disks.Use
	binds []*boundVolume
}

// Create makes a container. Its first process waits to be started. When it fails nothing of the container is left.
func (p *Pod) Create(ctx context.Context, c Container) (_ *agentlink.Process, err error) {
	if err := record.CheckID(c.ID); err != nil {
		return nil, err
	}
	ctx, span := trace.Start(ctx, "pod/create container", spans.Attribute{Key: "container", Value: c.ID})
	defer func() { span.End(err) }()
	have := &container{id: c.ID}
	p.mu.Lock()
	if p.containers[c.ID] != nil {
		p.mu.Unlock()
		return nil, fmt.Errorf("a container called %s exists already", c.ID)
	}
	p.containers[c.ID] = have
	p.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, p.forget(context.WithoutCancel(ctx), have))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Runtime.CreateContainerTimeout)
	defer cancel()
	if !c.Pause {
		if c.Spec, err = p.inject(c.Spec); err != nil {
			return nil, err
		}
	}
	plan, err := p.translate(c)
	if err != nil {
		return nil, err
	}
	prepare, part := trace.Start(ctx, "pod/prepare files")
	err = p.prepare(prepare, have, plan)
	part.End(err)
	if err != nil {
		return nil, err
	}
	if err := p.resize(ctx, c.ID, SizeOf(c.Spec.Linux.Resources)); err != nil {
		p.log.Warn("the machine is not as large as its containers want it", "container", c.ID, "err", err)
	}
	wire, err := oci.ToWire(plan.Spec)
	if err != nil {
		return nil, err
	}
	proc, ports, err := p.link.Process(ctx, c.ID, c.ID, c.Streams, c.Spec.Process.Terminal)
	if err != nil {
		return nil, err
	}
	req := &katapb.CreateContainerRequest{
		ContainerId: c.ID, ExecId: c.ID, OCI: wire, Storages: plan.Storages, Devices: plan.Devices,
		SandboxPidns: c.SharedPID,
		StdinPort:    ports[0], StdoutPort: ports[1], StderrPort: ports[2],
	}
	if _, err := p.link.CreateContainer(ctx, req); err != nil {
		return nil, errors.Join(fmt.Errorf("create the container in the guest: %w", err), proc.Close())
	}
	proc.Begin()
	return proc, p.record.Note(func(r *record.Record) { r.Containers = append(r.Containers, c.ID) })
}

// translate makes the plan of a container. The pod's containers have the users of the first one that has any.
func (p *Pod) translate(c Container) (*translate.Plan, error) {
	p.mu.Lock()
	users := p.users
	p.mu.Unlock()
	of := translate.Pod{Shared: p.share != nil, NoSeccomp: p.cfg.Runtime.DisableGuestSeccomp, Seccomp: p.seccomp,
		GuestDevices: p.link.Can.GuestDevices, PIDOf: p.link.Can.PIDOf, Users: users, Passes: modeOf(p.cfg)}
	host := translate.ThisHost{Root: p.options.Root}
	plan, err := translate.Translate(of, host, translate.Container{ID: c.ID, Spec: c.Spec,
		Rootfs: c.Rootfs, Bundle: c.Bundle, PIDOf: c.PIDOf})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.users.UIDs) == 0 {
		p.users = plan.Users
	}
	return plan, nil
}

// Start lets the first process of a container run.
func (p *Pod) Start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, agentlink.RequestTime)
	defer cancel()
	if _, err := p.link.StartContainer(ctx, &katapb.StartContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	return nil
}

// Exec runs another process in a container.
func (p *Pod) Exec(ctx context.Context, id, exec string, spec *specs.Process, s agentlink.Streams) (*agentlink.Process,
	error) {
	ctx, cancel := context.WithTimeout(ctx, agentlink.RequestTime)
	defer cancel()
	proc, ports, err := p.link.Process(ctx, id, exec, s, spec.Terminal)
	if err != nil {
		return nil, err
	}
	w := oci.ProcessToWire(spec)
	w.SelinuxLabel, w.ApparmorProfile = "", "" // the guest has neither
	req := &katapb.ExecProcessRequest{
		ContainerId: id, ExecId: exec, Process: w, StdinPort: ports[0], StdoutPort: ports[1], StderrPort: ports[2],
	}
	if _, err := p.link.ExecProcess(ctx, req); err != nil {
		return nil, errors.Join(fmt.Errorf("run a process in the container: %w", err), proc.Close())
	}
	proc.Begin()
	return proc, nil
}

// Remove takes a container away: its processes, its files in the guest and on the host.
func (p *Pod) Remove(ctx context.Context, id string) error {
	p.mu.Lock()
	c := p.containers[id]
	p.mu.Unlock()
	if c == nil {
		return nil
	}
	return p.forget(ctx, c)
}

func (p *Pod) forget(ctx context.Context, c *container) error {
	var errs []error
	if p.Why() == nil {
		asked, cancel := context.WithTimeout(ctx, agentlink.RequestTime)
		_, err := p.link.RemoveContainer(asked, &katapb.RemoveContainerRequest{ContainerId: c.id,
			Timeout: uint32(agentlink.RequestTime / time.Second)})
		cancel()
		if err != nil && !agentlink.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove the container in the guest: %w", err))
		}
		if err := p.unplug(ctx, c, 0); err != nil {
			p.log.Warn("a disk stays plugged in", "container", c.id, "err", err)
		}
	}
	if p.share != nil {
		errs = append(errs, p.unbind(c), p.share.Release(c.id))
	}
	p.mu.Lock()
	delete(p.containers, c.id)
	p.mu.Unlock()
	p.growth.mu.Lock()
	delete(p.growth.sizes, c.id)
	p.growth.mu.Unlock()
	errs = append(errs, p.record.Note(func(r *record.Record) {
		r.Containers = slices.DeleteFunc(r.Containers, func(id string) bool { return id == c.id })
	}))
	return errors.Join(errs...)
}

// Pause freezes a container until Resume.
func (p *Pod) Pause(ctx context.Context, id string) error {
	_, err := p.link.PauseContainer(ctx, &katapb.PauseContainerRequest{ContainerId: id})
	return err
}

// Resume lets a frozen container go on.
func (p *Pod) Resume(ctx context.Context, id string) error {
	_, err := p.link.ResumeContainer(ctx, &katapb.ResumeContainerRequest{ContainerId: id})
	return err
}

// Stats says what a container uses.
func (p *Pod) Stats(ctx context.Context, id string) (stats.Usage, error) {
	r, err := p.link.StatsContainer(ctx, &katapb.StatsContainerRequest{ContainerId: id})
	return stats.Of(r), err
}
