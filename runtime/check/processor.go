package check

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/finding"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
)

// processor says what the host's processor is, and what KVM would miss of it.
func (c *checker) processor(context.Context) {
	const name = "processor"
	host := c.system().Accel.HostArch
	b, err := c.host.Read("/proc/cpuinfo")
	if err != nil {
		c.say(finding.Optional, name, "mount /proc", "%v", err)
		return
	}
	p := parseProcessor(host, string(b))
	if host == "ppc64le" {
		smt, _ := c.host.Read("/sys/devices/system/cpu/smt/active") // a kernel without it cannot switch it on
		p.power(strings.TrimSpace(string(smt)) == "1")
	}
	if len(p.lacks) == 0 {
		c.say(finding.Fine, name, "", "%s", p).Details = p.details
		return
	}
	state := finding.Optional
	if c.cfg.VM.Acceleration == accel.OnlyKVM {
		state = finding.Missing
	}
	f := c.say(state, name, p.wayOut, "%s; KVM wants %s", p, strings.Join(p.lacks, ", "))
	f.Without, f.Details = "guests at full speed", p.details
}

// processor is what /proc/cpuinfo says of the first processor; the kernel's arch/*/kernel/ has a form of it for each
// architecture.
type processor struct {
	model   string   // for people
	has     []string // of what KVM wants
	lacks   []string
	wayOut  string
	details []string // every name and value that was looked at
}

func (p processor) String() string {
	if len(p.has) == 0 {
		return p.model
	}
	return p.model + ", " + strings.Join(p.has, ", ")
}

// switchOn is the way out where the processor could do more.
const switchOn = "switch virtualisation on in the firmware; in a virtual machine, nested virtualisation on its host"

// virtualisationOf is the flag of the makers' virtualisation extensions, by what x86 processors call their makers.
var virtualisationOf = map[string]string{"GenuineIntel": "vmx", "AuthenticAMD": "svm", "HygonGenuine": "svm",
	"CentaurHauls": "vmx", "Shanghai": "vmx"}

func parseProcessor(host, text string) processor {
	var p processor
	value := func(key string) string {
		v := accel.CPUInfo(strings.NewReader(text), key)
		if v != "" {
			p.details = append(p.details, key+": "+finding.OneLine(v))
		}
		return v
	}
	wants := func(list []string, flags ...string) {
		for _, w := range flags {
			if slices.Contains(list, w) {
				p.has = append(p.has, w)
			} else {
				p.lacks = append(p.lacks, w)
			}
		}
	}
	p.wayOut = switchOn
	switch host {
	case "x86_64":
		maker := value("vendor_id")
		p.model = cmp.Or(value("model name"), maker)
		flags := accel.CPUFlags(strings.NewReader(text))
		extension, ok := virtualisationOf[maker]
		if !ok {
			extension = "vmx" // of a maker that is not known either will do
			if slices.Contains(flags, "svm") {
				extension = "svm"
			}
		}
		// Long mode, and what the kernels of guests are compiled for.
		wants(flags, "lm", "sse4_1", extension)
	case "s390x":
		p.model = cmp.Or(value("vendor_id"), host)
		if m := machineOf.FindStringSubmatch(text); m != nil {
			p.model += " machine " + m[1]
		}
		p.wayOut = "give the partition interpretive execution (SIE)"
		wants(strings.Fields(value("features")), "sie")
	case "riscv64":
		p.model = cmp.Or(value("uarch"), value("mvendorid"), host)
		isa := value("hart isa")
		if isa == "" {
			isa = value("isa")
		}
		p.wayOut = "use a processor with the hypervisor extension"
		single, _, _ := strings.Cut(strings.TrimPrefix(strings.ToLower(isa), "rv64"), "_")
		if strings.Contains(single, "h") {
			p.has = []string{"h"}
		} else {
			p.lacks = []string{"the hypervisor extension (h)"}
		}
	case "aarch64":
		p.model = fmt.Sprintf("implementer %s, part %s", cmp.Or(value("CPU implementer"), "unknown"),
			cmp.Or(value("CPU part"), "unknown"))
	case "ppc64le":
		p.model = cmp.Or(value("cpu"), host)
		value("machine")
		value("platform")
	default:
		p.model = cmp.Or(value("model name"), host)
	}
	p.model = finding.OneLine(p.model)
	return p
}

// machineOf is the machine in a line of s390's: "processor 0: version = FF, identification = 0133E8, machine = 2964".
var machineOf = regexp.MustCompile(`(?m)^processor 0: .*\bmachine = ([0-9A-Fa-f]+)`)

// powerOf is the generation in what a POWER processor calls itself.
var powerOf = regexp.MustCompile(`POWER(\d+)`)

// power judges simultaneous multithreading: up to POWER8 KVM runs a guest on a whole core, and the host must leave the
// core's other threads alone. Linux, Documentation/arch/powerpc/: the first that does not need it is POWER9.
func (p *processor) power(smt bool) {
	m := powerOf.FindStringSubmatch(p.model)
	if m == nil || !smt {
		return
	}
	if n, err := strconv.Atoi(m[1]); err == nil && n <= 8 {
		p.lacks, p.wayOut = []string{"simultaneous multithreading off"}, "ppc64_cpu --smt=off"
	}
}

// module is a part of the host's kernel that pods use where it is there.
type module struct {
	part
	archs   []string // of the host; nil is all
	maker   string   // of x86's processors by their extension; empty is all
	without string
}

// modules are what Kata Containers asks for. All of them are loaded by the kernel, udev or modprobe, never from here.
var modules = []module{
	{part: part{"kvm", "CONFIG_KVM"}, without: "guests at full speed"},
	{part: part{"kvm_intel", "CONFIG_KVM_INTEL"}, archs: []string{"x86_64"}, maker: "vmx",
		without: "guests at full speed"},
	{part: part{"kvm_amd", "CONFIG_KVM_AMD"}, archs: []string{"x86_64"}, maker: "svm", without: "guests at full speed"},
	{part: part{"kvm_hv", "CONFIG_KVM_BOOK3S_64_HV"}, archs: []string{"ppc64le"}, without: "guests at full speed"},
	{part: part{"vhost", "CONFIG_VHOST"}, without: "vsock by the kernel; the runtime's own is used"},
	{part: part{"vhost_vsock", "CONFIG_VHOST_VSOCK"}, without: "vsock by the kernel; the runtime's own is used"},
}

// kernelModules has a finding for each part of the host's kernel.
func (c *checker) kernelModules(context.Context) {
	host := c.system().Accel.HostArch
	k := c.kernel()
	flags := c.system().Accel.CPUFlags
	for _, m := range modules {
		if m.archs != nil && !slices.Contains(m.archs, host) || m.maker != "" && !slices.Contains(flags, m.maker) {
			continue
		}
		name := "module " + m.module
		p := k.find(m.part)
		switch {
		case p == unknown:
			c.say(finding.Optional, name, "none needed where KVM's and vsock's own lines are ok",
				"neither /proc nor /boot nor /lib/modules tells whether the kernel has it")
		case p.there():
			c.say(finding.Fine, name, "", "%s", p)
		default:
			f := c.say(finding.Optional, name, "use a kernel with "+m.option, "the kernel does not have it")
			f.Without = m.without
		}
	}
	// Without it KVM emulates each instruction of real mode, where every guest begins. Linux,
	// Documentation/admin-guide/kernel-parameters.txt, kvm-intel.unrestricted_guest.
	const parameter = "/sys/module/kvm_intel/parameters/unrestricted_guest"
	if b, err := c.host.Read(parameter); err == nil && strings.TrimSpace(string(b)) != "Y" {
		f := c.say(finding.Optional, "kvm_intel.unrestricted_guest", "modprobe -r kvm_intel; modprobe kvm_intel "+
			"unrestricted_guest=1", "%s is %s", parameter, finding.OneLine(string(b)))
		f.Without = "a fast start in real mode"
	}
}
