package kernel

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/menu"
)

// slowMenu configures the real tree and returns what can be asked of it.
func slowMenu(t *testing.T, names ...string) (Request, *menu.Kernel) {
	t.Helper()
	r := slowRequest(t, names...)
	r.OnlyConfig, r.Kconfig = true, true
	res, err := Build(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(res.Outputs[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadFile(res.Outputs[1].Path)
	if err != nil {
		t.Fatal(err)
	}
	k, err := r.Menu(config, files)
	if err != nil {
		t.Fatal(err)
	}
	return r, k
}

// TestWhatIsForeseenIsWhatTheConfiguratorMakes compares every symbol of Linux.
func TestWhatIsForeseenIsWhatTheConfiguratorMakes(t *testing.T) {
	for _, set := range []string{features.Tiny, features.Default} {
		_, k := slowMenu(t, set)
		foreseen := k.Foresee(k.Settings)
		text := func(v kconfig.Value) string {
			if v == kconfig.No {
				return ""
			}
			return strings.Trim(string(v), `"`)
		}
		for _, name := range k.Tree.Names() {
			if is := k.Final.Get(name); text(foreseen.Get(name)) != text(is) && name != symbolLocalVersion {
				t.Errorf("%s: %s is foreseen as %s, and is %s", set, name, foreseen.Get(name), is)
			}
		}
	}
}

// TestWishesComeTrueOnTheRealTree asks what would switch options on, and asks the configurator for it.
func TestWishesComeTrueOnTheRealTree(t *testing.T) {
	r, k := slowMenu(t, features.Tiny)
	names := []string{
		"VIRTIO_FS", "BTRFS_FS", "NFS_V4_2", "SND_HDA_INTEL", "DRM_VIRTIO_GPU", "IP_NF_NAT", "KASAN_INLINE",
		"HUGETLB_PAGE", "CRYPTO_AES_NI_INTEL", "NETFILTER_XT_TARGET_LOG", "CMA", "KERNEL_XZ", "PREEMPT_RT",
		"MEMORY_FAILURE", "DEBUG_INFO", "INFINIBAND_USER_ACCESS", "NET_DEVLINK", "STACKTRACE",
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			a := k.Explain(name)
			if !a.Known || a.Unreachable || len(a.Wish) == 0 {
				t.Fatalf("%+v", a)
			}
			r := r
			text := ""
			r.Overrides = nil
			for _, l := range a.Wish {
				symbol, value, _, err := kconfig.ParseLine(l.Line)
				if err != nil {
					t.Fatal(err)
				}
				if len(l.Against) > 0 {
					r.Overrides = append(r.Overrides, Override{Option: "CONFIG_" + symbol, Value: value,
						Reason: "test", File: "recipe.yaml", Line: 1})
					continue
				}
				text += l.Line + "\n"
			}
			t.Log(strings.ReplaceAll(text, "\n", " "), r.Overrides)
			r.Fragments = []Fragment{{Name: "wish.config", Data: []byte(text)}}
			if _, err := configureOnly(t, r.tree(), r); err != nil {
				t.Errorf("%s: %v", text, err)
			}
			after, err := os.ReadFile(r.tree() + "/.config")
			if err != nil || !slices.Contains(strings.Split(string(after), "\n"), "CONFIG_"+name+"=y") {
				t.Errorf("%s is not on with\n%s%v", name, text, err)
			}
		})
	}
}
