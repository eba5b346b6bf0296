package recipe

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/manifest"
)

// Rootfs is what the root file system of a disk holds: layers, each later one winning, and then what is taken away.
type Rootfs struct {
	Layers []Layer `yaml:"layers"`
	// patterns of paths, as dpkg's path-exclude: * matches slashes too; a folder goes with all it holds
	Remove []string `yaml:"remove"`
	Keep   []string `yaml:"keep"`  // patterns of paths that stay although Remove matches
	Agent  string   `yaml:"agent"` // "builtin", or a file relative to the recipe
	Init   string   `yaml:"init"`  // agent (default): the agent is PID 1; systemd: it is a service
}

// Layer is one source of files; exactly one of its fields is set.
type Layer struct {
	Debian   *DebianLayer `yaml:"debian"`
	OCI      *OCILayer    `yaml:"oci"`
	Tar      string       `yaml:"tar"`      // a file relative to the recipe, or an address
	Folder   string       `yaml:"folder"`   // a folder relative to the recipe, owned by root in the guest
	Files    []File       `yaml:"files"`    // single files with owner and mode
	Accounts *Accounts    `yaml:"accounts"` // users and groups
	URoot    []string     `yaml:"uroot"`    // commands of the u-root project, by name
	Modules  bool         `yaml:"modules"`  // the kernel's loadable modules, where kernel.modules asks for them
	// Permissions change what layers before brought: modes and owners, and no content.
	Permissions []Permission `yaml:"permissions"`
}

// Permission changes the mode or the owner of what is there.
type Permission struct {
	Path string  `yaml:"path"` // absolute, in the guest; links in it are followed
	Mode Octal   `yaml:"mode"`
	UID  *uint32 `yaml:"uid"`
	GID  *uint32 `yaml:"gid"`
}

// Bits is Mode as bits, or nothing where there is none; Parse has checked it.
func (p Permission) Bits() *uint32 {
	if p.Mode == "" {
		return nil
	}
	n, _ := p.Mode.bits()
	return &n
}

// Paths says which of the packages' files are unpacked at all.
type Paths struct {
	Exclude []string `yaml:"exclude"` // patterns, as dpkg's path-exclude
	Include []string `yaml:"include"` // patterns that bring back what Exclude took, as dpkg's path-include
}

// OCILayer is a container image; exactly one of its first three fields is set.
type OCILayer struct {
	Image   string `yaml:"image"`   // a reference to a registry, such as registry.example/name:tag
	Layout  string `yaml:"layout"`  // a folder in OCI layout, relative to the recipe
	Archive string `yaml:"archive"` // a tar as docker save or an OCI tool writes it, relative to the recipe
	// Name and Digest choose an image where Layout or Archive holds several.
	Name   string `yaml:"name"`   // as the layout's annotations or the archive's tags have it
	Digest string `yaml:"digest"` // of its manifest or index: sha256:HEX
	At     string `yaml:"at"`     // the folder of the guest that it becomes; default /
}

// Accounts are users and groups added to /etc/passwd, /etc/group and /etc/shadow, without passwords.
type Accounts struct {
	Users  []User  `yaml:"users"`
	Groups []Group `yaml:"groups"`
}

// User is one user.
type User struct {
	Name       string  `yaml:"name"`
	UID        *uint32 `yaml:"uid"`         // needed
	GID        *uint32 `yaml:"gid"`         // either this
	Group      string  `yaml:"group"`       // or the name of a group, of the recipe or of a layer before
	Home       string  `yaml:"home"`        // default /
	CreateHome bool    `yaml:"create_home"` // make the folder Home, mode 0700, where there is none
	Shell      string  `yaml:"shell"`       // default /usr/sbin/nologin
}

// Group is one group.
type Group struct {
	Name    string   `yaml:"name"`
	GID     *uint32  `yaml:"gid"` // needed where no layer before has the group
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

func (r *Recipe) checkDisk(v Vocabulary, at note) {
	if r.Rootfs == nil && r.Image == nil {
		return
	}
	if r.Rootfs == nil {
		at("image", "an image without a rootfs to put into it")
		return
	}
	if len(r.Initrd.Files) > 0 || len(r.Initrd.URoot) > 0 || r.Initrd.Agent != AgentBuiltin {
		at("initrd", "a guest with a rootfs boots from its disk and has no initrd; files go into rootfs.layers")
	}
	if r.Image == nil {
		r.Image = &Image{}
	}
	r.checkRootfs(v, at)
	i := r.Image
	for _, c := range []struct {
		field string
		value *string
		words []string
	}{
		{"image.filesystem", &i.FileSystem, manifest.FileSystems()},
		{"image.compression", &i.Compression, v.ImageCompressions},
		{"image.layout", &i.Layout, manifest.Layouts()},
	} {
		if *c.value == "" {
			*c.value = c.words[0]
		}
		if !slices.Contains(c.words, *c.value) {
			at(c.field, fmt.Sprintf("unknown %s %q", path.Ext(c.field)[1:], *c.value)+didYouMean(*c.value,
				c.words))
		}
	}
	known := slices.Contains(manifest.FileSystems(), i.FileSystem)
	if known && i.FileSystem != manifest.EROFS && i.Compression != "none" {
		at("image.compression", i.FileSystem+" is not compressed; erofs can be")
	}
	if known && i.FileSystem != manifest.Ext4 && (i.FreeSpace != "" || i.Journal) {
		at("image", "only ext4 has free space and a journal; erofs is read-only")
	}
	if i.FreeSpace != "" {
		if _, err := parseMemory(i.FreeSpace); err != nil {
			at("image.free_space", "free space"+strings.TrimPrefix(err.Error(), "memory"))
		}
	}
	if i.Label == "" {
		i.Label = r.Name[:min(len(r.Name), maxLabel)]
	}
	if len(i.Label) > maxLabel || strings.ContainsRune(i.Label, 0) {
		at("image.label", fmt.Sprintf("label %q: want at most %d bytes", i.Label, maxLabel))
	}
}

func (r *Recipe) checkRootfs(v Vocabulary, at note) {
	fs := r.Rootfs
	if fs.Agent == "" {
		fs.Agent = AgentBuiltin
	}
	if fs.Init == "" {
		fs.Init = manifest.Inits()[0]
	}
	if !slices.Contains(manifest.Inits(), fs.Init) {
		at("rootfs.init", fmt.Sprintf("unknown init %q", fs.Init)+didYouMean(fs.Init, manifest.Inits()))
	}
	for _, l := range []struct {
		field    string
		patterns []string
	}{{"rootfs.remove", fs.Remove}, {"rootfs.keep", fs.Keep}} {
		checkPatterns(l.field, l.patterns, at)
	}
	localPath("rootfs.agent", fs.Agent, at)
	first := slices.IndexFunc(fs.Layers, func(l Layer) bool { return l.URoot != nil })
	for i := range fs.Layers {
		if fs.Layers[i].URoot != nil && i != first {
			at(fmt.Sprintf("rootfs.layers[%d].uroot", i),
				"the commands of u-root are one program, so one layer "+
					"has them all; the first is at "+r.Place(fmt.Sprintf("rootfs.layers[%d].uroot", first)))
		}
		r.checkLayer(&fs.Layers[i], fmt.Sprintf("rootfs.layers[%d]", i), v, at)
	}
	r.checkAccountsTwice(at)
}

func checkPatterns(field string, patterns []string, at note) {
	for i, p := range patterns {
		if !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) {
			at(fmt.Sprintf("%s[%d]", field, i),
				fmt.Sprintf("pattern %q: want one that begins with /, such as /usr/share/doc/**", p))
		}
	}
}

func (r *Recipe) checkLayer(l *Layer, field string, v Vocabulary, at note) {
	n := 0
	for _, set := range []bool{l.Debian != nil, l.OCI != nil, l.Tar != "", l.Folder != "", l.Files != nil,
		l.Accounts != nil, l.URoot != nil, l.Modules, l.Permissions != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		at(field, fmt.Sprintf(
			"want exactly one of debian, oci, tar, folder, files, accounts, uroot, modules and permissions, got %d", n))
		return
	}
	if l.Modules && !r.Kernel.Modules {
		at(field, "the kernel is built without modules; set kernel.modules")
	}
	if l.URoot != nil && len(l.URoot) == 0 {
		at(field+".uroot", "want at least one command, such as gosh")
	}
	v.checkURoot(l.URoot, field+".uroot", at)
	l.Debian.check(field+".debian", at)
	checkOCI(l.OCI, field+".oci", at)
	for _, p := range []struct{ key, path string }{{"tar", l.Tar}, {"folder", l.Folder}} {
		localPath(field+"."+p.key, p.path, at)
	}
	r.checkFiles(l.Files, field+".files", at)
	checkPermissions(l.Permissions, field+".permissions", at)
	checkAccounts(l.Accounts, field+".accounts", at)
}

func checkOCI(o *OCILayer, field string, at note) {
	if o == nil {
		return
	}
	n := 0
	for _, s := range []string{o.Image, o.Layout, o.Archive} {
		if s != "" {
			n++
		}
	}
	switch why := guestPath(o.At); {
	case n != 1:
		at(field, fmt.Sprintf("want exactly one of image, layout and archive, got %d", n))
	case o.Image != "" && (o.Name != "" || o.Digest != ""):
		at(field, "name and digest choose an image of a layout or an archive; a reference to a registry says "+
			"both itself, as NAME:TAG or NAME@sha256:HEX")
	case o.Digest != "" && (len(o.Digest) != 71 || strings.Trim(strings.TrimPrefix(o.Digest, "sha256:"),
		"0123456789abcdef") != ""):
		at(field+".digest", fmt.Sprintf("digest %q: want sha256: and 64 lower-case hexadecimal digits",
			o.Digest))
	case o.At != "" && o.At != "/" && why != "":
		at(field+".at", fmt.Sprintf("path %q: %s", o.At, why))
	case IsURL(o.Layout):
		at(field+".layout", "a layout is a folder beside the recipe, no address")
	}
	for _, p := range []struct{ key, path string }{{"layout", o.Layout}, {"archive", o.Archive}} {
		localPath(field+"."+p.key, p.path, at)
	}
}

func checkPermissions(list []Permission, field string, at note) {
	for i, p := range list {
		field := fmt.Sprintf("%s[%d]", field, i)
		why := guestPath(p.Path)
		_, err := p.Mode.bits()
		switch {
		case why != "" && p.Path != "/":
			at(field, fmt.Sprintf("path %q: %s", p.Path, why))
		case p.Mode == "" && p.UID == nil && p.GID == nil:
			at(field, fmt.Sprintf("%s: want mode, uid, gid or several of them", p.Path))
		case p.Mode != "" && err != nil:
			at(field+".mode", err.Error())
		}
	}
}

// checkAccountsTwice finds names and numbers that two accounts of the recipe share, whichever layers they stand in.
func (r *Recipe) checkAccountsTwice(at note) {
	seen := map[string]string{} // what is taken, to the field that took it
	take := func(field, what string) {
		if first, taken := seen[what]; taken {
			at(field, fmt.Sprintf("%s stands twice; the first is at %s", what, r.Place(first)))
			return
		}
		seen[what] = field
	}
	for i, l := range r.Rootfs.Layers {
		if l.Accounts == nil {
			continue
		}
		for j, u := range l.Accounts.Users {
			field := fmt.Sprintf("rootfs.layers[%d].accounts.users[%d]", i, j)
			take(field, "user "+u.Name)
			if u.UID != nil {
				take(field, fmt.Sprintf("uid %d", *u.UID))
			}
		}
		for j, g := range l.Accounts.Groups {
			field := fmt.Sprintf("rootfs.layers[%d].accounts.groups[%d]", i, j)
			take(field, "group "+g.Name)
			if g.GID != nil {
				take(field, fmt.Sprintf("gid %d", *g.GID))
			}
		}
	}
}

func checkAccounts(a *Accounts, field string, at note) {
	if a == nil {
		return
	}
	if len(a.Users)+len(a.Groups) == 0 {
		at(field, "neither users nor groups")
	}
	name := func(s string) bool {
		return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == "" &&
			s[0] != '-' && (s[0] < '0' || s[0] > '9')
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
		var why string
		switch {
		case !name(u.Name):
			why = "want a name of at most 32 lower-case letters, digits, - and _, that does not begin with - or a digit"
		case !path(u.Home) || !path(u.Shell):
			why = "want absolute paths without colons as home and shell"
		case u.UID == nil:
			why = "no uid: give a number (0 is root; Debian has ordinary users from 1000 on)"
		case u.GID == nil && u.Group == "":
			why = "no primary group: give gid a number, or group a name"
		case u.GID != nil && u.Group != "":
			why = "both gid and group: want one"
		case u.Group != "" && !name(u.Group):
			why = fmt.Sprintf("group %q is no name of a group", u.Group)
		case u.CreateHome && u.Home == "/":
			why = "create_home without a home other than /"
		default:
			continue
		}
		at(fmt.Sprintf("%s.users[%d]", field, i), fmt.Sprintf("user %q: %s", u.Name, why))
	}
	for i, g := range a.Groups {
		if !name(g.Name) || slices.ContainsFunc(g.Members, func(m string) bool { return !name(m) }) {
			at(fmt.Sprintf("%s.groups[%d]", field, i), fmt.Sprintf("group %q: want lower-case names",
				g.Name))
		}
	}
}
