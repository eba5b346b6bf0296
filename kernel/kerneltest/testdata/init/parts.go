package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// parts tries what containers ask of a kernel, one after the other, and says of each whether it is there.
func parts() {
	try := func(name string, err error) { say("part "+name, err) }
	try("devtmpfs", syscall.Mount("dev", "/dev", "devtmpfs", 0, ""))
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		try("filesystems", err)
	}
	for _, fs := range []string{"9p", "devpts", "erofs", "ext4", "fuse", "mqueue", "overlay", "virtiofs"} {
		var err error
		if !bytes.Contains(append([]byte{'\n'}, known...), []byte("\t"+fs+"\n")) {
			err = errors.New("not in /proc/filesystems")
		}
		try("fs "+fs, err)
	}
	for _, d := range []string{"virtio_balloon", "virtio_blk", "virtio_console", "virtio_mem", "virtio_net",
		"virtio_pmem", "virtio_rng", "virtiofs"} {
		_, err := os.Stat("/sys/bus/virtio/drivers/" + d)
		try("driver "+d, err)
	}
	for name, path := range map[string]string{
		"pci": "/sys/bus/pci/drivers/virtio-pci", "mmio": "/sys/bus/platform/drivers/virtio-mmio",
		"pciehp": "/sys/bus/pci_express/drivers/pciehp",
		"nd":     "/sys/bus/nd", "tun": "/sys/class/misc/tun", "fuse device": "/sys/class/misc/fuse",
		"loop": "/sys/class/misc/loop-control",
	} {
		_, err := os.Stat(path)
		try(name, err)
	}
	try("overlay", overlay())
	try("cgroup", cgroup())
	for _, ns := range []struct {
		name string
		flag int
	}{{"mnt", syscall.CLONE_NEWNS}, {"uts", syscall.CLONE_NEWUTS}, {"ipc", syscall.CLONE_NEWIPC},
		{"net", syscall.CLONE_NEWNET},
		{"pid", syscall.CLONE_NEWPID}, {"user", syscall.CLONE_NEWUSER}, {"cgroup", 0x02000000}} {
		try("namespace "+ns.name, child("nothing", ns.flag))
	}
	try("seccomp", child("seccomp", 0))
	try("bpf", bpf())
	try("nftables", nftables())
	for _, table := range []string{"filter", "nat", "mangle", "raw"} {
		try("iptables "+table, iptables(syscall.AF_INET, table))
		try("ip6tables "+table, iptables(syscall.AF_INET6, table))
	}
	for _, kind := range []string{"veth", "bridge", "macvlan", "dummy"} {
		try("link "+kind, link(kind))
	}
	try("dm verity", dmTargets("verity"))
	try("memory hotplug", has("/sys/devices/system/memory/auto_online_blocks", "online"))
	try("cpu hotplug", cpu())
	_, _, e := syscall.Syscall(syscall.SYS_SHMGET, 0, 4096, 0o1600)
	try("sysv ipc", is(e))
	_, err = syscall.InotifyInit1(0)
	try("inotify", err)
	_, _, e = syscall.Syscall(syscall.SYS_ADD_KEY, uintptr(unsafe.Pointer(&[]byte("user\x00")[0])),
		uintptr(unsafe.Pointer(&[]byte("k\x00")[0])), uintptr(unsafe.Pointer(&[]byte("v")[0])))
	if e == syscall.EINVAL || e == 0 { // the payload's length was left out on purpose: the call exists
		e = 0
	}
	try("keys", is(e))
}

func is(e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

func has(path, want string) error {
	got, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(got)) != want {
		err = fmt.Errorf("%s says %q, want %q", path, got, want)
	}
	return err
}

func overlay() error {
	if err := os.Mkdir("/t", 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("t", "/t", "tmpfs", 0, ""); err != nil {
		return err
	}
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir("/t/"+d, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/t/lower/f", []byte("lower"), 0o644); err != nil {
		return err
	}
	if err := syscall.Mount("o", "/t/merged", "overlay", 0,
		"lowerdir=/t/lower,upperdir=/t/upper,workdir=/t/work"); err != nil {
		return err
	}
	if err := os.WriteFile("/t/merged/f", []byte("upper"), 0o644); err != nil {
		return err
	}
	if err := has("/t/lower/f", "lower"); err != nil {
		return err
	}
	return has("/t/upper/f", "upper")
}

func cgroup() error {
	const top = "/sys/fs/cgroup"
	if err := syscall.Mount("c", top, "cgroup2", 0, ""); err != nil {
		return err
	}
	for _, c := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
		if err := os.WriteFile(top+"/cgroup.subtree_control", []byte("+"+c), 0); err != nil {
			return fmt.Errorf("controller %s: %w", c, err)
		}
	}
	if err := os.Mkdir(top+"/c", 0o755); err != nil {
		return err
	}
	for file, value := range map[string]string{"cpu.max": "50000 100000", "memory.max": "16777216", "pids.max": "9",
		"cpuset.cpus": "0", "cgroup.freeze": "0", "cpu.weight": "50"} {
		if err := os.WriteFile(top+"/c/"+file, []byte(value), 0); err != nil {
			return err
		}
		if err := has(top+"/c/"+file, value); err != nil {
			return err
		}
	}
	_, err := os.Stat(top + "/c/io.max") // throttling
	return err
}

// child runs this program again with a job, in new namespaces.
func child(job string, flags int) error {
	cmd := exec.Command("/proc/self/exe", job)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: uintptr(flags)}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// job is what a child does.
func job(name string) {
	if name != "seccomp" {
		return
	}
	runtime.LockOSThread()
	// <linux/prctl.h>, <linux/seccomp.h>
	const prSetNoNewPrivs, prSetSeccomp, modeFilter, retErrno = 38, 22, 2, 0x00050000
	type filter struct {
		code   uint16
		jt, jf uint8
		k      uint32
	}
	// getpriority(2) is EPERM, all else is allowed. <linux/filter.h>
	prog := []filter{{0x20, 0, 0, 0}, {0x15, 0, 1, syscall.SYS_GETPRIORITY}, {0x06, 0, 0, retErrno | 1},
		{0x06, 0, 0, 0x7fff0000}}
	fprog := struct {
		n      uint16
		filter *filter
	}{uint16(len(prog)), &prog[0]}
	_, _, e1 := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0)
	_, _, e2 := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetSeccomp, modeFilter, uintptr(unsafe.Pointer(&fprog)), 0,
		0, 0)
	_, _, e3 := syscall.RawSyscall(syscall.SYS_GETPRIORITY, 0, 0, 0)
	if e1 != 0 || e2 != 0 || e3 != syscall.EPERM {
		fmt.Println(e1, e2, e3)
		os.Exit(1)
	}
}

// bpf loads a program that lets a container at every device. <linux/bpf.h>
func bpf() error {
	const sysBPF, progLoad, typeCgroupDevice = 321, 5, 15
	insns := []uint64{0x00000001_000000b7, 0x95} // r0 = 1; exit
	license := []byte("GPL\x00")
	attr := struct {
		kind, count    uint32
		insns, license uint64
		rest           [13]uint64
	}{kind: typeCgroupDevice, count: uint32(len(insns)), insns: uint64(uintptr(unsafe.Pointer(&insns[0]))),
		license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	_, _, e := syscall.Syscall(sysBPF, progLoad, uintptr(unsafe.Pointer(&attr)), 48)
	runtime.KeepAlive(insns)
	runtime.KeepAlive(license)
	return is(e)
}

// netlink sends messages and returns the first error that is acknowledged.
func netlink(protocol int, b []byte) error {
	s, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW, protocol)
	if err != nil {
		return err
	}
	defer syscall.Close(s)
	if err := syscall.SetsockoptTimeval(s, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO,
		&syscall.Timeval{Sec: 5}); err != nil {
		return err
	}
	if err := syscall.Sendto(s, b, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, _, err := syscall.Recvfrom(s, buf, 0)
	if err != nil {
		return err
	}
	if n < 20 || binary.LittleEndian.Uint16(buf[4:]) != syscall.NLMSG_ERROR {
		return fmt.Errorf("an answer of %d bytes", n)
	}
	return is(syscall.Errno(-int32(binary.LittleEndian.Uint32(buf[16:]))))
}

func message(kind, flags uint16, body []byte) []byte {
	b := make([]byte, 16, 16+len(body))
	binary.LittleEndian.PutUint32(b, uint32(16+len(body)))
	binary.LittleEndian.PutUint16(b[4:], kind)
	binary.LittleEndian.PutUint16(b[6:], flags|syscall.NLM_F_REQUEST)
	binary.LittleEndian.PutUint32(b[8:], 1)
	return append(b, body...)
}

func attribute(kind uint16, value []byte) []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.LittleEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// nftables makes a table. <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>
func nftables() error {
	const netfilter, begin, end, subsystem, newTable, inet = 12, 16, 17, 10, 0, 1
	batch := []byte{0, 0, 0, subsystem}
	b := message(begin, 0, batch)
	b = append(b, message(subsystem<<8|newTable, syscall.NLM_F_CREATE|syscall.NLM_F_ACK, append([]byte{inet, 0, 0, 0},
		attribute(1, []byte("t\x00"))...))...)
	return netlink(netfilter, append(b, message(end, 0, batch)...))
}

// iptables asks for a table of the older kind. <linux/netfilter_ipv4/ip_tables.h>, struct ipt_getinfo
func iptables(family int, table string) error {
	s, err := syscall.Socket(family, syscall.SOCK_RAW, syscall.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer syscall.Close(s)
	const getInfo, size = 64, 84
	level := syscall.IPPROTO_IP
	if family == syscall.AF_INET6 {
		level = syscall.IPPROTO_IPV6
	}
	var info [size]byte
	copy(info[:31], table)
	n := uint32(size)
	_, _, e := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(s), uintptr(level), getInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&n)), 0)
	return is(e)
}

// link makes an interface of a kind. <linux/if_link.h>
func link(kind string) error {
	const newLink, linkInfo, infoKind, ifname, lower = 16, 18, 1, 3, 5
	info := attribute(infoKind, []byte(kind))
	body := make([]byte, 16) // struct ifinfomsg
	body = append(body, attribute(ifname, []byte("kb"+kind+"\x00"))...)
	switch kind {
	case "macvlan":
		i, err := os.ReadFile("/sys/class/net/kbveth/ifindex")
		if err != nil {
			return err
		}
		var index uint32
		fmt.Sscan(string(i), &index)
		body = append(body, attribute(lower, binary.LittleEndian.AppendUint32(nil, index))...)
	}
	body = append(body, attribute(linkInfo, info)...)
	return netlink(syscall.NETLINK_ROUTE, message(newLink, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL|syscall.NLM_F_ACK,
		body))
}

// dmTargets asks device-mapper for a target. <linux/dm-ioctl.h>, struct dm_ioctl
func dmTargets(want string) error {
	var major, minor int
	dev, err := os.ReadFile("/sys/class/misc/device-mapper/dev")
	if err != nil {
		return err
	}
	fmt.Sscanf(string(dev), "%d:%d", &major, &minor)
	if err := syscall.Mknod("/dm", syscall.S_IFCHR|0o600, major<<8|minor); err != nil {
		return err
	}
	f, err := os.OpenFile("/dm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	const listVersions, header = 0xc138fd0d, 312
	buf := make([]byte, 16<<10)
	binary.LittleEndian.PutUint32(buf, 4) // version 4.0.0
	binary.LittleEndian.PutUint32(buf[12:], uint32(len(buf)))
	binary.LittleEndian.PutUint32(buf[16:], header)
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), listVersions, uintptr(unsafe.Pointer(&buf[0]))); e != 0 {
		return e
	}
	if !bytes.Contains(buf[header:], []byte(want+"\x00")) {
		return fmt.Errorf("no target %s", want)
	}
	return nil
}

// cpu brings up the second processor, which the command line keeps offline.
func cpu() error {
	if err := has("/sys/devices/system/cpu/online", "0"); err != nil {
		return err
	}
	if err := os.WriteFile("/sys/devices/system/cpu/cpu1/online", []byte("1"), 0); err != nil {
		return err
	}
	for range 100 {
		if has("/sys/devices/system/cpu/online", "0-1") == nil {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return has("/sys/devices/system/cpu/online", "0-1")
}
