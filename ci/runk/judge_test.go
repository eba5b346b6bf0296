package runk_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
)

// judgeModule is where the programs of OCI's runtime-tools are from, in a module of their own.
const judgeModule = "../tools/oci"

// runcOnly are the programs of which runc does what runk refuses, with the reasons.
var runcOnly = map[string]string{
	"linux_ns_itype": "the container has the mount namespace of its caller, which runk never gives away",
	"linux_ns_path":  "a mount namespace by path is refused",
}

// TestRuntimeToolsJudgeRunk has the validation programs of OCI's runtime-tools judge runk and runc. What runc does
// right, runk must do, too: a program is of specifications of several years, and no runtime does all that it wants.
func TestRuntimeToolsJudgeRunk(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_OCI", "test-oci"), testenv.Root, testenv.Tool("go"),
		testenv.Tool("runc"), testenv.Tool("tar"))
	self := program(t)
	dir := t.TempDir()
	golang(t, "build", "-ldflags=-s -w", "-o", dir+"/", "tool")
	module := golang(t, "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-tools")
	// The programs look for the container's files, and the program that runs in it, where they are run.
	tree := "rootfs-amd64.tar.gz"
	if err := os.Symlink(filepath.Join(module, tree), filepath.Join(dir, tree)); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadDir(filepath.Join(module, "validation"))
	if err != nil || len(all) < 50 {
		t.Fatalf("%d programs: %v", len(all), err)
	}
	for _, e := range all {
		if !e.IsDir() || e.Name() == "util" {
			continue
		}
		t.Run(e.Name(), func(t *testing.T) {
			if !strings.HasPrefix(e.Name(), "linux_cgroups_") { // whose control groups have the same name
				t.Parallel()
			}
			runc, runk := judge(t, dir, e.Name(), "runc"), judge(t, dir, e.Name(), self)
			worse := runk.worse(runc)
			switch why, ok := runcOnly[e.Name()]; {
			case ok && worse == "":
				t.Errorf("runk does what runc does; the reason %q is none any more", why)
			case !ok && worse != "":
				t.Errorf("runk does not what runc does: %s\nrunk:\n%s\nrunc:\n%s", worse, runk.said, runc.said)
			}
		})
	}
}

// golang runs go in the module of the programs, and returns what it prints.
func golang(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = judgeModule
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, said.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// judgement is what a program says of a runtime, in lines of TAP.
type judgement struct {
	ended error // how the program ended
	bad   map[string]int
	good  int
	said  string
}

// point is a line of TAP about one point, which may be inside of what a container printed.
var point = regexp.MustCompile(`^\s*(not ok|ok)\s+\d+\s*(?:- )?(.*)$`)

// judge has a program judge a runtime, in a mount namespace of its own: a container without one mounts on the host.
func judge(t *testing.T, dir, name, runtime string) judgement {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, name))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "RUNTIME="+runtime, "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	cmd.WaitDelay = 10 * time.Second // containers that are left keep the streams
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	j := judgement{bad: map[string]int{}}
	if j.ended = cmd.Run(); errors.Is(j.ended, exec.ErrWaitDelay) {
		j.ended = nil
	}
	j.said = said.String()
	for s := bufio.NewScanner(&said); s.Scan(); {
		switch m := point.FindStringSubmatch(s.Text()); {
		case m == nil:
		case m[1] == "ok":
			j.good++
		default:
			j.bad[m[2]]++
		}
	}
	return j
}

// worse names what is wrong here and right in other, or nothing.
func (j judgement) worse(other judgement) string {
	if j.ended != nil && other.ended == nil {
		return j.ended.Error()
	}
	for text, n := range j.bad {
		if n > other.bad[text] {
			return "not ok: " + text
		}
	}
	if len(other.bad) == 0 && other.ended == nil && j.good < other.good {
		return "fewer points are looked at"
	}
	return ""
}
