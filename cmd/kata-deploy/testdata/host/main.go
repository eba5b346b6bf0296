// Command host is every program of a host in the tests of kata-deploy: what it does says its name.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Files of the host's /run that say how it behaves, as node_test.go has them.
const (
	activeUnits = "run/units"
	restarted   = "run/log"
	badCheck    = "run/broken"
)

func main() {
	switch name := filepath.Base(os.Args[0]); {
	case name == "systemctl":
		systemctl()
	case strings.HasPrefix(name, "kata-runtime"):
		check()
	default:
		fmt.Fprintln(os.Stderr, name, "is not run here")
		os.Exit(1)
	}
}

// systemctl is the host's, as far as kata-deploy calls it. systemctl(1): is-active ends with 3 for what is not.
func systemctl() {
	args := os.Args[1:]
	switch {
	case len(args) == 3 && args[0] == "is-active" && args[1] == "--quiet":
		if _, err := os.Stat("/" + activeUnits + "/" + args[2]); err != nil {
			os.Exit(3)
		}
	case len(args) == 2 && args[0] == "restart":
		f, err := os.OpenFile("/"+restarted, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			_, err = fmt.Fprintln(f, args[1])
		}
		if err = errors.Join(err, f.Close()); err != nil {
			panic(err)
		}
	default:
		fmt.Fprintf(os.Stderr, "systemctl %q\n", args)
		os.Exit(1)
	}
}

// check is kata-runtime check, or debug, which tells its arguments.
func check() {
	if len(os.Args) > 1 && os.Args[1] == "debug" {
		fmt.Printf("report of %q\n", os.Args[2:])
		return
	}
	if len(os.Args) != 2 || os.Args[1] != "check" {
		fmt.Fprintf(os.Stderr, "kata-runtime %q\n", os.Args[1:])
		os.Exit(2)
	}
	if said, err := os.ReadFile("/" + badCheck); err == nil {
		fmt.Print(string(said))
		os.Exit(1)
	}
	fmt.Println("ok kvm: it runs instructions")
}
