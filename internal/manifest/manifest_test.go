package manifest_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/manifest"
)

func encode(t testing.TB, m *manifest.Manifest) []byte {
	t.Helper()
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheManifestKeepsItsForm(t *testing.T) {
	data := encode(t, documenttest.Manifest())
	golden.Check(t, "manifest.json", data)
	documenttest.Strict(t, data, func(b []byte) error { _, err := manifest.Decode(b); return err })
}

func TestManifestsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*manifest.Manifest){
		"file path \"../vmlinux\"":    func(m *manifest.Manifest) { m.Kernel.Vmlinux.Path = "../vmlinux" },
		"file path \"/vmlinux\"":      func(m *manifest.Manifest) { m.Kernel.Vmlinux.Path = "/vmlinux" },
		"file path \"\"":              func(m *manifest.Manifest) { m.Initrd.Path = "" },
		"no digest":                   func(m *manifest.Manifest) { m.Kernel.Image.Digest = "" },
		"unknown architecture":        func(m *manifest.Manifest) { m.Arch = "vax" },
		"no name":                     func(m *manifest.Manifest) { m.Name = "" },
		"probe \"\" has no name":      func(m *manifest.Manifest) { m.Kernel.Probes = []string{""} },
		"probe \"a\" has no name, is": func(m *manifest.Manifest) { m.Kernel.Probes = []string{"b", "a"} },
		"no agent digest":             func(m *manifest.Manifest) { m.Agent.Digest = "" },
		"0 CPUs":                      func(m *manifest.Manifest) { m.Boot.CPUs = 0 },
		"line break":                  func(m *manifest.Manifest) { m.Boot.CommandLine = "a\nb" },
	} {
		m := documenttest.Manifest()
		spoil(m)
		if _, err := m.Encode(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %s", err, name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, documenttest.Manifest()))
	f.Add([]byte(`{"version": 1, "kernel": {"modules": null}}`)) // an optional file that is null
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := manifest.Decode(data)
		if err == nil && !bytes.Equal(encode(t, m), data) {
			t.Error("accepted bytes that are not written again")
		}
	})
}
