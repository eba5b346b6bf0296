// Package documenttest holds the sample documents and the checks that every document's tests share.
package documenttest

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/report"
)

// Nonce is the nonce of Report.
var Nonce = bytes.Repeat([]byte{0xab}, report.MinNonce)

func file(name string) manifest.File {
	return manifest.File{Path: name, Digest: digest.Of([]byte(name)), Size: int64(len(name))}
}

// Manifest is a manifest of files whose contents are their own names.
func Manifest() *manifest.Manifest {
	return &manifest.Manifest{
		Version: manifest.Version, Name: "sample", Arch: "x86_64", Time: 1700000000,
		Recipe: digest.Of([]byte("recipe")), Lock: digest.Of([]byte("lock")),
		Kernel: manifest.Kernel{
			Release: "6.12.117-kb-0123456789ab", Version: "#1 SMP Tue Nov 14 22:13:20 UTC 2023",
			BuildID: "00112233445566778899aabbccddeeff00112233",
			Source: manifest.Source{Kind: "debian", Name: "linux-source-6.12", Version: "6.12.117-1",
				Digest: digest.Of([]byte("source"))},
			Toolchain: []manifest.Tool{{Name: "gcc", Version: "gcc 12.2.0", Digest: digest.Of([]byte("gcc"))}},
			Image:     file("bzImage"), Vmlinux: file("vmlinux"), Config: file("config"), SystemMap: file("System.map"),
			Probes: []string{"bpf", "config-proof"},
		},
		Initrd: &manifest.Initrd{File: file("initrd"), Compression: "zstd"},
		Agent:  manifest.Agent{Path: "/init", Digest: digest.Of([]byte("agent")), Go: "go1.26.8", Init: "agent"},
		Root:   manifest.Root{Kind: "initrd"},
		Boot: manifest.Boot{Machine: "microvm", CPUs: 1, MemoryMiB: 256, CommandLine: "console=ttyS0 quiet",
			TCGCommandLine: "tsc_early_khz={tsc_khz} nolapic_timer"},
	}
}

// Report is what the guest of Manifest says on KVM.
func Report() *report.Report {
	m := Manifest()
	return &report.Report{
		Version: report.Version, Nonce: strings.Repeat("ab", report.MinNonce),
		Kernel: report.Kernel{
			Release: m.Kernel.Release, Version: m.Kernel.Version, Machine: m.Arch, BuildID: m.Kernel.BuildID,
			Config: m.Kernel.Config.Digest, CommandLine: m.Boot.CommandLine,
		},
		Agent: report.Agent{Path: m.Agent.Path, Digest: m.Agent.Digest, Version: "1", Go: m.Agent.Go,
			Settings: []report.Setting{{Key: "CGO_ENABLED", Value: "0"}}},
		Init:     report.Init{Kind: "agent"},
		Root:     report.Root{Kind: "initrd", FileSystem: "rootfs", Source: "rootfs"},
		Modules:  []string{},
		Timeline: []report.Moment{{Name: "kernel", AtNS: 0}, {Name: "init", AtNS: 200e6}, {Name: "ready", AtNS: 250e6}},
		End:      report.Done,
	}
}

// versionField is the version of a document, as it is written.
var versionField = regexp.MustCompile(`"version": [0-9]+`)

// Strict checks a reader against its writer's bytes: every prefix, an unknown field, a repeated one and a newer version
// are refused.
func Strict(t *testing.T, data []byte, decode func([]byte) error) {
	t.Helper()
	if err := decode(data); err != nil {
		t.Fatalf("the writer's own bytes: %v", err)
	}
	for n := range data {
		if decode(data[:n]) == nil {
			t.Fatalf("the first %d of %d bytes are accepted", n, len(data))
		}
	}
	version := versionField.FindString(string(data))
	of := strings.TrimPrefix(version, `"version": `)
	for name, text := range map[string]string{
		"an unknown field":       strings.Replace(string(data), version, version+`, "extra": 1`, 1),
		"a repeated field":       strings.Replace(string(data), version, version+`, `+version, 1),
		"a field in other case":  strings.Replace(string(data), version, `"Version": `+of, 1),
		"a newer version":        strings.Replace(string(data), version, `"version": 9`+of, 1),
		"bytes behind the end":   string(data) + "x",
		"a line break too many":  string(data) + "\n",
		"other white space":      strings.Replace(string(data), version, `"version":`+of, 1),
		"something else":         "[]",
		"a list that is too big": strings.Repeat("[", 1<<16),
	} {
		if text == string(data) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if decode([]byte(text)) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
