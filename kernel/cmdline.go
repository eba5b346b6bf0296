package kernel

import (
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
)

// clockWord stands for the rate of the time stamp counter in kHz, which whoever starts the guest knows.
const clockWord = "{tsc_khz}"

// machineQ35 is the one machine that has a clock beside the processor's own timer, see CommandLine.
const machineQ35 = "q35"

// CommandLine is the kernel's command line on a machine of QEMU: line is the whole of it under KVM, and tcg is what follows, after one
// space, where QEMU emulates the processor. Every machine boots with it, with one processor or several; a machine that is not known gets
// the words that are safe everywhere. Words that the configuration makes needless are left out: there is no keyboard controller to
// silence (i8042.*), there are no self tests to skip (cryptomgr.notests), and one serial port is the built-in count (8250.nr_uarts).
// docs/decisions/kernel-boot-time.md has the figures.
func CommandLine(a arch.Arch, machine string) (line, tcg string) {
	words := []string{
		// The console that machines have.
		"console=" + a.Console,
		// Messages below a warning stay in the log. Each byte on the serial port costs an exit to the host.
		"quiet",
		// A panic reboots at once, and the VMM that was told not to reboot ends.
		"panic=-1",
		// Control groups have version 2 only, so that no program mounts the old tree and takes controllers away from the new one.
		"cgroup_no_v1=all",
		// Grace periods do not wait for ticks. It saves nothing before init, and several ticks each time a container's mounts, networks or
		// control groups go away.
		"rcupdate.rcu_expedited=1",
	}
	if a.Name != "x86_64" {
		return strings.Join(words, " "), ""
	}
	// Reboot by triple fault, which every VMM understands at once; microvm has neither a keyboard controller nor ACPI's reset register.
	words = append(words, "reboot=t")

	more := []string{
		// Measuring the counter's rate against the PIT may fail on a loaded host, and microvm then stays at that for ever.
		"tsc_early_khz=" + clockWord,
		// A loaded host holds processors back for longer than the watchdog of clocks allows, which would call the counter unstable.
		// KVM's clock needs no such word, and where it says that the counter is unstable it is right.
		"tsc=reliable",
	}
	if machine == machineQ35 {
		more = append(more,
			// Nobody waits to see whether the timer interrupt comes. KVM guests do not wait anyway.
			"no_timer_check",
			// The processor's timer is not calibrated against other clocks, for that is the longest wait of all; q35's HPET and PIT tick
			// instead, by interrupts between processors where there are several. KVM offers the deadline timer, which needs no
			// calibration. On microvm there is nothing else that ticks, so this word would stop it.
			"nolapic_timer",
		)
	}
	return strings.Join(words, " "), strings.Join(more, " ")
}
