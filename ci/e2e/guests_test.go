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
	"github.com/katabuild/katabuild/internal/registry/registrytest"
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

// tinyFor is the folder of the tiny guest for an architecture.
func tinyFor(t *testing.T, name string) string {
	t.Helper()
	if name == "x86_64" {
		return tiny(t)
	}
	return tiny(t) + "-" + name
}

// TestAGuestOfEveryArchitectureIsAttested boots what `make guests RECIPE=tiny` builds, and publishes all as one
// release.
func TestAGuestOfEveryArchitectureIsAttested(t *testing.T) {
	for _, a := range arch.All() {
		t.Run(a.Name, func(t *testing.T) {
			need(t, testenv.Tool(a.QEMU))
			guest := tinyFor(t, a.Name)
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
	if !t.Failed() {
		t.Run("one release", checkOneRelease)
	}
}

// checkOneRelease publishes the guests of all architectures, which have booted, in Debian's registry and in the
// library's own. A host takes those of its architecture, and finds none for another.
func checkOneRelease(t *testing.T) {
	need(t)
	tmp := t.TempDir()
	in := func(name ...string) string { return filepath.Join(append([]string{tmp}, name...)...) }
	here := []string{"KATABUILD_STORE_KEY=" + in("here.key"), "XDG_STATE_HOME=" + in("here")}
	guests := []string{"release"}
	for _, a := range arch.All() {
		guests = append(guests, tinyFor(t, a.Name))
	}
	katabuild(t, here, append(guests, "--version", "1.4.0", "-o", in("release"))...).want(t, 0, "a release of 5 guests")
	katabuild(t, here, "release", tiny(t), "--version", "1.4.0", "-o", in("one")).want(t, 0, "a release of 1 guests")
	katabuild(t, here, "keys", "new", in("key"), "--no-passphrase").want(t, 0)
	policy := katabuild(t, here, "keys", "show", "--policy", in("key.pub"))
	if err := os.WriteFile(in("policy.yaml"), []byte(policy.out), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, registry := range map[string]string{"debian": registrytest.Distribution(t),
		"library": registrytest.Serve(t, nil)} {
		for _, release := range []string{"release", "one"} {
			at := "oci:" + registry + "/" + release + ":1.4.0"
			katabuild(t, here, "sign", in(release), "--key", in("key")).want(t, 0)
			katabuild(t, here, "push", in(release), at).want(t, 0)
			for _, a := range arch.All() {
				host := in(name, release, a.Name)
				there := []string{"KATABUILD_STORE_KEY=" + host + ".key", "XDG_STATE_HOME=" + host + ".state"}
				r := katabuild(t, there, "pull", at, host, "--policy", in("policy.yaml"), "--arch", a.Name, "--guests",
					host+".guests")
				if release == "one" && a.Name != "x86_64" {
					r.want(t, 3, "refused, wrong architecture")
					continue
				}
				r.want(t, 0, "accepted, signed by")
				ready, err := filepath.Glob(host + ".guests/*")
				if err != nil || len(ready) != 1 || filepath.Base(ready[0]) != "tiny-1.4.0-"+a.Name {
					t.Errorf("%s: %v, %q", a.Name, err, ready)
				}
				katabuild(t, there, "verify", ready[0]).want(t, 0, "intact")
			}
		}
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
