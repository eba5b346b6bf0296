package install

import (
	"fmt"
	"io/fs"
	"path"
	"syscall"

	"github.com/katabuild/katabuild/internal/digest"
)

// Verify compares what is installed with what was, and says what is otherwise, a line each: files of the release in
// force by their bytes, modes and owners, links, and what daemons are told.
func (i *Installation) Verify() (release string, problems []string, err error) {
	s, err := i.current()
	if err != nil {
		return "", nil, err
	}
	if s == nil {
		return "", nil, i.notInstalled()
	}
	c, err := i.contents(s.Release)
	if err != nil {
		return s.Release, []string{err.Error()}, nil
	}
	wrong, err := i.checkRelease(s.Release, c)
	if err != nil {
		return s.Release, nil, err
	}
	for _, p := range wrong {
		problems = append(problems, p.String())
	}
	name, err := s.name()
	if err != nil {
		return s.Release, problems, err
	}
	for _, p := range i.otherwise(name, s, c) {
		problems = append(problems, fmt.Sprintf("%s is not what was written", p))
	}
	for _, l := range s.Links {
		if to, err := i.host.link(l); err != nil || to != i.target(l) {
			problems = append(problems, fmt.Sprintf("%s does not lead to %s", l, i.target(l)))
		}
	}
	if s.Block != "" {
		data, _, err := i.host.text(s.Options.ContainerdConfig)
		if err != nil {
			return s.Release, problems, err
		}
		if with, err := setBlock(s.Options, string(data), s.Block); err != nil || with != string(data) {
			problems = append(problems, fmt.Sprintf("%s does not have our block as it was written",
				s.Options.ContainerdConfig))
		}
	}
	return s.Release, problems, nil
}

// problem is what is wrong with a file of a release.
type problem struct {
	path string // from the release's folder
	dir  string
	what string
}

func (p problem) String() string { return path.Join(p.dir, p.path) + " " + p.what }

// checkRelease compares the files of a release with its list.
func (i *Installation) checkRelease(release string, c contents) (problems []problem, err error) {
	bad := func(p, format string, args ...any) {
		problems = append(problems, problem{p, i.at(releasesName, release), fmt.Sprintf(format, args...)})
	}
	want := map[string]file{}
	for _, f := range c.Files {
		want[f.Path] = f
	}
	dir, err := i.host.root.OpenRoot(rel(i.at(releasesName, release)))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	seen := map[string]bool{}
	err = fs.WalkDir(dir.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if s, ok := fi.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != syscall.Geteuid() {
			bad(p, "belongs to user %d", s.Uid)
		}
		if d.IsDir() {
			if fi.Mode().Perm()&0o022 != 0 {
				bad(p, "can be written by others")
			}
			return nil
		}
		f, ok := want[p]
		if !ok {
			if p != contentsName {
				bad(p, "is not of the release")
			}
			return nil
		}
		seen[p] = true
		mode := fs.FileMode(0o644)
		if f.Executable {
			mode = 0o755
		}
		if fi.Mode() != mode {
			bad(p, "has mode %v, want %v", fi.Mode(), mode)
		}
		if !fi.Mode().IsRegular() || fi.Mode() != mode {
			return nil // told of, and once is enough
		}
		return i.checkFile(dir.FS(), f, fi, path.Join(release, p), bad)
	})
	for _, f := range c.Files {
		if !seen[f.Path] && err == nil {
			bad(f.Path, "is gone")
		}
	}
	return problems, err
}

// checkFile compares the bytes of a file, which the caller's memory calls by a key.
func (i *Installation) checkFile(dir fs.FS, f file, fi fs.FileInfo, key string,
	bad func(p, format string, args ...any)) error {
	now := seen{digest: f.Digest}
	if s, ok := fi.Sys().(*syscall.Stat_t); ok {
		now.inode, now.size, now.changed = s.Ino, s.Size, s.Ctim
	}
	if before, ok := i.read[key]; ok && before == now {
		return nil
	}
	in, err := dir.Open(f.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	got, n, err := digest.Reader(in)
	if err != nil {
		return err
	}
	if n != f.Size || got != f.Digest {
		bad(f.Path, "is %s (%d bytes), want %s (%d)", got.Short(), n, f.Digest.Short(), f.Size)
		return nil
	}
	// The state is that from before it was read: what is written to it meanwhile is another one.
	if i.read != nil && now.inode != 0 {
		i.read[key] = now
	}
	return nil
}
