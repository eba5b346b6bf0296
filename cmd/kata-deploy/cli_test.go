package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/katabuild/katabuild/internal/cobratest"
)

// TestCommandLines runs a script for each word.
func TestCommandLines(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true})
}

func TestTheValueOfEveryFlagHasAName(t *testing.T) { cobratest.FlagsHaveNames(t, (&app{}).root()) }

func TestEveryToolOfThePageIsThere(t *testing.T) {
	cobratest.HasTools(t, "../../docs/tools.md", (&app{}).root())
}
