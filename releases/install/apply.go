package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// Apply makes a change. Wherever it is cut short, what was in force before is, or what is to be is, and the same change
// planned and applied again completes it. Progress hears of the bytes that are copied; nil is nobody.
func (i *Installation) Apply(ch *Change, progress func(int64)) error {
	s := ch.state
	if err := i.sweep(); err != nil {
		return err
	}
	if err := i.host.mkdirs(i.at(releasesName)); err != nil {
		return err
	}
	if err := i.host.put(i.at(releasesName, s.Release), ch.contents, progress); err != nil {
		return fmt.Errorf("release %s: %w", s.Release, err)
	}
	if err := i.repair(ch, progress); err != nil {
		return fmt.Errorf("release %s: %w", s.Release, err)
	}
	name, err := i.putState(s, ch.contents)
	if err != nil {
		return err
	}
	// This is the change. What links lead to is there in every state, so it does not matter when they come and go.
	if err := i.host.setLink(i.at(currentName), path.Join(statesName, name)); err != nil {
		return err
	}
	for _, l := range s.Links {
		if err := i.putLink(l, ch.Restart && i.tellsDaemon(l)); err != nil {
			return err
		}
	}
	if err := i.edit(ch.config); err != nil {
		return err
	}
	for _, l := range i.stale(ch) {
		if err := i.dropLink(l); err != nil {
			return err
		}
	}
	if err := i.sweepBeside(s); err != nil {
		return err
	}
	return i.tidy(s)
}

// repair puts the files of a release that are not what they were in their places again, and removes those that are not
// of it.
func (i *Installation) repair(ch *Change, progress func(int64)) error {
	dir := i.at(releasesName, ch.state.Release)
	for _, p := range ch.damaged {
		at := path.Join(dir, p)
		k := slices.IndexFunc(ch.contents.Files, func(f file) bool { return f.Path == p })
		holds := func(f file) bool { return p == "." || strings.HasPrefix(f.Path, p+"/") }
		if k < 0 && slices.ContainsFunc(ch.contents.Files, holds) { // a folder of the release
			err := i.host.root.Chown(rel(at), os.Geteuid(), os.Getegid())
			if err = errors.Join(err, i.host.root.Chmod(rel(at), 0o755)); err != nil {
				return err
			}
			continue
		}
		if k < 0 {
			if err := i.host.root.RemoveAll(rel(at)); err != nil {
				return err
			}
			continue
		}
		if err := i.host.remove(temporary(at)); err != nil {
			return err
		}
		if err := i.host.copy(temporary(at), ch.contents.Files[k], progress); err != nil {
			return err
		}
		if err := i.host.root.Rename(rel(temporary(at)), rel(at)); err != nil {
			return err
		}
	}
	return nil
}

// putLink makes a link where nothing is, or a link of ours that leads elsewhere. Anew is to make it in any case, for
// whoever watches its folder for what has changed.
func (i *Installation) putLink(l string, anew bool) error {
	to, err := i.host.link(l)
	if err != nil || to == i.target(l) && !anew {
		return err
	}
	if fi, err := i.host.lstat(l); err != nil {
		return err
	} else if fi != nil && !strings.HasPrefix(to, i.at(currentName)+"/") {
		return fmt.Errorf("%s is there and not ours", l)
	}
	if err := i.host.mkdirs(path.Dir(l)); err != nil {
		return err
	}
	return i.host.setLink(l, i.target(l))
}

// dropLink removes a link that is ours.
func (i *Installation) dropLink(l string) error {
	ours, err := i.ours(l)
	if err != nil || !ours {
		return err
	}
	return i.host.remove(l)
}

// edit changes containerd's main file, if it is what it was when the change was planned.
func (i *Installation) edit(e configEdit) error {
	if e.path == "" {
		return nil
	}
	data, there, err := i.host.text(e.path)
	if err != nil {
		return err
	}
	if string(data) != e.old {
		return fmt.Errorf("%s was changed by somebody else meanwhile: try again", e.path)
	}
	if e.remove {
		if there {
			return i.host.remove(e.path)
		}
		return nil
	}
	if err := i.host.mkdirs(path.Dir(e.path)); err != nil {
		return err
	}
	return i.host.write(e.path, []byte(e.new))
}

// sweep removes what commands that were cut short have left.
func (i *Installation) sweep() error {
	for _, dir := range []string{i.at(releasesName), i.at(statesName)} {
		names, err := i.names(dir)
		if err != nil {
			return err
		}
		for _, n := range names {
			if strings.HasPrefix(n, ".katabuild-") {
				if err := i.host.root.RemoveAll(rel(path.Join(dir, n))); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// sweepBeside removes what is left of files outside of the prefix that were being written.
func (i *Installation) sweepBeside(s *state) error {
	for _, p := range append([]string{s.Options.ContainerdConfig}, s.Links...) {
		if err := i.host.remove(temporary(p)); err != nil {
			return err
		}
	}
	return nil
}

// names are those of a folder; none where there is no such folder.
func (i *Installation) names(dir string) ([]string, error) {
	d, err := i.host.root.Open(rel(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// tidy removes states that are not in force.
func (i *Installation) tidy(s *state) error {
	name, err := s.name()
	if err != nil {
		return err
	}
	names, err := i.names(i.at(statesName))
	for _, n := range names {
		if n != name && err == nil {
			err = i.host.root.RemoveAll(rel(i.at(statesName, n)))
		}
	}
	return err
}

// Collect removes releases that are neither in force nor the one before, and of which no process runs. It returns their
// names, and with dry only that.
func (i *Installation) Collect(dry bool) (removed []string, kept []string, err error) {
	s, err := i.current()
	if err != nil {
		return nil, nil, err
	}
	if s == nil {
		return nil, nil, i.notInstalled()
	}
	all, err := i.releases()
	if err != nil {
		return nil, nil, err
	}
	for _, r := range all {
		if r == s.Release || r == s.Previous {
			continue
		}
		used, err := i.used(r)
		if err != nil {
			return removed, kept, err
		}
		if used {
			kept = append(kept, r)
			continue
		}
		if !dry {
			if err := i.drop(r); err != nil {
				return removed, kept, err
			}
		}
		removed = append(removed, r)
	}
	return removed, kept, nil
}

// drop removes a release: first its name, so that nobody finds half of it.
func (i *Installation) drop(release string) error {
	dir := i.at(releasesName, release)
	tmp := path.Join(path.Dir(dir), ".katabuild-old-"+release)
	if err := i.host.root.Rename(rel(dir), rel(tmp)); err != nil {
		return err
	}
	return i.host.root.RemoveAll(rel(tmp))
}

// used says whether a process runs a program of a release, or has a file of it open: a shim, or a QEMU with a disk.
// The host's own proc is asked: a folder that is no running system has none. Where the root file system of a running
// host is mounted elsewhere, for a container, its proc comes along, and names files as the host does.
func (i *Installation) used(release string) (bool, error) {
	below := i.at(releasesName, release) + "/"
	proc := path.Join(i.host.base, "proc")
	procs, err := os.ReadDir(proc)
	if errors.Is(err, fs.ErrNotExist) && !i.host.live() {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, p := range procs {
		if strings.Trim(p.Name(), "0123456789") != "" {
			continue
		}
		dir := proc + "/" + p.Name()
		if to, err := os.Readlink(dir + "/exe"); err == nil && strings.HasPrefix(to, below) {
			return true, nil
		}
		fds, err := os.ReadDir(dir + "/fd")
		if err != nil {
			continue // it has ended, or is not ours to look at
		}
		for _, fd := range fds {
			if to, err := os.Readlink(dir + "/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, below) {
				return true, nil
			}
		}
	}
	return false, nil
}

// PlanUninstall says what taking everything off changes. While pods run that is refused, unless force says otherwise:
// they go on, but containerd runs the shim again for each container that it starts in them, and to clean up.
func (i *Installation) PlanUninstall(force bool) (*Change, error) {
	old, err := i.current()
	if err != nil {
		return nil, err
	}
	if old == nil {
		return i.planLeftovers()
	}
	if !force {
		if err := i.idle(); err != nil {
			return nil, err
		}
	}
	ch := &Change{Before: old.Release, old: old}
	if err := i.planConfigBack(ch); err != nil {
		return nil, err
	}
	for _, l := range old.Links {
		if ours, err := i.ours(l); err != nil {
			return nil, err
		} else if ours {
			ch.step("remove %s", l)
			ch.Restart = ch.Restart || i.tellsDaemon(l)
		}
	}
	ch.step("remove %s", i.prefix)
	return ch, nil
}

// ErrInUse is that something runs from what is to go.
var ErrInUse = errors.New("pods run")

// lingering is how long the shim of a pod that is gone may take to end: containerd says that it is gone before.
const lingering = 2 * time.Second

// idle is an error while something runs from a release, and still does a moment later.
func (i *Installation) idle() error {
	all, err := i.releases()
	if err != nil {
		return err
	}
	end := time.Now().Add(lingering)
	for _, r := range all {
		for {
			used, err := i.used(r)
			if err != nil {
				return err
			}
			if !used {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("%w from %s: end them first, or say --force; they go on then, but containerd can "+
					"start no more containers in them", ErrInUse, i.at(releasesName, r))
			}
			time.Sleep(lingering / 20)
		}
	}
	return nil
}

// planLeftovers is for a prefix in which no state is in force: a first installation that was cut short.
func (i *Installation) planLeftovers() (*Change, error) {
	fi, err := i.host.lstat(i.prefix)
	if err != nil {
		return nil, err
	}
	if fi == nil {
		return nil, i.notInstalled()
	}
	names, err := i.names(i.prefix)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if n != releasesName && n != keptName && n != statesName && !strings.HasPrefix(n, ".katabuild-") {
			return nil, fmt.Errorf("%s has no installation, and %s, which is not ours", i.prefix, n)
		}
	}
	ch := &Change{}
	ch.step("remove %s, where an installation was begun", i.prefix)
	return ch, nil
}

// planConfigBack makes containerd's main file what it would be without us.
func (i *Installation) planConfigBack(ch *Change) error {
	o := ch.old.Options
	data, there, err := i.host.text(o.ContainerdConfig)
	if err != nil || !there {
		return err
	}
	base, err := setBlock(o, string(data), "")
	if err != nil {
		return fmt.Errorf("%s: %w", o.ContainerdConfig, err)
	}
	e := configEdit{path: o.ContainerdConfig, old: string(data), new: base}
	if ch.old.MadeConfig && (base == emptyMain(o, wayBlock) || base == emptyMain(o, wayDropIn)) {
		e.remove, e.new = true, ""
	}
	if e.old == e.new && !e.remove {
		return nil
	}
	ch.config, ch.Restart = e, true
	if e.remove {
		ch.step("remove %s", e.path)
	} else {
		ch.step("change %s:\n%s", e.path, difference(e.old, e.new))
	}
	return nil
}

// Uninstall takes everything off, in an order in which nothing leads to what is gone. Containers that run go on: their
// programs and disks are open. Cut short, it can be done again.
func (i *Installation) Uninstall(ch *Change) error {
	if ch.old != nil {
		if err := i.edit(ch.config); err != nil {
			return err
		}
		for _, l := range ch.old.Links {
			if err := i.dropLink(l); err != nil {
				return err
			}
		}
	}
	made := []string{i.prefix}
	if ch.old != nil {
		made = ch.old.Made
		if err := i.sweepBeside(ch.old); err != nil {
			return err
		}
	}
	within := func(d string) bool { return strings.HasPrefix(i.prefix+"/", d+"/") }
	if err := i.dropEmpty(made, func(d string) bool { return !within(d) }); err != nil {
		return err
	}
	// The state goes after all that it tells of.
	for _, n := range []string{releasesName, keptName, currentName, statesName} {
		if err := i.host.root.RemoveAll(rel(i.at(n))); err != nil {
			return err
		}
	}
	return i.dropEmpty(made, within)
}

// dropEmpty removes folders that we made, where nobody else has put something.
func (i *Installation) dropEmpty(made []string, which func(string) bool) error {
	for _, d := range slices.Backward(made) {
		if !which(d) {
			continue
		}
		if names, err := i.names(d); err != nil || len(names) > 0 {
			continue
		}
		if err := i.host.remove(d); err != nil {
			return err
		}
	}
	return nil
}
