// Package testenv lets a test say what it needs, skip with a reason where that is missing, and fail instead in CI.
package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Variable names the environment variable that turns skips into failures: names of needs separated by commas. "all"
// stands for every need, and "-NAME" takes one out again. What a word of make asks for is in "all" only where that word
// runs: a test behind Asked is skipped without it, and so is a test that needs a File which no word has set.
const Variable = "KATABUILD_TEST_REQUIRE"

// Name is what a need is called in Variable: one of the names below, the name of a tool, or that of a variable.
type Name string

// The needs that are neither tools nor files.
const (
	Terminals      Name = "pseudo-terminals"
	Proc           Name = "proc" // a /proc that shows what the test looks for
	TUN            Name = "/dev/net/tun"
	Veth           Name = "veth"
	NFTables       Name = "nftables"
	KVM            Name = "kvm" // a /dev/kvm that runs guests
	Loops          Name = "loop-devices"
	UserNamespaces Name = "user-namespaces"
	Mounts         Name = "mounts" // a kernel that mounts what the test mounts
	Keys           Name = "keys"   // the kernel's keyrings
	Shell          Name = "shell"
	Toolchain      Name = "toolchain" // what builds kernels
	Headers        Name = "headers"   // of libelf and libc
	Shim           Name = "containerd-shim-kata-v2"
	Guest          Name = "guest" // one that was built by make guest
)

// root is the name of Root in Variable.
const root Name = "root"

// Root needs the user to be root.
var Root = Func(root, func() error {
	if os.Geteuid() != 0 {
		return errors.New("this user is not root")
	}
	return nil
})

// kind says by whom a need is met.
type kind int

const (
	byHost kind = iota // the host has it, or lacks it
	byWord             // a word of make asks for it
	byFile             // a word of make builds the file and sets the variable
)

// Need is something a test cannot do without.
type Need struct {
	name  Name
	kind  kind
	check func() error
}

// Tool needs an executable on $PATH. Its name in Variable is the tool's.
func Tool(name string) Need {
	return Need{Name(name), byHost, func() error {
		_, err := exec.LookPath(name)
		return err
	}}
}

// File needs the file that an environment variable names, such as a kernel built earlier.
func File(variable string) Need {
	return Need{Name(variable), byFile, func() error {
		p := os.Getenv(variable)
		if p == "" {
			return fmt.Errorf("%s is not set", variable)
		}
		_, err := os.Stat(p)
		return err
	}}
}

// Device needs a device file that the test may read and write. Its name in Variable is its path.
func Device(path Name) Need {
	return Need{path, byHost, func() error {
		f, err := os.OpenFile(string(path), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}}
}

// Asked needs an environment variable to be set, because the test takes minutes; word is the make word that sets it.
func Asked(variable, word string) Need {
	return Need{Name(variable), byWord, func() error {
		if os.Getenv(variable) == "" {
			return fmt.Errorf("takes long; run `make %s`", word)
		}
		return nil
	}}
}

// Func needs check to return nil.
func Func(name Name, check func() error) Need { return Need{name, byHost, check} }

// Require skips the test when a need is missing, or fails it where Variable asks for that need.
func Require(t testing.TB, needs ...Need) {
	t.Helper()
	asked := false
	for _, n := range needs {
		err := n.check()
		if err == nil {
			asked = asked || n.kind == byWord
			continue
		}
		unset := n.kind == byFile && os.Getenv(string(n.name)) == ""
		if required(os.Getenv(Variable), n, n.inAll(asked, unset)) {
			t.Fatalf("needs %s: %v (%s asks for it)", n.name, err, Variable)
		}
		t.Skipf("needs %s: %v", n.name, err)
	}
}

// Met says whether the host has what is needed, for tests that do more where it does.
func (n Need) Met() bool { return n.check() == nil }

// inAll says whether "all" stands for a need that is missing: asked is whether the test was asked for by a word, unset
// that the need is a file which no word has named. A word itself never is: one that runs need not bring another.
func (n Need) inAll(asked, unset bool) bool { return n.kind != byWord && (asked || !unset) }

// required says whether a list asks for a need; inAll is whether the need is one of those that "all" stands for.
func required(list string, n Need, inAll bool) bool {
	yes := false
	for w := range strings.SplitSeq(list, ",") {
		switch Name(w) {
		case "all":
			yes = yes || inAll
		case n.name:
			yes = true
		case "-" + n.name:
			return false
		}
	}
	return yes
}
