// Command kata-agent-rego is kata-agent with an engine for policies in Rego. It is three times as large, and a module
// of its own for the sake of what that engine needs.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"github.com/katabuild/katabuild/cmd/kata-agent-rego/rego"
	"github.com/katabuild/katabuild/cmd/kata-agent/program"
)

// version is set by -ldflags "-X main.version=..."; else it is that of the module.
var version = ""

func main() { program.Main(version, rego.Read) }
