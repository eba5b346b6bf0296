package fetch

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"path"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/rootfs/debian"
)

// Archive is Debian's archive, or one like it. suite is its name for a release, arch dpkg's name of an architecture.
// What Index and Resolve say is signed by the archive's keys; what Fetch and FetchAll bring is not checked, because the
// caller has its digest. *Apt and *HTTP are archives.
type Archive interface {
	// Resolve asks for the newest version of a package.
	Resolve(ctx context.Context, suite, arch, pkg string) (*Found, error)
	// Index gives the present Packages file of a section, uncompressed, and what the suite's release file says. The
	// caller reads to the end, where an error may still say that the file is not the signed one, and closes it.
	Index(ctx context.Context, s Section, arch string) (io.ReadCloser, Release, error)
	// Fetch downloads a package into dir, and nothing else, and returns the file. ErrGone is that the archive has it no
	// longer.
	Fetch(ctx context.Context, p lock.Package, arch, dir string) (string, error)
	// FetchAll downloads packages of one section into dir. After an error some may be there.
	FetchAll(ctx context.Context, s Section, list []lock.Package, arch, dir string) error
}

// Section is a part of a suite that has a list of packages of its own.
type Section struct {
	Suite     string
	Component string // such as main, contrib or non-free-firmware; "" is main
}

func (s Section) component() string { return cmp.Or(s.Component, mainComponent) }

func (s Section) String() string {
	if s.component() == mainComponent {
		return s.Suite
	}
	return s.Suite + " " + s.Component
}

// mainComponent is the component of Debian that is free software and depends on nothing else.
const mainComponent = "main"

// sectionOf is where a locked package stands. Its file name says which component it is of: pool/COMPONENT/…, and in the
// archive of security updates pool/updates/COMPONENT/….
func sectionOf(p lock.Package) Section {
	f := strings.Split(p.Filename, "/")
	i := 1
	if len(f) > 2 && f[1] == "updates" {
		i = 2
	}
	if len(f) <= i || f[0] != "pool" || f[i] == mainComponent {
		return Section{Suite: p.Suite}
	}
	return Section{p.Suite, f[i]}
}

// Release is what counts of a suite's release file for those who choose packages.
type Release struct {
	Date time.Time
	// NotAutomatic and ButAutomaticUpgrades say that nothing is to be taken from the suite unless it is asked for, as
	// backports do.
	NotAutomatic, ButAutomaticUpgrades bool
}

// Pin is the priority of the suite's packages where nobody has set one.
func (r Release) Pin() int {
	switch {
	case !r.NotAutomatic:
		return debian.PinDefault
	case r.ButAutomaticUpgrades:
		return debian.PinUpgrades
	}
	return debian.PinNotAutomatic
}

// isSecurity says whether a suite's name is that of one with security updates, which Debian keeps in an archive of
// their own.
func isSecurity(suite string) bool {
	return strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates")
}

// The names of Debian's archives on its mirrors.
const (
	archiveName  = "debian"
	securityName = "debian-security"
)

// besideArchive is the address where a mirror of Debian's archive has the security updates, and whether there is one.
func besideArchive(uri string) (string, bool) {
	base, ok := strings.CutSuffix(strings.TrimRight(uri, "/"), "/"+archiveName)
	return base + "/" + securityName, ok
}

var (
	_ Archive = (*Apt)(nil)
	_ Archive = (*HTTP)(nil)
)

// aptHelper is a part of apt that reads the lists in whatever way apt keeps them compressed.
const aptHelper = "/usr/lib/apt/apt-helper"

// Index implements Archive.
func (a *Apt) Index(ctx context.Context, s Section, arch string) (io.ReadCloser, Release, error) {
	w, err := a.world(ctx, s, arch)
	if err != nil {
		return nil, Release{}, err
	}
	if err := w.update(ctx); err != nil {
		return nil, Release{}, err
	}
	rel, err := w.release()
	if err != nil {
		return nil, Release{}, err
	}
	out, err := w.run(ctx, "apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages")
	if err != nil {
		return nil, Release{}, err
	}
	files := strings.Fields(string(out))
	if len(files) != 1 {
		return nil, Release{}, fmt.Errorf("apt's lists of %s for %s: %d files, want 1", s, arch, len(files))
	}
	r, err := startReading(w, w.command(ctx, aptHelper, "cat-file", files[0]))
	return r, rel, err
}

// reading is what a running program says. The end is only an end if the program ends well.
type reading struct {
	io.ReadCloser
	w      *world
	cmd    *exec.Cmd
	errs   bytes.Buffer
	waited bool
}

func startReading(w *world, cmd *exec.Cmd) (*reading, error) {
	r := &reading{w: w, cmd: cmd}
	cmd.Stderr = &r.errs
	var err error
	if r.ReadCloser, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return r, cmd.Start()
}

func (r *reading) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	if err == io.EOF && !r.waited {
		r.waited = true
		if werr := r.cmd.Wait(); werr != nil {
			err = fmt.Errorf("%s: %w: %s", path.Base(r.cmd.Path), werr, strings.TrimSpace(r.errs.String()))
		}
	}
	return n, err
}

// Close ends the program if it still runs.
func (r *reading) Close() error {
	if r.waited {
		return nil
	}
	r.waited = true
	err := r.cmd.Process.Kill()
	_ = r.cmd.Wait() // killed, which is no news
	return err
}

// snapshotDelay is how long after a release file's date a snapshot is asked for: the archive is copied a few times a
// day, and drops a version no sooner than a day after the next one came.
const snapshotDelay = 24 * time.Hour

// fromSnapshot brings a package that the archive has dropped from an archive of the archive, as it was after
// SnapshotTime, or before. https://snapshot.debian.org: /archive/debian/TIME/ is the last copy made until then.
func (f *Fetcher) fromSnapshot(ctx context.Context, in lock.Input, report progress.Func) error {
	var err error
	for _, at := range []time.Time{f.SnapshotTime.Add(snapshotDelay), f.SnapshotTime} {
		var addr string
		name := archiveName
		if isSecurity(in.Package.Suite) {
			name = securityName
		}
		addr, err = url.JoinPath(f.Snapshot, "archive", name, at.UTC().Format("20060102T150405Z"), in.Package.Filename)
		if err != nil {
			return err
		}
		if _, _, err = f.Download(ctx, addr, in.Digest, in.Size, report); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("snapshot: %w", err)
}
