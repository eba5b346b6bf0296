package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu/qmp"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// How a machine is saved and restored: its memory is a file that QEMU maps and that the migration leaves out
// (x-ignore-shared), and all else goes through a file by the means of migration. QEMU before 8.2 knows no "file:", and
// "exec:" starts a program, which -sandbox spawn=deny forbids, so that QEMU is given the open file. Devices with a back
// end in another process, which vsock and virtio-fs are, refuse to be migrated.

var _ machine.Templates = Hypervisor{}

// Traits say what a machine has to have in common with the one it is restored from.
func (h Hypervisor) Traits(plan machine.Plan) (*machine.Traits, error) {
	p, ok := plan.(*Plan)
	if !ok || !p.Config.Template {
		return nil, fmt.Errorf("%w: it was not planned so (%T)", machine.ErrNoTemplate, plan)
	}
	c := p.Config
	program, err := exec.LookPath(c.Binary)
	if err != nil {
		return nil, err
	}
	t := &machine.Traits{}
	if t.Program, _, err = digest.File(program); err != nil {
		return nil, fmt.Errorf("digest of QEMU: %w", err)
	}
	c.Binary, c.Name, c.Kernel, c.Initrd, c.Console = "", "", "", "", Channel{}
	c.Disks = slices.Clone(c.Disks)
	for i := range c.Disks {
		c.Disks[i].Path = ""
	}
	t.Machine = []byte(strings.Join(c.argv(), "\x00"))
	if c.PassLater { // what a process may open is no part of its command line
		t.Machine = append(t.Machine, "\x00pass-later"...)
	}
	if t.CPU, err = accel.HostProcessor(); err != nil {
		return nil, err
	}
	t.Most = machine.Size{CPUs: max(c.CPUs, c.MaxCPUs), MemoryMiB: max(c.MemoryMiB, c.MaxMemoryMiB)}
	return t, nil
}

// stateName is by which name QEMU has the file of a state.
const stateName = "state"

// pollTime is between two looks whether QEMU is done, which it is after some milliseconds.
const pollTime = 2 * time.Millisecond

// Save stops the guest and writes what the machine is beside its memory.
func (v *VM) Save(ctx context.Context, to *os.File) error {
	if !v.plan.Config.Template {
		return fmt.Errorf("save the machine: %w", machine.ErrNoTemplate)
	}
	if err := v.save(ctx, to); err != nil {
		return fmt.Errorf("save the machine: %w", err)
	}
	return nil
}

func (v *VM) save(ctx context.Context, to *os.File) error {
	if err := v.qmp(ctx, "stop", nil); err != nil {
		return err
	}
	if err := v.leaveOutMemory(ctx); err != nil {
		return err
	}
	if _, err := v.command(ctx, "getfd", map[string]any{"fdname": stateName}, to); err != nil {
		return err
	}
	if err := v.qmp(ctx, "migrate", map[string]any{"uri": "fd:" + stateName}); err != nil {
		return err
	}
	return v.migrated(ctx)
}

// leaveOutMemory has QEMU neither write nor read the memory that is a file.
func (v *VM) leaveOutMemory(ctx context.Context) error {
	return v.qmp(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []map[string]any{
		{"capability": "x-ignore-shared", "state": true}}})
}

// migrated waits until a state was written or read.
func (v *VM) migrated(ctx context.Context) error {
	for {
		answer, err := v.command(ctx, "query-migrate", nil, nil)
		if err != nil {
			return err
		}
		var now struct {
			Status string `json:"status"`
			Error  string `json:"error-desc"`
		}
		if err := json.Unmarshal(answer, &now); err != nil {
			return fmt.Errorf("qmp query-migrate: %w", err)
		}
		switch now.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("QEMU says %q: %s", now.Status, now.Error)
		}
		select {
		case <-time.After(pollTime):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// restore has a QEMU that waits for it go on as resume does.
func (v *VM) restore(ctx context.Context, monitor net.Conn, resume func() error) error {
	c, err := qmp.New(ctx, monitor)
	if err == nil {
		v.monitor <- c
		err = resume()
	}
	if err == nil {
		close(v.answers)
		return nil
	}
	select { // it says itself what it did not like
	case <-v.process.Done():
		err = errors.Join(err, v.process.ExitError())
	case <-time.After(lastWords):
	}
	return fmt.Errorf("restore the machine: %w", err)
}

// resume has QEMU take a state, plugs in the vsock, and lets the guest run, unless it is held.
func (v *VM) resume(ctx context.Context, state *os.File, hold bool) error {
	if err := v.leaveOutMemory(ctx); err != nil {
		return err
	}
	if _, err := state.Seek(0, 0); err != nil { // QEMU reads on from where the file is
		return err
	}
	if _, err := v.command(ctx, "getfd", map[string]any{"fdname": stateName}, state); err != nil {
		return err
	}
	if err := v.qmp(ctx, "migrate-incoming", map[string]any{"uri": "fd:" + stateName}); err != nil {
		return err
	}
	if err := v.migrated(ctx); err != nil || hold {
		return err
	}
	return v.goOn(ctx)
}

// goOn gives a guest that stands still its channel, and lets it run.
func (v *VM) goOn(ctx context.Context) error {
	if err := v.plugVsock(ctx); err != nil {
		return fmt.Errorf("plug in the vsock: %w", err)
	}
	return v.qmp(ctx, "cont", nil)
}

// plugVsock gives the guest its channel.
func (v *VM) plugVsock(ctx context.Context) error {
	if k, ok := v.channel.(*vsock.Kernel); ok {
		if _, err := v.command(ctx, "getfd", map[string]any{"fdname": "vsock"}, k.File()); err != nil {
			return err
		}
		return v.plugAny(ctx, map[string]any{"driver": "vhost-vsock-pci", "id": "vsock", "vhostfd": "vsock",
			"guest-cid": k.CID()})
	}
	if err := v.addSocket(ctx, "vsock", v.device); err != nil {
		return err
	}
	// QEMU's is the only one from here on: the channel breaks when that ends.
	if err := v.device.Close(); err != nil {
		return err
	}
	v.device = nil
	return v.plugAny(ctx, map[string]any{"driver": "vhost-user-vsock-pci", "id": "vsock-device", "chardev": "vsock"})
}

// PlugShare gives a running guest a folder that a virtiofsd serves.
func (v *VM) PlugShare(ctx context.Context, s machine.Share) error {
	wrap := func(err error) error { return fmt.Errorf("plug in the shared folder %s: %w", s.Tag, err) }
	if s.Socket == "" {
		return wrap(errors.New("QEMU's own, by 9p, has to be there from the start"))
	}
	conn, err := connect(s.Socket) // which QEMU's user could not
	if err != nil {
		return wrap(err)
	}
	defer conn.Close()
	id := "share-" + s.Tag
	if err := v.addSocket(ctx, id, conn); err != nil {
		return wrap(err)
	}
	if err := v.plugAny(ctx, map[string]any{"driver": "vhost-user-fs-pci", "id": id + "-device", "chardev": id,
		"tag": s.Tag, "queue-size": virtioFSQueue}); err != nil {
		return wrap(err)
	}
	return nil
}

// addSocket gives QEMU a connected socket as a character device.
func (v *VM) addSocket(ctx context.Context, id string, conn *os.File) error {
	if _, err := v.command(ctx, "getfd", map[string]any{"fdname": id}, conn); err != nil {
		return err
	}
	address := map[string]any{"type": "fd", "data": map[string]any{"str": id}}
	return v.qmp(ctx, "chardev-add", map[string]any{"id": id, "backend": map[string]any{"type": "socket",
		"data": map[string]any{"addr": address, "server": false}}})
}

// plugAny plugs a device into the next root port.
func (v *VM) plugAny(ctx context.Context, device map[string]any) error {
	port, err := v.takePort()
	if err != nil {
		return err
	}
	device["bus"], _ = rootPort(port)
	if err := v.qmp(ctx, "device_add", device); err != nil {
		v.freePort(port)
		return err
	}
	return nil
}
