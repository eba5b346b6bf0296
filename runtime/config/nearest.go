package config

import (
	"fmt"

	"github.com/katabuild/katabuild/internal/mistake"
)

// didYouMean is a hint with the word nearest to got, or empty when none is near.
func didYouMean(got string, words []string) string {
	near := mistake.Nearest(got, words, min(len(got)/3+2, 6))
	if near == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", near)
}
