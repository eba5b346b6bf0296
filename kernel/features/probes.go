package features

import (
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
)

// Probe is how a running guest proves a part of a feature. The agent has what is tried under its name.
type Probe struct {
	Name   string // the feature's, or that and a part
	Proves string // one line
	// Covers are the symbols, of the feature or of one that it requires, without one of which it fails.
	Covers []string
	// With are further features that it needs something of. Without them it is not claimed.
	With []string
}

// Proof is how a running guest proves a feature.
type Proof struct {
	Probes []Probe
	Why    string // why there is no probe, where there is none
}

// words splits what is easier to read without quotes.
func words(s string) []string { return strings.Fields(s) }

// Proofs has an entry for every feature, by its name. It is no part of the fragments, whose bytes are inputs of
// kernels.
func Proofs() map[string]Proof {
	all := map[string]Proof{}
	for _, part := range []map[string]Proof{baseProofs(), deviceProofs(), storageProofs(), networkProofs()} {
		for name, p := range part {
			all[name] = p
		}
	}
	return all
}

// Probes are the names of what a guest with these features claims on an architecture in a version of Linux, sorted:
// every probe that covers something which applies there.
func Probes(fs []Feature, a arch.Arch, version string) []string {
	asked, there := map[string]bool{}, map[string]bool{}
	for _, f := range fs {
		there[f.Name] = true
		for _, w := range f.Fragment.For(a.Name, version) {
			asked[w.Symbol] = true
		}
	}
	proofs := Proofs()
	var names []string
	for _, f := range fs {
		for _, p := range proofs[f.Name].Probes {
			if slices.ContainsFunc(p.Covers, func(s string) bool { return asked[s] }) &&
				!slices.ContainsFunc(p.With, func(n string) bool { return !there[n] }) {
				names = append(names, p.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// baseProofs are those of what every guest has, and of what containers are made of.
func baseProofs() map[string]Proof {
	return map[string]Proof{
		"config-proof": {Probes: []Probe{{Name: "config-proof", Proves: "/proc/config.gz unpacks to a configuration",
			Covers: words("IKCONFIG IKCONFIG_PROC")}}},
		"core": {Probes: []Probe{
			{Name: "core.calls", Proves: "the calls that run times and C libraries make without asking",
				Covers: words("FUTEX EPOLL EVENTFD SIGNALFD TIMERFD POSIX_TIMERS MEMBARRIER RSEQ ADVISE_SYSCALLS " +
					"FILE_LOCKING")},
			{Name: "core.clock", Proves: "timers of a nanosecond", Covers: words("HIGH_RES_TIMERS")},
			{Name: "core.file-systems", Proves: "proc, sysfs, devtmpfs and tmpfs are there, and sysctls",
				Covers: words("PROC_FS SYSFS DEVTMPFS TMPFS SHMEM PROC_SYSCTL SYSCTL BLOCK")},
			{Name: "core.log", Proves: "the kernel's log is read, and has stamps", Covers: words("PRINTK PRINTK_TIME")},
			{Name: "core.network", Proves: "UNIX and IP sockets", Covers: words("NET UNIX INET")},
			{Name: "core.programs", Proves: "scripts are run by their interpreter",
				Covers: words("BINFMT_ELF BINFMT_SCRIPT")},
			{Name: "core.terminals", Proves: "there are terminals", Covers: words("TTY")},
			{Name: "core.users", Proves: "a thread becomes another user", Covers: words("MULTIUSER")},
		}},
		"default": {Why: "a set: its features have probes of their own"},
		"tiny":    {Why: "a set: its features have probes of their own"},
		"bpf": {Probes: []Probe{
			{Name: "bpf", Proves: "a map is made, and a program loaded", Covers: words("BPF_SYSCALL")},
			{Name: "bpf.jit", Proves: "programs are compiled, and nobody can change that",
				Covers: words("BPF_JIT BPF_JIT_ALWAYS_ON")},
			{Name: "bpf.traffic", Proves: "filters and actions of interfaces may be programs",
				Covers: words("NET_SCHED NET_CLS_ACT NET_CLS_BPF NET_ACT_BPF"),
				With:   words("namespaces net-devices net-protocols")},
			{Name: "bpf.unprivileged", Proves: "only the privileged load programs",
				Covers: words("BPF_UNPRIV_DEFAULT_OFF")},
		}},
		"btf": {Probes: []Probe{{Name: "btf", Proves: "the kernel's types are there, and whole",
			Covers: words("DEBUG_INFO_BTF")}}},
		"cgroups": {Probes: []Probe{
			{Name: "cgroups", Proves: "a group with every controller has the files of each limit",
				Covers: words("CGROUPS MEMCG BLK_CGROUP CGROUP_SCHED CPUSETS CGROUP_PIDS CGROUP_HUGETLB CGROUP_MISC " +
					"FAIR_GROUP_SCHED CFS_BANDWIDTH BLK_DEV_THROTTLING BLK_CGROUP_IOCOST SWAP")},
			{Name: "cgroups.devices", Proves: "a program says which devices a group may open",
				Covers: words("CGROUP_BPF")},
			{Name: "cgroups.perf", Proves: "events of a group are counted", Covers: words("CGROUP_PERF PERF_EVENTS")},
			{Name: "cgroups.pressure", Proves: "pressure is measured if psi=1 asks for it, and only then",
				Covers: words("PSI_DEFAULT_DISABLED")},
		}},
		"debug": {Probes: []Probe{{Name: "debug", Proves: "debugfs is mounted; there are sysrq and dynamic debugging",
			Covers: words("DEBUG_FS MAGIC_SYSRQ DYNAMIC_DEBUG")}}},
		"hardening": {Probes: []Probe{
			{Name: "hardening.lsm", Proves: "the security modules are Landlock and Yama, and both answer",
				Covers: words("SECURITY SECURITYFS SECURITY_LANDLOCK SECURITY_YAMA")},
			{Name: "hardening.memory", Proves: "there is no way to physical memory or ports",
				Covers: words("DEVMEM DEVPORT")},
			{Name: "hardening.log", Proves: "only the privileged read the kernel's log",
				Covers: words("SECURITY_DMESG_RESTRICT")},
			{Name: "hardening.x86", Proves: "there are no old calls of x86, and no page at a fixed address",
				Covers: words("LEGACY_VSYSCALL_NONE MODIFY_LDT_SYSCALL X86_IOPL_IOPERM")},
		}},
		"initrd": {Why: "a guest with an initrd proves it by starting from it: the verdict's claim root"},
		"io-uring": {Probes: []Probe{{Name: "io-uring", Proves: "a ring is made",
			Covers: words("IO_URING")}}},
		"ipc-notify": {Probes: []Probe{
			{Name: "ipc-notify.calls", Proves: "asynchronous input and output, file handles, memory of other processes",
				Covers: words("AIO FHANDLE KCMP CROSS_MEMORY_ATTACH")},
			{Name: "ipc-notify.core-dumps", Proves: "programs that crash are dumped",
				Covers: words("COREDUMP ELF_CORE")},
			{Name: "ipc-notify.formats", Proves: "binfmt_misc is mounted", Covers: words("BINFMT_MISC")},
			{Name: "ipc-notify.statistics", Proves: "what processes wait for, read, write and hold is counted",
				Covers: words("TASKSTATS TASK_DELAY_ACCT TASK_IO_ACCOUNTING PROC_PAGE_MONITOR PROC_CHILDREN")},
			{Name: "ipc-notify.terminals", Proves: "a pseudo terminal is opened", Covers: words("UNIX98_PTYS")},
			{Name: "ipc-notify.watch", Proves: "files are watched, and opening them waits for permission",
				Covers: words("INOTIFY_USER FANOTIFY FANOTIFY_ACCESS_PERMISSIONS")},
		}},
		"kallsyms": {Probes: []Probe{{Name: "kallsyms", Proves: "/proc/kallsyms has names",
			Covers: words("KALLSYMS")}}},
		"keys": {Probes: []Probe{
			{Name: "keys", Proves: "a keyring is made", Covers: words("KEYS")},
			{Name: "keys.crypto", Proves: "no cryptography through sockets, no random numbers from timing noise",
				Covers: words("CRYPTO CRYPTO_USER_API_HASH CRYPTO_USER_API_SKCIPHER CRYPTO_JITTERENTROPY")},
		}},
		"memory": {Probes: []Probe{
			{Name: "memory.allocator", Proves: "pages are handed out in random order",
				Covers: words("SHUFFLE_PAGE_ALLOCATOR")},
			{Name: "memory.faults", Proves: "userfaultfd", Covers: words("USERFAULTFD")},
			{Name: "memory.huge", Proves: "huge pages, by hand and for those that ask",
				Covers: words("HUGETLBFS TRANSPARENT_HUGEPAGE")},
			{Name: "memory.reclaim", Proves: "pages are reclaimed by generations",
				Covers: words("LRU_GEN LRU_GEN_ENABLED")},
			{Name: "memory.tmpfs", Proves: "attributes and access lists on tmpfs",
				Covers: words("TMPFS_XATTR TMPFS_POSIX_ACL")},
		}},
		"module-signing": {Probes: []Probe{{Name: "module-signing", Proves: "only signed modules are taken",
			Covers: words("MODULE_SIG MODULE_SIG_FORCE")}}},
		"modules": {Probes: []Probe{{Name: "modules", Proves: "modules are listed and can be removed",
			Covers: words("MODULES MODULE_UNLOAD")}}},
		"namespaces": {Probes: []Probe{
			{Name: "namespaces", Proves: "a namespace of each kind is made",
				Covers: words("NAMESPACES UTS_NS TIME_NS IPC_NS USER_NS PID_NS NET_NS")},
			{Name: "namespaces.ipc", Proves: "shared memory, and queues of messages",
				Covers: words("SYSVIPC POSIX_MQUEUE")},
		}},
		"numa": {Probes: []Probe{{Name: "numa", Proves: "there are nodes", Covers: words("NUMA")}}},
		"seccomp": {Probes: []Probe{{Name: "seccomp", Proves: "a filter refuses a call",
			Covers: words("SECCOMP SECCOMP_FILTER")}}},
		"selinux": {Probes: []Probe{{Name: "selinux",
			Proves: "there is an audit socket, and SELinux where selinux=1 asks",
			Covers: words("AUDIT")}}},
		"small-code": {Why: "it changes how fast and how small code is, not what it does"},
		"smp": {Probes: []Probe{{Name: "smp", Proves: "a kernel for several processors, and for how many",
			Covers: words("SMP NR_CPUS")}}},
	}
}

// deviceProofs are those of what a machine gives its guest.
func deviceProofs() map[string]Proof {
	return map[string]Proof{
		"clock": {Probes: []Probe{
			{Name: "clock.host", Proves: "clocks that follow another one are known", Covers: words("PTP_1588_CLOCK")},
			{Name: "clock.rtc", Proves: "clocks with batteries are known, and this machine's driver is there",
				Covers: words("RTC_CLASS RTC_DRV_CMOS RTC_DRV_PL031 RTC_DRV_GENERIC RTC_DRV_GOLDFISH")},
		}},
		"cpu-hotplug": {Probes: []Probe{{Name: "cpu-hotplug", Proves: "processors come and go in known steps",
			Covers: words("HOTPLUG_CPU ACPI_PROCESSOR")}}},
		"guest": {Probes: []Probe{
			{Name: "guest.acpi", Proves: "the machine's description is read", Covers: words("ACPI")},
			{Name: "guest.another", Proves: "the driver that a restored guest is told by", Covers: words("VMGENID")},
			{Name: "guest.pvh", Proves: "the kernel says where a VMM starts it", Covers: words("PVH")},
		}},
		"memory-hotplug": {Probes: []Probe{
			{Name: "memory-hotplug", Proves: "added memory is used at once, and can be taken away",
				Covers: words(
					"MEMORY_HOTPLUG MHP_DEFAULT_ONLINE_TYPE_ONLINE_AUTO MEMORY_HOTREMOVE ACPI_HOTPLUG_MEMORY")},
			{Name: "memory-hotplug.driver", Proves: "virtio-mem has its driver", Covers: words("VIRTIO_MEM")},
			{Name: "memory-hotplug.pages", Proves: "pages move together, and free ones are given back",
				Covers: words("COMPACTION PAGE_REPORTING")},
		}},
		"pci": {Probes: []Probe{
			{Name: "pci", Proves: "there is a bus, and a plain bridge's driver where one is asked for",
				Covers: words("PCI PCI_HOST_GENERIC")}}},
		"pci-hotplug": {Probes: []Probe{{Name: "pci-hotplug", Proves: "the drivers of ports and bridges that plug",
			Covers: words("PCIEPORTBUS HOTPLUG_PCI HOTPLUG_PCI_PCIE")}}},
		"pmem": {Probes: []Probe{{Name: "pmem", Proves: "persistent memory has a bus, drivers and pages of its own",
			Covers: words("ZONE_DEVICE LIBNVDIMM BLK_DEV_PMEM VIRTIO_PMEM DAX ACPI_NFIT")}}},
		"serial": {Probes: []Probe{{Name: "serial", Proves: "every console that the command line names is one",
			Covers: words("SERIAL_8250 SERIAL_8250_CONSOLE SERIAL_8250_PNP SERIAL_AMBA_PL011 " +
				"SERIAL_AMBA_PL011_CONSOLE HVC_CONSOLE SCLP_VT220_TTY " +
				"SCLP_VT220_CONSOLE SERIAL_OF_PLATFORM")}}},
		"vfio": {Probes: []Probe{{Name: "vfio", Proves: "devices can be handed to programs, with and without an IOMMU",
			Covers: words("IOMMU_SUPPORT VFIO VFIO_PCI VFIO_NOIOMMU VIRTIO_IOMMU ARM_SMMU_V3")}}},
		"virtio": {Probes: []Probe{{Name: "virtio", Proves: "the transports have their drivers",
			Covers: words("VIRTIO_MENU VIRTIO_PCI VIRTIO_PCI_LEGACY VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES")}}},
		"virtio-devices": {Probes: []Probe{{Name: "virtio-devices", Proves: "the devices have their drivers",
			Covers: words("VIRTIO_BLK NETDEVICES NET_CORE VIRTIO_NET " +
				"VIRTIO_CONSOLE HW_RANDOM HW_RANDOM_VIRTIO VIRTIO_BALLOON")}}},
		"virtio-scsi": {Probes: []Probe{{Name: "virtio-scsi", Proves: "the controller and its disks have their drivers",
			Covers: words("SCSI BLK_DEV_SD SCSI_LOWLEVEL SCSI_VIRTIO")}}},
		"vsock": {Probes: []Probe{{Name: "vsock", Proves: "a socket, the driver, and a list of sockets",
			Covers: words("VSOCKETS VIRTIO_VSOCKETS VSOCKETS_DIAG")}}},
	}
}

// storageProofs are those of file systems and disks.
func storageProofs() map[string]Proof {
	one := func(name, proves, covers string) Proof {
		return Proof{Probes: []Probe{{Name: name, Proves: proves, Covers: words(covers)}}}
	}
	return map[string]Proof{
		"9p":   one("9p", "the file system and its driver", "NETWORK_FILESYSTEMS NET_9P NET_9P_VIRTIO 9P_FS"),
		"cifs": one("cifs", "the file system", "NETWORK_FILESYSTEMS CIFS"),
		"dm-crypt": one("dm-crypt", "the targets, and a table that names a cipher",
			"MD BLK_DEV_DM DM_CRYPT DM_INTEGRITY CRYPTO CRYPTO_AES CRYPTO_XTS"),
		"dm-verity": one("dm-verity", "the target, and its hash", "MD BLK_DEV_DM DM_VERITY CRYPTO CRYPTO_SHA256"),
		"erofs":     one("erofs", "the file system", "MISC_FILESYSTEMS EROFS_FS"),
		"ext4":      one("ext4", "the file system, which is ext2 and ext3 as well", "EXT4_FS EXT4_USE_FOR_EXT2"),
		"fuse":      one("fuse", "a file system of a program is mounted", "FUSE_FS"),
		"loop": one("loop", "a file is read as a disk, and there is none before somebody asks",
			"BLK_DEV_LOOP BLK_DEV_LOOP_MIN_COUNT"),
		"overlay": one("overlay", "two folders are mounted as one", "OVERLAY_FS"),
		"partitions": {Probes: []Probe{{Name: "partitions", Proves: "the tables of a disk are read",
			Covers: words("MSDOS_PARTITION EFI_PARTITION"), With: words("loop")}}},
		"squashfs":      one("squashfs", "the file system", "MISC_FILESYSTEMS SQUASHFS"),
		"virtio-fs":     one("virtio-fs", "the file system and its driver", "VIRTIO_FS"),
		"virtio-fs-dax": {Why: "a guest says so only of a folder that the host shares with a window"},
		"xfs":           one("xfs", "the file system", "XFS_FS"),
	}
}

// networkProofs are those of interfaces, protocols and filters. Most are tried in a namespace of their own.
func networkProofs() map[string]Proof {
	own := words("namespaces") // which what is tried needs
	return map[string]Proof{
		"ipset": {Probes: []Probe{{Name: "ipset", Proves: "the types of sets, and the match",
			Covers: words("IP_SET IP_SET_BITMAP_PORT IP_SET_HASH_IP IP_SET_HASH_IPPORT IP_SET_HASH_IPPORTIP " +
				"IP_SET_HASH_IPPORTNET IP_SET_HASH_NET IP_SET_HASH_NETPORT IP_SET_LIST_SET NETFILTER_XT_SET"),
			With: own}}},
		"iptables": {Probes: []Probe{
			{Name: "iptables.matches", Proves: "the matches, of both protocols", With: own,
				Covers: words("NETFILTER_XT_CONNMARK NETFILTER_XT_MARK NETFILTER_XT_MATCH_ADDRTYPE " +
					"NETFILTER_XT_MATCH_COMMENT NETFILTER_XT_MATCH_CONNTRACK NETFILTER_XT_MATCH_PHYSDEV " +
					"NETFILTER_XT_MATCH_RECENT NETFILTER_XT_MATCH_STATISTIC NETFILTER_XT_MATCH_MULTIPORT " +
					"NETFILTER_XT_MATCH_OWNER NETFILTER_XT_MATCH_CGROUP NETFILTER_XT_MATCH_LIMIT " +
					"NETFILTER_XT_MATCH_HASHLIMIT NETFILTER_XT_MATCH_CONNLIMIT NETFILTER_XT_MATCH_IPRANGE " +
					"NETFILTER_XT_MATCH_MAC NETFILTER_XT_MATCH_MARK NETFILTER_XT_MATCH_PKTTYPE " +
					"NETFILTER_XT_MATCH_SOCKET NETFILTER_XT_MATCH_STATE NETFILTER_XT_MATCH_STRING " +
					"NETFILTER_XT_MATCH_TCPMSS NETFILTER_XT_MATCH_U32 NETFILTER_XT_MATCH_BPF")},
			{Name: "iptables.tables", Proves: "the tables, of both protocols", With: own,
				Covers: words(
					"NETFILTER_XTABLES_LEGACY IP_NF_IPTABLES_LEGACY IP6_NF_IPTABLES_LEGACY NETFILTER_XTABLES " +
						"IP_NF_IPTABLES IP_NF_FILTER IP_NF_NAT IP_NF_MANGLE IP_NF_RAW IP6_NF_IPTABLES IP6_NF_FILTER " +
						"IP6_NF_NAT IP6_NF_MANGLE IP6_NF_RAW")},
			{Name: "iptables.targets", Proves: "the targets, of both protocols", With: own,
				Covers: words("IP_NF_TARGET_REJECT IP6_NF_TARGET_REJECT NETFILTER_XT_MARK NETFILTER_XT_CONNMARK " +
					"NETFILTER_XT_NAT NETFILTER_XT_TARGET_MASQUERADE NETFILTER_XT_TARGET_REDIRECT " +
					"NETFILTER_XT_TARGET_LOG NETFILTER_XT_TARGET_TPROXY NETFILTER_XT_TARGET_TCPMSS " +
					"NETFILTER_XT_TARGET_CT NETFILTER_XT_TARGET_NFLOG NETFILTER_XT_TARGET_CHECKSUM")},
		}},
		"ipvs": {Probes: []Probe{{Name: "ipvs", Proves: "a service of each scheduler", With: own,
			Covers: words("IP_VS IP_VS_RR IP_VS_WRR IP_VS_SH IP_VS_LC IP_VS_NFCT NETFILTER_XT_MATCH_IPVS")}}},
		"net-devices": {Probes: []Probe{{Name: "net-devices", Proves: "an interface of each kind is made", With: own,
			Covers: words("NETDEVICES NET_CORE VETH BRIDGE MACVLAN MACVTAP TUN DUMMY VLAN_8021Q")}}},
		"overlay-networks": {Probes: []Probe{{Name: "overlay-networks", With: own,
			Proves: "a network over another is made, and a bridge with networks of its own",
			Covers: words("VXLAN BRIDGE_VLAN_FILTERING")}}},
		"net-protocols": {Probes: []Probe{
			{Name: "net-protocols.diag", Proves: "sockets of each family are listed",
				Covers: words("PACKET_DIAG UNIX_DIAG INET_DIAG INET_UDP_DIAG NETLINK_DIAG")},
			{Name: "net-protocols.queues", Proves: "queues, filters and actions of interfaces",
				Covers: words(
					"NET_SCHED NET_SCH_INGRESS NET_SCH_TBF NET_SCH_HTB NET_SCH_FQ NET_SCH_FQ_CODEL NET_CLS_ACT " +
						"NET_CLS_U32 NET_CLS_MATCHALL NET_ACT_MIRRED NET_ACT_GACT"),
				With: words("namespaces net-devices")},
			{Name: "net-protocols.routing", Proves: "rules choose between routing tables", With: own,
				Covers: words("IP_ADVANCED_ROUTER IP_MULTIPLE_TABLES IPV6_MULTIPLE_TABLES")},
			{Name: "net-protocols.sockets", Proves: "version 6, raw packets, multicast, SYN cookies",
				Covers: words("IPV6 PACKET IP_MULTICAST SYN_COOKIES")},
		}},
		"netfilter": {Probes: []Probe{{Name: "netfilter",
			Proves: "connections are tracked and listed, bridges filtered",
			Covers: words("NETFILTER NF_CONNTRACK NF_CONNTRACK_PROCFS NF_CONNTRACK_EVENTS NF_CT_NETLINK BRIDGE " +
				"BRIDGE_NETFILTER")}}},
		"nftables": {Probes: []Probe{
			{Name: "nftables", Proves: "a table of each family", With: own,
				Covers: words("NF_TABLES NF_TABLES_INET NF_TABLES_NETDEV NF_TABLES_IPV4 NF_TABLES_IPV6 NF_TABLES_ARP " +
					"NF_TABLES_BRIDGE")},
			{Name: "nftables.expressions", Proves: "the expressions", With: own,
				Covers: words(
					"NFT_NUMGEN NFT_CT NFT_CONNLIMIT NFT_LOG NFT_LIMIT NFT_MASQ NFT_REDIR NFT_NAT NFT_QUOTA " +
						"NFT_REJECT NFT_HASH NFT_FIB_IPV4 NFT_FIB_IPV6 NFT_FIB_INET NFT_TPROXY NFT_SOCKET " +
						"NFT_BRIDGE_REJECT NFT_COMPAT")},
		}},
		"wireguard": {Probes: []Probe{{Name: "wireguard", Proves: "a tunnel is made", With: own,
			Covers: words("NETDEVICES NET_CORE WIREGUARD")}}},
	}
}
