// Package qemu starts virtual machines in QEMU.
//
// In comes a Config value, out go a command line, which is a pure function of it, and a Process. It does not know
// what the guest is for, and waits for nothing in it.
package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/machine"
)

// Channel is where QEMU's end of a serial port, a monitor or a device's back end leads. The zero value is nowhere.
type Channel struct {
	kind channelKind
	path string
	fd   int
}

type channelKind int

const (
	nowhere channelKind = iota
	toStdio
	toSocket
	toFD
)

// stdio is QEMU's own standard input and output.
func stdio() Channel { return Channel{kind: toStdio} }

// socket is a UNIX socket that somebody listens on; QEMU connects to it.
func socket(path string) Channel { return Channel{kind: toSocket, path: path} }

// inherited is a connected socket that QEMU inherits as file descriptor fd.
func inherited(fd int) Channel { return Channel{kind: toFD, fd: fd} }

// socketPath is the path of socket, and empty for other channels.
func (c Channel) socketPath() string {
	if c.kind != toSocket {
		return ""
	}
	return c.path
}

// inheritedFile is by which path QEMU has an open file of Config.Inherited, just as it was opened and whoever may open
// it again. QEMU: docs/interop/qemu-qmp-ref, add-fd.
func inheritedFile(fd int) string { return fmt.Sprintf("/dev/fdset/%d", fd) }

// Set says whether the channel leads anywhere.
func (c Channel) Set() bool { return c.kind != nowhere }

// chardev is the value of -chardev.
func (c Channel) chardev(id string) string {
	switch c.kind {
	case toStdio:
		return "stdio,id=" + id + ",signal=off"
	case toSocket:
		return "socket,id=" + id + ",path=" + escape(c.path)
	case toFD:
		return "socket,id=" + id + ",fd=" + strconv.Itoa(c.fd)
	}
	return "null,id=" + id
}

// Vsock is the guest's vsock device. The zero value is none.
type Vsock struct {
	VhostUser Channel // our own back end
	KernelFD  int     // otherwise, when above 0, the kernel's vhost-vsock as inherited file descriptor
	CID       uint32  // with KernelFD: the guest's
}

func (v Vsock) set() bool { return v.VhostUser.Set() || v.KernelFD > 0 }

// Disk is a read-only raw disk. The zero value is none.
type Disk struct {
	Path   string // on the host
	Size   int64  // bytes; needed for an NVDIMM
	NVDIMM bool   // mapped into the guest's address space instead of read through virtio-blk; on Q35 only
	Serial string // what the guest calls it by; may be empty
}

// FileSystem is a folder of the host that the guest mounts by its tag.
type FileSystem struct {
	Tag      string
	VirtioFS Channel // to a virtiofsd that serves the folder
	Path     string  // otherwise QEMU itself serves this folder by 9p, with the files' own owners and modes
}

// NIC is a network interface of the guest.
type NIC struct {
	MAC   string // 52:54:00:12:34:56
	TapFD int    // the tap device, as inherited file descriptor
	MTU   int    // bytes, told to the guest; 0 says nothing
	// VhostUser leads to a back end that moves the packets, instead of a tap.
	VhostUser Channel
	Queues    int // pairs of queues, with VhostUser; 0 is one
	QueueSize int // buffers of a queue; 0 is QEMU's own
}

// device are the options of the interface's device that are not the same for all.
func (n NIC) device() []option {
	var out []option
	add := func(name string, value any) { out = append(out, option{name, value}) }
	if n.MTU > 0 && !n.VhostUser.Set() {
		add("host_mtu", n.MTU)
	}
	if n.VhostUser.Set() && n.Queues > 1 {
		// An interrupt for each queue, for the control queue and for changes of the configuration.
		add("mq", "on")
		add("vectors", 2*n.Queues+2)
	}
	if n.QueueSize > 0 {
		add("rx_queue_size", n.QueueSize)
		if n.VhostUser.Set() { // QEMU lets no other back end have more than 256: hw/net/virtio-net.c
			add("tx_queue_size", n.QueueSize)
		}
	}
	return out
}

// option is one of a device.
type option struct {
	name  string
	value any
}

// Root ports are the places for devices that are plugged into a running machine with PCI Express. The first is function
// 0 of this slot of the root bus, and each slot has eight functions (PCI Local Bus Specification 3.0, 3.2.2.3.4).
const (
	rootPortSlot = 0x10
	functions    = 8
	// MaxRootPorts leaves the slots below rootPortSlot to what is there from the start, and the last one, 0x1f, to the
	// chip set.
	MaxRootPorts = (0x1f - rootPortSlot) * functions
)

// rootPort is the id by which a device is plugged into the i-th root port, and the guest's PCI path of such a device,
// as the guest API wants it.
func rootPort(i int) (id, path string) {
	return fmt.Sprintf("port%d", i), fmt.Sprintf("%02x.%d/00", rootPortSlot+i/functions, i%functions)
}

// nvdimmAlign is what QEMU wants the size of an NVDIMM's memory to be a multiple of, in bytes; less would be silently
// unusable in the guest.
const nvdimmAlign = 2 << 20

// Config is one virtual machine.
type Config struct {
	Binary    string // e.g. qemu-system-x86_64
	Name      string // for people, in the list of processes; may be empty
	Arch      string // of the guest, a name of internal/arch; empty is x86_64
	Machine   Machine
	Accel     accel.Accel
	CPUs      int
	MemoryMiB int
	// MaxCPUs, MaxMemoryMiB and MemorySlots leave room for processors and DIMMs that are plugged in later, where the
	// machine can have them: see Abilities. Zeros leave none.
	MaxCPUs      int
	MaxMemoryMiB int
	MemorySlots  int
	Kernel       string // path of what the architecture's machines boot, such as a bzImage or an ELF with a PVH note
	Initrd       string // may be empty
	Disks        []Disk // in the order in which the guest numbers them
	FileSystems  []FileSystem
	NICs         []NIC
	Inherited    []int // file descriptors that have an inheritedFile
	// places for devices that are plugged in later, at most MaxRootPorts; where the machine has them
	RootPorts int
	// Passed are devices of the host, and Switch has them, and those that come later (PassLater), on a switch with
	// SwitchPorts places instead of in root ports.
	Passed      []machine.HostDevice
	PassLater   bool
	Switch      bool
	SwitchPorts int
	// IOMMU gives the guest one, which QEMU's own devices use with IOMMUPlatform.
	IOMMU, IOMMUPlatform bool

	RNG         bool   // an entropy device, fed from the host's /dev/urandom
	CommandLine string // the kernel's
	Console     Channel
	Monitor     Channel // QMP
	Second      Channel // another one, for whoever adopts the machine
	Vsock       Vsock
	// count instructions and let no time pass while waiting: the same virtual times on every run. Needs TCG and one
	// CPU.
	ICount bool
	// Template: the memory is shared, whatever is there from the start, and is the file Memory, unless that is empty.
	// Incoming waits for a state and does not run.
	Template  bool
	Memory    string
	Incoming  bool
	NoSeccomp bool // for a QEMU that was built without it
}

// parallelCPUs is how many processors a machine must be able to have for TCG to carry out memory barriers. Without them
// a back end in another process (virtiofsd, vsock) and the guest may miss each other's notifications, and wait for
// ever. QEMU before 8.1 leaves them out where there can be one processor only: accel/tcg/tcg-accel-ops-mttcg.c,
// tcg/tcg-op.c; commit c914d46d0a645e7c633292146f4e38c945d4f847 mended it.
const parallelCPUs = 2

// translationMiB is how much memory TCG may fill with translated code, in MiB, whatever the guest's size. QEMU itself
// would take up to an eighth of the host's memory, at most 1 GiB, and its own notes of each piece with it. When it is
// full all is forgotten and translated anew. docs/security.md has what was measured.
const translationMiB = 128

// argv is QEMU's command line.
func (c Config) argv() []string {
	a := []string{c.Binary}
	add := func(words ...string) { a = append(a, words...) }
	if c.Name != "" {
		add("-name", escape(c.Name))
	}
	add("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none")
	if !c.NoSeccomp {
		add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	}
	m := find(c.arch(), c.Machine)
	suffix := m.bus
	add(c.board(m)...)
	add(c.iommuArgs(m)...)
	if c.Machine == MicroVM && (c.Vsock.set() || c.RNG || len(c.Disks)+len(c.FileSystems)+len(c.NICs) > 0) {
		add("-global", "virtio-mmio.force-legacy=false")
	}
	if c.Console.Set() {
		add("-chardev", c.Console.chardev("console"), "-serial", "chardev:console")
	}
	if c.Monitor.Set() {
		add("-chardev", c.Monitor.chardev("monitor"), "-mon", "chardev=monitor,mode=control")
	}
	if c.Second.Set() {
		add("-chardev", c.Second.chardev("second"), "-mon", "chardev=second,mode=control")
	}
	switch v := c.Vsock; {
	case v.VhostUser.Set():
		add("-chardev", v.VhostUser.chardev("vsock"), "-device",
			Has(c.arch(), c.Machine).VhostUserVsock+",chardev=vsock")
	case v.KernelFD > 0:
		add("-device", fmt.Sprintf("vhost-vsock%s,guest-cid=%d,vhostfd=%d", suffix, v.CID, v.KernelFD))
	}
	for _, fd := range c.Inherited {
		add("-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, fd))
	}
	own := c.platform(suffix)
	for i, d := range c.Disks {
		add(d.args(i, own)...)
	}
	for i, f := range c.FileSystems {
		add(f.args(i, suffix, own)...)
	}
	for i, n := range c.NICs {
		add(n.args(i, suffix, own)...)
	}
	if c.RNG {
		add("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng"+own+",rng=rng")
	}
	if c.Template {
		// A new number in each machine that is restored, at which Linux seeds its random pool anew: QEMU's
		// docs/specs/vmgenid.rst. It is a device of PCs, and no other machine can be a template.
		add("-device", "vmgenid,guid=auto")
	}
	ports := c.RootPorts
	if c.Switch {
		ports++
	}
	for i := range ports {
		id, _ := rootPort(i)
		port := fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,chassis=%d,slot=%d,addr=%#x.%d", id, i+1, i+1,
			rootPortSlot+i/functions, i%functions)
		if i%functions == 0 && ports-i > 1 {
			port += ",multifunction=on"
		}
		add("-device", port)
	}
	add(c.switchArgs()...)
	add(c.passedArgs()...)
	if c.Incoming {
		add("-S", "-incoming", "defer")
	}
	add("-kernel", c.Kernel)
	if c.Initrd != "" {
		add("-initrd", c.Initrd)
	}
	return append(a, "-append", c.CommandLine)
}

// board is the machine itself: its memory, with room for what is mapped into it or plugged in, and its processors.
func (c Config) board(m model) (a []string) {
	add := func(words ...string) { a = append(a, words...) }
	word := m.word(c.Accel) + c.iommuWord(m)
	slots := 0
	for _, d := range c.Disks {
		if d.NVDIMM {
			slots++
		}
	}
	memory := fmt.Sprintf("%dM", c.MemoryMiB)
	room := int64(max(c.MemoryMiB, c.MaxMemoryMiB)) << 20
	if slots > 0 {
		word += ",nvdimm=on"
		for _, d := range c.Disks {
			if d.NVDIMM {
				// QEMU places each at a multiple of 1 GiB where it can
				room += (d.Size+nvdimmAlign-1)/nvdimmAlign*nvdimmAlign + 1<<30
			}
		}
	}
	if slots += c.MemorySlots; slots > 0 {
		memory += fmt.Sprintf(",slots=%d,maxmem=%dM", slots, room>>20)
	}
	switch {
	case c.Memory != "":
		word += ",memory-backend=memory"
		add("-object", fmt.Sprintf("memory-backend-file,id=memory,size=%dM,share=on,mem-path=%s", c.MemoryMiB,
			escape(c.Memory)))
	case c.sharesMemory():
		word += ",memory-backend=memory"
		add("-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%dM,share=on", c.MemoryMiB))
	}
	add("-machine", word)
	if c.Accel == accel.TCG {
		add("-accel", fmt.Sprintf("tcg,tb-size=%d", translationMiB))
	}
	if c.ICount {
		add("-icount", "shift=0,sleep=off")
	}
	cpu := m.cpu
	if c.Accel == accel.KVM {
		cpu = "host"
	}
	cpus := strconv.Itoa(c.CPUs)
	most := c.MaxCPUs
	if c.Accel == accel.TCG && max(c.CPUs, most) < parallelCPUs {
		most = parallelCPUs
	}
	if most > 0 {
		cpus += fmt.Sprintf(",maxcpus=%d", most)
	}
	add("-cpu", cpu, "-smp", cpus, "-m", memory)
	return a
}

func (c Config) arch() string {
	if c.Arch == "" {
		return "x86_64"
	}
	return c.Arch
}

// sharesMemory says whether other processes map the guest's memory. It is a memfd then, and never a file in /dev/shm,
// which may be small.
func (c Config) sharesMemory() bool {
	shares := c.Vsock.VhostUser.Set() || c.Template
	for _, f := range c.FileSystems {
		shares = shares || f.VirtioFS.Set()
	}
	for _, n := range c.NICs {
		shares = shares || n.VhostUser.Set()
	}
	return shares
}

// virtioFSQueue is the length of a virtio-fs queue, as virtiofsd's documentation and Kata Containers have it.
const virtioFSQueue = 1024

// args gives the guest the file system, its i-th. suffix is for devices with a back end in another process, own for
// others.
func (f FileSystem) args(i int, suffix, own string) []string {
	id := fmt.Sprintf("fs%d", i)
	if f.VirtioFS.Set() {
		return []string{
			"-chardev", f.VirtioFS.chardev(id),
			"-device", fmt.Sprintf("vhost-user-fs%s,chardev=%s,tag=%s,queue-size=%d", suffix, id, escape(f.Tag),
				virtioFSQueue),
		}
	}
	return []string{
		"-fsdev", fmt.Sprintf("local,id=%s,path=%s,security_model=passthrough,multidevs=remap", id, escape(f.Path)),
		"-device", fmt.Sprintf("virtio-9p%s,fsdev=%s,mount_tag=%s", own, id, escape(f.Tag)),
	}
}

// args gives the guest the interface, its i-th. No option ROM: nobody boots from it.
func (n NIC) args(i int, suffix, own string) []string {
	id := fmt.Sprintf("nic%d", i)
	name := own
	if n.VhostUser.Set() {
		name = suffix
	}
	device := fmt.Sprintf("virtio-net%s,netdev=%s,mac=%s", name, id, n.MAC)
	for _, o := range n.device() {
		if o.name != "vectors" || suffix == "-pci" {
			device += fmt.Sprintf(",%s=%v", o.name, o.value)
		}
	}
	if suffix == "-pci" {
		device += ",romfile="
	}
	if n.VhostUser.Set() {
		netdev := fmt.Sprintf("vhost-user,id=%s,chardev=%s", id, id)
		if n.Queues > 1 {
			netdev += fmt.Sprintf(",queues=%d", n.Queues)
		}
		return []string{"-chardev", n.VhostUser.chardev(id), "-netdev", netdev, "-device", device}
	}
	return []string{"-netdev", fmt.Sprintf("tap,id=%s,fd=%d", id, n.TapFD), "-device", device}
}

// args gives the guest the disk, its i-th.
func (d Disk) args(i int, suffix string) []string {
	id := fmt.Sprintf("disk%d", i)
	if d.NVDIMM {
		return []string{
			// Private and read-only: the guest sees the file's bytes and can change none. unarmed tells it so.
			"-object", fmt.Sprintf("memory-backend-file,id=%s-memory,mem-path=%s,size=%d,share=off,readonly=on", id,
				escape(d.Path), d.Size),
			"-device", fmt.Sprintf("nvdimm,id=%s,memdev=%s-memory,unarmed=on", id, id),
		}
	}
	device := fmt.Sprintf("virtio-blk%s,drive=%s", suffix, id)
	if d.Serial != "" {
		device += ",serial=" + escape(d.Serial)
	}
	return []string{
		// Nobody else writes the file, and a lock cannot be had on what is only readable.
		"-blockdev", fmt.Sprintf(
			"driver=raw,node-name=%s,read-only=on,file.driver=file,file.filename=%s,file.read-only=on,"+
				"file.locking=off", id, escape(d.Path)),
		"-device", device,
	}
}

// escape doubles the commas, which separate QEMU's options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
