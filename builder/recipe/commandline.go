package recipe

import (
	"fmt"
	"strings"

	"github.com/katabuild/katabuild/internal/dmverity"
)

// bootWord says why a recipe cannot say a word of the command line, or nothing where it can.
func bootWord(name string) string {
	switch name {
	case "root", "rootfstype", "ro", "rw", dmverity.CreateName:
		return "the boot says where the root is, from rootfs and image"
	case "init", "rdinit", "initrd", "noinitrd":
		return "the boot says which program is the first, from initrd or rootfs.init"
	case "console":
		return "the boot says which console the machine has"
	}
	return ""
}

// checkCommandLine finds what is wrong with the words of boot.command_line, each by itself. What they are beside the
// boot's own is for the builder.
func checkCommandLine(words []string, at note) {
	first := map[string]int{}
	for i, w := range words {
		wrong := ""
		name, _, _ := strings.Cut(strings.ReplaceAll(w, `"`, ""), "=")
		switch j, twice := first[w]; {
		case w == "" || strings.ContainsAny(w, "\n\r\t\x00"):
			wrong = fmt.Sprintf("%q: want one word", w)
		case strings.Count(w, `"`)%2 != 0:
			wrong = fmt.Sprintf("%q: a quote is not closed", w)
		case spaceOutsideQuotes(w):
			wrong = fmt.Sprintf(
				"%q: want one word; a value with spaces stands in quotes, as in dyndbg=\"file x.c +p\"", w)
		case w == "--":
			wrong = `"--": what stands behind it is for init, and so would be what the boot adds`
		case bootWord(name) != "":
			wrong = fmt.Sprintf("%q: %s", w, bootWord(name))
		case twice:
			wrong = fmt.Sprintf("%q stands twice; the first is boot.command_line[%d]", w, j)
		}
		first[w] = i
		if wrong != "" {
			at(fmt.Sprintf("boot.command_line[%d]", i), wrong)
		}
	}
}

// spaceOutsideQuotes says whether the kernel would part w. Linux: lib/cmdline.c, next_arg.
func spaceOutsideQuotes(w string) bool {
	quoted := false
	for _, c := range w {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ' ' && !quoted:
			return true
		}
	}
	return false
}
