package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/modules"
	"github.com/katabuild/katabuild/kernel/patches"
	"github.com/katabuild/katabuild/kernel/source"
	"github.com/katabuild/katabuild/kernel/toolchain"
)

// request is a whole request that nobody builds.
func request(t testing.TB) Request {
	return Request{
		Arch: x86(t), SourceKind: source.Tarball, Source: "/a/linux.tar", SourceDigest: digest.Of([]byte("source")),
		Features:  []string{features.Tiny},
		Fragments: []Fragment{{Name: "user.config", Data: []byte("CONFIG_FHANDLE=y\n")}},
		Patches:   []Patch{{Name: "a.patch", Data: []byte("a")}, {Name: "b.patch", Data: []byte("b")}},
		Time:      time.Unix(1_700_000_000, 0),
		Toolchain: toolchain.Toolchain{Tools: []toolchain.Tool{{Name: "gcc", Version: "gcc 14",
			Digest: digest.Of([]byte("gcc")), Path: "/usr/bin/gcc"}}},
	}
}

func mustInputs(t testing.TB, r Request) []artifact.Input {
	t.Helper()
	in, err := r.Inputs()
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range in {
		if slices.ContainsFunc(in[:i], func(b artifact.Input) bool { return a.Name == b.Name }) {
			t.Errorf("two inputs are named %q", a.Name)
		}
	}
	return in
}

func TestWhatDecidesBytesIsAnInput(t *testing.T) {
	base := mustInputs(t, request(t))
	for name, change := range map[string]func(*Request){
		"source digest": func(r *Request) { r.SourceDigest = digest.Of(nil) },
		"source kind":   func(r *Request) { r.SourceKind = source.Debian },
		"features":      func(r *Request) { r.Features = []string{features.Default} },
		"fragment": func(r *Request) {
			r.Fragments = []Fragment{{Name: "user.config", Data: []byte("# CONFIG_FHANDLE is not set\n")}}
		},
		"override":        func(r *Request) { r.Overrides = []Override{{Option: "CONFIG_NET", Value: "n"}} },
		"no features":     func(r *Request) { r.Features = nil },
		"fewer fragments": func(r *Request) { r.Fragments = nil },
		"another fragment": func(r *Request) {
			r.Fragments = append(slices.Clone(r.Fragments),
				Fragment{Name: "more.config"})
		},
		"patch": func(r *Request) {
			r.Patches = []Patch{{Name: "a.patch", Data: []byte("a")}, {Name: "b.patch", Data: []byte("c")}}
		},
		"order of patches": func(r *Request) { r.Patches = []Patch{r.Patches[1], r.Patches[0]} },
		"fewer patches":    func(r *Request) { r.Patches = r.Patches[:1] },
		"modules":          func(r *Request) { r.Modules = true },
		"time":             func(r *Request) { r.Time = r.Time.Add(time.Second) },
		"a tool's version": func(r *Request) {
			r.Toolchain.Tools = []toolchain.Tool{{Name: "gcc", Version: "gcc 15", Digest: r.Toolchain.Tools[0].Digest}}
		},
		"a tool's digest": func(r *Request) {
			r.Toolchain.Tools = []toolchain.Tool{{Name: "gcc", Version: "gcc 14", Digest: digest.Of(nil)}}
		},
		"another tool": func(r *Request) {
			r.Toolchain.Tools = append(slices.Clone(r.Toolchain.Tools), toolchain.Tool{Name: "ld"})
		},
		"only configuration": func(r *Request) { r.OnlyConfig = true }, // other outputs
	} {
		r := request(t)
		change(&r)
		if slices.Equal(mustInputs(t, r), base) {
			t.Errorf("%s: the inputs do not change", name)
		}
	}
}

func TestWhatDecidesNoByteIsNoInput(t *testing.T) {
	request := func(t *testing.T) Request {
		r := request(t)
		r.Overrides = []Override{{Option: "CONFIG_NET", Value: "y"}}
		return r
	}
	base := mustInputs(t, request(t))
	for name, change := range map[string]func(*Request){
		"path of the source": func(r *Request) { r.Source = "/b/other.tar" },
		"time zone":          func(r *Request) { r.Time = r.Time.In(time.FixedZone("x", 3600)) },
		"order of features":  func(r *Request) { r.Features = []string{"vsock", features.Tiny} },
		"a feature twice":    func(r *Request) { r.Features = []string{features.Tiny, features.Tiny} },
		"a patch's name": func(r *Request) {
			r.Patches = []Patch{{Name: "x", Data: []byte("a")},
				{Name: "y", Data: []byte("b")}}
		},
		"where a tool is": func(r *Request) {
			r.Toolchain.Tools = slices.Clone(r.Toolchain.Tools)
			r.Toolchain.Tools[0].Path = "/opt/gcc"
		},
		"an override's reason and place": func(r *Request) {
			r.Overrides = []Override{{Option: "CONFIG_NET", Value: "y", Reason: "because", File: "recipe.yaml",
				Line: 7}}
		},
		"jobs":          func(r *Request) { r.Jobs = 7 },
		"objects":       func(r *Request) { r.Objects = 7 },
		"work folder":   func(r *Request) { r.WorkDir = "/w" },
		"output folder": func(r *Request) { r.OutDir = "/o" },
		"progress":      func(r *Request) { r.Progress = func(progress.Event) {} },
		"log":           func(r *Request) { r.Log = io.Discard },
	} {
		r := request(t)
		change(&r)
		if got := mustInputs(t, r); !slices.Equal(got, base) {
			t.Errorf("%s: the inputs change:\n%v\n%v", name, got, base)
		}
	}
}

func TestIncompleteRequestsAreRefused(t *testing.T) {
	for want, change := range map[string]func(*Request){
		"no architecture":          func(r *Request) { r.Arch.Name = "" },
		"source kind \"zip\"":      func(r *Request) { r.SourceKind = "zip" },
		"the source has no digest": func(r *Request) { r.SourceDigest = "" },
		"override 1 (CONFIG_A=maybe) is none": func(r *Request) {
			r.Overrides = []Override{{Option: "CONFIG_A",
				Value: "maybe"}}
		},
		"override 1 (A=y) is none": func(r *Request) { r.Overrides = []Override{{Option: "A", Value: "y"}} },
		"override 2 (CONFIG_A=n) is none, or the second": func(r *Request) {
			r.Overrides = []Override{{Option: "CONFIG_A", Value: "y"}, {Option: "CONFIG_A", Value: "n"}}
		},
		"no time":                            func(r *Request) { r.Time = time.Time{} },
		"no tool-chain":                      func(r *Request) { r.Toolchain.Tools = nil },
		"unknown kernel feature \"vsocket\"": func(r *Request) { r.Features = []string{"vsocket"} },
		"fragment 2 has no name of its own":  func(r *Request) { r.Fragments = append(r.Fragments, r.Fragments[0]) },
		"fragment 1 has no name of its own":  func(r *Request) { r.Fragments = []Fragment{{}} },
	} {
		r := request(t)
		change(&r)
		if _, err := r.Inputs(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Inputs: got %v, want %s", err, want)
		}
		if _, err := Build(t.Context(), r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Build: got %v, want %s", err, want)
		}
	}
}

func TestContradictionsAreFoundBeforeAnythingIsUnpacked(t *testing.T) {
	r := request(t)
	r.WorkDir, r.OutDir = filepath.Join(t.TempDir(), "w"), filepath.Join(t.TempDir(), "o")
	r.Patches = nil
	r.Fragments = []Fragment{{"a.config", []byte("# CONFIG_VSOCKETS is not set\n")},
		{"b.config", []byte("CONFIG_X=y\n")}, {"c.config", []byte("\nCONFIG_X=m\n")}}
	_, err := Build(t.Context(), r)
	var c *kconfig.Conflict
	if !errors.As(err, &c) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"a.config:1:19: CONFIG_VSOCKETS=n contradicts CONFIG_VSOCKETS=y at " +
		"kernel/features/vsock.config:",
		"(\"The agent's API listens there.\")",
		"leave the line out, or put the feature's setting aside: kernel.override: [{option: CONFIG_VSOCKETS, " +
			"value: n, reason: ...}] in the recipe",
		"\n    1 | # CONFIG_VSOCKETS is not set\n      |                   ^\n",
		"c.config:2:10: CONFIG_X=m contradicts CONFIG_X=y at b.config:1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
	r.Fragments = []Fragment{{"a.config", []byte("CONFIG_LOCALVERSION=\"-mine\"\n")}}
	if _, err := Build(t.Context(), r); err == nil || !strings.Contains(err.Error(),
		"a.config:1:1: CONFIG_LOCALVERSION cannot be asked for") {
		t.Errorf("got %v", err)
	}
	r.Fragments, r.Patches = nil, []Patch{{Name: "p.patch", Data: []byte("rubbish\n")}}
	var p *patches.Error
	if _, err := Build(t.Context(), r); !errors.As(err, &p) || p.Patch != "p.patch" {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(r.WorkDir); !os.IsNotExist(err) {
		t.Errorf("the work folder was made: %v", err)
	}
}

func TestACancelledBuildStops(t *testing.T) {
	r := request(t)
	r.Patches = nil
	r.WorkDir, r.OutDir, r.Source = t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "linux.tar")
	if err := os.WriteFile(r.Source, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSourceVersions(t *testing.T) {
	for text, want := range map[string]string{
		"# x\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\nEXTRAVERSION =\nVERSION = 7\n": "6.12.117",
		"VERSION = 6\nPATCHLEVEL = 13\nSUBLEVEL = 0\nEXTRAVERSION = -rc1\n":                "6.13.0-rc1",
		"all:\n": "", "VERSION = $(shell date)\n": "", "VERSION = 6\nEXTRAVERSION = /../x\n": "",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "Makefile"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		folder, err := regular.OpenFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer folder.Close()
		if got, err := source.Version(folder); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestModulesArePackedAlikeEverywhere(t *testing.T) {
	pack := func(mask int) []byte {
		old := syscall.Umask(mask)
		defer syscall.Umask(old)
		root, out := filepath.Join(t.TempDir(), "modules"), filepath.Join(t.TempDir(), "modules.tar")
		lib := filepath.Join(root, "lib/modules/6.12")
		if err := os.MkdirAll(filepath.Join(lib, "kernel"), 0o777); err != nil {
			t.Fatal(err)
		}
		for _, n := range []string{"modules.dep", "kernel/b.ko", "kernel/a.ko"} {
			if err := os.WriteFile(filepath.Join(lib, n), []byte(n), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(root, filepath.Join(lib, "build")); err != nil {
			t.Fatal(err)
		}
		if err := modules.Pack(t.Context(), root, out, time.Unix(5, 0), nil); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := pack(0o022)
	if !bytes.Equal(first, pack(0o077)) {
		t.Error("another folder and umask give other bytes")
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(first)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(time.Unix(5, 0)) {
			t.Errorf("%+v", h)
		}
		names = append(names, h.Name)
	}
	want := "lib/ lib/modules/ lib/modules/6.12/ lib/modules/6.12/kernel/ lib/modules/6.12/kernel/a.ko " +
		"lib/modules/6.12/kernel/b.ko lib/modules/6.12/modules.dep"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestAnOverrideTakesThePlaceOfEveryFeaturesSetting(t *testing.T) {
	find := func(r Request, symbol string) kconfig.Setting {
		t.Helper()
		ws, err := settingsOf(r)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(ws, func(w kconfig.Setting) bool { return w.Symbol == symbol })
		if i < 0 {
			t.Fatalf("nobody asks for %s", symbol)
		}
		return ws[i]
	}
	r := request(t)
	if w := find(r, "NET"); w.Value != "y" || w.Preference {
		t.Fatalf("%+v", w)
	}
	r.Overrides = []Override{
		{Option: "CONFIG_NET", Value: "n", Reason: "no network", File: "recipe.yaml", Line: 7},
		{Option: "CONFIG_SYSFS", Value: "y", File: "recipe.yaml", Line: 8},
		// no feature of the set has it, a fragment does
		{Option: "CONFIG_FHANDLE", Value: "y", File: "recipe.yaml", Line: 9},
	}
	if w := find(r, "NET"); w != (kconfig.Setting{Symbol: "NET", Value: "n", Reason: "no network", File: "recipe.yaml",
		Line: 7}) {
		t.Errorf("%+v", w)
	}
	over, err := r.Overridden()
	if err != nil || len(over) != 3 {
		t.Fatal(over, err)
	}
	want := `override CONFIG_NET=n by recipe.yaml:7 ("no network"), against CONFIG_NET=y at kernel/features/core.config:`
	if got := over[0].String(); !strings.HasPrefix(got, want) ||
		!strings.HasSuffix(got, `("Networking at large: even init's own loopback needs it.")`) {
		t.Errorf("got  %s\nwant %s...", got, want)
	}
	if got := over[1].String(); !strings.HasSuffix(got, "no feature asks otherwise") {
		t.Error(got)
	}
	// The user's own two lines still contradict each other.
	r.Fragments = []Fragment{{Name: "my.config", Data: []byte("CONFIG_NET=y\n")}}
	if _, err := settingsOf(r); err == nil || !strings.HasPrefix(err.Error(),
		"my.config:1:12: CONFIG_NET=y contradicts CONFIG_NET=n at recipe.yaml:7") ||
		strings.Contains(err.Error(), "leave the line out") {
		t.Errorf("got %v", err)
	}
	// What cannot be asked for cannot be had by an override either.
	r.Overrides = []Override{{Option: "CONFIG_MODULE_SIG", Value: "y", File: "recipe.yaml", Line: 7,
		Source: "    - {option: CONFIG_MODULE_SIG, value: y}"}}
	if _, err := settingsOf(r); err == nil || !strings.HasPrefix(err.Error(),
		"recipe.yaml:7:16: CONFIG_MODULE_SIG cannot be asked for") {
		t.Errorf("got %v", err)
	}
}

func TestAFragmentReplacesAPreference(t *testing.T) {
	r := request(t)
	r.Fragments = []Fragment{{Name: "my.config", Data: []byte("# CONFIG_UNWINDER_GUESS is not set\n")}}
	ws, err := settingsOf(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ws {
		if w.Symbol == "UNWINDER_GUESS" && w.File != "my.config" {
			t.Errorf("%+v", w)
		}
		if w.Symbol == "CC_OPTIMIZE_FOR_SIZE" && !w.Preference {
			t.Errorf("%+v", w)
		}
	}
}

func TestAKernelOfFragmentsAlone(t *testing.T) {
	r := request(t)
	r.Features = nil
	ws, err := settingsOf(r)
	if err != nil || len(ws) != 1 || ws[0].Symbol != "FHANDLE" {
		t.Errorf("%v, %v", ws, err)
	}
	mustInputs(t, r)
}

// settingsOf lists what a request asks for in every version of Linux.
func settingsOf(r Request) ([]kconfig.Setting, error) {
	all, _, err := r.settle("")
	return all, err
}
