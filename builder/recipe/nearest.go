package recipe

import (
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/mistake"
)

// didYouMean is a hint with the word nearest to got, or with all words when they are few and none is near.
func didYouMean(got string, words []string) string {
	if near := mistake.Nearest(got, words, len(got)/2+2); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	if len(words) > 0 && len(words) <= 12 {
		sorted := slices.Clone(words)
		slices.Sort(sorted)
		return "; known: " + strings.Join(sorted, ", ")
	}
	return ""
}
