package kernel

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/source"
	"github.com/katabuild/katabuild/kernel/toolchain"
)

func TestMain(m *testing.M) {
	jail.Main()
	if os.Getenv(twiceVariable) != "" {
		os.Exit(twiceMain())
	}
	os.Exit(m.Run())
}

// Variables of the slow tests.
const (
	slowVariable   = "KATABUILD_TEST_KERNEL"        // set by `make test-kernel`
	sourceVariable = "KATABUILD_TEST_KERNEL_SOURCE" // a linux-source-*.deb
)

func x86(t testing.TB) arch.Arch {
	t.Helper()
	a, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// findTools finds the machine's tool-chain, or skips.
func findTools(t testing.TB) toolchain.Toolchain {
	t.Helper()
	var tc toolchain.Toolchain
	testenv.Require(t, testenv.Func(testenv.Toolchain, func() (err error) {
		tc, err = toolchain.Find(context.Background(), toolchain.Options{Arch: x86(t), Host: x86(t),
			Dirs: strings.Split(jail.Path, ":")})
		return err
	}))
	return tc
}

// slowRequest is a request for the source that the environment names, in a work folder of its own.
func slowRequest(t testing.TB, names ...string) Request {
	t.Helper()
	testenv.Require(t, testenv.Asked(slowVariable, "test-kernel"), testenv.File(sourceVariable),
		testenv.Func(testenv.UserNamespaces, func() error { return jail.Check(context.Background()) }))
	deb := os.Getenv(sourceVariable)
	d, _, err := digest.File(deb)
	if err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last of the log:\n%s", log.Bytes()[max(0, log.Len()-4000):])
		}
	})
	return Request{
		Arch: x86(t), SourceKind: source.Debian, Source: deb, SourceDigest: d, Features: names,
		Time: time.Unix(1_700_000_000, 0), Toolchain: findTools(t), Jobs: runtime.NumCPU(),
		WorkDir: t.TempDir(), OutDir: t.TempDir(), Log: log,
	}
}

// configureOnly configures a tree that an earlier build has unpacked.
func configureOnly(t *testing.T, tree string, r Request) (*Result, error) {
	t.Helper()
	b := &build{Request: r}
	b.WorkDir = filepath.Dir(tree)
	err := b.open()
	if err != nil {
		t.Fatal(err)
	}
	defer b.left.Close()
	if b.sourceVersion, err = source.Version(b.left); err != nil {
		t.Fatal(err)
	}
	config, err := b.configure(t.Context())
	if err != nil {
		return nil, err
	}
	return &Result{GaveWay: b.gaveWay, Release: b.release, SourceVersion: b.sourceVersion,
		ConfigDigest: digest.Of(config)}, nil
}

// TestConfigurationOnTheRealTree asks Linux itself about settings it cannot fulfil.
func TestConfigurationOnTheRealTree(t *testing.T) {
	r := slowRequest(t, features.Tiny)
	r.OnlyConfig = true
	res, err := Build(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(res.Release, res.SourceVersion+"-kb-") || len(res.Outputs) != 1 {
		t.Errorf("%+v", res)
	}
	tree := r.tree()

	for _, c := range []struct{ name, fragment, want string }{
		{"unmet dependency", "CONFIG_VIRTIO_FS=y\n",
			"user.config:1:1: asked for CONFIG_VIRTIO_FS=y, got n: VIRTIO_FS: depends on FUSE_FS (is n)"},
		{"unknown symbol", "\nCONFIG_VIRTIO_MIMO=y\n",
			"user.config:2:1: asked for CONFIG_VIRTIO_MIMO=y, got n: VIRTIO_MIMO: no such symbol in this tree; the " +
				"nearest is VIRTIO_MMIO"},
		{"selected", "# CONFIG_KERNFS is not set\n", "KERNFS: selected by"},
		{"module without modules", "CONFIG_CRAMFS=m\nCONFIG_MISC_FILESYSTEMS=y\n", "MODULES is n"},
		{"range", "CONFIG_LOG_BUF_SHIFT=99\n", "must lie between 12 and 25"},
		{"choice", "CONFIG_KERNEL_XZ=y\n", "went to KERNEL_ZSTD"},
		{"no prompt", "CONFIG_VIRTIO_VSOCKETS_COMMON=n\n", "selected by VIRTIO_VSOCKETS (is y)"},
		{"wrong type", "CONFIG_CRAMFS=7\n", "is a tristate"},
		{"other architecture", "CONFIG_ARM64_VA_BITS_48=y\n",
			"no such symbol in this tree: an option of arm64, not of " +
				"x86"},
		{"needs another architecture", "CONFIG_SERIAL_AMBA_PL011=y\n",
			"SERIAL_AMBA_PL011: depends on ARM_AMBA (is n: " +
				"an option of arm, arm64"},
		{"removed", "CONFIG_SLAB=y\n", "removed from Linux: 6.1 had it"},
		{"misspelt and off", "# CONFIG_VIRTIO_MIMO is not set\n", "the nearest is VIRTIO_MMIO"},
		{"a choice with two winners", "CONFIG_PREEMPT_NONE=y\nCONFIG_PREEMPT=y\n",
			"a choice has one winner, leave one " +
				"of the two out"},
		{"wrong type of number", "CONFIG_LOG_BUF_SHIFT=y\n", "is an int, y cannot be its value"},
		{"several definitions", "CONFIG_MEMORY_FAILURE=y\nCONFIG_HUGETLB_PAGE=y\n", "HUGETLB_PAGE: has no prompt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := r
			r.Fragments = []Fragment{{Name: "user.config", Data: []byte(c.fragment)}}
			_, err := configureOnly(t, tree, r)
			var u *kconfig.Unmet
			if !errors.As(err, &u) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestEveryArchitectureOnTheRealTree asks Linux about the sets and every feature of the other architectures.
func TestEveryArchitectureOnTheRealTree(t *testing.T) {
	r := slowRequest(t, features.Tiny)
	r.OnlyConfig = true
	if _, err := Build(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	tree := r.tree()
	for _, a := range arch.All() {
		all, err := Features(a)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			t.Run(a.Name+" "+f.Name, func(t *testing.T) {
				r := r
				r.Arch, r.Features = a, []string{f.Name}
				if a.Name != "x86_64" {
					testenv.Require(t, testenv.Tool(a.CrossPrefix+"gcc"))
					r.Toolchain.Prefix = a.CrossPrefix
				}
				if _, err := configureOnly(t, tree, r); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestOptionsBesideOursOnTheRealTree asks Linux whether a line of a developer's own fits to the sets, and what is said
// where it does not.
func TestOptionsBesideOursOnTheRealTree(t *testing.T) {
	r := slowRequest(t, features.Tiny)
	r.OnlyConfig = true
	if _, err := Build(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	tree := r.tree()
	for _, c := range []struct {
		fragment       string
		tiny, standard string // what is said on the set tiny and on default; empty where it is taken
	}{
		{"SLUB_DEBUG=y", "", ""},
		{"SLUB_DEBUG=y SLUB_DEBUG_ON=y", "", ""},
		{"SLUB_DEBUG=y KASAN=y", "", "KASAN (user.config:2) is y, which VMAP_STACK " +
			"(kernel/features/hardening.config:9) excludes"},
		{"SLUB_DEBUG=y KASAN=y KASAN_VMALLOC=y", "", ""},
		{"DEBUG_KERNEL=y PAGE_OWNER=y", "", ""},
		{"KFENCE=y", "", ""},
		{"DEBUG_KERNEL=y DEBUG_INFO_DWARF5=y", "", ""},
		{"DEBUG_KERNEL=y DEBUG_INFO_DWARF5=y BPF_SYSCALL=y DEBUG_INFO_BTF=y", "PAHOLE_VERSION", "PAHOLE_VERSION"},
		{"DEBUG_KERNEL=y PROVE_LOCKING=y", "", ""},
		{"UBSAN=y", "", ""},
		{"DEBUG_KERNEL=y KCSAN=y", "", ""},
		{"FTRACE=y FUNCTION_TRACER=y", "", ""},
		{"DEBUG_KERNEL=y KGDB=y", "", ""},
		{"KPROBES=y", "", ""},
		{"DEBUG_FS=y", "", ""},
		{"PERF_EVENTS=y", "", ""},
		{"DEBUG_FS=y GCOV_KERNEL=y", "", ""},
		{"DYNAMIC_DEBUG=y", "", ""},
		{"MAGIC_SYSRQ=y", "", ""},
		{"DEBUG_KERNEL=y DEBUG_KMEMLEAK=y", "", ""},
		{"DEBUG_KERNEL=y DEBUG_VM=y", "", ""},
		{"DEBUG_FS=y SCHED_DEBUG=y", "", ""},
		// What ours only prefer gives way.
		{"UNWINDER_ORC=y", "", ""},
		{"UNWINDER_FRAME_POINTER=y", "", ""},
		{"UNWINDER_GUESS=n", "", ""},
		{"CC_OPTIMIZE_FOR_PERFORMANCE=y", "", ""},
		{"KERNEL_XZ=y", "", ""},
		{"HZ_PERIODIC=y", "", ""},
		{"NO_HZ_FULL=y", "", ""},
		{"PREEMPT_RT=y", "", "PREEMPT_RT (user.config:1) is y, which TRANSPARENT_HUGEPAGE (kernel/features/"},
	} {
		for set, want := range map[string]string{features.Tiny: c.tiny, features.Default: c.standard} {
			t.Run(c.fragment+" on "+set, func(t *testing.T) {
				r := r
				r.Features = []string{set}
				text := "CONFIG_" + strings.ReplaceAll(c.fragment, " ", "\nCONFIG_") + "\n"
				r.Fragments = []Fragment{{Name: "user.config", Data: []byte(text)}}
				_, err := configureOnly(t, tree, r)
				if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			})
		}
	}
	t.Run("an override", func(t *testing.T) {
		r := r
		r.Overrides = []Override{{Option: "CONFIG_INET", Value: "n", Reason: "sockets of the host alone",
			File: "recipe.yaml", Line: 7}}
		if _, err := configureOnly(t, tree, r); err != nil {
			t.Error(err)
		}
		r.Overrides[0].Option = "CONFIG_NET"
		_, err := configureOnly(t, tree, r)
		want := "NET is n (recipe.yaml:7), which UNIX (kernel/features/core.config:"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	})
	t.Run("no features", func(t *testing.T) {
		r := r
		r.Features, r.Fragments = nil, []Fragment{{Name: "user.config", Data: []byte("CONFIG_64BIT=y\n")}}
		if _, err := configureOnly(t, tree, r); err != nil {
			t.Error(err)
		}
	})
}
