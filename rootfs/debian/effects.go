package debian

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Groups of base-passwd that files made here belong to. Debian Policy 9.2.2: Debian gives numbers below 100 out itself,
// the same everywhere.
const (
	gidMail   = 8
	gidShadow = 42
	gidUTMP   = 43
)

// homeOfRoot is where the guest's superuser lives. Debian Policy 9.1.1, by the Filesystem Hierarchy Standard 3.0, 3.14.
const homeOfRoot = "/root"

// effect is something that a maintainer script would have done: from which package's scripts it is known, and what it
// makes. It makes only what is not there, and only where the package's own files are.
type effect struct {
	name string
	do   func(*effects)
}

// effectList is all that is done in place of scripts once every package is unpacked, in this order.
// docs/formats/debian.md has it as a table.
var effectList = []effect{
	{"base-passwd: users and groups", (*effects).passwd},
	{"base-files: folders, and files for people", (*effects).baseFiles},
	{"debianutils: /etc/shells", (*effects).shells},
	{"tzdata: /etc/localtime", (*effects).localtime},
	{"ca-certificates: the bundle", (*effects).certificates},
	{"alternatives", (*effects).alternatives},
}

// merged are the folders of / that are links into /usr. Debian's usrmerge; base-files of Debian 13 and later has most
// of them itself.
var merged = []string{"bin", "lib", "sbin"}

// lib64 are architectures whose dynamic loader is below /lib64. GNU C library, shlib-versions of each port.
var lib64 = []string{"amd64", "loong64", "mips64el", "ppc64", "ppc64el"}

// alternative is a name for which several packages have a program; the first path that is there is what
// update-alternatives(1) chooses by itself, from the priorities in the packages' scripts.
type alternative struct {
	name, link string
	paths      []string
}

// alternativeList is what guests have been seen to need; of manuals there are none.
var alternativeList = []alternative{
	{"awk", "/usr/bin/awk", []string{"/usr/bin/gawk", "/usr/bin/mawk", "/usr/bin/original-awk"}},
	{"nawk", "/usr/bin/nawk", []string{"/usr/bin/gawk", "/usr/bin/mawk", "/usr/bin/original-awk"}},
	{"which", "/usr/bin/which", []string{"/usr/bin/which.debianutils"}},
	{"pager", "/usr/bin/pager", []string{"/usr/bin/less", "/usr/bin/more"}},
	{"editor", "/usr/bin/editor", []string{"/usr/bin/nano", "/bin/nano", "/usr/bin/vim.basic", "/usr/bin/vim.tiny"}},
	{"vi", "/usr/bin/vi", []string{"/usr/bin/vim.basic", "/usr/bin/vim.tiny"}},
	{"rmt", "/usr/sbin/rmt", []string{"/usr/sbin/rmt-tar"}},
	{"nc", "/bin/nc", []string{"/bin/nc.openbsd", "/bin/nc.traditional"}},
	{"netcat", "/bin/netcat", []string{"/bin/nc.openbsd", "/bin/nc.traditional"}},
	{"iptables", "/usr/sbin/iptables", []string{"/usr/sbin/iptables-nft", "/usr/sbin/iptables-legacy"}},
	{"iptables-restore", "/usr/sbin/iptables-restore", []string{"/usr/sbin/iptables-nft-restore",
		"/usr/sbin/iptables-legacy-restore"}},
	{"iptables-save", "/usr/sbin/iptables-save", []string{"/usr/sbin/iptables-nft-save",
		"/usr/sbin/iptables-legacy-save"}},
	{"ip6tables", "/usr/sbin/ip6tables", []string{"/usr/sbin/ip6tables-nft", "/usr/sbin/ip6tables-legacy"}},
	{"ip6tables-restore", "/usr/sbin/ip6tables-restore", []string{"/usr/sbin/ip6tables-nft-restore",
		"/usr/sbin/ip6tables-legacy-restore"}},
	{"ip6tables-save", "/usr/sbin/ip6tables-save", []string{"/usr/sbin/ip6tables-nft-save",
		"/usr/sbin/ip6tables-legacy-save"}},
	{"arptables", "/usr/sbin/arptables", []string{"/usr/sbin/arptables-nft", "/usr/sbin/arptables-legacy"}},
	{"arptables-restore", "/usr/sbin/arptables-restore", []string{"/usr/sbin/arptables-nft-restore",
		"/usr/sbin/arptables-legacy-restore"}},
	{"arptables-save", "/usr/sbin/arptables-save", []string{"/usr/sbin/arptables-nft-save",
		"/usr/sbin/arptables-legacy-save"}},
	{"ebtables", "/usr/sbin/ebtables", []string{"/usr/sbin/ebtables-nft", "/usr/sbin/ebtables-legacy"}},
	{"ebtables-restore", "/usr/sbin/ebtables-restore", []string{"/usr/sbin/ebtables-nft-restore",
		"/usr/sbin/ebtables-legacy-restore"}},
	{"ebtables-save", "/usr/sbin/ebtables-save", []string{"/usr/sbin/ebtables-nft-save",
		"/usr/sbin/ebtables-legacy-save"}},
}

// effects makes things in a tree, each only where nothing is. After the first error it does nothing more.
type effects struct {
	t    *tree.Tree
	time tree.Time
	name string // of the effect that is at work
	err  error
}

// before makes what must be there when packages are unpacked: links that their paths lead through.
func (e *effects) before(debs []*Deb) error {
	e.name = "the merged /usr"
	links := slices.Clone(merged)
	base := false
	for _, d := range debs {
		if slices.Contains(lib64, d.Arch) {
			links = append(links, "lib64")
			break
		}
	}
	for _, d := range debs {
		base = base || d.Name == "base-files"
	}
	for _, l := range links {
		e.folder("/usr/"+l, 0o755, 0)
		e.link("/"+l, "usr/"+l)
	}
	if base {
		e.name = "base-files: /var/run"
		e.folder("/run", 0o755, 0)
		e.folder("/run/lock", 0o1777, 0)
		e.link("/var/run", "/run")
		e.link("/var/lock", "/run/lock")
	}
	return e.err
}

func (e *effects) after() error {
	for _, f := range effectList {
		e.name = f.name
		f.do(e)
	}
	return e.err
}

// passwd makes the users and groups that every Debian has, with no password for anyone: "*" matches none. passwd(5),
// shadow(5), gshadow(5).
func (e *effects) passwd() {
	const day = 24 * 60 * 60
	for _, f := range []struct {
		master, plain, secret string
		rest                  string // of a line of the secret file, behind the password
	}{
		{"/usr/share/base-passwd/passwd.master", "/etc/passwd", "/etc/shadow", fmt.Sprintf("%d:0:99999:7:::",
			max(0, e.time.Sec)/day)},
		{"/usr/share/base-passwd/group.master", "/etc/group", "/etc/gshadow", ":"},
	} {
		if !e.there(f.master) || e.there(f.plain) {
			continue
		}
		var plain, secret strings.Builder
		for line := range strings.Lines(string(e.read(f.master))) {
			fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(fields) < 3 {
				continue
			}
			fmt.Fprintf(&plain, "%s:x:%s\n", fields[0], fields[2])
			fmt.Fprintf(&secret, "%s:*:%s\n", fields[0], f.rest)
		}
		e.write(f.plain, []byte(plain.String()), 0o644, 0)
		e.write(f.secret, []byte(secret.String()), 0o640, gidShadow)
	}
}

func (e *effects) baseFiles() {
	const from = "/usr/share/base-files/"
	if !e.there("/etc/debian_version") {
		return
	}
	for _, c := range [][2]string{{"dot.profile", homeOfRoot + "/.profile"}, {"dot.bashrc", homeOfRoot + "/.bashrc"},
		{"profile", "/etc/profile"}, {"motd", "/etc/motd"}} {
		e.copy(from+c[0], c[1])
	}
	for _, d := range []string{"/etc/opt", "/media", "/mnt", "/opt", "/srv", "/var/opt", "/usr/local",
		"/usr/local/bin", "/usr/local/etc", "/usr/local/games", "/usr/local/include",
		"/usr/local/lib", "/usr/local/libexec", "/usr/local/sbin", "/usr/local/share", "/usr/local/share/man",
		"/usr/local/src"} {
		e.folder(d, 0o755, 0)
	}
	e.folder("/var/mail", 0o2775, gidMail)
	e.link("/var/spool/mail", "../mail")
	e.link("/usr/local/man", "share/man")
	e.write("/var/log/wtmp", nil, 0o664, gidUTMP)
	e.write("/var/log/btmp", nil, 0o660, gidUTMP)
	e.write("/var/log/lastlog", nil, 0o664, gidUTMP)
	if e.there("/etc/dpkg/origins/debian") {
		e.link("/etc/dpkg/origins/default", "debian")
	}
}

// shells lists login shells: those of debianutils, then what each package names in a file of its own. update-shells(8).
func (e *effects) shells() {
	const from = "/usr/share/debianutils/shells"
	if !e.there(from) {
		return
	}
	b := bytes.NewBuffer(e.read(from))
	if d, err := e.t.Resolve(from + ".d"); err == nil && d.Kind == tree.Dir {
		for _, name := range d.Names() {
			for line := range strings.Lines(string(e.read(from + ".d/" + name))) {
				// Every shell has its name with and without /usr.
				if s := strings.TrimSpace(line); s != "" && s[0] != '#' {
					b.WriteString(s + "\n")
					if other, ok := strings.CutPrefix(s, "/usr"); ok {
						b.WriteString(other + "\n")
					} else if strings.HasPrefix(s, "/bin/") {
						b.WriteString("/usr" + s + "\n")
					}
				}
			}
		}
	}
	e.write("/etc/shells", b.Bytes(), 0o644, 0)
}

func (e *effects) localtime() {
	if e.there("/usr/share/zoneinfo/Etc/UTC") {
		e.link("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
		e.write("/etc/timezone", []byte("Etc/UTC\n"), 0o644, 0)
	}
}

// certificates makes the one file that most programs read: all certificates that the package ships, in the order of
// their paths. update-ca-certificates(8). The links named by hash, which OpenSSL looks for in a folder, are not made.
func (e *effects) certificates() {
	const from = "/usr/share/ca-certificates"
	top, err := e.t.Resolve(from)
	if err != nil || top.Kind != tree.Dir || e.there("/etc/ssl/certs/ca-certificates.crt") {
		return
	}
	var bundle bytes.Buffer
	var conf strings.Builder
	for _, vendor := range top.Names() {
		for _, name := range top.Child(vendor).Names() {
			if !strings.HasSuffix(name, ".crt") {
				continue
			}
			conf.WriteString(vendor + "/" + name + "\n")
			bundle.Write(bytes.TrimRight(e.read(from+"/"+vendor+"/"+name), "\n"))
			bundle.WriteString("\n")
			e.link("/etc/ssl/certs/"+strings.TrimSuffix(name, ".crt")+".pem", from+"/"+vendor+"/"+name)
		}
	}
	if bundle.Len() > 0 {
		e.write("/etc/ca-certificates.conf", []byte(conf.String()), 0o644, 0)
		e.write("/etc/ssl/certs/ca-certificates.crt", bundle.Bytes(), 0o644, 0)
	}
}

func (e *effects) alternatives() {
	for _, a := range alternativeList {
		for _, p := range a.paths {
			if e.there(p) {
				if !e.there(a.link) {
					e.link("/etc/alternatives/"+a.name, p)
					e.link(a.link, "/etc/alternatives/"+a.name)
				}
				break
			}
		}
	}
}

// there says whether something is at a path.
func (e *effects) there(p string) bool {
	_, err := e.t.Lookup(p)
	return err == nil
}

// maxRead bounds what an effect reads of a package's file, in bytes: they are lists and certificates.
const maxRead = 1 << 20

func (e *effects) read(p string) []byte {
	n, err := e.t.Resolve(p)
	if err == nil && (n.Kind != tree.File || n.Size() > maxRead) {
		err = fmt.Errorf("%v of %d bytes: want a file of at most %d", n.Kind, n.Size(), maxRead)
	}
	if err != nil || n.Content == nil {
		e.fail(p, err)
		return nil
	}
	b, err := tree.ReadAll(n)
	e.fail(p, err)
	return b
}

func (e *effects) fail(p string, err error) {
	if err != nil && e.err == nil {
		e.err = fmt.Errorf("%s: %s: %w", e.name, p, err)
	}
}

// put places a node where nothing is; a folder that nobody described counts as nothing.
func (e *effects) put(p string, n *tree.Node) {
	if e.err != nil {
		return
	}
	there, err := e.t.Lookup(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		e.fail(p, err)
		return
	case n.Kind != tree.Dir || there.Kind != tree.Dir || there.Origin != e.t.Implied.Origin:
		return
	}
	n.Time, n.Origin = e.time, "in place of scripts: "+e.name
	e.fail(p, e.t.Put(p, n))
}

func (e *effects) folder(p string, mode uint16, gid uint32) {
	e.put(p, &tree.Node{Kind: tree.Dir, Mode: mode, GID: gid})
}

func (e *effects) link(p, to string) {
	e.put(p, &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: to})
}

func (e *effects) write(p string, data []byte, mode uint16, gid uint32) {
	n := &tree.Node{Kind: tree.File, Mode: mode, GID: gid}
	if len(data) > 0 {
		n.Content = tree.Bytes(data)
	}
	e.put(p, n)
}

// copy makes a file with the content and mode of another, if that is there.
func (e *effects) copy(from, to string) {
	if n, err := e.t.Resolve(from); err == nil && n.Kind == tree.File {
		e.put(to, &tree.Node{Kind: tree.File, Mode: n.Mode, Content: n.Content})
	}
}

// set makes a file, or replaces the one that is there.
func (e *effects) set(p string, data []byte) {
	e.remove(p)
	e.write(p, data, 0o644, 0)
}

// remove takes a file away, if it is there.
func (e *effects) remove(p string) {
	if e.err == nil && e.there(p) {
		e.fail(p, e.t.Remove(p))
	}
}
