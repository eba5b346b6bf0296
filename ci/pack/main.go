// Command pack makes packages of katabuild's programs for distributions: .deb, .rpm, .apk, and Arch Linux's. The same
// files, version and time give the same bytes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/apk"
	_ "github.com/goreleaser/nfpm/v2/arch"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// options are what is packed.
type options struct {
	version    string
	arch       string // Go's name, which nfpm translates for each format
	programs   string // folder of the programs of that architecture, and of all agents
	share      string // folder that the word man of each program wrote to
	repository string // the repository's root
	out        string
	time       time.Time // of every file
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var o options
	var seconds int64
	set := flag.NewFlagSet("pack", flag.ContinueOnError)
	set.StringVar(&o.version, "version", "0.0.0", "as semver.org has it")
	set.StringVar(&o.arch, "arch", "amd64", "Go's name of the architecture")
	set.StringVar(&o.programs, "programs", "", "`folder` of the programs")
	set.StringVar(&o.share, "share", "", "`folder` of manual pages and completions")
	set.StringVar(&o.repository, "repository", ".", "the repository's root `folder`")
	set.StringVar(&o.out, "o", "dist", "`folder` to write to")
	set.Int64Var(&seconds, "time", 0, "of every file, seconds since 1970")
	if err := set.Parse(args); err != nil {
		return err
	}
	o.time = time.Unix(seconds, 0).UTC()
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	for _, make := range []func(options) (*nfpm.Info, error){builder, runtime} {
		info, err := make(o)
		if err != nil {
			return err
		}
		for _, format := range []string{"deb", "rpm", "apk", "archlinux"} {
			p, err := write(o, info, format)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", format, info.Name, err)
			}
			fmt.Println(p)
		}
	}
	return nil
}

// common is what all packages say.
func common(o options, name, summary string) *nfpm.Info {
	return &nfpm.Info{
		Name: name, Arch: o.arch, Platform: "linux", Version: o.version, Section: "admin", Priority: "optional",
		Maintainer: "katabuild maintainers <maintainers@katabuild.example>",
		Homepage:   "https://github.com/katabuild/katabuild",
		License:    "Apache-2.0", Description: summary, MTime: o.time, DisableGlobbing: true,
		Overridables: nfpm.Overridables{
			Deb: nfpm.Deb{Compression: "gzip"},
			RPM: nfpm.RPM{Compression: "zstd", BuildHost: "katabuild", Group: "System"},
		},
	}
}

// builder is the package of the program katabuild, with the agents that it puts into guests.
func builder(o options) (*nfpm.Info, error) {
	info := common(o, "katabuild", "builds, boots and verifies guests for lightweight virtual machines\n"+
		"katabuild makes kernel, initrd and disk image of a guest from a recipe, without\n"+
		"root and with the same bytes every time, and checks what boots against what was\nbuilt.")
	info.Recommends = []string{"qemu-system-x86"}
	p := packing{o: o, info: info}
	p.program("katabuild", "/usr/bin/katabuild")
	agents, err := filepath.Glob(filepath.Join(o.programs, "kata-agent-*"))
	if err != nil || len(agents) == 0 {
		return nil, errors.Join(fmt.Errorf("no agents in %s: make agents", o.programs), err)
	}
	for _, a := range agents {
		p.program(filepath.Base(a), "/usr/lib/katabuild/"+filepath.Base(a))
	}
	p.program("katabuild-cc", "/usr/lib/katabuild/katabuild-cc")
	p.shared("katabuild")
	p.tree(filepath.Join(o.repository, "recipes"), "/usr/share/katabuild/recipes")
	return info, p.err
}

// runtime is the package of the shim, kata-runtime, and the tools beside them.
func runtime(o options) (*nfpm.Info, error) {
	info := common(o, "katabuild-runtime", "runs containers in lightweight virtual machines\n"+
		"The shim containerd-shim-kata-v2 boots a guest for each pod and checks what boots\n"+
		"against what was built. kata-runtime says whether a host can, and how pods are.")
	info.Recommends = []string{"qemu-system-x86", "containerd"}
	info.Conflicts = []string{"kata-containers", "kata-runtime"}
	p := packing{o: o, info: info}
	p.program("kata-runtime", "/usr/bin/kata-runtime")
	p.program("containerd-shim-kata-v2", "/usr/bin/containerd-shim-kata-v2")
	p.add(&files.Content{Source: "containerd-shim-kata-v2", Destination: "/usr/bin/containerd-shim-katabuild-v2",
		Type: files.TypeSymlink})
	p.program("kata-agent-ctl", "/usr/bin/kata-agent-ctl")
	p.program("runk", "/usr/bin/runk")
	p.program("csi-kata-directvolume", "/usr/bin/csi-kata-directvolume")
	p.shared("kata-runtime")
	p.help("kata-agent-ctl")
	p.help("runk")
	p.help("csi-kata-directvolume")
	for _, u := range []string{"kata-monitor.service", "katabuild-pool.service", "csi-kata-directvolume.service"} {
		p.file(filepath.Join(o.share, "units", u), "/usr/lib/systemd/system/"+u, 0o644, files.TypeFile)
	}
	p.file(filepath.Join(o.repository, "ci/pack/configuration.toml"), "/etc/katabuild/configuration.toml", 0o644,
		files.TypeConfigNoReplace)
	return info, p.err
}

// packing collects the files of a package.
type packing struct {
	o    options
	info *nfpm.Info
	err  error
}

func (p *packing) add(c *files.Content) {
	if c.FileInfo == nil {
		c.FileInfo = &files.ContentFileInfo{}
	}
	c.FileInfo.Owner, c.FileInfo.Group, c.FileInfo.MTime = "root", "root", p.o.time
	p.info.Contents = append(p.info.Contents, c)
}

// file adds a file that must be there.
func (p *packing) file(from, to string, mode fs.FileMode, kind string) {
	if _, err := os.Stat(from); err != nil {
		p.err = errors.Join(p.err, err)
		return
	}
	p.add(&files.Content{Source: from, Destination: to, Type: kind, FileInfo: &files.ContentFileInfo{Mode: mode}})
}

func (p *packing) program(name, to string) {
	p.file(filepath.Join(p.o.programs, name), to, 0o755, files.TypeFile)
}

// shared adds a program's help, and what Debian wants to know of the right to copy.
func (p *packing) shared(program string) {
	p.help(program)
	p.file(filepath.Join(p.o.share, "changelog", p.info.Name+".gz"), "/usr/share/doc/"+p.info.Name+"/changelog.gz",
		0o644, files.TypeFile)
	p.file(filepath.Join(p.o.repository, "ci/pack/overrides", p.info.Name),
		"/usr/share/lintian/overrides/"+p.info.Name, 0o644, files.TypeFile)
	p.file(filepath.Join(p.o.repository, "ci/pack/copyright"), "/usr/share/doc/"+p.info.Name+"/copyright", 0o644,
		files.TypeFile)
}

// help adds a program's manual pages and completions.
func (p *packing) help(program string) {
	pages, err := filepath.Glob(filepath.Join(p.o.share, "man1", "*.1.gz"))
	p.err = errors.Join(p.err, err)
	n := 0
	for _, page := range pages {
		base := filepath.Base(page)
		if base == program+".1.gz" || strings.HasPrefix(base, program+"-") {
			p.file(page, "/usr/share/man/man1/"+base, 0o644, files.TypeFile)
			n++
		}
	}
	if n == 0 {
		p.err = errors.Join(p.err, fmt.Errorf("no manual page of %s in %s", program, p.o.share))
	}
	p.file(filepath.Join(p.o.share, "bash", program), "/usr/share/bash-completion/completions/"+program, 0o644,
		files.TypeFile)
	p.file(filepath.Join(p.o.share, "zsh", "_"+program), "/usr/share/zsh/vendor-completions/_"+program, 0o644,
		files.TypeFile)
	p.file(filepath.Join(p.o.share, "fish", program+".fish"), "/usr/share/fish/vendor_completions.d/"+program+".fish",
		0o644, files.TypeFile)
}

// tree adds the files of a folder.
func (p *packing) tree(from, to string) {
	err := filepath.WalkDir(from, func(f string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, f)
		if err == nil {
			p.file(f, to+"/"+filepath.ToSlash(rel), 0o644, files.TypeFile)
		}
		return err
	})
	p.err = errors.Join(p.err, err)
}

// write writes one package.
func write(o options, info *nfpm.Info, format string) (path string, err error) {
	packager, err := nfpm.Get(format)
	if err != nil {
		return "", err
	}
	one := *info
	one.Contents = slices.Clone(info.Contents)
	one.Recommends = translate(format, info.Recommends)
	prepared := nfpm.WithDefaults(&one)
	if err := nfpm.PrepareForPackager(prepared, format); err != nil {
		return "", err
	}
	path = filepath.Join(o.out, packager.ConventionalFileName(prepared))
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(packager.Package(prepared, f), f.Close())
}

// translate names packages as distributions do that have such a format.
func translate(format string, names []string) []string {
	other := map[string]string{"qemu-system-x86": "qemu-system-x86-core"}
	out := slices.Clone(names)
	for i, n := range out {
		if o := other[n]; o != "" && format != "deb" {
			out[i] = o
		}
	}
	return out
}
