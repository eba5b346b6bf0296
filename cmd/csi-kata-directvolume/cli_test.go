package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/katabuild/katabuild/internal/cobratest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"csi-kata-directvolume": main})
}

func TestCommandLines(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": cobratest.Code}})
}
