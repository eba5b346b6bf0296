package main

import (
	"testing"

	"github.com/katabuild/katabuild/internal/cobratest"
)

func TestTheValueOfEveryFlagHasAName(t *testing.T) { cobratest.FlagsHaveNames(t, (&app{}).root()) }

func TestEveryToolOfThePageIsThere(t *testing.T) {
	cobratest.HasTools(t, "../../docs/tools.md", (&app{}).root())
}
