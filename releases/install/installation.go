package install

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
)

// Installation is one installation on a host. It is for one command; Close it.
type Installation struct {
	host   *host
	prefix string
	lock   *os.File
	read   Read
}

// Read remembers files that were read and had their digest, so that whoever looks every minute need not read them again
// while nothing about them has changed. What remembers is the caller; it is for one host.
type Read map[string]seen

// seen is what the kernel says of a file. A file that is written to gets another time of its inode's change, which
// nobody can set.
type seen struct {
	inode   uint64
	size    int64
	changed syscall.Timespec
	digest  digest.Digest
}

// Remember has looks at releases skip what was read before. Without it every byte is read.
func (i *Installation) Remember(r Read) { i.read = r }

// Open takes hold of the installation below a prefix of the root file system at base, / for this machine's own. With
// change no other command changes it until Close.
func Open(base, prefix string, change bool) (*Installation, error) {
	h, err := openHost(base)
	if err != nil {
		return nil, err
	}
	i := &Installation{host: h, prefix: prefix}
	if err := h.checkPrefix(prefix); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	if change {
		if err := i.takeLock(); err != nil {
			return nil, errors.Join(err, i.Close())
		}
	}
	return i, nil
}

// Close lets go of it.
func (i *Installation) Close() error {
	err := i.host.root.Close()
	if i.lock != nil {
		err = errors.Join(err, i.lock.Close())
	}
	return err
}

// ErrBusy is that another process changes what is to be changed.
var ErrBusy = errors.New("another command changes the installations")

// takeLock keeps other commands out. A folder of run or of the prefix would have to be made and could be removed by
// another: the lock is on the root folder itself.
func (i *Installation) takeLock() error {
	f, err := os.Open(i.host.base)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("%w of %s: %w; try again when it is done", ErrBusy, i.host.base, err), f.Close())
	}
	i.lock = f
	return nil
}

// at is a path below the prefix.
func (i *Installation) at(names ...string) string {
	return path.Join(append([]string{i.prefix}, names...)...)
}

// Options are those of what is installed, or the defaults; ok says which.
func (i *Installation) Options() (o Options, ok bool, err error) {
	s, err := i.current()
	if err != nil || s == nil {
		return Defaults(), false, err
	}
	return s.Options, true, nil
}

// Keep writes a file that goes when the installation goes, for whoever keeps the installation to find again by its
// name.
func (i *Installation) Keep(name string, data []byte) error {
	if err := i.host.mkdirs(i.at(keptName)); err != nil {
		return err
	}
	return i.host.write(i.at(keptName, name), data)
}

// Kept is a file that Keep wrote; nil where there is none.
func (i *Installation) Kept(name string) ([]byte, error) {
	data, _, err := i.host.text(i.at(keptName, name))
	return data, err
}

// Change is what is to be done, or was.
type Change struct {
	Release string   // in force afterwards; empty for none
	Before  string   // in force before; empty for none
	Steps   []string // for people, a line each, or a few with a diff
	Restart bool     // containerd or CRI-O reads its configuration anew only when it starts
	Bytes   int64    // to be copied

	state    *state
	old      *state
	contents contents
	config   configEdit
	damaged  []string // of the release's folder, paths that are not what they should be
}

// configEdit is a change of containerd's main file.
type configEdit struct {
	path     string
	old, new string
	remove   bool
}

// Nothing says that all is as it should be.
func (c *Change) Nothing() bool { return len(c.Steps) == 0 }

// Plan says what installing a source with these options changes.
func (i *Installation) Plan(src Source, o Options) (*Change, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	id, c, err := src.load()
	if err != nil {
		return nil, err
	}
	old, err := i.current()
	if err != nil {
		return nil, err
	}
	s := &state{Version: stateVersion, Release: id, Options: o}
	if old != nil {
		if s.Previous = old.Release; old.Release == id {
			s.Previous = old.Previous
		}
	}
	return i.plan(s, old, c)
}

// PlanRollback says what going back to a release changes; an empty one is the one before.
func (i *Installation) PlanRollback(release string) (*Change, error) {
	old, err := i.current()
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, i.notInstalled()
	}
	if release == "" {
		if release = old.Previous; release == "" {
			return nil, fmt.Errorf("there was no release before %s", old.Release)
		}
	}
	if !versionWord.MatchString(release) {
		return nil, fmt.Errorf("%q is no release's name", release)
	}
	c, err := i.contents(release)
	if err != nil {
		all, lerr := i.releases()
		return nil, errors.Join(fmt.Errorf("%w; there are: %s", err, strings.Join(all, ", ")), lerr)
	}
	if problems, err := i.checkRelease(release, c); err != nil || len(problems) > 0 {
		return nil, errors.Join(fmt.Errorf("release %s is not what was installed: %v", release, problems), err)
	}
	s := &state{Version: stateVersion, Release: release, Previous: old.Release, Options: old.Options}
	if release == old.Release {
		s.Previous = old.Previous
	}
	return i.plan(s, old, c)
}

// ErrNone is that nothing is installed.
var ErrNone = errors.New("nothing is installed")

func (i *Installation) notInstalled() error { return fmt.Errorf("%w in %s", ErrNone, i.prefix) }

// InForce is the release that is in force; empty for none.
func (i *Installation) InForce() (string, error) {
	s, err := i.current()
	if err != nil || s == nil {
		return "", err
	}
	return s.Release, nil
}

// Has says whether a release is there, in force or not, with the list of its files.
func (i *Installation) Has(release string) (bool, error) {
	if !versionWord.MatchString(release) {
		return false, nil
	}
	_, ok, err := i.host.text(i.at(releasesName, release, contentsName))
	return ok, err
}

// PlanInstalled says what it changes that a release which is there is to be in force, with these options. Files of it
// that are not what they were are repaired by Plan alone, which has them: NeedsSource says so.
func (i *Installation) PlanInstalled(release string, o Options) (*Change, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	old, err := i.current()
	if err != nil {
		return nil, err
	}
	c, err := i.contents(release)
	if err != nil {
		return nil, err
	}
	s := &state{Version: stateVersion, Release: release, Options: o}
	if old != nil {
		if s.Previous = old.Release; old.Release == release {
			s.Previous = old.Previous
		}
	}
	return i.plan(s, old, c)
}

// NeedsSource says whether the release has files that are not what they were, so that they have to be copied again.
func (c *Change) NeedsSource() bool {
	return slices.ContainsFunc(c.damaged, func(p string) bool {
		return slices.ContainsFunc(c.contents.Files, func(f file) bool { return f.Path == p })
	})
}

// releases lists the releases that are there, sorted.
func (i *Installation) releases() ([]string, error) {
	d, err := i.host.root.Open(rel(i.at(releasesName)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	names = slices.DeleteFunc(names, func(n string) bool { return !versionWord.MatchString(n) })
	slices.Sort(names)
	return names, err
}

// plan completes a state and compares it with what is there.
func (i *Installation) plan(s, old *state, c contents) (*Change, error) {
	o := s.Options
	for _, l := range o.shimLinks() {
		s.Links = append(s.Links, path.Join(o.Bin, l))
	}
	s.Links = append(s.Links, path.Join(o.Bin, o.dashed(runtimeProgram)))
	conf := path.Join(i.etc(o), configurationName)
	fi, err := i.host.lstat(conf)
	if err != nil {
		return nil, err
	}
	if ours, err := i.ours(conf); err != nil {
		return nil, err
	} else if fi == nil || ours {
		s.Links = append(s.Links, conf) // a person's own is kept
	}
	if err := i.containerd(s, old); err != nil {
		return nil, err
	}
	if crio, err := i.host.lstat("/etc/crio"); err != nil {
		return nil, err
	} else if o.CRIO == wayYes || o.CRIO == wayAuto && crio != nil {
		s.Links = append(s.Links, path.Join("/etc/crio/crio.conf.d", "99-"+o.dashed("katabuild")+".conf"))
	}
	slices.Sort(s.Links)
	if err := i.addMade(s, old); err != nil {
		return nil, err
	}
	ch := &Change{Release: s.Release, state: s, old: old, contents: c}
	if old != nil {
		ch.Before = old.Release
	}
	return ch, i.compare(ch)
}

// etc is the folder of the runtime's configuration.
func (*Installation) etc(o Options) string { return path.Join("/etc", o.dashed("katabuild")) }

// addMade notes which folders will be made.
func (i *Installation) addMade(s, old *state) error {
	if old != nil {
		s.Made = slices.Clone(old.Made)
	}
	if !slices.Contains(s.Made, i.prefix) {
		s.Made = append(s.Made, i.prefix) // a first installation that was cut short may have made it
	}
	dirs := []string{i.prefix}
	for _, l := range s.Links {
		dirs = append(dirs, path.Dir(l))
	}
	if s.Block != "" || s.MadeConfig {
		dirs = append(dirs, path.Dir(s.Options.ContainerdConfig))
	}
	for _, d := range dirs {
		missing, err := i.host.missing(d)
		if err != nil {
			return err
		}
		for _, m := range missing {
			if !slices.Contains(s.Made, m) {
				s.Made = append(s.Made, m)
			}
		}
	}
	slices.Sort(s.Made)
	return nil
}

// target is where the link at a path leads.
func (i *Installation) target(link string) string {
	base := path.Base(link)
	switch {
	case strings.HasPrefix(base, "containerd-shim-"):
		base = path.Join(releaseLink, "bin", shimProgram)
	case strings.HasPrefix(base, runtimeProgram):
		base = path.Join(releaseLink, "bin", runtimeProgram)
	case base == configurationName:
	case strings.HasSuffix(base, ".conf"):
		base = crioName
	default:
		base = dropInName
	}
	return i.at(currentName, base)
}

// ours says whether what lies at the path leads into this installation.
func (i *Installation) ours(p string) (bool, error) {
	to, err := i.host.link(p)
	return strings.HasPrefix(to, i.at(currentName)+"/"), err
}

// compare fills in what differs between what is there and what should be.
func (i *Installation) compare(ch *Change) error {
	s := ch.state
	if _, ok, err := i.host.text(i.at(releasesName, s.Release, contentsName)); err != nil {
		return err
	} else if !ok {
		for _, f := range ch.contents.Files {
			ch.Bytes += f.Size
		}
		ch.step("add   %s: %d files, %s", i.at(releasesName, s.Release), len(ch.contents.Files), megabytes(ch.Bytes))
	} else {
		problems, err := i.checkRelease(s.Release, ch.contents)
		if err != nil {
			return err
		}
		for _, p := range problems {
			ch.step("repair %s", p)
			ch.damaged = append(ch.damaged, p.path)
		}
	}
	name, err := s.name()
	if err != nil {
		return err
	}
	was, err := i.host.link(i.at(currentName))
	if err != nil {
		return err
	}
	if want := path.Join(statesName, name); was != want {
		before := "nothing"
		if ch.Before != "" {
			before = ch.Before
		}
		ch.step("switch %s: from %s to %s", i.at(currentName), before, s.Release)
	} else {
		for _, n := range i.otherwise(name, s, ch.contents) {
			ch.step("repair %s", n)
		}
	}
	if err := i.compareLinks(ch); err != nil {
		return err
	}
	return i.compareConfig(ch)
}

func (c *Change) step(format string, args ...any) {
	c.Steps = append(c.Steps, fmt.Sprintf(format, args...))
}

func megabytes(n int64) string { return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " MB" }

func (i *Installation) compareLinks(ch *Change) error {
	s := ch.state
	for _, l := range s.Links {
		fi, err := i.host.lstat(l)
		if err != nil {
			return err
		}
		ours, err := i.ours(l)
		if err != nil {
			return err
		}
		if fi != nil && !ours {
			return fmt.Errorf("%s is there and not ours, so it is kept: choose another --suffix, or move it away", l)
		}
		to, err := i.host.link(l)
		if err != nil {
			return err
		}
		if want := i.target(l); to != want {
			ch.step("link  %s -> %s", l, want)
			ch.Restart = ch.Restart || i.tellsDaemon(l)
		}
	}
	for _, l := range i.stale(ch) {
		if ours, err := i.ours(l); err != nil {
			return err
		} else if ours {
			ch.step("remove %s", l)
			ch.Restart = ch.Restart || i.tellsDaemon(l)
		}
	}
	if ch.old != nil && i.text(ch.old, ch.contents) != i.text(s, ch.contents) {
		ch.Restart = true
	}
	return nil
}

// text is what daemons read through links.
func (i *Installation) text(s *state, c contents) string {
	files := i.stateFiles(s, c)
	return files[dropInName] + "\n" + files[crioName]
}

// tellsDaemon says whether a link is one that containerd or CRI-O read.
func (i *Installation) tellsDaemon(l string) bool {
	b := path.Base(i.target(l))
	return b == dropInName || b == crioName
}

// stale are links of the old state that the new one has no more.
func (i *Installation) stale(ch *Change) []string {
	if ch.old == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(ch.old.Links),
		func(l string) bool { return slices.Contains(ch.state.Links, l) })
}

// compareConfig decides what containerd's main file becomes.
func (i *Installation) compareConfig(ch *Change) error {
	s := ch.state
	old := ch.old
	if old != nil && old.Block != "" && old.Options.ContainerdConfig != s.Options.ContainerdConfig {
		return fmt.Errorf("containerd's file was %s: uninstall, and install with --containerd-config %s",
			old.Options.ContainerdConfig, s.Options.ContainerdConfig)
	}
	data, there, err := i.host.text(s.Options.ContainerdConfig)
	if err != nil {
		return err
	}
	e := configEdit{path: s.Options.ContainerdConfig, old: string(data), new: string(data)}
	if s.MadeConfig && !there {
		e.new = emptyMain(s.Options, map[bool]string{true: wayBlock, false: wayDropIn}[s.Block != ""])
	}
	if e.new, err = setBlock(s.Options, e.new, s.Block); err != nil {
		return err
	}
	if e.old == e.new {
		return nil
	}
	ch.config, ch.Restart = e, true
	ch.step("change %s:\n%s", e.path, difference(e.old, e.new))
	return nil
}

// difference shows which lines go and come: those between the lines that both begin and end with.
func difference(old, new string) string {
	a, b := strings.SplitAfter(old, "\n"), strings.SplitAfter(new, "\n")
	from := 0
	for from < len(a) && from < len(b) && a[from] == b[from] {
		from++
	}
	to := 0
	for to < len(a)-from && to < len(b)-from && a[len(a)-1-to] == b[len(b)-1-to] {
		to++
	}
	var out strings.Builder
	show := func(mark string, lines []string) {
		for _, l := range lines {
			if l != "" {
				out.WriteString("    " + mark + " " + strings.TrimSuffix(l, "\n") + "\n")
			}
		}
	}
	show(" ", a[max(0, from-2):from])
	show("-", a[from:len(a)-to])
	show("+", b[from:len(b)-to])
	show(" ", a[len(a)-to:min(len(a), len(a)-to+2)])
	return strings.TrimSuffix(out.String(), "\n")
}

// stateFiles are the files of a state that others read, by name.
func (i *Installation) stateFiles(s *state, c contents) map[string]string {
	o, version := s.Options, s.Options.dropInVersion()
	files := map[string]string{
		dropInName: fmt.Sprintf("version = %d\n\n%s", version, runtimeTable(o, version)),
		crioName:   crioTable(o),
		configurationName: fmt.Sprintf("# Of release %s. What you want otherwise goes into a file of %s,\n"+
			"# or into a file of your own in this one's place.\n[hypervisor.qemu]\nguest = %q\n", s.Release,
			path.Join(i.etc(o), dropInsName),
			filepath.ToSlash(i.at(currentName, releaseLink, "guests", c.Guests[0]))),
	}
	// What nobody is told of is there and says nothing: a link that has not gone yet must not lead nowhere.
	if !slices.Contains(s.Links, o.dropIn()) {
		files[dropInName] = fmt.Sprintf("version = %d\n", version)
	}
	if !slices.ContainsFunc(s.Links, func(l string) bool { return path.Base(i.target(l)) == crioName }) {
		files[crioName] = ""
	}
	return files
}

// otherwise lists the files of a state that are not what was written, sorted.
func (i *Installation) otherwise(name string, s *state, c contents) (out []string) {
	files := i.stateFiles(s, c)
	for _, n := range slices.Sorted(maps.Keys(files)) {
		p := i.at(statesName, name, n)
		if got, ok, err := i.host.text(p); err != nil || !ok || string(got) != files[n] {
			out = append(out, p)
		}
	}
	return out
}

// putState makes the folder of a state, whole or not at all.
func (i *Installation) putState(s *state, c contents) (string, error) {
	name, err := s.name()
	if err != nil {
		return "", err
	}
	data, err := document.Encode(s)
	if err != nil {
		return "", err
	}
	dir := i.at(statesName, name)
	if _, ok, err := i.host.text(path.Join(dir, stateName)); err != nil {
		return name, err
	} else if ok {
		files := i.stateFiles(s, c)
		for _, p := range i.otherwise(name, s, c) {
			if err := i.host.write(p, []byte(files[path.Base(p)])); err != nil {
				return name, err
			}
		}
		return name, nil
	}
	tmp := temporary(dir)
	if err := i.host.root.RemoveAll(rel(tmp)); err != nil {
		return "", err
	}
	if err := i.host.mkdirs(tmp); err != nil {
		return "", err
	}
	err = i.host.root.Symlink(path.Join("..", "..", releasesName, s.Release), rel(path.Join(tmp, releaseLink)))
	if err == nil { // the runtime looks for them beside the file itself
		err = i.host.root.Symlink(path.Join(i.etc(s.Options), dropInsName), rel(path.Join(tmp, dropInsName)))
	}
	for n, text := range i.stateFiles(s, c) {
		if err == nil {
			err = i.host.write(path.Join(tmp, n), []byte(text))
		}
	}
	if err == nil {
		err = i.host.write(path.Join(tmp, stateName), data)
	}
	if err == nil {
		err = i.host.root.Rename(rel(tmp), rel(dir))
	}
	if err == nil {
		err = i.host.sync(i.at(statesName))
	}
	return name, err
}
