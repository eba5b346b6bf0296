package main

import (
	"fmt"
	"testing"

	"github.com/katabuild/katabuild/internal/cobratest"
)

func TestTheValueOfEveryFlagHasAName(t *testing.T) { cobratest.FlagsHaveNames(t, (&app{}).root()) }

func TestTheLastWordsOfAGuestBeginWithWhatIsWrongWithItsDisk(t *testing.T) {
	bad := "[    0.5] device-mapper: verity: 254:1: data block 7 is corrupted"
	lines := []string{"one", bad, bad, bad, bad}
	for i := range 2 * consoleLines {
		lines = append(lines, fmt.Sprint("goroutine ", i))
	}
	got := lastWords(lines)
	if len(got) != consoleLines+mostReasons || got[0] != bad || got[mostReasons] != fmt.Sprint("goroutine ",
		consoleLines) {
		t.Errorf("%q", got)
	}
	if got := lastWords([]string{"one", bad}); len(got) != 2 || got[1] != bad {
		t.Errorf("of a short one: %q", got)
	}
}
