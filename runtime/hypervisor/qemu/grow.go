package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/katabuild/katabuild/runtime/machine"
)

// memoryBlockMiB is what memory is plugged in multiples of: a block of x86_64's memory hotplug, which no other
// architecture's exceeds where QEMU has DIMMs. Linux: Documentation/admin-guide/mm/memory-hotplug.rst.
const memoryBlockMiB = 128

// Size is what the machine has now.
func (v *VM) Size() machine.Size {
	v.growing.Lock()
	defer v.growing.Unlock()
	return v.sizeLocked()
}

func (v *VM) sizeLocked() machine.Size {
	start := v.plan.Size()
	return machine.Size{CPUs: start.CPUs + v.grown.CPUs, MemoryMiB: start.MemoryMiB + v.grown.MemoryMiB}
}

// Grow plugs in processors and memory until the machine has at least what is wanted, or all it can have, and says what
// it has.
func (v *VM) Grow(ctx context.Context, want machine.Size) (machine.Size, error) {
	v.growing.Lock()
	defer v.growing.Unlock()
	q := &v.plan.Config
	var errs, cannot []error
	now := v.sizeLocked()
	if more := want.CPUs - now.CPUs; more > 0 {
		if q.MaxCPUs <= q.CPUs {
			cannot = append(cannot, fmt.Errorf("%w: %d processors", machine.ErrNoGrowth, now.CPUs))
		} else if err := v.plugCPUs(ctx, min(more, q.MaxCPUs-now.CPUs)); err != nil {
			errs = append(errs, err)
		}
		if want.CPUs > q.MaxCPUs && q.MaxCPUs > q.CPUs {
			errs = append(errs, fmt.Errorf("%d processors are wanted, and the machine can have %d", want.CPUs,
				q.MaxCPUs))
		}
	}
	if more := want.MemoryMiB - now.MemoryMiB; more > 0 {
		room := 0
		if q.MaxMemoryMiB > 0 {
			room = (q.MaxMemoryMiB - now.MemoryMiB) / memoryBlockMiB * memoryBlockMiB
		}
		blocks := (more + memoryBlockMiB - 1) / memoryBlockMiB * memoryBlockMiB
		switch {
		case q.MemorySlots == 0 || q.MaxMemoryMiB <= q.MemoryMiB:
			cannot = append(cannot, fmt.Errorf("%w: %d MiB of memory", machine.ErrNoGrowth, now.MemoryMiB))
		case v.dimms == q.MemorySlots:
			errs = append(errs, fmt.Errorf("%d MiB of memory are wanted, and all %d slots are taken", want.MemoryMiB,
				q.MemorySlots))
		default:
			if blocks > room {
				errs = append(errs, fmt.Errorf("%d MiB of memory are wanted, and the machine can have %d",
					want.MemoryMiB, now.MemoryMiB+room))
				blocks = room
			}
			if blocks > 0 {
				errs = append(errs, v.plugMemory(ctx, blocks))
			}
		}
	}
	err := errors.Join(errs...)
	if err == nil {
		err = errors.Join(cannot...)
	}
	return v.sizeLocked(), err
}

// hotpluggable is an element of the answer to query-hotpluggable-cpus. QEMU: docs/devel or qapi/machine.json,
// HotpluggableCPU.
type hotpluggable struct {
	Type  string         `json:"type"`
	Count int            `json:"vcpus-count"`
	Props map[string]int `json:"props"`
	Path  string         `json:"qom-path"` // of one that is there
}

// plugCPUs plugs in some processors, the lowest numbers first.
func (v *VM) plugCPUs(ctx context.Context, n int) error {
	answer, err := v.command(ctx, "query-hotpluggable-cpus", nil, nil)
	if err != nil {
		return fmt.Errorf("plug in processors: %w", err)
	}
	var list []hotpluggable
	if err := json.Unmarshal(answer, &list); err != nil {
		return fmt.Errorf("plug in processors: QEMU's list of them: %w", err)
	}
	slices.Reverse(list) // QEMU has the highest first
	for _, c := range list {
		if n == 0 {
			break
		}
		if c.Path != "" || c.Count != 1 {
			continue
		}
		arguments := map[string]any{"driver": c.Type, "id": fmt.Sprintf("cpu-%d", v.plan.Config.CPUs+v.grown.CPUs)}
		for k, v := range c.Props {
			arguments[k] = v
		}
		if err := v.qmp(ctx, "device_add", arguments); err != nil {
			return fmt.Errorf("plug in a processor: %w", err)
		}
		v.grown.CPUs++
		n--
	}
	if n > 0 {
		return fmt.Errorf("plug in processors: QEMU has %d too few", n)
	}
	return nil
}

// plugMemory plugs in one DIMM.
func (v *VM) plugMemory(ctx context.Context, mib int) error {
	id := fmt.Sprintf("dimm-%d", v.dimms)
	memory := map[string]any{"qom-type": "memory-backend-ram", "id": id + "-memory", "size": int64(mib) << 20}
	if v.plan.Config.sharesMemory() { // with back ends in other processes, ours among them
		memory["qom-type"], memory["share"] = "memory-backend-memfd", true
	}
	if err := v.qmp(ctx, "object-add", memory); err != nil {
		return fmt.Errorf("plug in %d MiB of memory: %w", mib, err)
	}
	if err := v.qmp(ctx, "device_add", map[string]any{"driver": "pc-dimm", "id": id,
		"memdev": id + "-memory"}); err != nil {
		return errors.Join(fmt.Errorf("plug in %d MiB of memory: %w", mib, err), v.qmp(ctx, "object-del",
			map[string]any{"id": id + "-memory"}))
	}
	v.dimms++
	v.grown.MemoryMiB += mib
	return nil
}
