package kernel

import (
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
)

// CommandLine is how to start a kernel of this room on a machine of QEMU: the whole command line where hardware
// virtualisation runs the guest, and what is appended, after a space, where QEMU's TCG emulates the processor. In the
// latter {tsc_khz} stands for the rate of the host's time-stamp counter in kHz. docs/decisions/kernel-boot-time.md says
// what each word saves, measured.
func CommandLine(a arch.Arch, machine string) (line, tcg string) {
	common := []string{
		"console=" + a.Console,
		"quiet",    // every line of the console is a hundred exits
		"panic=-1", // a kernel that died restarts at once, which ends a VM started with -no-reboot
	}
	if a.Name != "x86_64" {
		return strings.Join(common, " "), ""
	}
	common = append(common,
		"reboot=t", // by triple fault, which every VMM sees; the other ways are tried for seconds
	)
	emulated := []string{
		"tsc_early_khz={tsc_khz}", // measuring it fails under load, and microvm then hangs
		"tsc=reliable",            // it is the host's; the watchdog that doubts it compares emulated clocks under load
		// KVM guests do not check either: ten ticks of waiting for an interrupt that surely comes
		"no_timer_check",
	}
	if machine == "q35" {
		// The local timer's rate is measured for 0.1 s and verified for 0.1 s more; the HPET serves as well. KVM's
		// timer needs neither, and microvm has no HPET.
		emulated = append(emulated, "nolapic_timer")
	}
	return strings.Join(common, " "), strings.Join(emulated, " ")
}
