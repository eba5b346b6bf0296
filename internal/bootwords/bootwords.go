// Package bootwords is what Linux is told at boot by architecture and by what runs the guest: for the kernels that are
// built here and for plain files alike. A builder writes the words into a manifest, a runtime adds those of its host,
// and whoever judges a report takes the host's numbers out again.
//
// The words of each architecture are in internal/arch. docs/decisions/kernel-boot-time.md says what each word saves,
// measured.
package bootwords

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
)

// clock stands, in the words for TCG, for the rate of the host's time-stamp counter in kHz.
const clock = arch.ClockWord

// LongestClock is a rate of as many digits as there can be: 10 GHz.
const LongestClock = 10_000_000

// ClearMemory makes Linux clear each page of memory before it is used for anything. Linux 5.3,
// Documentation/admin-guide/kernel-parameters.txt.
//
// TCG keeps what it has translated of a page of code until somebody writes to that page, and sees only writes of the
// guest and of QEMU. virtiofsd puts a file's content into a guest's memory behind its back: a page that once held code,
// and now holds another program, would run as what it held before. When the guest itself writes to the page in between,
// TCG forgets what it knew. docs/decisions/virtiofs-under-tcg.md.
const ClearMemory = "init_on_alloc=1"

// noWideVectors is for the agent: Linux gives its init what it does not know itself, and Go's runtime reads it (package
// internal/cpu). TCG emulates vectors of 256 bits by calls, and SHA-256 takes twice as long with them as without.
const noWideVectors = "GODEBUG=cpu.avx2=off"

// common is what every guest is told.
func common(a arch.Arch) []string {
	words := []string{
		"console=" + a.Console,
		"quiet",    // every line of the console is a hundred exits
		"panic=-1", // a kernel that died restarts at once, which ends a VM started with -no-reboot
	}
	return append(words, strings.Fields(a.BootWords)...)
}

// Built is how to start a kernel that was built here on a machine: the whole command line where hardware virtualisation
// runs the guest, and what is appended, after a space, where TCG emulates the processor.
func Built(a arch.Arch, machine string) (line, tcg string) {
	m, _ := a.FindMachine(machine) // one that nobody knows has no words of its own
	words := []string{a.TCGWords, m.TCGWords}
	if a.Go == "amd64" {
		words = append(words, noWideVectors)
	}
	return strings.Join(common(a), " "), strings.TrimSpace(strings.Join(words, " "))
}

// PlainRoot is the disk of a plain guest; the zero value is none.
type PlainRoot struct {
	Mount      string // what the guest mounts, such as /dev/vda1
	FileSystem string
	Create     string // the word that makes Mount, for dm-verity; empty where it is there by itself
}

// Plain is how to start a kernel about which nobody says more, in the words that Kata Containers' images want: an agent
// that systemd starts, and no other program sets up the network.
func Plain(a arch.Arch, root PlainRoot) (line, tcg string) {
	words := append(common(a), strings.Fields(a.PlainWords)...)
	words = append(words, "net.ifnames=0", "cgroup_no_v1=all")
	if root != (PlainRoot{}) {
		if root.Create != "" {
			words = append(words, root.Create)
		}
		words = append(words, "root="+root.Mount)
		if root.FileSystem == "ext4" {
			words = append(words, "rootflags=data=ordered,errors=remount-ro")
		}
		words = append(words, "ro", "rootfstype="+root.FileSystem, "systemd.show_status=false",
			"systemd.unit=kata-containers.target", "systemd.mask=systemd-networkd.service",
			"systemd.mask=systemd-networkd.socket", "systemd.unified_cgroup_hierarchy=1")
	}
	return strings.Join(words, " "), a.TCGWords
}

// OnHost puts a host's clock rate into words for TCG. Where it is 0, because the host does not say, the words that need
// it are left out.
func OnHost(tcg string, clockKHz int) string {
	if clockKHz != 0 {
		return strings.ReplaceAll(tcg, clock, strconv.Itoa(clockKHz))
	}
	words := strings.Fields(tcg)
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return strings.Contains(w, clock) }), " ")
}

// Pattern is a regular expression for what words for TCG are on some host that says its clock rate.
func Pattern(tcg string) string {
	return strings.ReplaceAll(regexp.QuoteMeta(tcg), regexp.QuoteMeta(clock), "[0-9]{4,9}")
}
