package guest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/manifest"
)

func TestCheckedFileCannotChange(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k")
	if err := os.WriteFile(path, []byte("kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := manifest.File{Path: "k", Digest: digest.Of([]byte("kernel")), Size: 6}
	c, err := new(Files).checked(dir, f)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the copy can be written")
	}
	if err := c.Truncate(1); err == nil {
		t.Error("the copy can be cut")
	}
	for name, b := range map[string]string{"another byte": "kernek", "a byte more": "kernel!", "a byte less": "kerne",
		"nothing": ""} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(b), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := new(Files).checked(dir, f)
			var m *digest.Mismatch
			if !errors.As(err, &m) || m.Name != path || m.Want != f.Digest || m.Got != digest.Of([]byte(b)) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAGuestIsTheFormOfItsArchitecture(t *testing.T) {
	m := documenttest.Manifest()
	for form, want := range map[KernelForm]string{"": "/g/vmlinux", Vmlinux: "/g/vmlinux", Image: "/g/bzImage"} {
		g, err := FromManifest(m, digest.Of(nil), "/g", form)
		if err != nil || g.Kernel != want || !g.Described() {
			t.Errorf("%q: %+v, %v", form, g, err)
		}
	}
	m.Arch = "aarch64"
	if g, err := FromManifest(m, digest.Of(nil), "/g", ""); err != nil || g.Kernel != "/g/bzImage" {
		t.Errorf("a guest for aarch64 boots %+v, %v; QEMU takes no ELF there", g, err)
	}
	if g, err := FromManifest(m, digest.Of(nil), "/g", "elf"); err == nil {
		t.Errorf("an unknown form: %+v", g)
	}
	for s, ok := range map[string]bool{"": true, "vmlinux": true, "image": true, "elf": false} {
		if _, err := ParseKernelForm(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}
