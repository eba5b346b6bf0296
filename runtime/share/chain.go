package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The transforms of mounts that this package carries out: their words stand before the type, as in
// format/mkdir/overlay. containerd, docs/mounts.md.
const (
	formatTransform = "format"
	mkdirTransform  = "mkdir"
)

// Transforms are the transforms that callers may claim to do themselves.
var Transforms = []string{formatTransform, mkdirTransform}

// MkdirOption is the option of a folder to make: PATH[:MODE[:UID:GID]], the mode octal. containerd, docs/mounts.md.
const MkdirOption = "X-containerd.mkdir.path="

// VerityOption is the option of a layer that has a hash tree: the path of its description. containerd,
// docs/snapshotters/erofs.md.
const VerityOption = "X-containerd.dmverity="

// maxChain bounds the mounts that make up one root file system. Linux: fs/overlayfs/params.h, OVL_MAX_STACK, with one
// to write to and the overlay.
const maxChain = 500 + 2

// base is the type without its transforms.
func (m Mount) base() string { return m.Type[strings.LastIndexByte(m.Type, '/')+1:] }

// transforms are the words before the type.
func (m Mount) transforms() []string {
	words := strings.Split(m.Type, "/")
	return words[:len(words)-1]
}

// IsChain says whether mounts refer to each other. Those before the last then have places of their own, and the last is
// what they are for.
func IsChain(list []Mount) bool {
	return slices.ContainsFunc(list, func(m Mount) bool { return slices.Contains(m.transforms(), formatTransform) })
}

// reference is a reference to mounts before: {{ mount 0 }} and {{ source 0 }} are one's mount point and source, {{
// overlay 1 3 }} is the mount points of several with colons between. containerd, docs/mounts.md.
var reference = regexp.MustCompile(`\{\{-? *([a-z]+) +([0-9]{1,4})(?: +([0-9]{1,4}))? *-?\}\}`)

// Resolve replaces references to the mounts before m by where those are, and takes the transforms from its type.
// Folders to make stay among the options.
func (m Mount) Resolve(points []string, before []Mount) (Mount, error) {
	format := false
	for _, t := range m.transforms() {
		switch t {
		case formatTransform:
			format = true
		case mkdirTransform:
		default:
			return Mount{}, fmt.Errorf("mount of type %s: %s is for containerd to do", m.Type, t)
		}
	}
	out := Mount{Type: m.base(), Source: m.Source, Options: slices.Clone(m.Options)}
	if !format {
		return out, nil
	}
	var err error
	if out.Source, err = resolve(out.Source, points, before); err != nil {
		return Mount{}, fmt.Errorf("mount of type %s: source %w", m.Type, err)
	}
	for i, o := range out.Options {
		if out.Options[i], err = resolve(o, points, before); err != nil {
			return Mount{}, fmt.Errorf("mount of type %s: option %w", m.Type, err)
		}
	}
	return out, nil
}

func resolve(s string, points []string, before []Mount) (string, error) {
	var failed error
	out := reference.ReplaceAllStringFunc(s, func(r string) string {
		f := reference.FindStringSubmatch(r)
		first, err := strconv.Atoi(f[2])
		last := first
		if f[3] != "" && err == nil {
			last, err = strconv.Atoi(f[3])
		}
		switch {
		case err != nil || first >= len(points) || last >= len(points):
			failed = errors.New("there is no such mount before it")
		case f[1] == "mount" && f[3] == "":
			return points[first]
		case f[1] == "source" && f[3] == "":
			return before[first].Source
		case f[1] == "overlay" && f[3] != "":
			list := slices.Clone(points[min(first, last) : max(first, last)+1])
			if first > last {
				slices.Reverse(list)
			}
			return strings.Join(list, ":")
		default:
			failed = errors.New("what does it refer to?")
		}
		return ""
	})
	if failed == nil && (strings.Contains(reference.ReplaceAllString(s, ""), "{{")) {
		failed = errors.New("what does it refer to?")
	}
	if failed != nil {
		return "", fmt.Errorf("%q: %w", s, failed)
	}
	return out, nil
}

// mountChain mounts what list is for at target. The mounts on the way are detached again: the last keeps what it needs
// of them.
func (s *Share) mountChain(owner, target string, list []Mount) (err error) {
	if len(list) > maxChain {
		return fmt.Errorf("%d mounts for one file system, at most %d are possible", len(list), maxChain)
	}
	dir, err := os.MkdirTemp(s.dir, "chain-")
	if err != nil {
		return err
	}
	var points []string
	defer func() {
		for _, p := range slices.Backward(points) {
			if e := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); e != nil && e != unix.EINVAL {
				err = errors.Join(err, &os.PathError{Op: "unmount", Path: p, Err: e})
			}
			err = errors.Join(err, os.Remove(p))
		}
		err = errors.Join(err, os.Remove(dir))
	}()
	for i, m := range list {
		m, err := m.Resolve(points, list)
		if err != nil {
			return err
		}
		for _, o := range m.Options {
			if f, ok := strings.CutPrefix(o, MkdirOption); ok {
				if err := makeFolder(f, points); err != nil {
					return err
				}
			}
		}
		if i == len(list)-1 {
			return s.add(owner, target, m)
		}
		point := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(point, 0o700); err != nil {
			return err
		}
		points = append(points, point)
		if err := m.at(point); err != nil {
			return err
		}
	}
	return nil
}

// defaultFolderMode is that of a folder whose option has none. containerd, docs/mounts.md.
const defaultFolderMode = 0o700

// makeFolder makes a folder on one of the mounts at points, unless it is there. What a container wrote there cannot
// lead elsewhere.
func makeFolder(option string, points []string) error {
	f := strings.SplitN(option, ":", 4)
	mode := uint64(defaultFolderMode)
	owner := [2]int{0, 0}
	var err error
	switch len(f) {
	case 4:
		for i := range owner {
			n, e := strconv.ParseUint(f[2+i], 10, 31)
			owner[i], err = int(n), errors.Join(err, e)
		}
		fallthrough
	case 2:
		var e error
		mode, e = strconv.ParseUint(f[1], 8, 9)
		err = errors.Join(err, e)
	case 3:
		err = errors.New("a user without a group")
	}
	if err != nil {
		return fmt.Errorf("option %s%s: %w", MkdirOption, option, err)
	}
	for _, p := range points {
		rel, err := filepath.Rel(p, f[0])
		if err != nil || !filepath.IsLocal(rel) || rel == "." {
			continue
		}
		r, err := os.OpenRoot(p)
		if err != nil {
			return err
		}
		defer r.Close()
		st, err := r.Lstat(rel)
		switch {
		case err == nil && st.IsDir():
			return nil
		case err == nil:
			return fmt.Errorf("%s is not a folder", f[0])
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
		if err := r.MkdirAll(rel, os.FileMode(mode)); err != nil {
			return err
		}
		if err := r.Lchown(rel, owner[0], owner[1]); err != nil {
			return err
		}
		return r.Chmod(rel, os.FileMode(mode)) // whatever the umask is
	}
	return fmt.Errorf("option %s%s: the folder is on none of the mounts before", MkdirOption, option)
}
