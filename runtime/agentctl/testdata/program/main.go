// Command program is a small one for containers of tests: package inside and nothing else.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/katabuild/katabuild/runtime/agentctl/inside"
)

func main() {
	err := inside.Run(os.Args[min(2, len(os.Args)):], os.Stdin, os.Stdout, os.Stderr)
	if code, is := errors.AsType[inside.ExitCode](err); is {
		os.Exit(int(code))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
