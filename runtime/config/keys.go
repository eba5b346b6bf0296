package config

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// The sections, by the names that stand in square brackets.
const (
	sectionQEMU    = "hypervisor.qemu"
	sectionAgent   = "agent.kata"
	sectionRuntime = "runtime"
	sectionFactory = "factory"
)

// sections lists them in the order in which they are shown. All of them belong to Kata.
var sections = []string{sectionQEMU, sectionAgent, sectionRuntime, sectionFactory}

// key is one key that has an effect.
type key struct {
	section, name string
	doc           string // for people, with unit and range
	ours          bool   // Kata has no such key
	// field is where the value goes; its type is the key's kind.
	field func(*Config) any
	// check is nil where every value of the kind is right. It sees the Config with the value in it.
	check func(*Config) error
	// pod says that an annotation may set the key; for a path, valid is the patterns it must match.
	pod   bool
	valid func(*Config) (patterns []string, key string)
	// example is shown in the template instead of the default, where that is empty.
	example string
}

// String is the key's whole name.
func (k *key) String() string { return k.section + "." + k.name }

// Limits of values. Those of QEMU are of QEMU 7.2, hw/i386/pc_q35.c and hw/i386/microvm.c: max_cpus.
const (
	maxVCPUs     = 288
	minMemoryMiB = 16      // as a manifest wants it
	maxMemoryMiB = 1 << 26 // 64 TiB
	maxSeconds   = 3600    // of a timeout
	maxParams    = 2047    // bytes, what Linux keeps of a command line: COMMAND_LINE_SIZE of x86_64
)

// keys lists every key that has an effect, in the order in which they are shown.
var keys = []key{
	{
		section: sectionQEMU, name: "guest", ours: true, pod: true, example: `"/usr/share/katabuild/guests/default"`,
		doc:   "Folder of the guest: manifest.json and the files it names, as katabuild build makes it.\nEvery file is checked against the manifest before it is used. There is no default.",
		field: func(c *Config) any { return &c.QEMU.Guest },
		check: func(c *Config) error { return absolute(c.QEMU.Guest) },
		valid: func(c *Config) ([]string, string) { return c.QEMU.ValidGuestPaths, "valid_guest_paths" },
	},
	{
		section: sectionQEMU, name: "valid_guest_paths", ours: true, example: `["/usr/share/katabuild/guests/*"]`,
		doc:   "Patterns of the folders that the annotation \"guest\" may name. * matches within one name. None: no folder.",
		field: func(c *Config) any { return &c.QEMU.ValidGuestPaths },
		check: func(c *Config) error { return patterns(c.QEMU.ValidGuestPaths) },
	},
	{
		section: sectionQEMU, name: "acceleration", ours: true, pod: true,
		doc:   "What runs the guest's instructions: \"auto\" (KVM where it works, otherwise TCG), \"kvm\" (or fail) or \"tcg\" (emulation).",
		field: func(c *Config) any { return &c.QEMU.Acceleration },
	},
	{
		section: sectionQEMU, name: "path", pod: true, example: `"/usr/bin/qemu-system-x86_64"`,
		doc:   "The QEMU program. Empty: the one of the guest's architecture, found in $PATH.",
		field: func(c *Config) any { return &c.QEMU.Path },
		check: func(c *Config) error { return absolute(c.QEMU.Path) },
		valid: func(c *Config) ([]string, string) { return c.QEMU.ValidHypervisorPaths, "valid_hypervisor_paths" },
	},
	{
		section: sectionQEMU, name: "valid_hypervisor_paths", example: `["/usr/bin/qemu-system-*"]`,
		doc:   "Patterns of the programs that the annotation \"path\" may name. * matches within one name. None: no program.",
		field: func(c *Config) any { return &c.QEMU.ValidHypervisorPaths },
		check: func(c *Config) error { return patterns(c.QEMU.ValidHypervisorPaths) },
	},
	{
		section: sectionQEMU, name: "enable_annotations", example: `["default_vcpus", "default_memory"]`,
		doc:   "Regular expressions for the names behind io.katacontainers.config.hypervisor. that a pod's annotations may have.\nOne must match the whole name. Who may set kernel_params controls the guest's command line.",
		field: func(c *Config) any { return &c.QEMU.EnableAnnotations },
		check: func(c *Config) error {
			for _, e := range c.QEMU.EnableAnnotations {
				if _, err := regexp.Compile(e); err != nil {
					return fmt.Errorf("%q is no regular expression: %w", e, err)
				}
			}
			return nil
		},
	},
	{
		section: sectionQEMU, name: "machine_type", pod: true, example: `"microvm"`,
		doc:   "QEMU's machine: \"microvm\" or \"q35\". Empty: what the guest's manifest says.",
		field: func(c *Config) any { return &c.QEMU.MachineType },
	},
	{
		section: sectionQEMU, name: "default_vcpus", pod: true,
		doc:   "Number of virtual CPUs, up to 288; a fraction is rounded up, more than the host has is cut.\n0: what the guest's manifest says. Negative: all that the host has.",
		field: func(c *Config) any { return &c.QEMU.DefaultVCPUs },
		check: func(c *Config) error {
			if n := c.QEMU.DefaultVCPUs; !(n >= -maxVCPUs && n <= maxVCPUs) {
				return fmt.Errorf("%v virtual CPUs: want at most %d", n, maxVCPUs)
			}
			return nil
		},
	},
	{
		section: sectionQEMU, name: "default_memory", pod: true,
		doc:   "Memory of the guest in MiB, 16 to 67108864. 0: what the guest's manifest says.",
		field: func(c *Config) any { return &c.QEMU.DefaultMemoryMiB },
		check: func(c *Config) error {
			if n := c.QEMU.DefaultMemoryMiB; n != 0 && (n < minMemoryMiB || n > maxMemoryMiB) {
				return fmt.Errorf("%d MiB of memory: want 0 or %d to %d", n, minMemoryMiB, maxMemoryMiB)
			}
			return nil
		},
	},
	{
		section: sectionQEMU, name: "kernel_params", pod: true, example: `"loglevel=6"`,
		doc:   "Words put behind the guest's kernel command line, at most 2047 bytes. An annotation's words come behind these.",
		field: func(c *Config) any { return &c.QEMU.KernelParams },
		check: func(c *Config) error { return kernelParams(c.QEMU.KernelParams) },
	},
	{
		section: sectionQEMU, name: "guest_extension_images", example: `[{name = "tools", path = "/usr/share/katabuild/extensions/tools"}]`,
		doc:   "Extension images, attached in this order. path is the folder that katabuild made, or the image alone;\nthe image alone needs verity_params, the line of root_hash.txt.",
		field: func(c *Config) any { return &c.QEMU.Extensions },
		check: func(c *Config) error { return extensions(c.QEMU.Extensions) },
	},
	{
		section: sectionQEMU, name: "enable_debug",
		doc:   "Put the guest's console into the runtime's log.",
		field: func(c *Config) any { return &c.QEMU.EnableDebug },
	},
	{
		section: sectionAgent, name: "enable_debug",
		doc:   "Let the agent log at level debug (agent.log=debug).",
		field: func(c *Config) any { return &c.Agent.EnableDebug },
	},
	{
		section: sectionAgent, name: "debug_console_enabled",
		doc:   "Let the agent put a shell on the guest's console (agent.debug_console).",
		field: func(c *Config) any { return &c.Agent.DebugConsoleEnabled },
	},
	{
		section: sectionAgent, name: "dial_timeout",
		doc:   "Seconds from QEMU's start until the agent must be ready, 1 to 3600.",
		field: func(c *Config) any { return &c.Agent.DialTimeout },
	},
	{
		section: sectionRuntime, name: "attestation", ours: true,
		doc:   "What a guest that is not what its manifest says leads to: \"enforce\" (it does not start), \"warn\" (it is logged)\nor \"off\" (no report is asked for). No annotation can change this.",
		field: func(c *Config) any { return &c.Runtime.Attestation },
	},
	{
		section: sectionRuntime, name: "enable_debug",
		doc:   "Log at level debug.",
		field: func(c *Config) any { return &c.Runtime.EnableDebug },
	},
	{
		section: sectionRuntime, name: "create_container_timeout", pod: true,
		doc:   "Seconds that creating one container may take in a guest that is ready, 1 to 3600.",
		field: func(c *Config) any { return &c.Runtime.CreateContainerTimeout },
	},
}

// findKey returns nil for a name that has no effect or is unknown.
func findKey(section, name string) *key {
	for i := range keys {
		if keys[i].section == section && keys[i].name == name {
			return &keys[i]
		}
	}
	return nil
}

// absolute accepts the empty path, which is a default.
func absolute(p string) error {
	switch {
	case p == "":
		return nil
	case !path.IsAbs(p):
		return fmt.Errorf("path %q: want an absolute one", p)
	case path.Clean(p) != p:
		return fmt.Errorf("path %q: want it as plain as %q", p, path.Clean(p))
	case hasControl(p):
		return fmt.Errorf("path %q has control characters", p)
	}
	return nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func patterns(list []string) error {
	for _, p := range list {
		if _, err := path.Match(p, "/"); err != nil {
			return fmt.Errorf("%q is no pattern: %w", p, err)
		}
		if !path.IsAbs(p) {
			return fmt.Errorf("pattern %q: want one of absolute paths", p)
		}
	}
	return nil
}

func kernelParams(list []KernelParam) error {
	n := 0
	for _, p := range list {
		for _, r := range p {
			if r < ' ' || r > '~' {
				return fmt.Errorf("kernel parameters hold %q: want printable ASCII", r)
			}
		}
		if strings.Count(string(p), `"`)%2 != 0 {
			return fmt.Errorf("kernel parameters %q: a quotation mark is not closed", string(p))
		}
		// What stands behind "--" goes to init, and so would every word of ours that follows.
		for _, w := range splitWords(string(p)) {
			if w == "--" {
				return fmt.Errorf(`kernel parameters %q: "--" would take the words behind it away from the kernel and the agent`, string(p))
			}
			if strings.HasPrefix(strings.Trim(w, `"`), extensionWord) {
				return fmt.Errorf("kernel parameters: %q is the runtime's to say; use guest_extension_images", w)
			}
		}
		n += len(p) + 1
	}
	if n > maxParams {
		return fmt.Errorf("%d bytes of kernel parameters: Linux keeps %d", n, maxParams)
	}
	return nil
}

// extensionWord begins the words of extension images; docs/formats/extensions.md.
const extensionWord = "kata.extension."

func extensions(list []ExtensionDisk) error {
	seen := map[string]bool{}
	for _, e := range list {
		if seen[e.Name] {
			return fmt.Errorf("extension %q stands twice", e.Name)
		}
		seen[e.Name] = true
	}
	return nil
}
