package config

import (
	"fmt"
	"slices"
	"strings"
)

// The tables of the hypervisors. A configuration has one of them, so that they share the fields of VM.
const (
	hypervisorGroup    = "hypervisor"
	sectionCLH         = hypervisorGroup + "." + HypervisorCLH
	sectionFirecracker = hypervisorGroup + "." + HypervisorFirecracker
)

// Hypervisors are the names of the hypervisors that can be configured, the default first.
func Hypervisors() []string { return lastNames(hypervisorSections) }

// hypervisorSections are their tables.
var hypervisorSections = []string{sectionQEMU, sectionCLH, sectionFirecracker}

// section is that of the configuration's hypervisor.
func (c *Config) section() string { return hypervisorGroup + "." + c.Hypervisor }

// inForce says whether a section is not that of another hypervisor.
func (c *Config) inForce(section string) bool {
	return section == c.section() || !slices.Contains(hypervisorSections, section)
}

// common are the keys that all hypervisors' tables have, as QEMU's.
var common = []string{"guest", "kernel", "image", "initrd", "rootfs_type", "kernel_verity_params", "valid_guest_paths",
	"acceleration", "path", "valid_hypervisor_paths", "enable_annotations", "default_vcpus", "default_memory",
	"kernel_params", "guest_extension_images", "guest_hook_path", "enable_debug"}

// sharing are those of hypervisors that grow and share folders.
var sharing = []string{"default_maxvcpus", "default_maxmemory", "memory_slots", "shared_fs", "virtio_fs_daemon",
	"valid_virtio_fs_daemon_paths", "virtio_fs_cache", "virtio_fs_extra_args", "foreign_locks"}

// otherwise is what a key of QEMU's is in another table.
type otherwise struct {
	name, doc, example string // empty is as QEMU's
	check              func(*Config) error
}

// ofAnother are the keys of another hypervisor's table: some of QEMU's, as they are or otherwise, and its own.
func ofAnother(section string, names []string, other []otherwise, own []key) []key {
	var out []key
	for _, k := range qemuKeys {
		if !slices.Contains(names, k.name) || k.section != sectionQEMU {
			continue
		}
		k.section = section
		for _, o := range other {
			if o.name != k.name {
				continue
			}
			if o.doc != "" {
				k.doc = o.doc
			}
			if o.example != "" {
				k.example = o.example
			}
			if o.check != nil {
				k.check = o.check
			}
		}
		out = append(out, k)
	}
	for _, k := range own {
		k.section = section
		out = append(out, k)
	}
	return out
}

// Limits of the others. Cloud Hypervisor: docs/cpu.md; Firecracker: its API description, MachineConfiguration.
const (
	maxCLHVCPUs         = 254
	maxFirecrackerVCPUs = 32
)

// kvmOnly is the acceleration of hypervisors that do not emulate.
func kvmOnly(name string) func(*Config) error {
	return func(c *Config) error {
		if c.VM.Acceleration == "tcg" {
			return fmt.Errorf("%s does not emulate; set \"auto\" or \"kvm\", or use [%s]", name, sectionQEMU)
		}
		return nil
	}
}

func upToVCPUs(most int) func(*Config) error {
	return func(c *Config) error {
		if n := c.VM.DefaultVCPUs; !(n >= -maxVCPUs && n <= float64(most)) {
			return fmt.Errorf("%v virtual CPUs: want at most %d", n, most)
		}
		return nil
	}
}

const docKVM = "What runs the guest's instructions: \"auto\" or \"kvm\", which are the same here."

var clhKeys = ofAnother(sectionCLH, slices.Concat(common, sharing), []otherwise{
	{name: "acceleration", doc: docKVM, check: kvmOnly("Cloud Hypervisor")},
	{name: "path", doc: "The Cloud Hypervisor program. Empty: cloud-hypervisor, found in $PATH.",
		example: `"/usr/bin/cloud-hypervisor"`},
	{name: "valid_hypervisor_paths", example: `["/usr/bin/cloud-hypervisor*"]`},
	{name: "default_vcpus", doc: "Number of virtual CPUs, up to 254; a fraction is rounded up, more than the host " +
		"has is cut.\n0: what the guest's manifest says, or 1 without one. Negative: all that the host has.",
		check: upToVCPUs(maxCLHVCPUs)},
	{name: "default_maxvcpus", doc: "Most virtual CPUs that the machine grows to. 0, and what the host does not " +
		"have: all that the host has.",
		check: func(c *Config) error { return between(c.VM.DefaultMaxVCPUs, 0, maxCLHVCPUs) }},
	{name: "default_maxmemory", doc: "Most memory in MiB that the machine grows to. 0, and what the host does not " +
		"have: all that the host has."},
	{name: "memory_slots", doc: "How many times the machine's memory can grow, 0 to 256; Cloud Hypervisor has 8 " +
		"places for it."},
	{name: "shared_fs", doc: "How containers' files reach the guest: \"virtio-fs\" (by virtiofsd) or \"none\" (root " +
		"file systems on block devices, other files are copied).",
		check: func(c *Config) error {
			if c.VM.SharedFS == Shared9P {
				return fmt.Errorf("%s has no 9p; set %q or %q, or use [%s]", "Cloud Hypervisor", SharedVirtioFS,
					SharedNone, sectionQEMU)
			}
			return oneOf(c.VM.SharedFS, SharedVirtioFS, SharedNone)
		}},
}, slices.Concat([]key{{
	name:  "disable_seccomp",
	doc:   "Run Cloud Hypervisor without its filters of system calls.",
	field: func(c *Config) value { return (*flag)(&c.VM.DisableSeccomp) },
}}, rateKeys("net", "of each interface of the guest, both ways", func(c *Config) *Rate { return &c.VM.Net }),
	rateKeys("disk", "of each disk of the guest", func(c *Config) *Rate { return &c.VM.Disk })))

var firecrackerKeys = ofAnother(sectionFirecracker, common, []otherwise{
	{name: "acceleration", doc: docKVM, check: kvmOnly("Firecracker")},
	{name: "path", doc: "The Firecracker program. Empty: firecracker, found in $PATH.",
		example: `"/usr/bin/firecracker"`},
	{name: "valid_hypervisor_paths", example: `["/usr/bin/firecracker*"]`},
	{name: "default_vcpus", doc: "Number of virtual CPUs, up to 32; a fraction is rounded up, more than the host " +
		"has is cut.\n0: what the guest's manifest says, or 1 without one. Negative: all that the host has.",
		check: upToVCPUs(maxFirecrackerVCPUs)},
}, slices.Concat([]key{
	{
		name: "jailer_path", pod: true, example: `"/usr/bin/jailer"`,
		doc: "Firecracker's jailer, which gives it a root of its own and another user. Empty: the runtime's own " +
			"walls, as around QEMU.",
		field: func(c *Config) value { return plainText(&c.VM.JailerPath) },
		check: func(c *Config) error { return absolute(c.VM.JailerPath) },
		valid: func(c *Config) ([]string, string) { return c.VM.ValidJailerPaths, "valid_jailer_paths" },
	},
	{
		name: "valid_jailer_paths", example: `["/usr/bin/jailer"]`,
		doc: "Patterns of the programs that the annotation \"jailer_path\" may name. * matches within one name. " +
			"None: no program.",
		field: func(c *Config) value { return (*texts)(&c.VM.ValidJailerPaths) },
		check: func(c *Config) error { return patterns(c.VM.ValidJailerPaths) },
	},
}, linkRateKeys(""), rateKeys("disk", "of each disk of the guest", func(c *Config) *Rate { return &c.VM.Disk })))

// linkRateKeys are the two keys of interfaces' rates, by Kata's names.
func linkRateKeys(section string) []key {
	return []key{
		{
			section: section, name: "rx_rate_limiter_max_rate", pod: true,
			doc:   "Bits a second to each interface of the guest. 0: no bound.",
			field: func(c *Config) value { return (*wide)(&c.VM.RxMaxRate) },
		},
		{
			section: section, name: "tx_rate_limiter_max_rate", pod: true,
			doc:   "Bits a second from each interface of the guest. 0: no bound.",
			field: func(c *Config) value { return (*wide)(&c.VM.TxMaxRate) },
		},
	}
}

// rateKeys are the four keys of a rate, by Kata's names.
func rateKeys(of, what string, rate func(*Config) *Rate) []key {
	prefix := of + "_rate_limiter_"
	return []key{
		{
			name:  prefix + "bw_max_rate",
			doc:   "Bits a second " + what + ". 0: no bound.",
			field: func(c *Config) value { return (*wide)(&rate(c).MaxRate) },
		},
		{
			name:  prefix + "bw_one_time_burst",
			doc:   "Bits beyond " + prefix + "bw_max_rate, once, at the beginning.",
			field: func(c *Config) value { return (*wide)(&rate(c).Burst) },
		},
		{
			name:  prefix + "ops_max_rate",
			doc:   "Requests a second " + what + ". 0: no bound.",
			field: func(c *Config) value { return (*wide)(&rate(c).OpsMaxRate) },
		},
		{
			name:  prefix + "ops_one_time_burst",
			doc:   "Requests beyond " + prefix + "ops_max_rate, once, at the beginning.",
			field: func(c *Config) value { return (*wide)(&rate(c).OpsBurst) },
		},
	}
}

// enter notes that a configuration has a hypervisor's table. There can be one: what stands in two would be two virtual
// machines.
func (r *reader) enter(d *document, section string, path []string) {
	if !slices.Contains(hypervisorSections, section) {
		return
	}
	line, column := d.place(d.keys[pathOf(path...)])
	here := Place{File: d.name, Line: line, Column: column}
	if r.entered == "" {
		r.entered, r.enteredAt = section, here
		vm := DefaultOf(strings.TrimPrefix(section, hypervisorGroup+"."))
		r.Config.Hypervisor, r.Config.VM = vm.Hypervisor, vm.VM
		return
	}
	if r.entered != section {
		r.fail(d.atKey(pathOf(path...), fmt.Sprintf("[%s] and [%s] (%s) are both there, and a pod runs in one "+
			"hypervisor; remove one of them", section, r.entered, r.enteredAt)))
	}
}
