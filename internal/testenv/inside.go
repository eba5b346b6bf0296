package testenv

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// insideVariable has the name of the test that runs in namespaces of its own.
const insideVariable = "KATABUILD_TEST_INSIDE"

// Inside runs the calling test again in a child with user and more namespaces of its own, in which it is root, and says
// whether this is that child:
//
//	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
//		return
//	}
//
// It needs no privilege, and nothing that the child does to its namespaces outlives it. Call it in a test that is not a
// subtest.
func Inside(t *testing.T, flags uintptr) bool {
	t.Helper()
	if os.Getenv(insideVariable) == t.Name() {
		return true
	}
	if strings.Contains(t.Name(), "/") {
		t.Fatal("a subtest cannot be run alone")
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=60s"}
	// What the child covers counts: the parent adds up all that is in the folder when it ends.
	if f := flag.Lookup("test.gocoverdir"); f != nil && f.Value.String() != "" {
		args = append(args, "-test.gocoverdir="+f.Value.String())
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), insideVariable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if _, ran := errors.AsType[*exec.ExitError](err); err != nil && !ran {
		Require(t, Func(UserNamespaces, func() error { return err }))
	}
	switch {
	case err != nil:
		t.Fatalf("inside: %v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()+" "):
		Require(t, Func(UserNamespaces, func() error { return errors.New(string(out)) }))
	case !strings.Contains(string(out), "--- PASS: "+t.Name()+" "):
		t.Fatalf("inside: the test did not run\n%s", out)
	}
	return false
}
