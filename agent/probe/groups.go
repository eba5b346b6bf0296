package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container/cgroup"
)

// Where control groups are mounted, and the group that probes make there.
const (
	groups    = "/sys/fs/cgroup"
	groupName = "katabuild-probe"
)

// withGroup has f look at a group of its own, with every controller there is.
func withGroup(f func(*cgroup.Group) error) (err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(groups, &st); err != nil {
		return err
	}
	if int64(st.Type) != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s has no control groups of version 2", groups)
	}
	has, err := fields(filepath.Join(groups, "cgroup.controllers"))
	if err != nil {
		return err
	}
	control := filepath.Join(groups, "cgroup.subtree_control")
	on, err := fields(control)
	if err != nil {
		return err
	}
	for _, c := range has {
		if slices.Contains(on, c) {
			continue
		}
		if err := os.WriteFile(control, []byte("+"+c), 0); err != nil {
			return fmt.Errorf("controller %s: %w", c, err)
		}
		defer func() { err = errors.Join(err, os.WriteFile(control, []byte("-"+c), 0)) }()
	}
	g, err := cgroup.Make(groups, groupName)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Remove()) }()
	return f(g)
}

// controllers wants the files of every limit of a container.
func controllers() error {
	var m missing
	m.works("the root", lists(filepath.Join(groups, "cgroup.controllers"), "cpu", "cpuset", "io", "memory", "pids",
		"hugetlb", "misc")())
	m.works("the root", there(filepath.Join(groups, "io.cost.qos"))())
	m.works("a group", withGroup(func(g *cgroup.Group) error {
		var paths []string
		for _, name := range []string{"cpu.weight", "cpu.max", "cpuset.cpus", "io.max", "io.weight", "memory.max",
			"memory.swap.max", "pids.max", "hugetlb.*.max", "misc.max"} {
			paths = append(paths, filepath.Join(g.Path, name))
		}
		return there(paths...)()
	}))
	return m.err()
}

// deviceProgram attaches the one that containers get.
func deviceProgram() error {
	return withGroup(func(g *cgroup.Group) error {
		rules, err := cgroup.Rules(nil, nil)
		if err != nil {
			return err
		}
		var p cgroup.Programs
		defer p.Forget()
		return g.SetDevices(&p, rules)
	})
}

// groupEvents counts the processor's time of a group.
func groupEvents() error {
	return withGroup(func(g *cgroup.Group) error {
		dir, err := g.Open()
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		event := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK}
		event.Size = uint32(unsafe.Sizeof(event))
		fd, err := unix.PerfEventOpen(&event, dir, 0, -1, unix.PERF_FLAG_PID_CGROUP|unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("events of a group: %w", err)
		}
		return unix.Close(fd)
	})
}

// loadsProgram makes a map, and a program that returns 0: the two instructions are `r0 = 0` and `exit`. Linux:
// Documentation/bpf/standardization/instruction-set.rst.
func loadsProgram() error {
	var m missing
	array := struct{ kind, key, value, entries, flags uint32 }{kind: unix.BPF_MAP_TYPE_ARRAY, key: 4, value: 4,
		entries: 1}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&array)),
		unsafe.Sizeof(array))
	if errno != 0 {
		m.works("a map", errno)
		return m.err()
	}
	unix.Close(int(fd))
	code := []byte{0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0}
	license := []byte("GPL\x00")
	// The beginning of union bpf_attr for BPF_PROG_LOAD.
	program := struct {
		kind, count    uint32
		insns, license uint64
		_              [32]byte
	}{kind: unix.BPF_PROG_TYPE_SOCKET_FILTER, count: 2, insns: uint64(uintptr(unsafe.Pointer(&code[0]))),
		license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	const again = 20 // EAGAIN: a signal arrived meanwhile, such as those by which the Go runtime interrupts threads
	for range again {
		if fd, _, errno = unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&program)),
			unsafe.Sizeof(program)); errno != unix.EAGAIN {
			break
		}
	}
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if errno != 0 {
		m.works("a program", errno)
		return m.err()
	}
	return unix.Close(int(fd))
}

// jitIsFixed wants programs to be compiled, and the switch to have no other position.
func jitIsFixed() error {
	const file = "/proc/sys/net/core/bpf_jit_enable"
	if err := says(file, "1")(); err != nil {
		return err
	}
	err := os.WriteFile(file, []byte("0"), 0)
	if err == nil {
		return errors.Join(errors.New("programs can be interpreted"), os.WriteFile(file, []byte("1"), 0))
	}
	if !errors.Is(err, unix.EINVAL) && !strings.Contains(err.Error(), "read-only") {
		return err
	}
	return nil
}
