// Command katabuild-cc stands before the compilers of a kernel's build, in the jail, and takes objects from a cache
// where it can. katabuild starts it; nobody else needs to.
//
// Under the name of a compiler it is that compiler. Otherwise it runs a program with a cache:
//
//	katabuild-cc COMPILERS REPORT LEVEL... -- PROGRAM [ARGUMENT...]
package main

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/katabuild/katabuild/internal/objcache"
)

func main() {
	if objcache.IsCompiler(os.Args[0]) {
		os.Exit(objcache.Compile(os.Args, os.Environ(), os.Stderr))
	}
	i := slices.Index(os.Args, "--")
	if i < 4 || i+1 == len(os.Args) {
		fmt.Fprintln(os.Stderr, "usage: katabuild-cc COMPILERS REPORT LEVEL... -- PROGRAM [ARGUMENT...]")
		os.Exit(2)
	}
	code, err := objcache.Server{Compilers: os.Args[1], Report: os.Args[2], Levels: os.Args[3:i], Args: os.Args[i+1:],
		Env: os.Environ(), Now: time.Now}.Run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "katabuild-cc: %v\n", err)
	}
	os.Exit(code)
}
