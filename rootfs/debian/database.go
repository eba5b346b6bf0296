package debian

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/rootfs/debian/control"
	"github.com/katabuild/katabuild/rootfs/tree"
)

const adminDir = "/var/lib/dpkg"

// Where dpkg remembers what is installed, and where images without dpkg (distroless) have one file a package instead.
const (
	statusFile   = adminDir + "/status"
	statusFolder = adminDir + "/status.d"
)

// Installed is a package that a tree's database knows.
type Installed struct {
	Name, Version, Arch string
	// Whole is false for what is left of a package that was removed: its configuration.
	Whole   bool
	Control control.Stanza

	stanza string // as it stands in the database, without the empty line behind it
	file   string // of the status folder, where it does not stand in the status file
}

// Database is what a tree says is installed, sorted by name and architecture.
type Database []Installed

// maxStatus bounds a database, in bytes. One of 5,000 packages has 6 MB.
const maxStatus = 64 << 20

// ReadDatabase reads dpkg's status file and what images without dpkg have in its place. A tree without either has an
// empty database.
func ReadDatabase(t *tree.Tree) (Database, error) {
	files := []string{statusFile}
	if d, err := t.Resolve(statusFolder); err == nil && d.Kind == tree.Dir {
		for _, name := range d.Names() {
			if n, err := t.Resolve(statusFolder + "/" + name); err == nil && n.Kind == tree.File &&
				path.Ext(name) != ".md5sums" {
				files = append(files, statusFolder+"/"+name)
			}
		}
	}
	var db Database
	for _, f := range files {
		list, err := readStatus(t, f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		db = db.with(list)
	}
	return db, nil
}

func readStatus(t *tree.Tree, file string) (Database, error) {
	n, err := t.Resolve(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if n.Kind != tree.File || n.Size() > maxStatus {
		return nil, fmt.Errorf("%v of %d bytes: want a file of at most %d", n.Kind, n.Size(), maxStatus)
	}
	data, err := tree.ReadAll(n)
	if err != nil {
		return nil, err
	}
	var db Database
	for stanza := range bytes.SplitSeq(bytes.TrimSpace(data), []byte("\n\n")) {
		text := strings.Trim(string(stanza), "\n")
		if text == "" {
			continue
		}
		c, err := control.Parse([]byte(text))
		if err != nil {
			return nil, err
		}
		p := Installed{Name: c.Get("Package"), Version: c.Get("Version"), Arch: c.Get("Architecture"), Control: c,
			stanza: text}
		if p.Name == "" {
			return nil, errors.New("a stanza without the name of a package")
		}
		status := c.Get("Status")
		p.Whole = status == "" || strings.HasSuffix(status, " installed")
		if path.Dir(file) == statusFolder {
			p.file = file
		}
		db = append(db, p)
	}
	return db, nil
}

// with is db with the packages of list, which count where both have one.
func (db Database) with(list Database) Database {
	out := slices.DeleteFunc(slices.Clone(db), func(p Installed) bool {
		return slices.ContainsFunc(list, func(q Installed) bool { return q.same(p) })
	})
	out = append(out, list...)
	slices.SortStableFunc(out, func(a, b Installed) int {
		return strings.Compare(a.Name+"\x00"+a.Arch,
			b.Name+"\x00"+b.Arch)
	})
	return out
}

// same says whether two packages cannot be installed at once: they have one name, and are not of different
// architectures. A package may become one for all architectures, or cease to be. dpkg(1), "Multi-Arch: same".
func (p Installed) same(q Installed) bool {
	return p.Name == q.Name && (p.Arch == q.Arch || p.Arch == "all" || q.Arch == "all" || p.Arch == "" || q.Arch == "")
}

// KeepInstalled puts packages back into a tree's database that another layer has hidden by bringing a database of its
// own: their files are still there. What the tree's own database says of a package counts.
func KeepInstalled(t *tree.Tree, before Database, now tree.Time) error {
	after, err := ReadDatabase(t)
	if err != nil {
		return err
	}
	all := before.with(after)
	if len(all) == len(after) {
		return nil
	}
	return all.write(&effects{t: t, time: now, name: "dpkg's database"})
}

// write makes the status file of a database, and takes away the files of the status folder whose packages stand in it
// now.
func (db Database) write(e *effects) error {
	var b bytes.Buffer
	for _, p := range db {
		text := p.stanza
		if p.file != "" && p.Control.Get("Status") == "" {
			// The first line names the package, or dpkg would have another idea of the stanza's order.
			name := "Package: " + p.Name + "\n"
			text = name + "Status: install ok installed\n" + strings.Replace(text+"\n", name, "", 1)
			text = strings.TrimSuffix(text, "\n")
		}
		b.WriteString(text + "\n\n")
		if p.file == "" {
			continue
		}
		sums := p.file + ".md5sums"
		if n, err := e.t.Resolve(sums); err == nil && n.Kind == tree.File {
			data, err := tree.ReadAll(n)
			if err != nil {
				return err
			}
			e.set(adminDir+"/info/"+p.Name+".md5sums", data)
			e.remove(sums)
		}
		e.remove(p.file)
	}
	e.set(statusFile, b.Bytes())
	return e.err
}

// database writes what dpkg(1) remembers of installed packages: the status file, and for each package what it has, by
// name and by checksum. What was installed before stays in it, but for packages of which there is another version now.
// Scripts are not among it, nor triggers: a package that dpkg removes or replaces later goes without them.
func (in *installer) database(e *effects, debs []*Deb, before Database) error {
	for _, d := range []string{"/info", "/updates", "/triggers", "/alternatives", "/parts"} {
		e.folder(adminDir+d, 0o755, 0)
	}
	var list Database
	for _, d := range debs {
		stanza, err := in.stanza(d)
		if err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
		list = append(list, Installed{Name: d.Name, Version: string(d.Version), Arch: d.Arch, Whole: true,
			Control: d.Control, stanza: strings.TrimRight(stanza, "\n")})
	}
	for _, p := range before {
		if p.file != "" && slices.ContainsFunc(list, p.same) {
			e.remove(p.file)
			e.remove(p.file + ".md5sums")
		}
	}
	if err := before.with(list).write(e); err != nil {
		return err
	}
	e.write(adminDir+"/available", nil, 0o644, 0)
	// The format of info: 1 is that files of packages with "Multi-Arch: same" have the architecture in their names.
	e.write(adminDir+"/info/format", []byte("1\n"), 0o644, 0)
	for _, l := range in.lists {
		stem := infoStem(l.deb.Name, l.deb.Arch, l.deb.Control.Get("Multi-Arch"))
		var b bytes.Buffer
		for _, p := range l.paths {
			if _, err := in.t.Lookup(p); err != nil {
				continue // deleted
			}
			if p == "/" {
				p = "/."
			}
			b.WriteString(p + "\n")
		}
		e.set(stem+".list", b.Bytes())
		if l.deb.MD5Sums != nil {
			e.set(stem+".md5sums", l.deb.MD5Sums)
		}
		if len(l.deb.Conffiles) > 0 {
			e.set(stem+".conffiles", []byte(strings.Join(l.deb.Conffiles, "\n")+"\n"))
		}
	}
	return e.err
}

// infoStem is what the names of a package's files in the database begin with.
func infoStem(name, arch, multiArch string) string {
	if multiArch == "same" {
		name += ":" + arch
	}
	return adminDir + "/info/" + name
}

// pathsOf are the paths of a list in the database; none where there is no list.
func pathsOf(t *tree.Tree, p Installed) ([]string, error) {
	n, err := t.Resolve(infoStem(p.Name, p.Arch, p.Control.Get("Multi-Arch")) + ".list")
	if err != nil || n.Kind != tree.File || n.Size() > maxStatus {
		return nil, nil // images leave lists out
	}
	data, err := tree.ReadAll(n)
	return strings.Fields(strings.ReplaceAll(string(data), "\n/.\n", "\n")), err
}

// supersede takes away what former versions of packages have left: files that no package has any more, and folders that
// became empty by that. Configuration files stay, as with dpkg(1).
func (in *installer) supersede(former []formerVersion, before Database) error {
	if len(former) == 0 {
		return nil
	}
	owned := map[string]bool{}
	for _, l := range in.lists {
		for _, p := range l.paths {
			owned[p] = true
		}
	}
	for _, p := range before {
		if slices.ContainsFunc(former, func(f formerVersion) bool { return f.same(p) }) {
			continue
		}
		paths, err := pathsOf(in.t, p)
		if err != nil {
			return err
		}
		for _, f := range paths {
			owned[f] = true
		}
	}
	for _, f := range former {
		conffiles := strings.Fields(f.Control.Get("Conffiles"))
		// From the leaves up.
		slices.Sort(f.paths)
		for _, p := range slices.Backward(f.paths) {
			n, err := in.t.Lookup(p)
			if err != nil || owned[p] || slices.Contains(conffiles, p) || p == "/." || p == "/" ||
				n.Kind == tree.Dir && n.Len() > 0 || in.owner[n] != nil {
				continue
			}
			if err := in.t.Remove(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// formerVersion is a package that gives way to another version, and the paths it had.
type formerVersion struct {
	Installed
	paths []string
}

// stanza is a package's part of the status file.
func (in *installer) stanza(d *Deb) (string, error) {
	var b strings.Builder
	for _, f := range d.Control {
		if strings.EqualFold(f.Name, "Status") || strings.EqualFold(f.Name, "Conffiles") {
			continue
		}
		fmt.Fprintln(&b, f)
		if strings.EqualFold(f.Name, "Package") {
			b.WriteString("Status: install ok installed\n")
		}
	}
	first := true
	for _, p := range d.Conffiles {
		n, err := in.t.Resolve(p)
		if err != nil || n.Kind != tree.File {
			continue // excluded
		}
		sum, err := md5Of(n)
		if err != nil {
			return "", fmt.Errorf("conffile %s: %w", p, err)
		}
		if first {
			b.WriteString("Conffiles:\n")
			first = false
		}
		fmt.Fprintf(&b, " %s %s\n", p, sum)
	}
	b.WriteString("\n")
	return b.String(), nil
}

// md5Of is how dpkg names the content of a conffile.
func md5Of(n *tree.Node) (string, error) {
	h := md5.New()
	if _, live := n.Content.(*tree.Live); live { // ReadAll keeps what it reads, so that the image has the same bytes
		data, err := tree.ReadAll(n)
		if err != nil {
			return "", err
		}
		h.Write(data)
	} else if n.Content != nil {
		r, err := n.Content.Open()
		if err != nil {
			return "", err
		}
		defer r.Close()
		if _, err := io.Copy(h, r); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
