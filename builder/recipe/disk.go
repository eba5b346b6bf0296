package recipe

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Rootfs is what the root file system of a disk holds: layers, each later one winning, and then what is taken away.
type Rootfs struct {
	Layers []Layer  `yaml:"layers"`
	Remove []string `yaml:"remove"` // patterns of paths, as dpkg's path-exclude: * matches slashes too; a folder goes with all it holds
	Keep   []string `yaml:"keep"`   // patterns of paths that stay although Remove matches
	Agent  string   `yaml:"agent"`  // "builtin", or a file relative to the recipe
	Init   string   `yaml:"init"`   // agent (default): the agent is PID 1; systemd: it is a service
}

// Layer is one source of files; exactly one of its fields is set.
type Layer struct {
	Debian   *DebianLayer `yaml:"debian"`
	OCI      *OCILayer    `yaml:"oci"`
	Tar      string       `yaml:"tar"`      // a file relative to the recipe, or an address
	Folder   string       `yaml:"folder"`   // a folder relative to the recipe, owned by root in the guest
	Files    []File       `yaml:"files"`    // single files with owner and mode
	Accounts *Accounts    `yaml:"accounts"` // users and groups
	Modules  bool         `yaml:"modules"`  // the kernel's loadable modules, where kernel.modules asks for them
}

// DebianLayer is packages of Debian's archive with all that they depend on.
type DebianLayer struct {
	Suite      string   `yaml:"suite"` // default trixie
	Packages   []string `yaml:"packages"`
	Recommends bool     `yaml:"recommends"` // also what packages recommend
	Exclude    []string `yaml:"exclude"`    // packages to do without, although something depends on them
	Paths      Paths    `yaml:"paths"`
}

// Paths says which of the packages' files are unpacked at all.
type Paths struct {
	Exclude []string `yaml:"exclude"` // patterns, as dpkg's path-exclude
	Include []string `yaml:"include"` // patterns that bring back what Exclude took, as dpkg's path-include
}

// OCILayer is a container image; exactly one field is set.
type OCILayer struct {
	Image   string `yaml:"image"`   // a reference to a registry, such as registry.example/name:tag
	Layout  string `yaml:"layout"`  // a folder in OCI layout, relative to the recipe
	Archive string `yaml:"archive"` // a tar as docker save or an OCI tool writes it, relative to the recipe
}

// Accounts are users and groups added to /etc/passwd, /etc/group and /etc/shadow, without passwords.
type Accounts struct {
	Users  []User  `yaml:"users"`
	Groups []Group `yaml:"groups"`
}

// User is one user.
type User struct {
	Name  string `yaml:"name"`
	UID   uint32 `yaml:"uid"`
	GID   uint32 `yaml:"gid"`
	Home  string `yaml:"home"`  // default /
	Shell string `yaml:"shell"` // default /usr/sbin/nologin
}

// Group is one group.
type Group struct {
	Name    string   `yaml:"name"`
	GID     uint32   `yaml:"gid"`
	Members []string `yaml:"members"`
}

// Image is the disk.
type Image struct {
	FileSystem  string `yaml:"filesystem"`  // erofs (default) or ext4
	Compression string `yaml:"compression"` // of erofs: none (default), lz4, lz4hc, zstd or deflate
	Layout      string `yaml:"layout"`      // gpt (default), mbr, mbr-dax or bare
	Verity      *bool  `yaml:"verity"`      // a dm-verity hash tree, and a root behind it; default true
	Label       string `yaml:"label"`       // of the file system; default the guest's name, cut to 16 bytes
	FreeSpace   string `yaml:"free_space"`  // of ext4, such as 16MiB
	CycloneDX   bool   `yaml:"cyclonedx"`   // a second bill of materials, in CycloneDX
	Journal     bool   `yaml:"journal"`     // of ext4; Kata mounts with data=ordered, which needs one even read-only
}

// The words an image's fields may have, the default first.
func FileSystems() []string { return []string{"erofs", "ext4"} }

// ImageCompressions lists what erofs may be compressed with.
func ImageCompressions() []string { return []string{"none", "lz4", "lz4hc", "zstd", "deflate"} }

// Layouts lists how a disk may be laid out.
func Layouts() []string { return []string{"gpt", "mbr", "mbr-dax", "bare"} }

// Inits lists who may be PID 1 of a guest with a disk.
func Inits() []string { return []string{"agent", "systemd"} }

// Disks lists how a guest may be given its image.
func Disks() []string { return []string{"virtio-blk", "nvdimm"} }

// WithVerity is Verity with its default.
func (i *Image) WithVerity() bool { return i.Verity == nil || *i.Verity }

// FreeBytes is FreeSpace in bytes; Parse has checked it.
func (i *Image) FreeBytes() int64 {
	if i.FreeSpace == "" {
		return 0
	}
	n, _ := parseMemory(i.FreeSpace)
	return int64(n) << 20
}

// maxLabel is what both file systems can hold of a label, in bytes.
const maxLabel = 16

func (r *Recipe) checkDisk(at func(field, msg string) error) error {
	if r.Rootfs == nil && r.Image == nil {
		return nil
	}
	if r.Rootfs == nil {
		return at("image", "an image without a rootfs to put into it")
	}
	if len(r.Initrd.Files) > 0 || len(r.Initrd.URoot) > 0 || r.Initrd.Agent != AgentBuiltin {
		return at("initrd", "a guest with a rootfs boots from its disk and has no initrd; files go into rootfs.layers")
	}
	if r.Image == nil {
		r.Image = &Image{}
	}
	if err := r.checkRootfs(at); err != nil {
		return err
	}
	i := r.Image
	for _, c := range []struct {
		field string
		value *string
		words []string
	}{
		{"image.filesystem", &i.FileSystem, FileSystems()}, {"image.compression", &i.Compression, ImageCompressions()},
		{"image.layout", &i.Layout, Layouts()},
	} {
		if *c.value == "" {
			*c.value = c.words[0]
		}
		if !slices.Contains(c.words, *c.value) {
			return at(c.field, fmt.Sprintf("unknown %s %q", path.Ext(c.field)[1:], *c.value)+didYouMean(*c.value, c.words))
		}
	}
	if i.FileSystem != "erofs" && i.Compression != "none" {
		return at("image.compression", i.FileSystem+" is not compressed; erofs can be")
	}
	if i.FileSystem != "ext4" && (i.FreeSpace != "" || i.Journal) {
		return at("image", "only ext4 has free space and a journal; erofs is read-only")
	}
	if i.FreeSpace != "" {
		if _, err := parseMemory(i.FreeSpace); err != nil {
			return at("image.free_space", "free space"+strings.TrimPrefix(err.Error(), "memory"))
		}
	}
	if i.Label == "" {
		i.Label = r.Name[:min(len(r.Name), maxLabel)]
	}
	if len(i.Label) > maxLabel || strings.ContainsRune(i.Label, 0) {
		return at("image.label", fmt.Sprintf("label %q: want at most %d bytes", i.Label, maxLabel))
	}
	return nil
}

func (r *Recipe) checkRootfs(at func(field, msg string) error) error {
	fs := r.Rootfs
	if fs.Agent == "" {
		fs.Agent = AgentBuiltin
	}
	if fs.Init == "" {
		fs.Init = Inits()[0]
	}
	if !slices.Contains(Inits(), fs.Init) {
		return at("rootfs.init", fmt.Sprintf("unknown init %q", fs.Init)+didYouMean(fs.Init, Inits()))
	}
	for _, l := range []struct {
		field    string
		patterns []string
	}{{"rootfs.remove", fs.Remove}, {"rootfs.keep", fs.Keep}} {
		if err := checkPatterns(l.field, l.patterns, at); err != nil {
			return err
		}
	}
	for i := range fs.Layers {
		if err := r.checkLayer(&fs.Layers[i], fmt.Sprintf("rootfs.layers[%d]", i), at); err != nil {
			return err
		}
	}
	return nil
}

func checkPatterns(field string, patterns []string, at func(field, msg string) error) error {
	for i, p := range patterns {
		if !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) {
			return at(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("pattern %q: want one that begins with /, such as /usr/share/doc/**", p))
		}
	}
	return nil
}

func (r *Recipe) checkLayer(l *Layer, field string, at func(field, msg string) error) error {
	n := 0
	for _, set := range []bool{l.Debian != nil, l.OCI != nil, l.Tar != "", l.Folder != "", l.Files != nil, l.Accounts != nil, l.Modules} {
		if set {
			n++
		}
	}
	if n != 1 {
		return at(field, fmt.Sprintf("want exactly one of debian, oci, tar, folder, files, accounts and modules, got %d", n))
	}
	if l.Modules && !r.Kernel.Modules {
		return at(field, "the kernel is built without modules; set kernel.modules")
	}
	if d := l.Debian; d != nil {
		if d.Suite == "" {
			d.Suite = "trixie"
		}
		if !word(d.Suite) {
			return at(field+".debian.suite", fmt.Sprintf("suite %q is not one word", d.Suite))
		}
		if len(d.Packages) == 0 {
			return at(field+".debian", "no packages")
		}
		for _, list := range []struct {
			name  string
			words []string
		}{{"packages", d.Packages}, {"exclude", d.Exclude}} {
			for i, p := range list.words {
				if !word(p) {
					return at(fmt.Sprintf("%s.debian.%s[%d]", field, list.name, i), fmt.Sprintf("%q is no name of a package", p))
				}
			}
		}
		if err := checkPatterns(field+".debian.paths.exclude", d.Paths.Exclude, at); err != nil {
			return err
		}
		if err := checkPatterns(field+".debian.paths.include", d.Paths.Include, at); err != nil {
			return err
		}
	}
	if o := l.OCI; o != nil {
		n := 0
		for _, s := range []string{o.Image, o.Layout, o.Archive} {
			if s != "" {
				n++
			}
		}
		if n != 1 {
			return at(field+".oci", fmt.Sprintf("want exactly one of image, layout and archive, got %d", n))
		}
	}
	if err := checkFiles(l.Files, field+".files", at); err != nil {
		return err
	}
	return checkAccounts(l.Accounts, field+".accounts", at)
}

func checkAccounts(a *Accounts, field string, at func(field, msg string) error) error {
	if a == nil {
		return nil
	}
	name := func(s string) bool {
		return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == "" && s[0] != '-'
	}
	path := func(s string) bool { return strings.HasPrefix(s, "/") && !strings.ContainsAny(s, ":\n\x00") }
	for i := range a.Users {
		u := &a.Users[i]
		if u.Home == "" {
			u.Home = "/"
		}
		if u.Shell == "" {
			u.Shell = "/usr/sbin/nologin"
		}
		if !name(u.Name) || !path(u.Home) || !path(u.Shell) {
			return at(fmt.Sprintf("%s.users[%d]", field, i), fmt.Sprintf("user %q: want a lower-case name, and absolute paths without colons", u.Name))
		}
	}
	for i, g := range a.Groups {
		if !name(g.Name) || slices.ContainsFunc(g.Members, func(m string) bool { return !name(m) }) {
			return at(fmt.Sprintf("%s.groups[%d]", field, i), fmt.Sprintf("group %q: want lower-case names", g.Name))
		}
	}
	return nil
}
