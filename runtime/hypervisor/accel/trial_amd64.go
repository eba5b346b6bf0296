package accel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl numbers of KVM. Linux: include/uapi/linux/kvm.h; sizes in the comments are those of the structures.
const (
	kvmGetAPIVersion       = 0xAE00     // _IO(0xAE, 0x00)
	kvmCreateVM            = 0xAE01     // _IO(0xAE, 0x01)
	kvmGetVCPUMmapSize     = 0xAE04     // _IO(0xAE, 0x04)
	kvmCreateVCPU          = 0xAE41     // _IO(0xAE, 0x41)
	kvmSetUserMemoryRegion = 0x4020AE46 // _IOW(0xAE, 0x46, 32)
	kvmRun                 = 0xAE80     // _IO(0xAE, 0x80)
	kvmSetRegs             = 0x4090AE82 // _IOW(0xAE, 0x82, 144)
	kvmGetSregs            = 0x8138AE83 // _IOR(0xAE, 0x83, 312)
	kvmSetSregs            = 0x4138AE84 // _IOW(0xAE, 0x84, 312)

	kvmAPIVersion = 12

	kvmExitIO  = 2
	kvmExitHlt = 5
)

// Sizes and offsets in bytes. struct kvm_regs has 18 u64, rip the 17th and rflags the 18th. struct kvm_sregs begins
// with the segments cs, ds, es, fs, gs, ss of 24 bytes: u64 base, u32 limit, u16 selector, ...; behind the segments,
// two tables and cr0, cr2 come cr3, cr4, cr8, efer. struct kvm_run has u32 exit_reason at 8, immediate_exit at 1, and
// for KVM_EXIT_IO at 32: u8 direction, size, u16 port, u32 count, u64 offset.
const (
	regsSize    = 18 * 8
	regsRIP     = 16 * 8
	regsRFLAGS  = 17 * 8
	sregsSize   = 312
	segmentSize = 24
	segments    = 6
	runSize     = 48 // as far as we look

	codeAt  = 0x1000
	memSize = 0x2000
)

// code is what the trial runs, in real mode: mov $0x2a,%al; mov $0x3f8,%dx; out %al,(%dx); hlt.
var code = []byte{0xb0, 0x2a, 0xba, 0xf8, 0x03, 0xee, 0xf4}

// trialTime bounds the trial.
const trialTime = time.Second

// trial runs a few instructions in a throw-away virtual machine.
func trial(kvm *os.File) error {
	done := make(chan error, 1)
	tid := make(chan int, 1)
	fd := int(kvm.Fd())
	go func() {
		runtime.LockOSThread() // signals below are for this thread
		defer runtime.UnlockOSThread()
		tid <- unix.Gettid()
		done <- runTrial(fd)
	}()
	thread := <-tid
	timer := time.NewTimer(trialTime)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	}
	// KVM_RUN returns EINTR at a signal. SIGURG is the one that Go's runtime ignores when it is not its own.
	if err := unix.Tgkill(os.Getpid(), thread, unix.SIGURG); err != nil {
		return fmt.Errorf("end a trial that does not end: %w", err)
	}
	select {
	case <-done:
	case <-time.After(trialTime):
	}
	return fmt.Errorf("nothing happened within %v", trialTime)
}

func ioctl(fd int, req, arg uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, arg)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func ioctlBytes(fd int, req uintptr, b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(&b[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

func runTrial(kvm int) error {
	if v, err := ioctl(kvm, kvmGetAPIVersion, 0); err != nil || v != kvmAPIVersion {
		return fmt.Errorf("API version %d, want %d (%v)", v, kvmAPIVersion, err)
	}
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("create a virtual machine: %w", err)
	}
	defer unix.Close(vm)
	mem, err := unix.Mmap(-1, 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	defer unix.Munmap(mem)
	copy(mem[codeAt:], code)
	// struct kvm_userspace_memory_region: u32 slot, flags; u64 guest_phys_addr, memory_size, userspace_addr.
	region := make([]byte, 32)
	binary.NativeEndian.PutUint64(region[16:], memSize)
	binary.NativeEndian.PutUint64(region[24:], uint64(uintptr(unsafe.Pointer(&mem[0]))))
	if err := ioctlBytes(vm, kvmSetUserMemoryRegion, region); err != nil {
		return fmt.Errorf("give it memory: %w", err)
	}
	vcpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("create a processor: %w", err)
	}
	defer unix.Close(vcpu)
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil || size < runSize {
		return fmt.Errorf("size of the processor's page: %d (%v)", size, err)
	}
	run, err := unix.Mmap(vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the processor's page: %w", err)
	}
	defer unix.Munmap(run)

	sregs := make([]byte, sregsSize)
	if err := ioctlBytes(vcpu, kvmGetSregs, sregs); err != nil {
		return fmt.Errorf("read registers: %w", err)
	}
	for i := range segments { // base and selector 0; what else a segment has is fit for real mode after a reset
		s := sregs[i*segmentSize:]
		binary.NativeEndian.PutUint64(s, 0)
		binary.NativeEndian.PutUint16(s[12:], 0)
	}
	if err := ioctlBytes(vcpu, kvmSetSregs, sregs); err != nil {
		return fmt.Errorf("set registers: %w", err)
	}
	regs := make([]byte, regsSize)
	binary.NativeEndian.PutUint64(regs[regsRIP:], codeAt)
	binary.NativeEndian.PutUint64(regs[regsRFLAGS:], 2) // the bit that is always 1
	if err := ioctlBytes(vcpu, kvmSetRegs, regs); err != nil {
		return fmt.Errorf("set registers: %w", err)
	}

	if err := step(vcpu, run, kvmExitIO); err != nil {
		return err
	}
	port, at := binary.NativeEndian.Uint16(run[34:]), binary.NativeEndian.Uint64(run[40:])
	if port != 0x3f8 || at >= uint64(size) || run[at] != 0x2a {
		return errors.New("it ran, and the instructions had another effect than they should")
	}
	return step(vcpu, run, kvmExitHlt)
}

// step runs until the next exit, which must be want.
func step(vcpu int, run []byte, want uint32) error {
	for {
		_, err := ioctl(vcpu, kvmRun, 0)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return fmt.Errorf("run: %w", err)
		}
		if got := binary.NativeEndian.Uint32(run[8:]); got != want {
			return fmt.Errorf("run: exit for reason %d, want %d", got, want)
		}
		return nil
	}
}
