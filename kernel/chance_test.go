package kernel

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/source"
)

// chance finds lines, comments left out, with which a build asks for something random, for the time, or for the name of
// a machine or its user.
var chance = regexp.MustCompile(
	"(?m)^[^#\n]*(/dev/u?random|\\bopenssl +[a-z]+|(\\$\\(|`|\\(shell |[;|] *|=C )(date|whoami|hostname|uname|id)([ " +
		")`-]|$)|" +
		"\\bmktemp\\b|\\buuidgen\\b|\\$\\{?RANDOM\\b|\\bgethostname\\(|\\btime\\(NULL\\))")

// reviewed are the files of Linux 6.12 that chance finds, with the reason why no kernel of ours differs by them.
var reviewed = map[string]string{
	"arch/x86/Makefile": "uname -m chooses between the architectures where ARCH is x86: " +
		"64BIT is asked for; the jail has one machine's name",
	"certs/Makefile":                              "draws the key of MODULE_SIG, which is refused",
	"drivers/char/hw_random/Kconfig":              "text of help",
	"drivers/gpu/drm/ci/igt_runner.sh":            "not part of a build",
	"drivers/hid/bpf/progs/Makefile":              "not part of a build",
	"drivers/net/wireless/ath/ath9k/Kconfig":      "text of help",
	"drivers/usb/misc/Kconfig":                    "text of help",
	"init/Makefile":                               "date, where KBUILD_BUILD_TIMESTAMP is not set; it is",
	"lib/raid6/test/Makefile":                     "a test that no kernel build runs",
	"scripts/bootgraph.pl":                        "for people",
	"scripts/check-uapi.sh":                       "for people",
	"scripts/checkstack.pl":                       "for people",
	"scripts/decodecode":                          "for people",
	"scripts/extract-vmlinux":                     "for people",
	"scripts/faddr2line":                          "for people",
	"scripts/gcc-plugins/latent_entropy_plugin.c": "of GCC_PLUGIN_LATENT_ENTROPY, which is refused",
	"scripts/gen-randstruct-seed.sh":              "of RANDSTRUCT_FULL and RANDSTRUCT_PERFORMANCE, which are refused",
	"scripts/gfp-translate":                       "for people",
	"scripts/kconfig/Makefile": "the running kernel's release, for localmodconfig and defaults " +
		"of the machine's own .config, which are not used",
	"scripts/kconfig/merge_config.sh":      "for people",
	"scripts/kconfig/streamline_config.pl": "of localmodconfig, which is not used",
	"scripts/kernel-doc":                   "for people",
	"scripts/leaking_addresses.pl":         "for people",
	"scripts/markup_oops.pl":               "for people",
	"scripts/mkcompile_h": "user and host, where KBUILD_BUILD_USER and KBUILD_BUILD_HOST are not " +
		"set; they are",
	"scripts/patch-kernel":              "for people",
	"scripts/prune-kernel":              "for people",
	"scripts/selinux/install_policy.sh": "for people",
	"scripts/stackusage":                "for people",
	"scripts/subarch.include":           "the machine's architecture, where ARCH is not set; it is",
	"scripts/tools-support-relr.sh":     "the name of a temporary file",
	"usr/gen_initramfs.sh": "the name of a temporary file, and a date it is given; INITRAMFS_SOURCE is " +
		"refused",
}

// leavesToChance lists the files of a tree's build that chance finds.
func leavesToChance(t *testing.T, tree string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, p)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if d.IsDir() {
			parts := strings.Split(name, "/")
			if slices.Contains([]string{"tools", "samples", "Documentation", "scripts/package"}, name) ||
				slices.Contains(parts, "selftests") ||
				len(parts) == 2 && parts[0] == "arch" && parts[1] != "x86" {
				return fs.SkipDir
			}
			return nil
		}
		base := filepath.Base(name)
		isBuild := strings.HasPrefix(name, "scripts/") || strings.HasSuffix(base, ".sh") ||
			strings.HasPrefix(base, "Makefile") || strings.HasPrefix(base, "Kbuild") ||
			strings.HasPrefix(base, "Kconfig")
		if !isBuild || !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(p)
		if err == nil && chance.Match(data) {
			found = append(found, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestNothingNewOfATreeIsLeftToChance fails when a kernel's build gains or loses a source of difference, so that
// somebody looks at it.
func TestNothingNewOfATreeIsLeftToChance(t *testing.T) {
	r := slowRequest(t, features.Tiny)
	r.OnlyConfig = true
	b := &build{Request: r}
	skip, err := b.skip()
	if err != nil {
		t.Fatal(err)
	}
	err = source.Unpack(t.Context(), source.Source{Kind: r.SourceKind, Path: r.Source, Digest: r.SourceDigest},
		r.tree(), source.Options{Time: time.Unix(1, 0), Skip: skip})
	if err != nil {
		t.Fatal(err)
	}
	found := leavesToChance(t, r.tree())
	for _, name := range found {
		if reviewed[name] == "" {
			t.Errorf("%s asks for chance, time or the machine: look at it, then put it into the list with the "+
				"reason why it does no harm, or refuse its option", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(reviewed)) {
		if !slices.Contains(found, name) {
			t.Errorf("%s is in the list, but no longer asks for anything", name)
		}
	}
}
