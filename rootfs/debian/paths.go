package debian

import "github.com/katabuild/katabuild/rootfs/tree"

// Rule says whether paths that a pattern matches are kept.
type Rule struct {
	Pattern string // of an absolute path: "*" and "?" stand for slashes too, "[...]" for one of a set
	Keep    bool
}

// Rules decide as dpkg's path-exclude and path-include do: the last rule that matches a path counts, and what none
// matches is kept. dpkg(1). A kept path's folders are kept.
type Rules []Rule

// Exclude and Include are rules of one kind.
func Exclude(patterns ...string) Rules { return rules(patterns, false) }

// Include is the opposite of Exclude, for use behind it.
func Include(patterns ...string) Rules { return rules(patterns, true) }

func rules(patterns []string, keep bool) (out Rules) {
	for _, p := range patterns {
		out = append(out, Rule{p, keep})
	}
	return out
}

// keep says whether an absolute path is kept.
func (r Rules) keep(p string) bool {
	for i := len(r) - 1; i >= 0; i-- {
		if tree.Match(r[i].Pattern, p) {
			return r[i].Keep
		}
	}
	return true
}
