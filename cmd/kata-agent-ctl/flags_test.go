package main

import (
	"testing"

	"github.com/katabuild/katabuild/internal/cobratest"
)

func TestTheValueOfEveryFlagHasAName(t *testing.T) { cobratest.FlagsHaveNames(t, (&app{}).root()) }
