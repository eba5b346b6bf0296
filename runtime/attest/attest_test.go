package attest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/verdict"
)

func unmet(claims []verdict.Claim) []string {
	v := verdict.Verdict{Claims: claims}
	return v.Unmet()
}

func TestEachDifferenceIsNamedAloneAndByName(t *testing.T) {
	if u := unmet(Report(documenttest.Manifest(), documenttest.Report(), Boot{Nonce: documenttest.Nonce})); u != nil {
		t.Fatalf("the right guest fails: %v", u)
	}
	for claim, change := range map[string]func(*report.Report){
		"nonce":               func(r *report.Report) { r.Nonce = "cd" + r.Nonce[2:] },
		"kernel.release":      func(r *report.Report) { r.Kernel.Release += "x" },
		"kernel.version":      func(r *report.Report) { r.Kernel.Version = "" },
		"kernel.machine":      func(r *report.Report) { r.Kernel.Machine = "aarch64" },
		"kernel.build_id":     func(r *report.Report) { r.Kernel.BuildID = "" },
		"kernel.config":       func(r *report.Report) { r.Kernel.Config = "" },
		"kernel.command_line": func(r *report.Report) { r.Kernel.CommandLine += " init=/bin/sh" },
		"kernel.modules":      func(r *report.Report) { r.Modules = []string{"rootkit"} },
		"agent.path":          func(r *report.Report) { r.Agent.Path = "/bin/agent" },
		"agent.digest":        func(r *report.Report) { r.Agent.Digest = digest.Of(nil) },
		"agent.go":            func(r *report.Report) { r.Agent.Go = "go1.2" },
		"init":                func(r *report.Report) { r.Init.Kind = "systemd" },
		"root":                func(r *report.Report) { r.Root.Kind = "disk" },
	} {
		r := documenttest.Report()
		change(r)
		if u := unmet(Report(documenttest.Manifest(), r, Boot{Nonce: documenttest.Nonce})); !slices.Equal(u,
			[]string{claim}) {
			t.Errorf("changing %s fails %v", claim, u)
		}
	}
}

func TestCommandLinesUnderTCG(t *testing.T) {
	for line, met := range map[string]bool{
		"console=ttyS0 quiet": true,
		"console=ttyS0 quiet tsc_early_khz=2096000 nolapic_timer":    true,
		"console=ttyS0 quiet tsc_early_khz= nolapic_timer":           false,
		"console=ttyS0 quiet tsc_early_khz=2096000":                  false,
		"console=ttyS0 quiet tsc_early_khz=12 init=/x nolapic_timer": false,
		"console=ttyS0xquiet":                                        false,
		"":                                                           false,
	} {
		if c := commandLine(documenttest.Manifest().Boot, Boot{}, line); c.Met != met {
			t.Errorf("%q: met is %v", line, c.Met)
		}
	}
	// A dot in a command line is a dot, not any character.
	if c := commandLine(manifest.Boot{CommandLine: "a.b", TCGCommandLine: "c"}, Boot{}, "axb c"); c.Met {
		t.Error("the command line is taken for a pattern")
	}
}

func TestExtensionsAreClaimsAndWordsOfTheCommandLine(t *testing.T) {
	one := extension.Extension{Name: "gpu", Params: dmverity.Params{RootHash: "ab", Salt: "-", DataBlocks: 3,
		DataBlockSize: 4096, HashBlockSize: 4096}}
	two := extension.Extension{Name: "net", Params: dmverity.Params{RootHash: "cd", Salt: "-", DataBlocks: 4,
		DataBlockSize: 4096, HashBlockSize: 4096}}
	attached := Boot{Nonce: documenttest.Nonce, Extensions: []extension.Extension{two, one}}
	right := func() *report.Report {
		r := documenttest.Report()
		r.Kernel.CommandLine += " " + two.Word() + " " + one.Word()
		r.Extensions = []report.Extension{{Name: "gpu", RootHash: "ab", MountPoint: one.MountPoint()},
			{Name: "net", RootHash: "cd", MountPoint: two.MountPoint()}}
		return r
	}
	if u := unmet(Report(documenttest.Manifest(), right(), attached)); u != nil {
		t.Fatalf("the right guest fails: %v", u)
	}
	if u := unmet(Report(documenttest.Manifest(), right(), Boot{})); !slices.Equal(u, []string{"kernel.command_line",
		"extension.gpu", "extension.net"}) {
		t.Errorf("extensions that nobody attached fail %v", u)
	}
	for name, c := range map[string]struct {
		change func(*report.Report)
		want   []string
	}{
		"another root hash": {func(r *report.Report) { r.Extensions[0].RootHash = "cd" },
			[]string{"extension.gpu"}},
		"another mount point": {func(r *report.Report) { r.Extensions[1].MountPoint = "/x" },
			[]string{"extension.net"}},
		"one that is not there": {func(r *report.Report) { r.Extensions = r.Extensions[:1] },
			[]string{"extension.net"}},
		"one too many": {func(r *report.Report) {
			r.Extensions = append(r.Extensions,
				report.Extension{Name: "x"})
		}, []string{"extension.x"}},
		"a word too many": {func(r *report.Report) { r.Kernel.CommandLine += " x" }, []string{"kernel.command_line"}},
		"a word too few": {func(r *report.Report) {
			r.Kernel.CommandLine = documenttest.Report().Kernel.CommandLine + " " + two.Word()
		}, []string{"kernel.command_line"}},
		"another order": {func(r *report.Report) {
			r.Kernel.CommandLine = documenttest.Report().Kernel.CommandLine + " " + one.Word() + " " + two.Word()
		}, []string{"kernel.command_line"}},
	} {
		r := right()
		c.change(r)
		if u := unmet(Report(documenttest.Manifest(), r, attached)); !slices.Equal(u, c.want) {
			t.Errorf("%s fails %v, want %v", name, u, c.want)
		}
	}
	b := documenttest.Manifest().Boot
	for line, met := range map[string]bool{
		b.CommandLine + " tsc_early_khz=2096000 nolapic_timer " + one.Word():          true,
		b.CommandLine + " " + one.Word() + " tsc_early_khz=2096000 nolapic_timer":     false,
		b.CommandLine + " tsc_early_khz=2096000 nolapic_timer":                        false,
		b.CommandLine + " tsc_early_khz=2096000 nolapic_timer " + one.Word() + " x=y": false,
	} {
		if c := commandLine(b, Boot{Extensions: []extension.Extension{one}}, line); c.Met != met {
			t.Errorf("under TCG %q: met is %v", line, c.Met)
		}
	}
	host := Boot{Extensions: []extension.Extension{one}, Words: []string{"agent.log=debug", "x=y"}}
	for line, met := range map[string]bool{
		b.CommandLine + " " + one.Word() + " agent.log=debug x=y":   true,
		b.CommandLine + " " + one.Word() + " x=y agent.log=debug":   false,
		b.CommandLine + " " + one.Word():                            false,
		b.CommandLine + " " + one.Word() + " agent.log=debug x=y z": false,
	} {
		if c := commandLine(b, host, line); c.Met != met {
			t.Errorf("with the host's words %q: met is %v", line, c.Met)
		}
	}
}

func TestProbesAreClaims(t *testing.T) {
	m := documenttest.Manifest()
	asked := Boot{Nonce: documenttest.Nonce, Probes: []string{"bpf", "keys", "overlay"}}
	r := documenttest.Report()
	if u := unmet(Report(m, r, asked)); !slices.Equal(u, []string{"probe bpf", "probe keys", "probe overlay"}) {
		t.Errorf("an agent without probes fails %v", u)
	}
	r.Probes = []report.Probe{{Name: "bpf", Met: true}, {Name: "keys", Detail: "keyctl: function not implemented"},
		{Name: "loop", Detail: "nobody asked"}}
	claims := Report(m, r, asked)
	if u := unmet(claims); !slices.Equal(u, []string{"probe keys", "probe overlay"}) {
		t.Errorf("%v", u)
	}
	keys := claims[slices.IndexFunc(claims, func(c verdict.Claim) bool { return c.Name == "probe keys" })]
	if keys != (verdict.Claim{Name: "probe keys", Want: "met", Got: "keyctl: function not implemented"}) {
		t.Errorf("%+v", keys)
	}
	if u := unmet(Report(m, r, Boot{Nonce: documenttest.Nonce})); u != nil {
		t.Errorf("probes that nobody asked for fail %v", u)
	}
}

func TestFilesAreClaims(t *testing.T) {
	m, dir := documenttest.Manifest(), t.TempDir()
	if err := documenttest.WriteGuest(dir); err != nil {
		t.Fatal(err)
	}
	claims, err := Files(m, dir, nil)
	if err != nil || unmet(claims) != nil {
		t.Fatal(unmet(claims), err)
	}
	if err := os.Remove(filepath.Join(dir, "config")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "initrd"), []byte("initrD"), 0o644); err != nil {
		t.Fatal(err)
	}
	claims, err = Files(m, dir, nil)
	if err != nil || !slices.Equal(unmet(claims), []string{"file config", "file initrd"}) {
		t.Fatal(unmet(claims), err)
	}
}

func TestQuotedWordsOfTheCommandLineAreComparedAsTheyStand(t *testing.T) {
	b := manifest.Boot{CommandLine: `quiet dyndbg="file drivers/virtio/* +p" a`,
		TCGCommandLine: "tsc_early_khz={tsc_khz}"}
	for line, met := range map[string]bool{
		b.CommandLine:                                true,
		b.CommandLine + " tsc_early_khz=2096000":     true,
		`quiet dyndbg="file drivers/virtio/*" +p a`:  false,
		`quiet dyndbg="file drivers/virtio/*  +p" a`: false,
		`quiet dyndbg=file drivers/virtio/* +p a`:    false,
		`quiet "dyndbg=file drivers/virtio/* +p" a`:  false,
	} {
		if c := commandLine(b, Boot{}, line); c.Met != met {
			t.Errorf("%s: %+v", line, c)
		}
	}
}
