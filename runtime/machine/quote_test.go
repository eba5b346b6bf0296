package machine

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
)

func TestQuoteIsReadByTheShell(t *testing.T) {
	testenv.Require(t, testenv.Tool("sh"))
	words := []string{"plain", "", "two words", "it's", `a"b`, "$HOME", "`id`", "a\nb", "*", "~", "#x", "a;b", `\`,
		"é", "{a,b}", "-x=1,y:2"}
	out, err := exec.Command("sh", "-c", `for w in `+Quote(words)+`; do printf '%s\0' "$w"; done`).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(words, "\x00") + "\x00"; string(out) != got {
		t.Errorf("the shell read %q", out)
	}
}
