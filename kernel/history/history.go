// Package history knows which options came to Linux and left it, between the versions that it compares.
package history

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/katabuild/katabuild/kernel/kconfig"
)

// list has options that came to Linux or left it. A line "- A B" heads those that version A has, on any
// architecture, and B has not; "+ A B" heads those that B has and A has not. history.sh writes it from the
// Kconfig files of A and B; what lies between them was not looked at.
//
//go:embed history.txt
var list string

// Of says when a symbol came to Linux or left it, of a symbol that a version lacks; empty where nobody knows.
func Of(symbol, version string) string {
	sign, from, to := "", "", ""
	for line := range strings.Lines(list) {
		line = strings.TrimSuffix(line, "\n")
		if f := strings.Fields(line); len(f) == 3 && (f[0] == "-" || f[0] == "+") {
			sign, from, to = f[0], f[1], f[2]
			continue
		}
		if line != symbol {
			continue
		}
		switch {
		case sign == "-" && !(kconfig.When{Until: from}).In(version):
			return fmt.Sprintf("removed from Linux: %s had it, %s has it no more, and this is %s", from, to, version)
		case sign == "+" && !(kconfig.When{Since: to}).In(version):
			return fmt.Sprintf("newer than this Linux: %s had it not yet, %s has it, and this is %s", from, to, version)
		}
	}
	return ""
}
