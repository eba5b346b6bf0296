package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// User is a user to add.
type User struct {
	Name       string
	UID        uint32
	GID        *uint32 // of the primary group; nil where Group names it
	Group      string
	Home       string
	CreateHome bool // make Home, mode 0700 and the user's own, where there is nothing
	Shell      string
	At         string // the recipe's line, for errors
}

// Group is a group to add, or to add members to.
type Group struct {
	Name    string
	GID     *uint32 // nil where the tree must have the group
	Members []string
	At      string // the recipe's line, for errors
}

// Accounts are users and groups, added to the files that list them. None has a password. A group that is there gets
// more members; a user that is there, and a number that another name has, are errors.
type Accounts struct {
	Users  []User
	Groups []Group
	Origin string
}

func number(n *uint32) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatUint(uint64(*n), 10)
}

// Inputs implements Layer.
func (l Accounts) Inputs() []artifact.Input {
	var out []artifact.Input
	for _, u := range l.Users {
		v := fmt.Sprintf("%d:%s %s %s %s %v", u.UID, number(u.GID), u.Group, u.Home, u.Shell, u.CreateHome)
		out = append(out, artifact.Input{Name: "user " + u.Name, Value: v})
	}
	for _, g := range l.Groups {
		out = append(out, artifact.Input{Name: "group " + g.Name, Value: fmt.Sprintf("%s %s", number(g.GID),
			strings.Join(g.Members, ","))})
	}
	return out
}

// Apply implements Layer. passwd(5), group(5), shadow(5), gshadow(5).
func (l Accounts) Apply(_ context.Context, t *tree.Tree, now tree.Time) ([]sbom.Component, error) {
	var files [4]accountFile
	for i, f := range []accountFile{
		{path: "/etc/passwd", mode: 0o644, fields: 7}, {path: "/etc/group", mode: 0o644, fields: 4},
		{path: "/etc/shadow", mode: 0o640, fields: 9}, {path: "/etc/gshadow", mode: 0o640, fields: 4},
	} {
		if err := f.read(t); err != nil {
			return nil, err
		}
		files[i] = f
	}
	passwd, group, shadow, gshadow := &files[0], &files[1], &files[2], &files[3]
	for _, g := range l.Groups {
		if err := g.add(group, gshadow); err != nil {
			return nil, fmt.Errorf("%s: group %s: %w", g.At, g.Name, err)
		}
	}
	for _, u := range l.Users {
		gid, err := u.add(passwd, group, shadow)
		if err == nil && u.CreateHome {
			err = u.home(t, gid, l.Origin, now)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: user %s: %w", u.At, u.Name, err)
		}
	}
	for i := range files {
		if err := files[i].write(t, l.Origin, now); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// present says which account is no longer in the finished tree; a later layer may have brought files of accounts of
// its own.
func (l Accounts) present(t *tree.Tree) error {
	passwd, group := accountFile{path: "/etc/passwd", fields: 7}, accountFile{path: "/etc/group", fields: 4}
	if err := errors.Join(passwd.read(t), group.read(t)); err != nil {
		return err
	}
	lost := "%s: %s %s is lost: a later layer brought its own %s; put the accounts behind that layer"
	for _, u := range l.Users {
		if i := passwd.find(0, u.Name); i < 0 || passwd.rows[i][2] != strconv.FormatUint(uint64(u.UID), 10) {
			return fmt.Errorf(lost, u.At, "user", u.Name, passwd.path)
		}
	}
	for _, g := range l.Groups {
		i := group.find(0, g.Name)
		if i < 0 || slices.ContainsFunc(g.Members,
			func(m string) bool { return !slices.Contains(strings.Split(group.rows[i][3], ","), m) }) {
			return fmt.Errorf(lost, g.At, "group", g.Name, group.path)
		}
	}
	return nil
}

// add adds the group, or members to the one that is there.
func (g Group) add(group, gshadow *accountFile) error {
	i := group.find(0, g.Name)
	if i < 0 {
		if g.GID == nil {
			return errors.New("no layer before has it: give it a gid")
		}
		if j := group.find(2, number(g.GID)); j >= 0 {
			return fmt.Errorf("its gid %d is already that of the group %s", *g.GID, group.rows[j][0])
		}
		group.add(g.Name, "x", number(g.GID), "")
		if gshadow.there {
			gshadow.add(g.Name, "!", "", "")
		}
		i = len(group.rows) - 1
	} else if g.GID != nil && group.rows[i][2] != number(g.GID) {
		return fmt.Errorf("a layer before has it with gid %s, and the recipe says %d: leave the gid out to add "+
			"members to it", group.rows[i][2], *g.GID)
	}
	group.addMembers(i, g.Members)
	if j := gshadow.find(0, g.Name); j >= 0 {
		gshadow.addMembers(j, g.Members)
	}
	return nil
}

// add adds the user, and returns the number of its primary group.
func (u User) add(passwd, group, shadow *accountFile) (uint32, error) {
	uid := strconv.FormatUint(uint64(u.UID), 10)
	gid := number(u.GID)
	if u.Group != "" {
		i := group.find(0, u.Group)
		if i < 0 {
			return 0, fmt.Errorf("its group %s is neither in the recipe nor in a layer before", u.Group)
		}
		gid = group.rows[i][2]
	}
	n, err := strconv.ParseUint(gid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("its group %s has the gid %q, which is no number", u.Group, gid)
	}
	row := []string{u.Name, "x", uid, gid, "", u.Home, u.Shell}
	if i := passwd.find(0, u.Name); i >= 0 {
		there := passwd.rows[i]
		if there[2] == uid && there[3] == gid && there[5] == u.Home && there[6] == u.Shell {
			return uint32(n), nil
		}
		return 0, fmt.Errorf("a layer before has a user of this name, uid %s, gid %s, home %s: leave it out of the "+
			"recipe, or give another name", there[2], there[3], there[5])
	}
	if i := passwd.find(2, uid); i >= 0 {
		return 0, fmt.Errorf("its uid %s is already that of the user %s", uid, passwd.rows[i][0])
	}
	passwd.add(row...)
	if i := shadow.find(0, u.Name); i >= 0 {
		return 0, fmt.Errorf("%s already has a line for it, and /etc/passwd has none", shadow.path)
	}
	shadow.add(u.Name, "!", "", "", "", "", "", "", "")
	return uint32(n), nil
}

// home makes the user's home folder.
func (u User) home(t *tree.Tree, gid uint32, origin string, now tree.Time) error {
	n, err := t.Resolve(u.Home)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return t.Lay(u.Home, &tree.Node{Mode: 0o700, UID: u.UID, GID: gid, Time: now, Origin: origin}, tree.Layering{})
	case err != nil:
		return err
	case n.Kind != tree.Dir:
		return fmt.Errorf("its home %s is there, as a %v", u.Home, n.Kind)
	case n.UID != u.UID:
		return fmt.Errorf("its home %s is there and belongs to uid %d: leave create_home out, or change the owner "+
			"in a layer permissions", u.Home, n.UID)
	}
	return nil
}

// maxAccounts bounds a file of accounts that lines are added to, in bytes.
const maxAccounts = 1 << 20

// accountFile is a file with an account a line, in fields between colons.
type accountFile struct {
	path    string
	mode    uint16 // where it is not there yet
	fields  int
	there   bool
	node    *tree.Node
	lines   []string   // as they were
	rows    [][]string // of each line; a line with another number of fields, such as a comment, has as many empty ones
	changed bool
}

func (f *accountFile) read(t *tree.Tree) error {
	f.node = &tree.Node{Kind: tree.File, Mode: f.mode}
	old, err := t.Resolve(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case old.Kind != tree.File || old.Size() > maxAccounts:
		return fmt.Errorf("%s is a %v of %d bytes, which no list of accounts is", f.path, old.Kind, old.Size())
	}
	data, err := tree.ReadAll(old)
	if err != nil {
		return err
	}
	f.there, f.node = true, old.Copy()
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		row := strings.Split(line, ":")
		if len(row) != f.fields {
			row = make([]string, f.fields)
		}
		f.lines, f.rows = append(f.lines, line), append(f.rows, row)
	}
	return nil
}

// find is the line whose field has a value, or -1.
func (f *accountFile) find(field int, value string) int {
	return slices.IndexFunc(f.rows, func(row []string) bool { return row[field] == value && row[0] != "" })
}

func (f *accountFile) add(row ...string) {
	f.lines, f.rows, f.changed = append(f.lines, strings.Join(row, ":")), append(f.rows, row), true
}

// addMembers adds to the last field of a line those names that it does not list.
func (f *accountFile) addMembers(i int, names []string) {
	row := f.rows[i]
	var members []string
	if row[3] != "" {
		members = strings.Split(row[3], ",")
	}
	for _, n := range names {
		if !slices.Contains(members, n) {
			members = append(members, n)
			f.changed = true
		}
	}
	row[3] = strings.Join(members, ",")
	f.lines[i] = strings.Join(row, ":")
}

// write puts the file back into the tree, at the end of the links that lead to it.
func (f *accountFile) write(t *tree.Tree, origin string, now tree.Time) error {
	if !f.changed {
		return nil
	}
	content := tree.Bytes([]byte(strings.Join(f.lines, "\n") + "\n"))
	if old, err := t.Resolve(f.path); err == nil {
		old.Content, old.Time, old.Origin = content, now, origin
		return nil
	}
	f.node.Content, f.node.Time, f.node.Origin = content, now, origin
	return t.Lay(f.path, f.node, tree.Layering{})
}
