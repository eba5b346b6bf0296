package recipe

import (
	"fmt"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
)

// bootReserve is how many bytes of the command line are left for what a boot adds: the console, the clock's rate under TCG, the disk's dm-verity table
// (some 350 bytes), and what the runtime tells the agent.
const bootReserve = 768

// bootWord says why a recipe cannot say a word of the command line, or nothing where it can.
func bootWord(name string) string {
	switch name {
	case "root", "rootfstype", "rootflags", "ro", "rw", "dm-mod.create":
		return "the boot says where the root is, from rootfs and image"
	case "init", "rdinit", "initrd", "noinitrd":
		return "the boot says which program is the first, from initrd or rootfs.init"
	case "console":
		return "the boot says which console the machine has"
	}
	return ""
}

// checkCommandLine finds what is wrong with the words of boot.command_line.
func checkCommandLine(words []string, a arch.Arch, at func(field, msg string) error) error {
	first := map[string]int{}
	total := 0
	for i, w := range words {
		total += len(w) + 1
		wrong := ""
		name, _, _ := strings.Cut(strings.ReplaceAll(w, `"`, ""), "=")
		switch j, twice := first[w]; {
		case w == "" || strings.ContainsAny(w, "\n\r\t\x00"):
			wrong = fmt.Sprintf("%q: want one word", w)
		case strings.Count(w, `"`)%2 != 0:
			wrong = fmt.Sprintf("%q: a quote is not closed", w)
		case spaceOutsideQuotes(w):
			wrong = fmt.Sprintf("%q: want one word; a value with spaces stands in quotes, as in dyndbg=\"file x.c +p\"", w)
		case w == "--":
			wrong = `"--": what stands behind it is for init, and so would be what the boot adds`
		case bootWord(name) != "":
			wrong = fmt.Sprintf("%q: %s", w, bootWord(name))
		case twice:
			wrong = fmt.Sprintf("%q stands twice; the first is boot.command_line[%d]", w, j)
		}
		first[w] = i
		if wrong != "" {
			if err := at(fmt.Sprintf("boot.command_line[%d]", i), wrong); err != nil {
				return err
			}
		}
	}
	// The kernel keeps a NUL behind the line.
	if most := a.CommandLine - 1 - bootReserve; a.CommandLine > 0 && total > most {
		return at("boot.command_line", fmt.Sprintf("its words have %d bytes; a kernel for %s takes a command line of %d, of which the boot needs up to %d: at most %d are left",
			total, a.Name, a.CommandLine-1, bootReserve, most))
	}
	return nil
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
