// Package testenv lets a test say what it needs, skip with a reason where that is missing, and fail instead in CI.
package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Variable names the environment variable that turns skips into failures: "all", or needs separated by commas.
const Variable = "KATABUILD_TEST_REQUIRE"

// Need is something a test cannot do without.
type Need struct {
	name  string
	check func() error
}

// Tool needs an executable on $PATH. Its name in Variable is the tool's.
func Tool(name string) Need {
	return Need{name, func() error {
		_, err := exec.LookPath(name)
		return err
	}}
}

// File needs the file that an environment variable names, such as a kernel built earlier.
func File(variable string) Need {
	return Need{variable, func() error {
		p := os.Getenv(variable)
		if p == "" {
			return fmt.Errorf("%s is not set", variable)
		}
		_, err := os.Stat(p)
		return err
	}}
}

// Asked needs an environment variable to be set, because the test takes minutes; word is the make word that sets it.
func Asked(variable, word string) Need {
	return Need{variable, func() error {
		if os.Getenv(variable) == "" {
			return fmt.Errorf("takes long; run `make %s`", word)
		}
		return nil
	}}
}

// Func needs check to return nil.
func Func(name string, check func() error) Need { return Need{name, check} }

// Require skips the test when a need is missing, or fails it where Variable asks for that need.
func Require(t testing.TB, needs ...Need) {
	t.Helper()
	for _, n := range needs {
		err := n.check()
		if err == nil {
			continue
		}
		for w := range strings.SplitSeq(os.Getenv(Variable), ",") {
			if w == "all" || w == n.name {
				t.Fatalf("needs %s: %v (%s asks for it)", n.name, err, Variable)
			}
		}
		t.Skipf("needs %s: %v", n.name, err)
	}
}
