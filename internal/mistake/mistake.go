// Package mistake says what is wrong with a text that a person wrote: at which place, with the line and a caret below
// it, and which word was probably meant.
package mistake

import (
	"fmt"
	"strings"
)

// Error is a mistake in a file, at a place.
type Error struct {
	File    string
	Line    int // from 1
	Column  int // from 1, in characters
	Message string
	Source  string // the line itself; empty where there is none to show
}

// Error is "file:line:column: message", the line and a caret below the place.
func (e *Error) Error() string {
	if e.Source == "" {
		return e.Short()
	}
	n := fmt.Sprintf("%5d", e.Line)
	// Tabs stay tabs in the caret's line, so that both lines are shown equally wide.
	r := []rune(e.Source)
	pad := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, string(r[:max(0, min(e.Column-1, len(r)))]))
	return fmt.Sprintf("%s\n%s | %s\n%s | %s^", e.Short(), n, e.Source, strings.Repeat(" ", len(n)), pad)
}

// Short is the first line of Error.
func (e *Error) Short() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// maxWord bounds the words that are compared, in bytes: the names anybody knows are shorter, and a hostile file has
// many long ones.
const maxWord = 100

// Nearest is the word that got is nearest to, in insertions, deletions, replacements and swaps of neighbours, all fewer
// than within; empty where none is. Words are lower-case; got may be anything.
func Nearest(got string, words []string, within int) string {
	best := ""
	for _, w := range words {
		if d := distance(strings.ToLower(got), w); d < within {
			best, within = w, d
		}
	}
	return best
}

func distance(a, b string) int {
	if len(a) > maxWord {
		return len(a)
	}
	x, y := []rune(a), []rune(b)
	d := make([][]int, len(x)+1)
	for i := range d {
		d[i] = make([]int, len(y)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(x)][len(y)]
}
