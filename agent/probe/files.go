package probe

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/internal/elfnote"
	"github.com/katabuild/katabuild/internal/gpt"
)

// ownConfiguration reads the beginning of the kernel's own.
func ownConfiguration() error {
	f, err := os.Open("/proc/config.gz")
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	b := make([]byte, 4096)
	if _, err := io.ReadFull(z, b); err != nil {
		return err
	}
	if !bytes.Contains(b, []byte("\nCONFIG_")) {
		return errors.New("/proc/config.gz is no configuration")
	}
	return nil
}

// kernelTypes wants the kernel's own types. Linux, Documentation/bpf/btf.rst: a header begins with a magic number, a
// version, flags and its own size, then the places and sizes of types and names behind it.
func kernelTypes() error {
	b, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil {
		return err
	}
	const magic, size = 0xeb9f, 24
	n := func(at int) uint64 { return uint64(binary.NativeEndian.Uint32(b[at:])) }
	if len(b) < size || binary.NativeEndian.Uint16(b) != magic {
		return fmt.Errorf("/sys/kernel/btf/vmlinux: %d bytes without types", len(b))
	}
	names := n(4) + n(16)
	if n(12) == 0 || names+n(20) > uint64(len(b)) || !bytes.Contains(b[names:], []byte("\x00task_struct\x00")) {
		return errors.New("/sys/kernel/btf/vmlinux: no types of the kernel")
	}
	return nil
}

// batteryDriver wants the driver of the machine's clock, where QEMU's machines have one.
func batteryDriver() error {
	switch runtime.GOARCH {
	case "amd64":
		return either("/sys/bus/pnp/drivers/rtc_cmos", "/sys/bus/platform/drivers/rtc_cmos")()
	case "arm64":
		return there("/sys/bus/amba/drivers/rtc-pl031")()
	case "ppc64le":
		return there("/sys/bus/platform/drivers/rtc-generic")()
	case "riscv64":
		return there("/sys/bus/platform/drivers/goldfish_rtc")()
	}
	return nil
}

// entryNote wants the note that says where a VMM starts the kernel.
func entryNote() error {
	b, err := os.ReadFile("/sys/kernel/notes")
	if err != nil {
		return err
	}
	if notes, _ := elfnote.Parse(b, binary.NativeEndian); !notes.PVH() { // what was read before damage counts
		return errors.New("/sys/kernel/notes has none")
	}
	return nil
}

// pressure is measured if the command line says so, and only then.
func pressure() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	_, err = os.Stat("/proc/pressure")
	want := slices.Contains([]string{"1", "y", "Y", "on"}, wordOf(string(line), "psi"))
	if want != (err == nil) {
		return fmt.Errorf("/proc/pressure is there: %v, and psi=1 asks for it: %v", err == nil, want)
	}
	return nil
}

// symbols wants names of functions.
func symbols() error {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 4096)
	n, err := io.ReadAtLeast(f, b, 64)
	if err != nil || !bytes.Contains(b[:n], []byte(" T ")) {
		return fmt.Errorf("/proc/kallsyms has no names: %w", err)
	}
	return nil
}

// transparentPages wants huge pages for those that ask. The kernel switches them off by itself where there is little
// memory: Linux, mm/huge_memory.c, hugepage_init.
func transparentPages() error {
	const file, little = "/sys/kernel/mm/transparent_hugepage/enabled", 512 << 20
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	want := "[madvise]"
	if uint64(info.Totalram)*uint64(info.Unit) < little {
		want = "madvise"
		if lists(file, "[never]")() == nil {
			return nil
		}
	}
	return lists(file, want)()
}

// generations wants the newer page reclaim to be switched on: bit 0 of what its file says, in hexadecimal.
func generations() error {
	const file = "/sys/kernel/mm/lru_gen/enabled"
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 0, 32); err != nil || n&1 == 0 {
		return fmt.Errorf("%s says %q", file, b)
	}
	return nil
}

// consoleNames begin those of the drivers that features ask for.
var consoleNames = [...]string{"ttyS", "ttyAMA", "hvc", "ttysclp"}

// consoles wants each console of the command line that is one of ours, and the driver of the machine's port.
func consoles() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	have, err := fields("/proc/consoles")
	if err != nil {
		return err
	}
	var m missing
	for w := range strings.FieldsSeq(string(line)) {
		name, ok := strings.CutPrefix(w, "console=")
		name, _, _ = strings.Cut(name, ",")
		ours := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if ok && slices.ContainsFunc(consoleNames[:], ours) && !slices.Contains(have, name) {
			m = append(m, name+" is no console")
		}
	}
	switch runtime.GOARCH {
	case "amd64":
		m.works("driver", there("/sys/bus/pnp/drivers/serial", "/sys/bus/platform/drivers/serial8250")())
	case "riscv64":
		m.works("driver", there("/sys/bus/platform/drivers/of_serial")())
	case "arm64":
		m.works("driver", there("/sys/bus/amba/drivers/uart-pl011")())
	}
	return m.err()
}

// processors wants a kernel for several, and for as many as smp.config of every architecture says.
func processors() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	var m missing
	if v := unix.ByteSliceToString(u.Version[:]); !slices.Contains(strings.Fields(v), "SMP") {
		m = append(m, fmt.Sprintf("the version %q does not say SMP", v))
	}
	m.works("number of processors", says("/sys/devices/system/cpu/kernel_max", "255")())
	return m.err()
}

// mounts mounts a file system that needs no device.
func mounts(kind string) func(string) error {
	return func(dir string) error {
		at := filepath.Join(dir, "mounted")
		if err := os.Mkdir(at, 0o700); err != nil {
			return err
		}
		if err := unix.Mount(kind, at, kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", kind, err)
		}
		return nil
	}
}

func securityModules(dir string) error {
	if err := mounts("securityfs")(dir); err != nil {
		return err
	}
	var m missing
	m.works("security modules", lists(filepath.Join(dir, "mounted", "lsm"), "landlock", "yama")())
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version); errno != 0 {
		m.works("landlock", errno)
	}
	m.works("yama", there("/proc/sys/kernel/yama/ptrace_scope")())
	return m.err()
}

func pseudoTerminal(dir string) error {
	if err := unix.Mount("devpts", dir, "devpts", 0, "newinstance,ptmxmode=0600"); err != nil {
		return fmt.Errorf("mount devpts: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "ptmx"), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPTN)
	return err
}

// attributes sets those that image layers bring along.
func attributes(dir string) error {
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	var m missing
	m.works("an attribute", unix.Setxattr(file, "trusted.katabuild", []byte("x"), 0))
	// <linux/posix_acl_xattr.h>: a version, then entries of tag, permissions and id, all little-endian. It says what
	// the mode above says.
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][2]uint16{{1, 6}, {4, 4}, {0x20, 4}} { // the owner, the group, others
		acl = binary.LittleEndian.AppendUint16(acl, e[0])
		acl = binary.LittleEndian.AppendUint16(acl, e[1])
		acl = binary.LittleEndian.AppendUint32(acl, 1<<32-1)
	}
	m.works("an access list", unix.Setxattr(file, "system.posix_acl_access", acl, 0))
	return m.err()
}

// mountsFuse mounts one whose program never answers, and nobody asks.
func mountsFuse(dir string) error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	at := filepath.Join(dir, "mounted")
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("katabuild-probe", at, "fuse", 0,
		fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())); err != nil {
		return fmt.Errorf("mount fuse: %w", err)
	}
	return unix.Unmount(at, unix.MNT_DETACH)
}

func overlay(dir string) error {
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lower", "below"), nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount("overlay", filepath.Join(dir, "merged"), "overlay", 0,
		fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "merged", "above"), nil, 0o600); err != nil {
		return err
	}
	return there(filepath.Join(dir, "merged", "below"), filepath.Join(dir, "upper", "above"))()
}

// withLoop has f look at a file as a disk, which goes when f ends.
func withLoop(file string, f func(name string, disk *os.File) error) (err error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	back, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer back.Close()
	const tries = 5 // somebody else may take the same one
	for range tries {
		var n int
		if n, err = unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE); err != nil {
			return fmt.Errorf("a free loop device: %w", err)
		}
		name := fmt.Sprintf("loop%d", n)
		var disk *os.File
		if disk, err = os.OpenFile("/dev/"+name, os.O_RDWR, 0); err != nil {
			return err
		}
		config := unix.LoopConfig{Fd: uint32(back.Fd())}
		config.Info.Flags = unix.LO_FLAGS_PARTSCAN
		if err = unix.IoctlLoopConfigure(int(disk.Fd()), &config); err != nil {
			_ = disk.Close()
			continue
		}
		err = f(name, disk)
		_, errClear := unix.IoctlRetInt(int(disk.Fd()), unix.LOOP_CLR_FD)
		err = errors.Join(err, errClear, disk.Close())
		// Somebody else may have it by now, who keeps it.
		_ = unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, n)
		return err
	}
	return fmt.Errorf("a file as a loop device: %w", err)
}

func loopReads(dir string) error {
	file, want := filepath.Join(dir, "disk"), bytes.Repeat([]byte("katabuild"), 8192)[:65536]
	if err := os.WriteFile(file, want, 0o600); err != nil {
		return err
	}
	return withLoop(file, func(name string, disk *os.File) error {
		got := make([]byte, len(want))
		if _, err := disk.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%s reads otherwise than its file: %w", name, err)
		}
		return nil
	})
}

// partitions has the kernel read a table of either kind.
func partitions(dir string) error {
	const sectors = 2048
	kind := gpt.MustGUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4") // data of Linux
	start, end := gpt.Table{Disk: kind, Sectors: sectors, Entries: []gpt.Entry{
		{Type: kind, ID: kind, First: 1024, Last: 1535, Name: "probe"}}}.Bytes()
	dos := make([]byte, gpt.SectorSize)
	gpt.PutRecord(dos[gpt.RecordsAt:], 0x83, 1024, 512)
	gpt.PutMark(dos)
	var m missing
	for name, parts := range map[string][2][]byte{"GPT": {start, end}, "MBR": {dos, nil}} {
		disk := make([]byte, sectors*gpt.SectorSize)
		copy(disk, parts[0])
		copy(disk[len(disk)-len(parts[1]):], parts[1])
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, disk, 0o600); err != nil {
			return err
		}
		m.works(name, withLoop(file, func(loop string, _ *os.File) error {
			return says("/sys/class/block/"+loop+"p1/size", "512")()
		}))
	}
	return m.err()
}

// targets wants those of the device-mapper.
func targets(want ...string) func() error {
	return func() error {
		c, err := devmapper.Open("/")
		if err != nil {
			return err
		}
		defer c.Close()
		have, err := c.Targets()
		if err != nil {
			return err
		}
		var m missing
		for _, w := range want {
			if !slices.Contains(have, w) {
				m = append(m, "the device-mapper has no target "+w)
			}
		}
		return m.err()
	}
}

// cipherTable makes an encrypted disk above one of errors, which nobody reads.
func cipherTable() (err error) {
	c, err := devmapper.Open("/")
	if err != nil {
		return err
	}
	defer c.Close()
	const below, above, size = "katabuild-probe-error", "katabuild-probe-crypt", 1 << 20
	gone := func(name string) { err = errors.Join(err, c.Remove(name)) }
	disk, err := c.Create(below, devmapper.Target{Type: "error", Size: size})
	if disk != (devmapper.Device{}) {
		defer gone(below)
	}
	if err != nil {
		return err
	}
	key := strings.Repeat("0123456789abcdef", 4) // of two halves, which differ for no cipher's sake
	crypt, err := c.Create(above, devmapper.Target{Type: "crypt", Size: size,
		Params: fmt.Sprintf("aes-xts-plain64 %s 0 %s 0", key+strings.Repeat("fedcba9876543210", 4), disk)})
	if crypt != (devmapper.Device{}) {
		defer gone(above)
	}
	return err
}
