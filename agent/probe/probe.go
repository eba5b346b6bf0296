// Package probe tries what a kernel was built to do, from inside of the guest, and says what is missing.
//
// Names of probes come in, answers for the report go out. Which guest claims which probe is the builder's business
// (kernel/features/probes.go). A probe leaves nothing behind: what it changes is of a thread, a namespace or a folder
// of its own, and goes with that.
package probe

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/report"
)

// each bounds one probe. The longest, which make network interfaces or disks, take hundredths of a second on a real
// processor, and a second on an emulated one.
const each = 20 * time.Second

// Run tries what is named, one after the other, and answers in order of names, each once. guard is deferred in every
// goroutine. A probe that does not end in time is unmet, and its goroutine stays.
func Run(guard func(), names []string) []report.Probe {
	names = slices.Clone(names)
	slices.Sort(names)
	known := table(guard)
	out := []report.Probe{}
	for _, name := range slices.Compact(names) {
		try, ok := known[name]
		if !ok {
			try = func() error { return errors.New("this agent has no such probe") }
		}
		out = append(out, answer(name, bounded(guard, each, try)))
	}
	return out
}

// Names lists the probes there are, sorted.
func Names() []string {
	var names []string
	for name := range table(func() {}) {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func answer(name string, err error) report.Probe {
	p := report.Probe{Name: name, Met: err == nil}
	if err != nil {
		if p.Detail = err.Error(); p.Detail == "" {
			p.Detail = "it says nothing"
		}
		if len(p.Detail) > report.MaxDetail {
			p.Detail = strings.ToValidUTF8(p.Detail[:report.MaxDetail], "")
		}
	}
	return p
}

// bounded waits for what is tried for at most d.
func bounded(guard func(), d time.Duration, try func() error) error {
	ended := make(chan error, 1)
	go func() {
		defer guard()
		ended <- try()
	}()
	select {
	case err := <-ended:
		return err
	case <-time.After(d):
		return fmt.Errorf("it did not end within %s", d)
	}
}

// table has what is tried under each name.
func table(guard func()) map[string]func() error {
	t := threads{guard}
	return map[string]func() error{
		"9p":               all(fileSystems("9p"), virtioDrivers("9pnet_virtio")),
		"bpf":              loadsProgram,
		"bpf.jit":          jitIsFixed,
		"bpf.traffic":      t.network(trafficPrograms),
		"bpf.unprivileged": says("/proc/sys/kernel/unprivileged_bpf_disabled", "2"),
		"btf":              kernelTypes,
		"cgroups":          controllers,
		"cgroups.devices":  deviceProgram,
		"cgroups.perf":     groupEvents,
		"cgroups.pressure": pressure,
		"cifs":             fileSystems("cifs"),
		"clock.host":       there("/sys/class/ptp"),
		"clock.rtc":        all(there("/sys/class/rtc"), batteryDriver),
		"config-proof":     ownConfiguration,
		"core.calls":       t.thread(basicCalls),
		"core.clock":       fineClock,
		"core.file-systems": all(fileSystems("proc", "sysfs", "devtmpfs", "tmpfs"), there("/proc/sys/kernel/ostype",
			"/sys/class/block")),
		"core.log":       all(opens("/dev/kmsg"), says("/sys/module/printk/parameters/time", "Y")),
		"core.network":   basicSockets,
		"core.programs":  t.folder(scripts),
		"core.terminals": there("/sys/class/tty/console", "/proc/tty/drivers"),
		"core.users":     t.thread(otherUser),
		"cpu-hotplug": all(there("/sys/devices/system/cpu/hotplug/states"),
			onX86(there("/sys/bus/cpu/drivers/processor"))),
		"debug": all(there("/proc/sysrq-trigger", "/proc/dynamic_debug/control"),
			t.folder(mounts("debugfs"))),
		"dm-crypt":              all(targets("crypt", "integrity"), cipherTable),
		"dm-verity":             all(targets("verity"), lists("/proc/crypto", "sha256")),
		"erofs":                 fileSystems("erofs"),
		"ext4":                  fileSystems("ext4", "ext3", "ext2"),
		"fuse":                  t.folder(mountsFuse),
		"guest.acpi":            there("/sys/firmware/acpi", "/sys/bus/acpi"),
		"guest.another":         there("/sys/bus/platform/drivers/vmgenid"),
		"guest.pvh":             entryNote,
		"hardening.log":         says("/proc/sys/kernel/dmesg_restrict", "1"),
		"hardening.lsm":         t.folder(securityModules),
		"hardening.memory":      absent("/sys/class/mem/mem", "/sys/class/mem/port"),
		"hardening.x86":         oldCalls,
		"io-uring":              ring,
		"ipc-notify.calls":      otherCalls,
		"ipc-notify.core-dumps": there("/proc/sys/kernel/core_pattern", "/proc/self/coredump_filter"),
		"ipc-notify.formats":    t.folder(mounts("binfmt_misc")),
		"ipc-notify.statistics": all(there("/proc/self/io", "/proc/self/pagemap", "/proc/self/smaps",
			"/proc/self/task/*/children", "/proc/sys/kernel/task_delayacct"), family("TASKSTATS")),
		"ipc-notify.terminals": t.folder(pseudoTerminal),
		"ipc-notify.watch":     t.folder(watches),
		"ipset":                t.network(sets),
		"iptables.matches":     t.network(xtables("matches", matches)),
		"iptables.tables":      t.network(oldTables),
		"iptables.targets":     t.network(xtables("targets", xtTargets)),
		"ipvs":                 t.network(services),
		"kallsyms":             symbols,
		"keys":                 t.thread(keyring),
		"keys.crypto": all(there("/proc/crypto"), noCryptoSockets, listsNone("/proc/crypto",
			"jitterentropy_rng")),
		"loop": all(says("/sys/module/loop/parameters/max_loop", "0"), t.folder(loopReads)),
		"memory-hotplug": all(says("/sys/devices/system/memory/auto_online_blocks", "online"),
			says("/sys/devices/system/memory/memory0/removable", "1"),
			onX86(there("/sys/firmware/acpi/hotplug/memory"))),
		"memory-hotplug.driver": virtioDrivers("virtio_mem"),
		"memory-hotplug.pages": there("/proc/sys/vm/compact_memory",
			"/sys/module/page_reporting/parameters/page_reporting_order"),
		"memory.allocator":      there("/sys/module/page_alloc/parameters/shuffle"),
		"memory.faults":         faults,
		"memory.huge":           all(fileSystems("hugetlbfs"), there("/sys/kernel/mm/hugepages"), transparentPages),
		"memory.reclaim":        generations,
		"memory.tmpfs":          t.folder(attributes),
		"module-signing":        says("/sys/module/module/parameters/sig_enforce", "Y"),
		"modules":               all(there("/proc/modules"), removesModules),
		"namespaces":            t.thread(namespaces),
		"namespaces.ipc":        t.thread(messages),
		"net-devices":           t.network(interfaces),
		"net-protocols.diag":    socketLists,
		"net-protocols.queues":  t.network(queues),
		"net-protocols.routing": t.network(routingRules),
		"net-protocols.sockets": all(moreSockets, there("/proc/net/igmp", "/proc/sys/net/ipv4/tcp_syncookies")),
		"netfilter": all(there("/proc/net/netfilter", "/proc/net/nf_conntrack",
			"/proc/sys/net/netfilter/nf_conntrack_max",
			"/proc/sys/net/netfilter/nf_conntrack_events", "/proc/sys/net/bridge/bridge-nf-call-iptables"),
			connections),
		"nftables":             t.network(families),
		"nftables.expressions": t.network(expressions),
		"numa":                 there("/sys/devices/system/node/node0"),
		"overlay":              t.folder(overlay),
		"overlay-networks":     t.network(overlays),
		"partitions":           t.folder(partitions),
		"pci": all(there("/sys/bus/pci/devices"),
			onlyOn(there("/sys/bus/platform/drivers/pci-host-generic"), "arm64", "riscv64")),
		"pci-hotplug": all(there("/sys/bus/pci/drivers/pcieport", "/sys/bus/pci_express/drivers/pciehp")),
		"pmem": all(there("/sys/bus/nd/drivers/nd_pmem"), virtioDrivers("virtio_pmem"), lists("/proc/devices", "dax"),
			lists("/proc/zoneinfo", "Device"), onX86(either("/sys/bus/acpi/drivers/nfit",
				"/sys/bus/platform/drivers/acpi-nfit"))),
		"seccomp":  t.thread(filter),
		"selinux":  audits,
		"serial":   consoles,
		"smp":      processors,
		"squashfs": fileSystems("squashfs"),
		"vfio": all(opens("/dev/vfio/vfio"), there("/sys/bus/pci/drivers/vfio-pci",
			"/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "/sys/kernel/iommu_groups"),
			onlyOn(virtioDrivers("virtio_iommu"), "amd64", "arm64"),
			onlyOn(there("/sys/bus/platform/drivers/arm-smmu-v3"), "arm64")),
		"virtio": all(there("/sys/bus/virtio", "/sys/bus/pci/drivers/virtio-pci",
			"/sys/bus/platform/drivers/virtio-mmio",
			"/sys/module/virtio_pci/parameters/force_legacy"),
			onX86(there("/sys/module/virtio_mmio/parameters/device"))),
		"virtio-devices": all(virtioDrivers("virtio_blk", "virtio_net", "virtio_console", "virtio_rng",
			"virtio_balloon"), there("/sys/class/misc/hw_random")),
		"virtio-fs":   all(fileSystems("virtiofs"), virtioDrivers("virtiofs")),
		"virtio-scsi": all(virtioDrivers("virtio_scsi"), there("/sys/bus/scsi/drivers/sd")),
		"vsock":       all(vsocket, virtioDrivers("vmw_vsock_virtio_transport")),
		"wireguard":   t.network(tunnel),
		"xfs":         fileSystems("xfs"),
	}
}
