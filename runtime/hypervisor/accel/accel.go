// Package accel decides what executes a guest's instructions: the host's processor through KVM, or QEMU's emulation,
// TCG.
//
// In come the facts of this host, out goes a choice with its reason in one line. KVM is chosen only when it has just
// run instructions in a virtual machine: an openable /dev/kvm alone proves nothing.
package accel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
)

// Accel is an accelerator, by QEMU's name. The zero value is none.
type Accel string

// The accelerators.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg"
)

// Device is KVM's device file.
const Device = "/dev/kvm"

// Preference is what a person wants.
type Preference string

// The preferences. The zero value is Auto.
const (
	Auto    Preference = "auto"
	OnlyKVM Preference = "kvm"
	OnlyTCG Preference = "tcg"
)

// ParsePreference reads a preference.
func ParsePreference(s string) (Preference, error) {
	switch w := Preference(s); w {
	case "":
		return Auto, nil
	case Auto, OnlyKVM, OnlyTCG:
		return w, nil
	}
	return "", fmt.Errorf("unknown accelerator %q (known: auto, kvm, tcg)", s)
}

// Choice is an accelerator and why it was chosen, in one line for people.
type Choice struct {
	Accel  Accel
	Reason string
}

// Facts are what the choice depends on.
type Facts struct {
	GuestArch, HostArch string   // names of internal/arch
	CPUFlags            []string // of the first processor in /proc/cpuinfo
	Open                error    // of opening Device
	Trial               error    // of running a few instructions; nil where there is no trial for the architecture
}

// Probe gathers the facts of this host. It takes some milliseconds, and never more than a second.
func Probe(guest arch.Arch) Facts {
	f := Facts{GuestArch: guest.Name, HostArch: hostArch()}
	if c, err := os.Open("/proc/cpuinfo"); err == nil {
		f.CPUFlags = CPUFlags(c)
		_ = c.Close()
	}
	if f.GuestArch != f.HostArch {
		return f
	}
	kvm, err := os.OpenFile(Device, os.O_RDWR, 0)
	if err != nil {
		f.Open = err
		return f
	}
	defer kvm.Close()
	if f.virtualisation() != "" {
		f.Trial = trial(kvm)
	}
	return f
}

// virtualisation is the flag of the processor's virtualisation extension, or the architecture's name where it has no
// flag; empty when it is missing.
func (f Facts) virtualisation() string {
	if f.HostArch != "x86_64" {
		return f.HostArch
	}
	for _, flag := range []string{"vmx", "svm"} {
		if slices.Contains(f.CPUFlags, flag) {
			return flag
		}
	}
	return ""
}

// Choose decides. A preference for KVM where it cannot run a guest is an error with the reason.
func Choose(w Preference, f Facts) (Choice, error) {
	why := f.withoutKVM()
	switch w {
	case OnlyTCG:
		return Choice{TCG, "TCG emulation, as asked"}, nil
	case OnlyKVM:
		if why != "" {
			return Choice{}, fmt.Errorf("KVM was asked for, but %s", why)
		}
		return Choice{KVM, "KVM, as asked: " + f.proof()}, nil
	}
	if why != "" {
		return Choice{TCG, "TCG emulation, because " + why}, nil
	}
	return Choice{KVM, "KVM: " + f.proof()}, nil
}

// proof is what speaks for KVM.
func (f Facts) proof() string {
	if f.HostArch != "x86_64" {
		return Device + " opens; there is no trial for " + f.HostArch
	}
	return fmt.Sprintf("%s opens and has run instructions (%s)", Device, f.virtualisation())
}

// withoutKVM is why KVM cannot run the guest, or empty.
func (f Facts) withoutKVM() string {
	var perr *fs.PathError
	switch {
	case f.GuestArch != f.HostArch:
		return fmt.Sprintf("the guest is %s and this host is %s", f.GuestArch, f.HostArch)
	case errors.Is(f.Open, fs.ErrNotExist):
		return "the host has no " + Device
	case errors.Is(f.Open, fs.ErrPermission):
		return fmt.Sprintf("this user may not open %s (on Debian: join the group kvm)", Device)
	case errors.As(f.Open, &perr):
		return fmt.Sprintf("%s does not open: %v", Device, perr.Err)
	case f.Open != nil:
		return fmt.Sprintf("%s does not open: %v", Device, f.Open)
	case f.virtualisation() == "":
		return fmt.Sprintf("the processor shows neither vmx nor svm, and %s without them boots no ordinary kernel",
			Device)
	case f.Trial != nil:
		return fmt.Sprintf("%s did not run a trial: %v", Device, f.Trial)
	}
	return ""
}

// CPUFlags is the first line of flags in the form of /proc/cpuinfo.
func CPUFlags(r io.Reader) []string { return strings.Fields(CPUInfo(r, "flags")) }

// clockKHz is the processor's clock rate in kHz in the form of /proc/cpuinfo, where the time stamp counter runs at that
// rate, or 0 when it does not say. A name that ends in "@ 2.60GHz" goes before the momentary "cpu MHz", which moves
// with the load.
func clockKHz(r io.Reader) int {
	b, err := io.ReadAll(io.LimitReader(r, 64<<10)) // one processor is enough
	if err != nil {
		return 0
	}
	if _, rate, ok := strings.Cut(CPUInfo(strings.NewReader(string(b)), "model name"), "@"); ok {
		if ghz, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rate), "GHz"), 64); err == nil {
			return kHz(ghz * 1e6)
		}
	}
	mhz, err := strconv.ParseFloat(CPUInfo(strings.NewReader(string(b)), "cpu MHz"), 64)
	if err != nil {
		return 0
	}
	return kHz(mhz * 1e3)
}

func kHz(f float64) int {
	if !(f >= 1000 && f <= 1e8) { // not a number is neither
		return 0
	}
	return int(f + 0.5)
}

// HostClockKHz is clockKHz of this host.
func HostClockKHz() int {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	return clockKHz(f)
}

// CPUInfo is the first value of a name in the form of /proc/cpuinfo, or empty.
func CPUInfo(r io.Reader, name string) string {
	s := bufio.NewScanner(r)
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
