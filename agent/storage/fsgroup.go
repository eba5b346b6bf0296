package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// What a volume's group may do, as Kubernetes has it for fsGroup: with files what their owner typically may, with
// folders also enter them, and what is made in a folder gets its group.
const (
	groupFile     = 0o660
	groupFolder   = 0o110
	groupFolderID = fs.ModeSetgid
)

// own gives everything below a mount to a group. Nil is nobody; a read-only file system stays what it is.
func own(g *katapb.FSGroup, at place.Place) error {
	if g == nil {
		return nil
	}
	top, err := at.Open(unix.O_RDONLY | unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) {
		return nil // a single file, bound; its folder's owner decides
	}
	if err != nil {
		return err
	}
	defer top.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(top), &st); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return nil
	}
	root, err := os.OpenRoot(top.Path())
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	defer root.Close()
	if g.GroupChangePolicy == katapb.FSGroupChangePolicy_OnRootMismatch {
		right, err := rightAlready(root, g.GroupId)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if right {
			return nil
		}
	}
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return ownOne(root, name, g.GroupId)
	})
	if err != nil {
		return fmt.Errorf("group %d of %s: %w", g.GroupId, at, err)
	}
	return nil
}

// rightAlready says whether the top folder has the group and its rights.
func rightAlready(root *os.Root, gid uint32) (bool, error) {
	fi, err := root.Lstat(".")
	if err != nil {
		return false, err
	}
	group, ok := groupOf(fi)
	want := wanted(fi.Mode())
	return ok && group == gid && fi.Mode()&want == want, nil
}

// wanted are the bits that a file or folder gets.
func wanted(m fs.FileMode) fs.FileMode {
	if m.IsDir() {
		return groupFile | groupFolder | groupFolderID
	}
	return groupFile
}

func ownOne(root *os.Root, name string, gid uint32) error {
	fi, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if err := root.Lchown(name, -1, int(gid)); err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		return nil // a link has no rights of its own
	}
	return root.Chmod(name, fi.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)|wanted(fi.Mode()))
}

// groupOf is the number of a file's group.
func groupOf(fi fs.FileInfo) (uint32, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Gid, true
}
