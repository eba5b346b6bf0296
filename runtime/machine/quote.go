package machine

import "strings"

// Quote writes a command line so that it can be pasted into a shell.
func Quote(argv []string) string {
	var words []string
	for _, w := range argv {
		words = append(words, quoteWord(w))
	}
	return strings.Join(words, " ")
}

func quoteWord(w string) string {
	plain := w != ""
	for _, r := range w {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_./,=:@%+",
			r) {
			plain = false
		}
	}
	if plain {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}
