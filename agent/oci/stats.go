package oci

import (
	"context"
	"time"

	"github.com/katabuild/katabuild/agent/container/cgroup"
)

// Event is what there is to tell of a container, in runc's form.
type Event struct {
	Type string `json:"type"` // stats or oom
	ID   string `json:"id"`
	Data *Usage `json:"data,omitempty"`
}

// Usage is what a container has used. Times are in nanoseconds, sizes in bytes.
type Usage struct {
	CPU struct {
		Usage struct {
			Total  uint64 `json:"total"`
			Kernel uint64 `json:"kernel"`
			User   uint64 `json:"user"`
		} `json:"usage"`
		Throttling struct {
			Periods          uint64 `json:"periods,omitempty"`
			ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
			ThrottledTime    uint64 `json:"throttledTime,omitempty"`
		} `json:"throttling"`
	} `json:"cpu"`
	Memory struct {
		Cache uint64            `json:"cache,omitempty"`
		Usage Memory            `json:"usage"`
		Swap  Memory            `json:"swap"`
		Raw   map[string]uint64 `json:"raw,omitempty"`
	} `json:"memory"`
	Pids struct {
		Current uint64 `json:"current,omitempty"`
		Limit   uint64 `json:"limit,omitempty"`
	} `json:"pids"`
	IO      []Transfer        `json:"io,omitempty"` // runc has a form of its own for it, which version 2 cannot fill
	Hugetlb map[string]Memory `json:"hugetlb,omitempty"`
}

// Memory is a counter of memory.
type Memory struct {
	Limit    uint64 `json:"limit"`
	Usage    uint64 `json:"usage,omitempty"`
	Max      uint64 `json:"max,omitempty"`
	Failures uint64 `json:"failcnt"`
}

// Transfer is what went to and from a device.
type Transfer struct {
	Major uint64 `json:"major"`
	Minor uint64 `json:"minor"`
	Read  uint64 `json:"read"`
	Write uint64 `json:"write"`
}

// usage is counters in runc's form. A limit of processes that is none is 0 there.
func usage(s cgroup.Stats) *Usage {
	var u Usage
	u.CPU.Usage.Total, u.CPU.Usage.Kernel, u.CPU.Usage.User = s.CPU.Usage, s.CPU.System, s.CPU.User
	u.CPU.Throttling.Periods, u.CPU.Throttling.ThrottledPeriods = s.CPU.Periods, s.CPU.ThrottledPeriod
	u.CPU.Throttling.ThrottledTime = s.CPU.Throttled
	u.Memory.Usage = Memory{s.Memory.Limit, s.Memory.Usage, s.Memory.MaxUsage, s.Memory.FailCount}
	u.Memory.Swap = Memory{Limit: s.Memory.SwapLimit, Usage: s.Memory.Swap}
	u.Memory.Raw = s.Memory.Stat
	u.Memory.Cache = s.Memory.Stat["cache"] + s.Memory.Stat["file"] // the names of version 1 and 2
	u.Pids.Current = s.Pids.Current
	if s.Pids.Limit < 1<<62 {
		u.Pids.Limit = s.Pids.Limit
	}
	for _, d := range s.IO {
		u.IO = append(u.IO, Transfer{d.Major, d.Minor, d.ReadBytes, d.WriteBytes})
	}
	for size, h := range s.Hugetlb {
		if u.Hugetlb == nil {
			u.Hugetlb = map[string]Memory{}
		}
		u.Hugetlb[size] = Memory{h.Limit, h.Usage, 0, h.Failures}
	}
	return &u
}

// Stats reads what the container has used.
func (c *Container) Stats() (*Usage, error) {
	if err := c.want("read the statistics of", created, running, paused); err != nil {
		return nil, err
	}
	s, err := c.groups.Stats()
	if err != nil {
		return nil, err
	}
	return usage(s), nil
}

// Watch tells what the container has used each interval, and when the kernel has killed a process for want of memory,
// until the container has stopped, ctx ends or tell fails.
func (c *Container) Watch(ctx context.Context, interval time.Duration, tell func(Event) error) error {
	kills := uint64(0)
	first := true
	for {
		s, err := c.groups.Stats()
		if !c.alive() {
			return nil
		}
		if err != nil {
			return err
		}
		if !first && s.Memory.OOMKills > kills {
			if err := tell(Event{Type: "oom", ID: c.ID}); err != nil {
				return err
			}
		}
		kills, first = s.Memory.OOMKills, false
		if err := tell(Event{"stats", c.ID, usage(s)}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(interval):
		}
	}
}
