// Package guestcopy copies files between this host and the guest of a pod, as tar streams.
//
// In come a place on either side and a stream; out come files on this host, or a stream of them. What comes from a
// guest is hostile: nothing is made outside of the place that was named, whatever names and links are in the stream;
// devices, pipes and sockets are refused by name; size and number are bounded; and no file gets a bit that gives its
// user's rights away. How the stream comes here is not this package's business.
package guestcopy

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/katabuild/katabuild/runtime/record"
)

// Place is a file or folder on one side.
type Place struct {
	Pod       string // empty is this host
	Container string // empty is the guest itself, where Pod is not
	Path      string
}

// ParsePlace reads PATH of this host, POD:PATH of a guest, or CONTAINER@POD:PATH. A path of this host that has a colon
// is told by a slash before it, such as ./a:b.
func ParsePlace(s string) (Place, error) {
	where, p, remote := strings.Cut(s, ":")
	if !remote || strings.Contains(where, "/") {
		if s == "" {
			return Place{}, errors.New("an empty path")
		}
		return Place{Path: s}, nil
	}
	out := Place{Pod: where, Path: path.Clean(p)}
	if c, pod, has := strings.Cut(where, "@"); has {
		out.Container, out.Pod = c, pod
		if err := record.CheckID(c); err != nil {
			return Place{}, fmt.Errorf("%s: container: %w", s, err)
		}
	}
	if err := record.CheckID(out.Pod); err != nil {
		return Place{}, fmt.Errorf("%s: pod: %w", s, err)
	}
	switch {
	case !path.IsAbs(p):
		return Place{}, fmt.Errorf("%s: the path in a guest is not absolute", s)
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return Place{}, fmt.Errorf("%q: the path holds a control character", s)
	case hasParent(p):
		return Place{}, fmt.Errorf("%s: .. is in the path", s)
	case out.Path == "/":
		return Place{}, fmt.Errorf("%s: the whole root cannot be copied; name what is in it", s)
	}
	return out, nil
}

// hasParent says whether a path has .. in it.
func hasParent(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
