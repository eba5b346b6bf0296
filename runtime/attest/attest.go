// Package attest compares what was built, the manifest, with what came up, the report, and with the files on disk.
//
// Documents and files go in, a verdict comes out. A report is a statement by the guest: it shows that the wrong guest
// was booted by mistake or by somebody outside, not that a hostile guest tells the truth.
package attest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/bootwords"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/verdict"
)

// Verdict is what comes of comparing a guest with its manifest, which has a digest: the claims of its files, as Files
// makes them, and those of its report; nil is none. Nobody else writes verdicts of guests with a manifest.
func Verdict(m *manifest.Manifest, d digest.Digest, files []verdict.Claim, r *Reported) *verdict.Verdict {
	v := &verdict.Verdict{Guest: m.Name, Manifest: d, Claims: files}
	if r != nil {
		v.Report = digest.Of(r.Raw)
		v.Template, v.Pool = r.Boot.Template, r.Boot.Pool
		v.Claims = append(slices.Clone(files), Report(m, r.Report, r.Boot)...)
	}
	v.Judge(r != nil)
	return v
}

// Reported is a guest's report, and what its host did.
type Reported struct {
	Report *report.Report
	Raw    []byte // as the guest wrote it
	Boot   Boot
}

// Files checks every file of the guest in the folder dir, but those that the caller has checked, which are named by
// their paths in the manifest. A file that cannot be read is an unmet claim; errors are for what stops the check.
func Files(m *manifest.Manifest, dir string, checked []string) ([]verdict.Claim, error) {
	var claims []verdict.Claim
	for _, f := range m.Files() {
		c := verdict.Claim{Name: "file " + f.Path, Want: string(f.Digest)}
		if slices.Contains(checked, f.Path) {
			c.Got, c.Met = c.Want, true
			claims = append(claims, c)
			continue
		}
		got, size, err := digest.File(filepath.Join(dir, filepath.FromSlash(f.Path)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			c.Got = "no such file"
		case err != nil:
			return nil, err
		default:
			c.Got = string(got)
			c.Met = got == f.Digest && size == f.Size
		}
		claims = append(claims, c)
	}
	return claims, nil
}

// Boot is what the host did beside what the manifest says. The zero value is what it does for a report that was kept in
// a file.
type Boot struct {
	Nonce      []byte                // the guest was asked with it; nil leaves that claim out
	Extensions []extension.Extension // attached, in this order
	Words      []string              // put behind the kernel command line, because the host was configured to
	Template   *verdict.Template     // the guest was restored from, and has been woken since; nil: it booted
	Pool       *verdict.Pool         // the guest waited in, and has been woken since; nil: it was started for its pod
	// Appended is a regular expression for what the hypervisor itself puts behind those; empty is none.
	Appended string
	Probes   []string // the guest was asked to try; without any, those that a report has are left out
}

// Report compares a report with the manifest, and with what the host did.
func Report(m *manifest.Manifest, r *report.Report, b Boot) []verdict.Claim {
	var claims []verdict.Claim
	same := func(name, want, got string) {
		claims = append(claims, verdict.Claim{Name: name, Want: want, Got: got, Met: want == got})
	}
	if b.Nonce != nil {
		same("nonce", hex.EncodeToString(b.Nonce), r.Nonce)
	}
	same("kernel.release", m.Kernel.Release, r.Kernel.Release)
	same("kernel.version", m.Kernel.Version, r.Kernel.Version)
	same("kernel.machine", m.Arch, r.Kernel.Machine)
	same("kernel.build_id", m.Kernel.BuildID, r.Kernel.BuildID)
	same("kernel.config", string(m.Kernel.Config.Digest), string(r.Kernel.Config))
	claims = append(claims, commandLine(m.Boot, b, r.Kernel.CommandLine))
	if m.Kernel.Modules == nil {
		same("kernel.modules", "", strings.Join(r.Modules, " "))
	}
	same("agent.path", m.Agent.Path, r.Agent.Path)
	same("agent.digest", string(m.Agent.Digest), string(r.Agent.Digest))
	same("agent.go", m.Agent.Go, r.Agent.Go)
	same("init", m.Agent.Init, r.Init.Kind)
	same("root", m.Root.Kind, r.Root.Kind)
	if m.Root.Kind == manifest.RootDisk {
		same("root.file_system", m.Root.FileSystem, r.Root.FileSystem)
		hash := ""
		if r.Root.Verity != nil {
			hash = r.Root.Verity.RootHash
		}
		same("root.verity", m.Root.VerityRootHash, hash)
	}
	claims = append(claims, extensions(b.Extensions, r.Extensions)...)
	return append(claims, probes(b.Probes, r.Probes)...)
}

// metProbe is what a probe shall be.
const metProbe = "met"

// probes has a claim for each probe that the guest was asked for.
func probes(want []string, got []report.Probe) []verdict.Claim {
	var claims []verdict.Claim
	for _, name := range want {
		c := verdict.Claim{Name: "probe " + name, Want: metProbe, Got: "not answered: the agent knows of no probes"}
		for _, p := range got {
			switch {
			case p.Name != name:
			case p.Met:
				c.Got, c.Met = metProbe, true
			default:
				c.Got = p.Detail
			}
		}
		claims = append(claims, c)
	}
	return claims
}

// extensions has a claim for each extension that the host attached or the guest has.
func extensions(want []extension.Extension, got []report.Extension) []verdict.Claim {
	claim := func(name string) verdict.Claim {
		return verdict.Claim{Name: "extension." + name, Want: "none", Got: "none"}
	}
	var claims []verdict.Claim
	for _, w := range want {
		c := claim(w.Name)
		c.Want = w.Params.RootHash
		for _, g := range got {
			if g.Name == w.Name {
				c.Got = g.RootHash
				if g.MountPoint != w.MountPoint() {
					c.Got += " at " + g.MountPoint
				}
			}
		}
		c.Met = c.Got == c.Want
		claims = append(claims, c)
	}
	for _, g := range got {
		if !slices.ContainsFunc(want, func(w extension.Extension) bool { return w.Name == g.Name }) {
			c := claim(g.Name)
			c.Got = g.RootHash
			claims = append(claims, c)
		}
	}
	return claims
}

// commandLine accepts the manifest's command line, and the one for TCG whatever the host's clock rate is, each with
// just the words for the extensions, those of the host and what the hypervisor appends behind it.
func commandLine(b manifest.Boot, host Boot, got string) verdict.Claim {
	words := ""
	for _, e := range host.Extensions {
		words += " " + e.Word()
	}
	for _, w := range host.Words {
		words += " " + w
	}
	want := b.CommandLine + words
	c := verdict.Claim{Name: "kernel.command_line", Want: want, Got: got, Met: got == want}
	fits := func(pattern string) bool {
		ok, err := regexp.MatchString("^"+pattern+"(?:"+host.Appended+")$", got)
		return err == nil && ok
	}
	met := verdict.Claim{Name: c.Name, Want: got, Got: got, Met: true}
	switch tcg := b.CommandLine + " " + b.TCGCommandLine + words; {
	case c.Met:
		return c
	case host.Appended != "" && fits(regexp.QuoteMeta(want)):
		return met
	case b.TCGCommandLine == "":
		return c
	case fits(bootwords.Pattern(tcg)):
		return met
	}
	c.Want = fmt.Sprintf("%s (and under TCG: %s%s)", want, b.TCGCommandLine, words)
	return c
}
