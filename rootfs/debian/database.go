package debian

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

const adminDir = "/var/lib/dpkg"

// database writes what dpkg(1) remembers of installed packages: the status file, and for each package what it has, by name and by checksum.
// Scripts are not among it, nor triggers: a package that dpkg removes or replaces later goes without them.
func (in *installer) database(e *effects, debs []*Deb) error {
	debs = slices.Clone(debs)
	slices.SortFunc(debs, func(a, b *Deb) int { return strings.Compare(a.Name, b.Name) })
	for _, d := range []string{"/info", "/updates", "/triggers", "/alternatives", "/parts"} {
		e.folder(adminDir+d, 0o755, 0)
	}
	var status bytes.Buffer
	for _, d := range debs {
		stanza, err := in.stanza(d)
		if err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
		status.WriteString(stanza)
	}
	e.write(adminDir+"/status", status.Bytes(), 0o644, 0)
	e.write(adminDir+"/available", nil, 0o644, 0)
	// The format of info: 1 is that files of packages with "Multi-Arch: same" have the architecture in their names.
	e.write(adminDir+"/info/format", []byte("1\n"), 0o644, 0)
	for _, l := range in.lists {
		stem := adminDir + "/info/" + l.deb.Name
		if l.deb.Control.Get("Multi-Arch") == "same" {
			stem += ":" + l.deb.Arch
		}
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
		e.write(stem+".list", b.Bytes(), 0o644, 0)
		if l.deb.MD5Sums != nil {
			e.write(stem+".md5sums", l.deb.MD5Sums, 0o644, 0)
		}
		if len(l.deb.Conffiles) > 0 {
			e.write(stem+".conffiles", []byte(strings.Join(l.deb.Conffiles, "\n")+"\n"), 0o644, 0)
		}
	}
	return e.err
}

// stanza is a package's part of the status file.
func (in *installer) stanza(d *Deb) (string, error) {
	var b strings.Builder
	for _, f := range d.Control {
		if strings.EqualFold(f.Name, "Status") || strings.EqualFold(f.Name, "Conffiles") {
			continue
		}
		// A value of several lines begins on the field's own line, or on the next.
		fmt.Fprintf(&b, "%s:%s\n", f.Name, spaced(f.Value))
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

func spaced(v string) string {
	if v == "" || v[0] == '\n' {
		return v
	}
	return " " + v
}

// md5Of is how dpkg names the content of a conffile.
func md5Of(n *tree.Node) (string, error) {
	h := md5.New()
	if n.Content != nil {
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
