package debian

import (
	"archive/tar"
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/compression"
	"github.com/katabuild/katabuild/rootfs/debian/control"
)

// Deb is one binary package.
type Deb struct {
	Name    string
	Version control.Version
	Arch    string // dpkg's name, or "all"

	Control   control.Stanza
	Conffiles []string // absolute paths of configuration files
	Scripts   []string // maintainer scripts that the package has, sorted: nobody runs them
	MD5Sums   []byte   // as the package has it, for dpkg's database; nil when it has none

	// Tar is the file with what the package installs, uncompressed. The caller may move it, to where it is kept by its
	// digest, and say so here.
	Tar    string
	Digest digest.Digest // of Tar
	Size   int64         // of Tar, in bytes
}

func (d *Deb) String() string { return "package " + d.Name + " " + string(d.Version) }

// Package is what a list would say of the package. Where it is, its size and its digest are the caller's to fill in.
func (d *Deb) Package() (*Package, error) {
	c := d.Control
	p := &Package{
		Name: d.Name, Version: d.Version, Arch: d.Arch, Essential: c.Get("Essential") == "yes",
		Priority: c.Get("Priority"), MultiArch: c.Get("Multi-Arch"),
		PreDepends: c.Get("Pre-Depends"), Depends: c.Get("Depends"), Recommends: c.Get("Recommends"),
		Provides:  c.Get("Provides"),
		Conflicts: c.Get("Conflicts"), Breaks: c.Get("Breaks"),
	}
	if s := c.Get("Installed-Size"); s != "" {
		var err error
		if p.InstalledSize, err = strconv.ParseInt(s, 10, 64); err != nil {
			return nil, fmt.Errorf("%s: Installed-Size %q", d, s)
		}
	}
	return p, cmp.Or(control.CheckName(p.Name), p.Version.Check(), control.CheckArch(p.Arch))
}

// The parts of an ar archive, which a .deb is: a magic line, then members, each with a header and padded to an even
// length. deb(5); ar.h of the GNU C library.
const (
	arMagic  = "!<arch>\n"
	arHeader = 16 + 12 + 6 + 6 + 8 + 10 + 2 // 60: name, date, uid, gid, mode, size, end
	arEnd    = "`\n"
)

// Bounds of what comes out of a package. The longest control members, of translations, have 10 MB; the largest
// package has 4 GB.
const (
	maxControl = 64 << 20
	maxData    = 32 << 30
)

// scripts are the names of maintainer scripts. Debian Policy 6.1; deb-postinst(5) and its like.
var scripts = []string{"config", "postinst", "postrm", "preinst", "prerm"}

// Read reads what a .deb says of itself, without unpacking what it installs. Tar and what belongs to it stay empty.
func Read(file string) (*Deb, error) { return openDeb(file, "") }

// Unpack is Read, and puts what the package installs into a file of the folder dir, uncompressed.
func Unpack(file, dir string) (*Deb, error) { return openDeb(file, dir) }

func openDeb(file, dir string) (*Deb, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := readDeb(bufio.NewReaderSize(f, 256<<10), dir)
	if err != nil {
		return nil, fmt.Errorf("package file %s: %w", file, err)
	}
	return d, nil
}

// readDeb reads the members in the order deb(5) demands: debian-binary, control.tar, data.tar; names that begin
// with "_" may stand between. data.tar goes into the folder dir; where that is empty it is passed over, unread.
func readDeb(r *bufio.Reader, dir string) (*Deb, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, errors.New("no ar archive")
	}
	name, member, err := nextMember(r)
	if err != nil {
		return nil, err
	}
	format, err := io.ReadAll(io.LimitReader(member, 16))
	if err == nil && (name != "debian-binary" || !strings.HasPrefix(string(format), "2.")) {
		err = errors.New("want debian-binary with version 2")
	}
	if err == nil {
		err = member.skip()
	}
	if err != nil {
		return nil, fmt.Errorf("member %q: %w", name, err)
	}
	d := &Deb{}
	for _, want := range []string{"control.tar", "data.tar"} {
		if name, member, err = nextMember(r); err != nil {
			return nil, fmt.Errorf("member %s: %w", want, err)
		}
		if name != want && strings.TrimSuffix(name, path.Ext(name)) != want {
			return nil, fmt.Errorf("member %q: want %s", name, want)
		}
		switch path.Ext(name) {
		case ".tar", ".gz", ".xz", ".zst":
		default:
			return nil, fmt.Errorf("member %q: compressed in a way that is not read here", name)
		}
		if want == "control.tar" {
			err = d.readControl(member)
		} else if dir != "" {
			d.Tar = filepath.Join(dir, d.Name+"_"+d.Arch+".tar")
			d.Digest, d.Size, err = compression.Decompress(member, d.Tar, maxData)
		} else {
			return d, nil
		}
		if err == nil {
			if err = member.skip(); err != nil && d.Tar != "" {
				err = errors.Join(err, os.Remove(d.Tar))
			}
		}
		if err != nil {
			return nil, fmt.Errorf("member %s: %w", name, err)
		}
	}
	return d, nil
}

// member is the content of an ar archive's member.
type member struct {
	r    *bufio.Reader
	left int64
	pad  int64
}

func (m *member) Read(b []byte) (int, error) {
	if m.left == 0 {
		return 0, io.EOF
	}
	n, err := m.r.Read(b[:min(int64(len(b)), m.left)])
	m.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// skip goes to the end of the member. The last one's padding may be missing.
func (m *member) skip() error {
	if _, err := io.CopyN(io.Discard, m, m.left); err != nil {
		return err
	}
	if n, err := m.r.Discard(int(m.pad)); err != nil && (err != io.EOF || n != 0) {
		return err
	}
	m.pad = 0
	return nil
}

func nextMember(r *bufio.Reader) (string, *member, error) {
	for {
		head := make([]byte, arHeader)
		if _, err := io.ReadFull(r, head); err != nil {
			return "", nil, fmt.Errorf("header: %w", unexpected(err))
		}
		name := strings.TrimSuffix(strings.TrimRight(string(head[:16]), " "), "/")
		size, err := strconv.ParseInt(strings.TrimRight(string(head[48:58]), " "), 10, 64)
		if err != nil || size < 0 || string(head[58:]) != arEnd {
			return "", nil, fmt.Errorf("header of %q is malformed", name)
		}
		m := &member{r, size, size % 2}
		if !strings.HasPrefix(name, "_") {
			return name, m, nil
		}
		if err := m.skip(); err != nil {
			return "", nil, err
		}
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readControl reads the control member. deb(5), deb-control(5), deb-conffiles(5).
func (d *Deb) readControl(r io.Reader) error {
	plain, err := compression.Plain(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	limited := &io.LimitedReader{R: plain, N: maxControl}
	tr := tar.NewReader(limited)
	files := map[string][]byte{}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			if limited.N == 0 {
				err = fmt.Errorf("more than %d bytes", maxControl)
			}
			return err
		}
		name := path.Clean("/" + h.Name)[1:]
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if slices.Contains(scripts, name) {
			d.Scripts = append(d.Scripts, name)
		}
		switch name {
		case "control", "conffiles", "md5sums":
			if h.Size > maxControl {
				return fmt.Errorf("%s of %d bytes: want at most %d", name, h.Size, maxControl)
			}
			if files[name], err = io.ReadAll(tr); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	slices.Sort(d.Scripts)
	d.Scripts = slices.Compact(d.Scripts)
	if d.Control, err = control.Parse(files["control"]); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	d.Name, d.Version, d.Arch = d.Control.Get("Package"), control.Version(d.Control.Get("Version")),
		d.Control.Get("Architecture")
	for _, err := range []error{control.CheckName(d.Name), d.Version.Check(), control.CheckArch(d.Arch)} {
		if err != nil {
			return fmt.Errorf("control: %w", err)
		}
	}
	d.MD5Sums = files["md5sums"]
	for line := range strings.SplitSeq(string(files["conffiles"]), "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "remove-on-upgrade ") || line == "" {
			continue
		}
		if line != path.Clean(line) || line[0] != '/' {
			return fmt.Errorf("conffiles: %q is no absolute path", line)
		}
		d.Conffiles = append(d.Conffiles, line)
	}
	return nil
}
