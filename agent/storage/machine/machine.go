// Package machine turns on processors and memory that were plugged in, and sets the guest's clock and randomness.
//
// Requests of the host go in; sysfs and the kernel do them. A request that was not met in time is an error that says
// how far it got.
package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Processors appear one by one after they were plugged in. The times are those of Kata Containers: 100 looks, 50 ms
// apart.
const (
	pollEvery = 50 * time.Millisecond
	pollFor   = 5 * time.Second
)

// maxEntropy is more than any host has reason to send.
const maxEntropy = 64 << 10

// errTimeout says that fewer processors came than were to be online. It wraps context.DeadlineExceeded.
var errTimeout = fmt.Errorf("not online in time: %w", context.DeadlineExceeded)

// Machine is this guest's hardware.
type Machine struct {
	Root string        // where sys and dev are found; empty is "/"
	Poll time.Duration // how long processors may take; 0 is 5 s
}

func (m Machine) path(p string) string { return filepath.Join("/", m.Root, p) }

// OnlineCPUMem turns on processors until cpus are online, 0 being whatever there is, and memory unless cpuOnly.
func (m Machine) OnlineCPUMem(ctx context.Context, cpus uint32, cpuOnly bool) error {
	if err := m.onlineCPUs(ctx, int(cpus)); err != nil {
		return err
	}
	if cpuOnly {
		return nil
	}
	return m.onlineMemory()
}

func (m Machine) onlineCPUs(ctx context.Context, want int) error {
	wait := m.Poll
	if wait == 0 {
		wait = pollFor
	}
	end := time.NewTimer(wait)
	defer end.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		online, err := m.tryCPUs(want)
		if err != nil {
			return err
		}
		if online >= want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d processors: %w", online, want, ctx.Err())
		case <-end.C:
			return fmt.Errorf("%d of %d processors after %s: %w", online, want, wait, errTimeout)
		case <-tick.C:
		}
	}
}

// tryCPUs turns on processors up to want, 0 being all, and says how many are online.
func (m Machine) tryCPUs(want int) (int, error) {
	dirs, err := numbered(m.path("sys/devices/system/cpu"), "cpu")
	if err != nil {
		return 0, err
	}
	online := 0
	for pass := range 2 { // first those that are on: which one is turned on is not to depend on its number alone
		for _, d := range dirs {
			file := filepath.Join(d, "online")
			text, err := os.ReadFile(file)
			// The first processor of many machines cannot be turned off and has no such file.
			on := errors.Is(err, fs.ErrNotExist) || strings.TrimSpace(string(text)) == "1"
			switch {
			case err != nil && !on:
				return 0, err
			case pass == 0 && on:
				online++
			case pass == 1 && !on && (want == 0 || online < want):
				// One that is still being plugged in is tried again.
				if os.WriteFile(file, []byte("1"), 0) == nil {
					online++
				}
			}
		}
	}
	return online, nil
}

// onlineMemory turns on every block that is off. Documentation/admin-guide/mm/memory-hotplug.rst.
func (m Machine) onlineMemory() error {
	dirs, err := numbered(m.path("sys/devices/system/memory"), "memory")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // this kernel plugs no memory, and the host asks without knowing
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range dirs {
		file := filepath.Join(d, "online")
		text, err := os.ReadFile(file)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		if strings.TrimSpace(string(text)) == "0" {
			if err := os.WriteFile(file, []byte("1"), 0); err != nil {
				errs = append(errs, fmt.Errorf("memory block %s: %w", filepath.Base(d), err))
			}
		}
	}
	return errors.Join(errs...)
}

// numbered lists the folders PREFIXn, by number.
func numbered(dir, prefix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.ParseUint(strings.TrimPrefix(e.Name(), prefix), 10, 31); err == nil &&
			strings.HasPrefix(e.Name(), prefix) {
			numbers = append(numbers, int(n))
		}
	}
	slices.Sort(numbers)
	out := make([]string, len(numbers))
	for i, n := range numbers {
		out[i] = filepath.Join(dir, prefix+strconv.Itoa(n))
	}
	return out, nil
}

// probe is where kernels that are not told of new memory by firmware learn its address.
const probe = "sys/devices/system/memory/probe"

// MemHotplugByProbe tells the kernel of memory at addresses.
func (m Machine) MemHotplugByProbe(addresses []uint64) error {
	for _, a := range addresses {
		if err := os.WriteFile(m.path(probe), fmt.Appendf(nil, "0x%x", a), 0); err != nil {
			return fmt.Errorf("memory at 0x%x: %w", a, err)
		}
	}
	return nil
}

// The ioctls of <linux/random.h> in the encoding of asm-generic/ioctl.h: _IOW('R', 0x03, int[2]) and _IO('R', 0x07).
// On ppc64le, where a direction is 3 bits with other values, they are 0x80085203 and 0x20005207.
const (
	addEntropy    = 0x40085203 // RNDADDENTROPY
	reseedCRNG    = 0x5207     // RNDRESEEDCRNG
	addEntropyPPC = 0x80085203
	reseedCRNGPPC = 0x20005207
)

func ioctls() (add, reseed uintptr) {
	if strings.HasPrefix(runtime.GOARCH, "ppc64") {
		return addEntropyPPC, reseedCRNGPPC
	}
	return addEntropy, reseedCRNG
}

// ReseedRandomDev mixes data into the kernel's randomness and has it used at once: two guests that came from one
// snapshot are not to draw the same. The data counts as random, which takes a host that is trusted with it.
func (m Machine) ReseedRandomDev(data []byte) error {
	if len(data) == 0 || len(data) > maxEntropy {
		return fmt.Errorf("randomness of %d bytes: want 1 to %d", len(data), maxEntropy)
	}
	f, err := os.OpenFile(m.path("dev/urandom"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	add, reseed := ioctls()
	b := entropy(data)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), add, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return fmt.Errorf("add randomness: %w", e)
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), reseed, 0); e != 0 {
		return fmt.Errorf("reseed: %w", e)
	}
	return nil
}

// entropy is a struct rand_pool_info: how many bits count, how many bytes there are, and those.
func entropy(data []byte) []byte {
	b := make([]byte, 8, 8+len(data))
	binary.NativeEndian.PutUint32(b, uint32(len(data)*8))
	binary.NativeEndian.PutUint32(b[4:], uint32(len(data)))
	return append(b, data...)
}

// SetGuestDateTime sets the clock to a time since the Epoch.
func (Machine) SetGuestDateTime(seconds, microseconds int64) error {
	const maxSeconds = 1 << 33 // the year 2242: nanoseconds still fit 64 bits
	if seconds < 0 || seconds > maxSeconds || microseconds < 0 || microseconds >= 1e6 {
		return fmt.Errorf("time of %d s and %d µs: want seconds up to %d, and fewer than a million µs", seconds,
			microseconds, maxSeconds)
	}
	t := unix.NsecToTimeval(seconds*1e9 + microseconds*1e3)
	if err := unix.Settimeofday(&t); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}
