package check

import (
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/finding"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
)

// processors are what /proc/cpuinfo says on each architecture, shortened, and what is said of that.
var processors = []struct {
	name, host, cpuinfo string
	smt                 string // /sys/devices/system/cpu/smt/active
	state               finding.State
	want                string
}{
	{"Intel", "x86_64", "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) @ 2.60GHz\n" +
		"flags\t\t: fpu lm sse4_1 vmx\n", "", finding.Fine, "Intel(R) Xeon(R) @ 2.60GHz, lm, sse4_1, vmx"},
	{"AMD", "x86_64", "vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7763\nflags\t\t: lm sse4_1 svm\n", "",
		finding.Fine, "AMD EPYC 7763, lm, sse4_1, svm"},
	{"Hygon", "x86_64", "vendor_id\t: HygonGenuine\nmodel name\t: Hygon C86\nflags\t\t: lm sse4_1 svm\n", "",
		finding.Fine, "Hygon C86, lm, sse4_1, svm"},
	{"virtualisation is off", "x86_64", "vendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: lm sse4_1\n", "",
		finding.Optional, "Xeon, lm, sse4_1; KVM wants vmx"},
	{"AMD's where virtualisation is off", "x86_64", "vendor_id\t: AuthenticAMD\nflags\t\t: lm\n", "",
		finding.Optional, "AuthenticAMD, lm; KVM wants sse4_1, svm"},
	{"another maker", "x86_64", "vendor_id\t: GenuineTMx86\nflags\t\t: lm sse4_1 svm\n", "", finding.Fine,
		"GenuineTMx86, lm, sse4_1, svm"},
	{"Arm", "aarch64", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "", finding.Fine,
		"implementer 0x41, part 0xd0c"},
	{"IBM Z", "s390x", "vendor_id       : IBM/S390\n# processors    : 1\nfeatures\t: esan3 zarch vx sie\n" +
		"processor 0: version = FF,  identification = 0133E8,  machine = 2964\n", "", finding.Fine,
		"IBM/S390 machine 2964, sie"},
	{"a partition without SIE", "s390x", "vendor_id       : IBM/S390\nfeatures\t: esan3 zarch vx\n", "",
		finding.Optional, "IBM/S390; KVM wants sie"},
	{"POWER9", "ppc64le", "cpu\t\t: POWER9, altivec supported\nplatform\t: PowerNV\n", "1\n", finding.Fine,
		"POWER9, altivec supported"},
	{"POWER8 with threads", "ppc64le", "cpu\t\t: POWER8E, altivec supported\n", "1\n", finding.Optional,
		"POWER8E, altivec supported; KVM wants simultaneous multithreading off"},
	{"POWER8 without", "ppc64le", "cpu\t\t: POWER8E, altivec supported\n", "0\n", finding.Fine,
		"POWER8E, altivec supported"},
	{"RISC-V", "riscv64", "hart\t\t: 0\nisa\t\t: rv64imafdch_zicsr_zifencei\nuarch\t\t: sifive,p550\n", "",
		finding.Fine, "sifive,p550, h"},
	{"RISC-V without H, and with an extension that has the letter", "riscv64", "isa\t\t: rv64imafdc_zihpm_sstc\n", "",
		finding.Optional, "riscv64; KVM wants the hypervisor extension (h)"},
	{"what nobody knows", "loongarch64", "model name\t: Loongson\x1b[2J\n", "", finding.Fine, "Loongson [2J"},
}

func TestProcessors(t *testing.T) {
	for _, p := range processors {
		t.Run(p.name, func(t *testing.T) {
			h := fits(t)
			h.files["/proc/cpuinfo"], h.files["/sys/devices/system/cpu/smt/active"] = p.cpuinfo, p.smt
			h.system.Accel.HostArch = p.host
			c := newChecker(Options{Host: h})
			c.processor(t.Context())
			f := c.findings[0]
			if f.Name != "processor" || f.State != p.state || f.Fact != p.want {
				t.Errorf("%s", f)
			}
			if (f.State == finding.Fine) != (f.WayOut == "" && f.Without == "") {
				t.Errorf("%s", f)
			}
			c = newChecker(Options{Host: h, Config: &config.Loaded{Config: config.Config{VM: config.VM{
				Acceleration: accel.OnlyKVM}}}})
			c.processor(t.Context())
			if p.state == finding.Optional && c.findings[0].State != finding.Missing {
				t.Errorf("where nothing but KVM will do: %s", c.findings[0])
			}
		})
	}
	h := fits(t)
	delete(h.files, "/proc/cpuinfo")
	c := newChecker(Options{Host: h})
	c.processor(t.Context())
	if c.findings[0].State != finding.Optional || !strings.Contains(c.findings[0].Fact, "/proc/cpuinfo") {
		t.Errorf("without /proc: %s", c.findings[0])
	}
}

func TestModulesOfTheHostsKernel(t *testing.T) {
	said := func(h *fake) []string {
		c := newChecker(Options{Host: h})
		c.kernelModules(t.Context())
		var all []string
		for _, f := range c.findings {
			all = append(all, string(f.State)+" "+f.Name+": "+f.Fact)
		}
		return all
	}
	h := fits(t)
	want := []string{"ok module kvm: built in", "ok module kvm_amd: a loaded module",
		"ok module vhost: a module that is loaded when needed",
		"ok module vhost_vsock: a module that is loaded when needed"}
	if got := said(h); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	h = fits(t)
	h.system.Accel.HostArch = "ppc64le"
	h.files["/lib/modules/6/modules.builtin"] = "kernel/net/sched/sch_ingress.ko\n"
	h.files["/lib/modules/6/modules.dep"] = "kernel/net/sched/cls_u32.ko:\n"
	want = []string{"optional module kvm: the kernel does not have it",
		"optional module kvm_hv: the kernel does not have it", "optional module vhost: the kernel does not have it",
		"optional module vhost_vsock: the kernel does not have it"}
	if got := said(h); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	h = fits(t)
	h.system.Accel.CPUFlags = []string{"vmx"}
	h.files["/proc/modules"] += "kvm_intel 1 0 - Live 0x0\n"
	h.files["/sys/module/kvm_intel/parameters/unrestricted_guest"] = "N\n"
	if got := said(h); !slices.Contains(got, "ok module kvm_intel: a loaded module") ||
		!slices.Contains(got, "optional kvm_intel.unrestricted_guest: "+
			"/sys/module/kvm_intel/parameters/unrestricted_guest is N") {
		t.Errorf("%q", got)
	}
	h.files["/sys/module/kvm_intel/parameters/unrestricted_guest"] = "Y\n"
	if got := said(h); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "unrestricted") }) {
		t.Errorf("%q", got)
	}
	delete(h.files, "/lib/modules/6/modules.builtin")
	delete(h.files, "/lib/modules/6/modules.dep")
	if got := said(h); !slices.Contains(got, "optional module kvm: neither /proc nor /boot nor /lib/modules tells "+
		"whether the kernel has it") {
		t.Errorf("%q", got)
	}
}
