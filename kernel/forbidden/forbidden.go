// Package forbidden knows the options that no kernel of ours may be asked for.
package forbidden

import (
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// Why says why an option cannot be asked for, with the way out, or nothing where it can. What is refused lets the
// kernel's make draw something at random, read something of the machine that the lock does not hold, or makes the
// kernel's own command line another than the one that is attested. Linux 6.12: certs/Makefile,
// scripts/gcc-plugins/Kconfig, security/Kconfig.hardening, usr/Makefile, drivers/base/firmware_loader/builtin/Makefile,
// scripts/Makefile.modpost, lib/Makefile, drivers/acpi/tables.c, net/wireless/Makefile.
func Why(w kconfig.Setting) string {
	switch {
	case w.Symbol == "LOCALVERSION" || w.Symbol == "LOCALVERSION_AUTO":
		return "it carries the digest of the configuration"
	case w.Value == "n" || w.Value == `""`:
		return ""
	}
	switch w.Symbol {
	case "CMDLINE_BOOL", "CMDLINE", "CMDLINE_OVERRIDE", "CMDLINE_EXTEND", "CMDLINE_FORCE":
		return "the guest's command line would not be the one that is attested; say its words in boot.command_line"
	case "MODULE_SIG", "MODULE_SIG_FORCE":
		if features.Owns(w.File) {
			return "" // module-signing, which asks for an empty MODULE_SIG_KEY too, so that nothing is drawn
		}
		return randomKey
	case "MODULE_SIG_ALL", "MODULE_SIG_KEY":
		return randomKey
	case "MODULE_COMPRESS", "MODULE_COMPRESS_ALL", "MODULE_COMPRESS_GZIP", "MODULE_COMPRESS_XZ", "MODULE_COMPRESS_ZSTD":
		return "modules are signed once they have left the kernel's tree, and the agent loads them as they are; " +
			"leave it out, and compress the guest's disk by image.compression"
	case "RANDSTRUCT_FULL", "RANDSTRUCT_PERFORMANCE", "GCC_PLUGIN_RANDSTRUCT":
		return "the kernel's make draws the seed at random, and GCC's headers for plugins are none of the tools " +
			"that a key holds, so no two kernels would be alike; leave it out"
	case "GCC_PLUGIN_LATENT_ENTROPY":
		return "the compiler's plugin puts random numbers into the kernel, so no two kernels would be alike; " +
			"leave it out"
	case "EXTRA_FIRMWARE", "EXTRA_FIRMWARE_DIR":
		return "it names files of the machine, which the lock does not hold; leave it out, and give the guest its " +
			"firmware as files of its root"
	case "INITRAMFS_SOURCE":
		return "it names files of the machine, which the lock does not hold; leave it out, and say the guest's " +
			"files in initrd or rootfs"
	case "SYSTEM_TRUSTED_KEYS", "SYSTEM_REVOCATION_KEYS", "SYSTEM_BLACKLIST_HASH_LIST", "UNUSED_KSYMS_WHITELIST",
		"BOOT_CONFIG_EMBED_FILE", "ACPI_CUSTOM_DSDT_FILE", "CFG80211_EXTRA_REGDB_KEYDIR":
		if !filepath.IsLocal(strings.Trim(string(w.Value), `"`)) {
			return "it names a file of the machine, which the lock does not hold; add the file to the tree by a " +
				"patch and name it by its path in the tree, or leave it out"
		}
	}
	if strings.HasPrefix(w.Symbol, "GCC_PLUGIN") {
		return "GCC's headers for plugins, and a C++ compiler, are none of the tools that a key holds, so that the " +
			"kernel would depend on more of the machine than it says; leave it out"
	}
	return ""
}

// randomKey is why the kernel's own way to sign modules is refused.
const randomKey = "the kernel's make draws the key at random, so no two kernels would be alike; ask for the feature " +
	"module-signing instead, whose key is yours or derived"
