package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/kernel/source"
)

func TestWhatMakesKernelsDifferIsRefusedWhereItIsAsked(t *testing.T) {
	for line, want := range map[string]string{
		"CONFIG_MODULE_SIG=y":                             "draws the key at random",
		"CONFIG_MODULE_COMPRESS_XZ=y":                     "the agent loads them as they are",
		"CONFIG_MODULE_SIG_KEY=\"certs/signing_key.pem\"": "draws the key at random",
		"CONFIG_RANDSTRUCT_FULL=y":                        "draws the seed at random",
		"CONFIG_GCC_PLUGIN_LATENT_ENTROPY=y":              "random numbers",
		"CONFIG_SYSTEM_TRUSTED_KEYS=\"/etc/key.pem\"":     "a file of the machine",
		"CONFIG_UNUSED_KSYMS_WHITELIST=\"../list\"":       "a file of the machine",
		"CONFIG_BOOT_CONFIG_EMBED_FILE=\"/boot.conf\"":    "a file of the machine",
		"CONFIG_EXTRA_FIRMWARE=\"x.bin\"":                 "files of the machine",
		"CONFIG_INITRAMFS_SOURCE=\"/root\"":               "files of the machine",
		"CONFIG_GCC_PLUGINS=y":                            "a C++ compiler",
		"CONFIG_GCC_PLUGIN_STACKLEAK=y":                   "a C++ compiler",
		"CONFIG_CMDLINE_BOOL=y":                           "boot.command_line",
		"CONFIG_CMDLINE=\"quiet\"":                        "boot.command_line",
		"CONFIG_LOCALVERSION=\"x\"":                       "carries the digest",
	} {
		r := request(t)
		r.Fragments = []Fragment{{Name: "my.config", Data: []byte("# why\n" + line + "\n")}}
		if _, err := settingsOf(r); err == nil || !strings.HasPrefix(err.Error(), "my.config:2:1: ") ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", line, err, want)
		}
	}
	r := request(t)
	r.Fragments = []Fragment{{Name: "my.config", Data: []byte("# CONFIG_MODULE_SIG is not set\n" +
		"CONFIG_SYSTEM_TRUSTED_KEYS=\"\"\n# CONFIG_CMDLINE_BOOL is not set\n" +
		"CONFIG_SYSTEM_REVOCATION_KEYS=\"certs/revoked.pem\"\n")}} // in the tree, by a patch
	if _, err := settingsOf(r); err != nil {
		t.Error(err)
	}
	r.Fragments = []Fragment{{Name: "my.config", Data: []byte("CONFIG_CMDLINE_BOOL=y\nCONFIG_MODULE_SIG=y\n")}}
	if _, err := settingsOf(r); err == nil || !strings.Contains(err.Error(), "my.config:1:1: ") ||
		!strings.Contains(err.Error(), "my.config:2:1: ") {
		t.Errorf("got %v, want both lines", err)
	}
}

// TestTheTreesOwnLocalVersionIsTaken configures a made-up tree that never gets as far as a compiler.
func TestTheTreesOwnLocalVersionIsTaken(t *testing.T) {
	for text, want := range map[string]string{"-rt1\n": "6.12.1-rt1-kb-", "": "6.12.1-kb-", "-two words\n": "",
		strings.Repeat("x", 60): ""} {
		r := madeUp(t, obedient)
		if err := errors.Join(os.WriteFile(r.Source+"/localversion-rt", []byte(text), 0o644),
			os.WriteFile(r.Source+"/localversion~", []byte("no"), 0o644)); err != nil {
			t.Fatal(err)
		}
		var err error
		if r.SourceDigest, err = source.TreeDigest(t.Context(), r.Source); err != nil {
			t.Fatal(err)
		}
		r.OnlyConfig = true
		res, err := Build(t.Context(), r)
		switch {
		case want == "" && (err == nil || !strings.Contains(err.Error(), "localversion")):
			t.Errorf("%q: got %v", text, err)
		case want != "" && (err != nil || !strings.HasPrefix(res.Release, want) ||
			len(res.Release) != len(want)+len(digest.Of(nil).Short())):
			t.Errorf("%q: got %+v, %v", text, res, err)
		}
	}
}

// TestWhatIsRefusedDoesNotComeByItself has a configurator switch on what nobody asked for, as a default or a selection
// does.
func TestWhatIsRefusedDoesNotComeByItself(t *testing.T) {
	for _, line := range []string{"CONFIG_MODULE_SIG=y", "CONFIG_RANDSTRUCT_FULL=y", `CONFIG_INITRAMFS_SOURCE="/etc"`,
		"CONFIG_CMDLINE_BOOL=y"} {
		r := madeUp(t, strings.Replace(obedient, "$(KCONFIG_ALLCONFIG) .config",
			"$(KCONFIG_ALLCONFIG) .config; echo '"+line+"' >> .config", 1))
		_, err := Build(t.Context(), r)
		if want := line + " came into the configuration although nobody asked for it"; err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	for _, line := range []string{"CONFIG_MODULE_SIG_KEY=\"\"", "CONFIG_SYSTEM_TRUSTED_KEYS=\"\"",
		"# CONFIG_MODULE_SIG is not set", "CONFIG_RANDSTRUCT_NONE=y", "CONFIG_MODULE_COMPRESS_NONE=y"} {
		r := madeUp(t, strings.Replace(obedient, "$(KCONFIG_ALLCONFIG) .config",
			"$(KCONFIG_ALLCONFIG) .config; echo '"+line+"' >> .config", 1))
		r.OnlyConfig = true
		if _, err := Build(t.Context(), r); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestAConfigurationAloneIsLeftBesideItsErrors(t *testing.T) {
	r := madeUp(t, strings.Replace(obedient, "cp $(KCONFIG_ALLCONFIG) .config",
		"grep -v 'CONFIG_NET=\\|UNWINDER_GUESS' $(KCONFIG_ALLCONFIG) > .config", 1))
	r.OnlyConfig = true
	res, err := Build(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "asked for CONFIG_NET=y, got n") || strings.Contains(err.Error(),
		"GUESS") ||
		!strings.Contains(err.Error(), "to do without it: kernel.override: [{option: CONFIG_NET, value: n, "+
			"reason: ...}]") {
		t.Errorf("got %v", err)
	}
	if res == nil || len(res.Outputs) != 1 || len(res.GaveWay) != 1 ||
		res.GaveWay[0].Setting.Symbol != "UNWINDER_GUESS" {
		t.Fatalf("%+v", res)
	}
	if _, err := os.Stat(res.Outputs[0].Path); err != nil {
		t.Error(err)
	}
	r.OnlyConfig, r.WorkDir = false, filepath.Join(t.TempDir(), "work")
	if res, err := Build(t.Context(), r); res != nil || err == nil {
		t.Errorf("a whole build: %+v, %v", res, err)
	}
}
