package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/internal/verdict"
)

// booted is what `katabuild boot --json` prints.
type booted struct {
	Verdict verdict.Verdict `json:"verdict"`
	Report  report.Report   `json:"report"`
}

func bootJSON(t *testing.T, guest string) booted {
	t.Helper()
	r := katabuild(t, nil, "boot", guest, "--json")
	r.want(t, 0)
	var b booted
	if err := json.Unmarshal([]byte(r.out), &b); err != nil {
		t.Fatalf("%v in %s", err, r.out)
	}
	return b
}

// TestAGuestOfEveryArchitectureIsAttested boots what `make guests RECIPE=tiny` builds.
func TestAGuestOfEveryArchitectureIsAttested(t *testing.T) {
	for _, a := range arch.All() {
		t.Run(a.Name, func(t *testing.T) {
			need(t, testenv.Tool(a.QEMU))
			guest := tiny(t)
			if a.Name != "x86_64" {
				guest += "-" + a.Name
			}
			m, err := os.ReadFile(filepath.Join(guest, manifest.Name))
			if err != nil {
				t.Fatal(err)
			}
			var said manifest.Manifest
			if err := json.Unmarshal(m, &said); err != nil {
				t.Fatal(err)
			}
			if said.Arch != a.Name || said.Kernel.ToolchainKind != "debian" {
				t.Errorf("the manifest says %s, %s", said.Arch, said.Kernel.ToolchainKind)
			}
			b := bootJSON(t, guest)
			if b.Verdict.Result != verdict.Attested || b.Report.Kernel.Machine != a.Name {
				t.Errorf("%s\nmachine %s", b.Verdict.Table(), b.Report.Kernel.Machine)
			}
		})
	}
}

// TestAModuleFromElsewhereIsSignedAndLoaded boots the example recipe, whose kernel takes no module of others.
func TestAModuleFromElsewhereIsSignedAndLoaded(t *testing.T) {
	need(t)
	guest := abs(t, "out/module")
	b := bootJSON(t, guest)
	if b.Verdict.Result != verdict.Attested || !slices.Contains(b.Report.Modules, "katabuild_hello") {
		t.Errorf("%s\nmodules %v", b.Verdict.Table(), b.Report.Modules)
	}
	dir := filepath.Join(t.TempDir(), "modules")
	katabuild(t, nil, "extract", guest+":/lib/modules", dir).want(t, 0)
	var signed []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(p) != ".ko" {
			return err
		}
		data, err := os.ReadFile(p)
		if !strings.HasSuffix(string(data), "~Module signature appended~\n") {
			t.Errorf("%s is not signed", d.Name())
		}
		signed = append(signed, d.Name())
		return err
	})
	if err != nil || !slices.Contains(signed, "katabuild_hello.ko") {
		t.Errorf("%v, %v", err, signed)
	}
}
