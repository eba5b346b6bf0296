package policygen

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/runtime/policygen/images"
)

// user is whom a process runs as.
type user struct {
	uid, gid uint32
	groups   []uint32 // that it may have beside
}

// account is a line of /etc/passwd. passwd(5).
type account struct {
	name     string
	uid, gid uint32
}

func accounts(data []byte) (out []account) {
	for l := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) < 4 {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil {
			out = append(out, account{f[0], uint32(uid), uint32(gid)})
		}
	}
	return out
}

// groupOf is a line of /etc/group. group(5).
type groupOf struct {
	name    string
	gid     uint32
	members []string
}

func groups(data []byte) (out []groupOf) {
	for l := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) < 4 {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			out = append(out, groupOf{f[0], uint32(gid), strings.Split(f[3], ",")})
		}
	}
	return out
}

// asked is whom an object, or else an image, wants a process to run as.
type asked struct {
	uid, gid *int64
	group    bool // the image's group counts: for the first container alone, of which kubelet says nothing
	extra    []int64
}

// userOf finds out whom a process runs as, by the lists of the image, as containerd's CRI plug-in does.
func userOf(img *images.Image, want asked) (user, error) {
	name, group, _ := strings.Cut(img.User, ":")
	if want.uid != nil {
		name, group = strconv.FormatInt(*want.uid, 10), ""
	}
	if !want.group {
		group = ""
	}
	if want.gid != nil {
		group = strconv.FormatInt(*want.gid, 10)
	}
	u, known, err := lookUp(img, name)
	if err != nil {
		return user{}, err
	}
	out := user{uid: u.uid, gid: u.gid}
	if group != "" {
		if out.gid, err = lookUpGroup(img, group); err != nil {
			return user{}, err
		}
	}
	out.groups = []uint32{out.gid}
	for _, g := range groups(img.Group) {
		if known && slices.Contains(g.members, u.name) {
			out.groups = append(out.groups, g.gid)
		}
	}
	for _, g := range want.extra {
		if g < 0 || g > 1<<32-1 {
			return user{}, fmt.Errorf("group %d: want a number of 32 bits", g)
		}
		out.groups = append(out.groups, uint32(g))
	}
	slices.Sort(out.groups)
	out.groups = slices.Compact(out.groups)
	return out, nil
}

// lookUp finds a user by name or number. A number need not be in the list.
func lookUp(img *images.Image, name string) (a account, known bool, err error) {
	if name == "" {
		name = "0"
	}
	n, numErr := strconv.ParseUint(name, 10, 32)
	for _, a := range accounts(img.Passwd) {
		if numErr == nil && a.uid == uint32(n) || numErr != nil && a.name == name {
			return a, true, nil
		}
	}
	if numErr != nil {
		return account{}, false, fmt.Errorf("user %q is not in /etc/passwd of the image", name)
	}
	return account{uid: uint32(n)}, false, nil
}

func lookUpGroup(img *images.Image, name string) (uint32, error) {
	n, numErr := strconv.ParseUint(name, 10, 32)
	if numErr == nil {
		return uint32(n), nil
	}
	for _, g := range groups(img.Group) {
		if g.name == name {
			return g.gid, nil
		}
	}
	return 0, fmt.Errorf("group %q is not in /etc/group of the image", name)
}
