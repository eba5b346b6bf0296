package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/finding"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
)

// qemuVersion is the first line of qemu-system-x86_64 --version.
var qemuVersion = regexp.MustCompile(`QEMU emulator version (\d+)\.(\d+)(\.\d+)?`)

// minQEMU is the oldest major version with what we ask for: memory-backend= of machines on every architecture came in
// 5.0, vhost-user-vsock in 5.1, the machine microvm with ACPI in 5.2. QEMU's change logs.
const minQEMU, minQEMUMinor = 5, 2

func (c *checker) qemu(ctx context.Context) {
	const name = "QEMU"
	program := c.cfg.VM.Path
	if program == "" {
		program = c.arch.QEMU
	}
	wayOut := "install it (Debian: " + qemuPackage(c.arch) + ")"
	if !c.machineOnly {
		wayOut += ", or name one as path in [hypervisor.qemu]"
	}
	missing := func(format string, args ...any) {
		c.say(finding.Missing, name, wayOut, format, args...).Packages = []string{qemuPackage(c.arch)}
	}
	path, err := c.host.Find(program)
	if err != nil {
		missing("%v", err)
		return
	}
	out, err := c.host.Output(ctx, path, "--version")
	if err != nil {
		missing("%s --version: %v: %.200s", path, err, out)
		return
	}
	v := qemuVersion.FindStringSubmatch(string(out))
	if v == nil {
		missing("%s does not say that it is QEMU: %.100q", path, out)
		return
	}
	major, _ := strconv.Atoi(v[1]) // digits; what is too large is large
	minor, _ := strconv.Atoi(v[2])
	version := strings.TrimPrefix(v[0], "QEMU emulator version ")
	if major < minQEMU || major == minQEMU && minor < minQEMUMinor {
		missing("%s is version %s, which is older than %d.%d", path, version, minQEMU, minQEMUMinor)
		return
	}
	lacks := c.lacks(ctx, path)
	if len(lacks) > 0 {
		missing("%s, version %s, has no %s", path, version, strings.Join(lacks, ", no "))
		return
	}
	c.say(finding.Fine, name, "", "%s, version %s", path, version)
	c.templates(ctx, path)
	c.isolation(path)
}

// templates asks QEMU for what templates have besides, where there are to be some.
func (c *checker) templates(ctx context.Context, path string) {
	if f := c.cfg.Factory; !f.EnableTemplate && f.VMCacheNumber == 0 || c.machine() != qemu.Q35 {
		return
	}
	out, err := c.host.Output(ctx, path, "-machine", string(qemu.Q35), "-device", "help")
	if err != nil || !strings.Contains(string(out), `"vmgenid"`) {
		c.say(finding.Optional, "templates", "install a QEMU that has it, or turn enable_template and "+
			"vm_cache_number off", "%s has no device vmgenid, which guests are saved with; they boot", path)
	}
}

// isolation says what a guest that has taken over QEMU would find missing between itself and the host.
func (c *checker) isolation(program string) {
	const name = "isolation of QEMU"
	if c.system().UID != 0 {
		return // there is none, and what this user may not do is told elsewhere
	}
	q := qemu.Config{}
	if choice, err := accel.Choose(c.cfg.VM.Acceleration, c.system().Accel); err == nil {
		q.Accel = choice.Accel
	}
	if c.cfg.VM.SharedFS == config.Shared9P {
		q.FileSystems = []qemu.FileSystem{{}}
	}
	w := qemu.Isolation(q)
	missing, err := c.host.Isolated(w, program, "--version")
	switch {
	case err != nil:
		c.say(finding.Missing, name, "see docs/security.md: all that QEMU needs has to be below /usr, or beside its "+
			"program",
			"%s does not run isolated: %v", program, err)
	case len(missing) > 0:
		c.say(finding.Optional, name, "see docs/security.md", "QEMU lacks %s", strings.Join(missing, "; "))
	default:
		c.say(finding.Fine, name, "", "a user of its own, no capabilities, namespaces")
	}
}

func qemuPackage(a arch.Arch) string {
	if a.QEMUPackage == "" {
		return "qemu-system" // an architecture that the table has not
	}
	return a.QEMUPackage
}

// lacks asks QEMU for the machine and the devices of a pod.
func (c *checker) lacks(ctx context.Context, path string) []string {
	machine := c.machine()
	if machine == "" {
		return nil // it is the guest's, which is another finding
	}
	a := c.arch
	if !slices.Contains(qemu.Machines(a.Name), machine) {
		return []string{fmt.Sprintf("machine %s for %s guests", machine, a.Name)}
	}
	has := qemu.Has(a.Name, machine)
	suffix := has.Bus
	var lacks []string
	if out, err := c.host.Output(ctx, path, "-machine", "help"); err != nil || !hasWord(out, string(machine)) {
		lacks = append(lacks, fmt.Sprintf("machine %s", machine))
	}
	want := []string{has.VhostUserVsock, "virtio-rng" + suffix, "virtio-net" + suffix}
	switch c.cfg.VM.SharedFS {
	case config.SharedVirtioFS:
		want = append(want, "vhost-user-fs"+suffix)
	case config.Shared9P:
		want = append(want, "virtio-9p"+suffix)
	}
	out, err := c.host.Output(ctx, path, "-machine", string(machine), "-device", "help")
	for _, d := range want {
		if err != nil || !strings.Contains(string(out), `"`+d+`"`) {
			lacks = append(lacks, "device "+d)
		}
	}
	return lacks
}

func hasWord(b []byte, w string) bool { return slices.Contains(strings.Fields(string(b)), w) }

// machine is the configuration's, or the guest's; empty where neither says.
func (c *checker) machine() qemu.Machine {
	if c.cfg.VM.MachineType != "" {
		return c.cfg.VM.MachineType
	}
	if c.guest == nil {
		return ""
	}
	m, err := qemu.DefaultKind(c.arch, c.guest.Boot.Machine)
	if err != nil {
		return ""
	}
	return m
}

func (c *checker) acceleration(context.Context) {
	const name = "KVM"
	choice, err := accel.Choose(c.cfg.VM.Acceleration, c.system().Accel)
	switch {
	case c.cfg.Hypervisor != config.HypervisorQEMU && (err != nil || choice.Accel != accel.KVM):
		why := choice.Reason
		if err != nil {
			why = err.Error()
		}
		c.say(finding.Missing, name, kvmWayOut(c.system().Accel)+", or use [hypervisor.qemu], which emulates",
			"%s does not emulate: %s", peopleName(c.cfg.Hypervisor), why)
		return
	case err != nil:
		c.say(finding.Missing, name, kvmWayOut(c.system().Accel)+
			`, or set acceleration = "auto" to emulate, many times slower`, "%v", err)
		return
	case choice.Accel == accel.KVM:
		c.say(finding.Fine, name, "", "%s", choice.Reason)
	case c.cfg.VM.Acceleration == accel.OnlyTCG:
		c.say(finding.Optional, name, `set acceleration = "auto" to use KVM where it works`, "not used: %s",
			choice.Reason)
	default:
		c.say(finding.Optional, name, kvmWayOut(c.system().Accel), "%s; guests run, many times slower", choice.Reason)
	}
	c.accel = choice.Accel
}

func kvmWayOut(f accel.Facts) string {
	switch {
	case f.GuestArch != f.HostArch:
		return "build the guest for " + f.HostArch
	case errors.Is(f.Open, fs.ErrPermission):
		return "run it as root"
	case f.Open != nil:
		return "switch virtualisation on in the firmware and load the module (modprobe kvm_intel or kvm_amd)"
	case f.HostArch == "x86_64" && !slices.Contains(f.CPUFlags, "vmx") && !slices.Contains(f.CPUFlags, "svm"):
		return "switch virtualisation on in the firmware; in a virtual machine, nested virtualisation on its host"
	}
	return "see the kernel's log (dmesg | grep kvm)"
}

func (c *checker) vsock(context.Context) {
	const device = "/dev/vhost-vsock"
	if err := c.host.Device(device); err != nil {
		c.say(finding.Optional, "vhost-vsock", "none needed", "%s; the runtime's own back end is used instead",
			pathless(device, err))
		return
	}
	c.say(finding.Fine, "vhost-vsock", "", "%s opens", device)
}

func pathless(path string, err error) string {
	var perr *fs.PathError
	if errors.As(err, &perr) {
		err = perr.Err
	}
	return fmt.Sprintf("%s: %v", path, err)
}

func (c *checker) memfd(context.Context) {
	if err := c.system().Memfd; err != nil {
		c.say(finding.Missing, "memfd", "use a kernel with CONFIG_MEMFD_CREATE, and a seccomp profile that allows "+
			"memfd_create", "%v", err)
		return
	}
	c.say(finding.Fine, "memfd", "", "memory can be sealed and shared")
}

// memory compares what is free with one guest.
func (c *checker) memory(context.Context) {
	need, cpus := c.cfg.VM.DefaultMemoryMiB, 0
	if g := c.guest; g != nil {
		need, cpus = cmp.Or(need, g.Boot.MemoryMiB), c.cfg.VM.VCPUs(g.Boot.CPUs, runtime.NumCPU())
	}
	b, err := c.host.Read("/proc/meminfo")
	free, ok := meminfo(b, "MemAvailable")
	switch {
	case err != nil:
		c.say(finding.Optional, "memory", "mount /proc", "%v", err)
	case !ok:
		c.say(finding.Optional, "memory", "use Linux 3.14 or newer", "/proc/meminfo has no MemAvailable")
	case need > 0 && free>>20 < int64(need):
		c.say(finding.Optional, "memory", "lower default_memory, or end something",
			"%d MiB are available, fewer than the %d MiB of one guest", free>>20, need)
	case need == 0:
		c.say(finding.Fine, "memory", "", "%d MiB are available", free>>20)
	default:
		c.say(finding.Fine, "memory", "", "%d MiB are available; a pod without limits has %d MiB and %d CPUs",
			free>>20, need,
			cpus)
	}
}

// meminfo is a value of /proc/meminfo, in bytes. proc(5): the unit is KiB.
func meminfo(b []byte, name string) (int64, bool) {
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && k == name {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return n << 10, err == nil && n >= 0 && n < 1<<50
		}
	}
	return 0, false
}
