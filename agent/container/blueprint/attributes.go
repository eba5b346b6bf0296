package blueprint

import (
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// resources of setrlimit(2), whose numbers are the same on all machines this project builds for.
// <asm-generic/resource.h>.
var resources = map[string]int{
	"CPU": unix.RLIMIT_CPU, "FSIZE": unix.RLIMIT_FSIZE, "DATA": unix.RLIMIT_DATA, "STACK": unix.RLIMIT_STACK,
	"CORE": unix.RLIMIT_CORE,
	"RSS":  unix.RLIMIT_RSS, "NPROC": unix.RLIMIT_NPROC, "NOFILE": unix.RLIMIT_NOFILE, "MEMLOCK": unix.RLIMIT_MEMLOCK,
	"AS":    unix.RLIMIT_AS,
	"LOCKS": unix.RLIMIT_LOCKS, "SIGPENDING": unix.RLIMIT_SIGPENDING, "MSGQUEUE": unix.RLIMIT_MSGQUEUE,
	"NICE":   unix.RLIMIT_NICE,
	"RTPRIO": unix.RLIMIT_RTPRIO, "RTTIME": unix.RLIMIT_RTTIME,
}

// rlimits turns limits of the specification into those of the plan. files is the most that RLIMIT_NOFILE can be here.
func rlimits(list []specs.POSIXRlimit, files func() uint64) ([]stage.Rlimit, error) {
	var out []stage.Rlimit
	for _, l := range list {
		n, ok := resources[strings.TrimPrefix(l.Type, "RLIMIT_")]
		if !ok {
			return nil, fmt.Errorf("resource limit %q is unknown", l.Type)
		}
		if slices.ContainsFunc(out, func(o stage.Rlimit) bool { return o.Resource == n }) {
			return nil, fmt.Errorf("resource limit %s is there twice", l.Type)
		}
		if l.Soft > l.Hard {
			return nil, fmt.Errorf("resource limit %s: %d is above the hard limit of %d", l.Type, l.Soft, l.Hard)
		}
		if n == unix.RLIMIT_NOFILE {
			if most := files(); l.Hard > most {
				return nil, fmt.Errorf("resource limit %s of %d: the guest's kernel has a bound of %d, fs.nr_open",
					l.Type, l.Hard, most)
			}
		}
		out = append(out, stage.Rlimit{Name: l.Type, Resource: n, Cur: l.Soft, Max: l.Hard})
	}
	return out, nil
}

// maxFiles is the most that RLIMIT_NOFILE can be. Linux: Documentation/admin-guide/sysctl/fs.rst, nr_open. What cannot
// be read is left to the kernel.
func maxFiles() uint64 {
	b, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return math.MaxUint64
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return math.MaxUint64
	}
	return n
}

// defaultDevices are in every container. config-linux.md, "Default Devices".
func defaultDevices() []stage.Device {
	var out []stage.Device
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		out = append(out, stage.Device{Path: "/dev/" + d.name, Type: unix.S_IFCHR, Major: d.major, Minor: d.minor,
			Mode: 0o666})
	}
	return out
}

// devices are the default ones and the specification's, which may replace a default.
func devices(list []specs.LinuxDevice, bind bool) ([]stage.Device, error) {
	out := defaultDevices()
	for _, d := range list {
		s := stage.Device{Path: path.Clean("/" + d.Path), Major: uint32(d.Major), Minor: uint32(d.Minor), Mode: 0o666}
		switch d.Type {
		case "c", "u":
			s.Type = unix.S_IFCHR
		case "b":
			s.Type = unix.S_IFBLK
		case "p":
			s.Type = unix.S_IFIFO
		default:
			return nil, fmt.Errorf("device %s: type %q is none of c, b, u, p", d.Path, d.Type)
		}
		if d.Major < 0 || d.Minor < 0 || d.Major > 1<<12-1 || d.Minor > 1<<20-1 { // <linux/kdev_t.h>
			return nil, fmt.Errorf("device %s: no such number as %d:%d", d.Path, d.Major, d.Minor)
		}
		if d.FileMode != nil {
			s.Mode = uint32(d.FileMode.Perm())
		}
		if d.UID != nil {
			s.UID = *d.UID
		}
		if d.GID != nil {
			s.GID = *d.GID
		}
		if i := slices.IndexFunc(out, func(o stage.Device) bool { return o.Path == s.Path }); i >= 0 {
			out[i] = s
			continue
		}
		if s.Path == "/dev/ptmx" { // that is the link to the container's own
			continue
		}
		out = append(out, s)
	}
	for i := range out {
		out[i].Bind = bind && out[i].Type != unix.S_IFIFO
	}
	return out, nil
}

// ioPriority makes the value of ioprio_set(2): three bits of class above 13 of priority.
func ioPriority(p *specs.LinuxIOPriority) (int, error) {
	class := slices.Index([]specs.IOPriorityClass{"", specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE,
		specs.IOPRIO_CLASS_IDLE}, p.Class)
	if class < 1 {
		return 0, fmt.Errorf("I/O priority class %q is unknown", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return 0, fmt.Errorf("I/O priority %d is not within 0 and 7", p.Priority)
	}
	return class<<13 | p.Priority, nil
}

// policies of sched_setattr(2) and their numbers.
var policies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: unix.SCHED_NORMAL, specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR,
	specs.SchedBatch: unix.SCHED_BATCH,
	specs.SchedIdle:  unix.SCHED_IDLE, specs.SchedDeadline: unix.SCHED_DEADLINE,
}

var schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: unix.SCHED_FLAG_RESET_ON_FORK, specs.SchedFlagReclaim: unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun: unix.SCHED_FLAG_DL_OVERRUN, specs.SchedFlagKeepPolicy: unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams: unix.SCHED_FLAG_KEEP_PARAMS, specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

func scheduler(s *specs.Scheduler) (*unix.SchedAttr, error) {
	policy, ok := policies[s.Policy]
	if !ok {
		return nil, fmt.Errorf("scheduler policy %q is unknown", s.Policy)
	}
	out := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority), Runtime: s.Runtime,
		Deadline: s.Deadline, Period: s.Period,
	}
	for _, f := range s.Flags {
		bit, ok := schedulerFlags[f]
		if !ok {
			return nil, fmt.Errorf("scheduler flag %q is unknown", f)
		}
		out.Flags |= bit
	}
	return out, nil
}

// personality makes the argument of personality(2).
func personality(p *specs.LinuxPersonality) (*uint32, error) {
	if len(p.Flags) > 0 {
		return nil, fmt.Errorf("personality flag %q is unknown", p.Flags[0])
	}
	var n uint32
	switch p.Domain {
	case specs.PerLinux:
	case specs.PerLinux32:
		n = 8 // PER_LINUX32, <linux/personality.h>
	default:
		return nil, fmt.Errorf("personality %q is unknown", p.Domain)
	}
	return &n, nil
}
