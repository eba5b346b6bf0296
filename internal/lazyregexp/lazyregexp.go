// Package lazyregexp compiles regular expressions when they are first used, and not when a program starts: the agent
// executes itself for each container, and its processor may be emulated.
package lazyregexp

import (
	"regexp"
	"sync"
)

// New returns what compiles the expression at its first call. It panics then where that is none, as
// regexp.MustCompile does.
func New(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
