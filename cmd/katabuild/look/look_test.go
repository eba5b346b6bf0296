package look

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/documenttest"
)

func TestAGuestsFolderTellsTheWholeGuest(t *testing.T) {
	dir := t.TempDir()
	if err := documenttest.WriteGuest(dir); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config")
	text := "CONFIG_EROFS_FS=y\nCONFIG_EROFS_FS_XATTR=y\nCONFIG_VIRTIO_VSOCKETS=y\nCONFIG_VSOCKETS=y\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := readWhole(dir)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(g.Features, "ext4") || slices.Contains(g.Features, "default") {
		t.Errorf("features %q of a kernel that has no ext4", g.Features)
	}
	var out bytes.Buffer
	if err := (&commands{out: &out}).printWhole(g); err != nil {
		t.Fatal(err)
	}
	m := documenttest.Manifest()
	for _, want := range []string{m.Name, m.Kernel.Release, m.Kernel.BuildID, string(m.Agent.Digest),
		"microvm, 1 CPUs, 256 MiB",
		m.Boot.CommandLine, m.Boot.TCGCommandLine, "7 bytes vmlinux", "in all        36 bytes",
		"2023-11-14T22:13:20Z"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if g, err := readWhole(config); g != nil || err != nil {
		t.Errorf("a file is a guest: %v, %v", g, err)
	}
	if err := os.WriteFile(config, []byte("config"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readWhole(dir); err == nil || !strings.Contains(err.Error(), "config:1") {
		t.Errorf("a configuration that is none: %v", err)
	}
}
