package initrd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
)

func TestCommandsAreThoseThatThePinnedModuleNames(t *testing.T) {
	c := Commands()
	for _, want := range []string{"cat", "dmesg", "gosh", "ip", "ls", "mount", "ps"} {
		if !slices.Contains(c, want) {
			t.Errorf("%s is missing from %v", want, c)
		}
	}
	if !slices.IsSorted(c) || len(slices.Compact(slices.Clone(c))) != len(c) {
		t.Errorf("not sorted, or one twice: %v", c)
	}
	if !strings.Contains(string(urootTools), `_ "`+makebb+`"`) {
		t.Errorf("tools.go does not pin %s", makebb)
	}
}

func TestURootFiles(t *testing.T) {
	var got []string
	for _, f := range URootFiles([]string{"gosh", "ls"}, "/x/bb", digest.Of(nil)) {
		if err := f.check(); err != nil {
			t.Error(f.Path, err)
		}
		got = append(got, f.Path+" "+f.Target)
	}
	want := []string{"/bin/bb ", "/bin/gosh bb", "/bin/sh gosh", "/bin/ls bb"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestURootRefuses(t *testing.T) {
	r := request(t)
	r.URoot, r.WorkDir = []string{"ls", "rm-rf"}, t.TempDir()
	if _, err := r.Inputs(); err == nil || !strings.Contains(err.Error(), `no command "rm-rf" here (known: basename`) {
		t.Error(err)
	}
	if _, err := r.Build(t.Context()); err == nil || !strings.Contains(err.Error(), `no command "rm-rf"`) {
		t.Error(err)
	}
	r.URoot = []string{"ls"}
	for name, g := range map[string]Go{"none": {}, "a path to nothing": {Path: "/no/such/go"}} {
		r.Go = g
		if _, err := r.Inputs(); !errors.Is(err, errNoGo) {
			t.Errorf("inputs with Go %s: %v", name, err)
		}
		if _, err := r.Build(t.Context()); !errors.Is(err, errNoGo) {
			t.Errorf("build with Go %s: %v", name, err)
		}
	}
	r.WorkDir = ""
	if _, err := r.Build(t.Context()); err == nil || !strings.Contains(err.Error(), "work folder") {
		t.Error(err)
	}
}

func TestURootEnvironmentSetsAsideWhatDecides(t *testing.T) {
	g := Go{Path: "/opt/go/bin/go", Env: []string{"PATH=/bin", "GOAMD64=v3", "GOFLAGS=-race", "GOPROXY=p", "HOME=/h"}}
	last := map[string]string{}
	for _, e := range g.environ([]string{"GOARCH=arm64"}) {
		name, value, _ := strings.Cut(e, "=")
		last[name] = value
	}
	for name, want := range map[string]string{
		"PATH": "/opt/go/bin:/bin", "GOAMD64": "v1", "GOFLAGS": "-mod=readonly", "GOPROXY": "p", "HOME": "/h",
		"GOARCH": "arm64", "CGO_ENABLED": "0",
	} {
		if last[name] != want {
			t.Errorf("%s=%s, want %s", name, last[name], want)
		}
	}
	if g.Env[0] != "PATH=/bin" {
		t.Error("the caller's environment was changed")
	}
}

// shellRequest asks for the agent with a debug shell.
func shellRequest(t *testing.T) Request {
	t.Helper()
	goPath, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(t.TempDir(), "agent")
	goBuild(t, agent, "../cmd/kata-agent")
	d, _, err := digest.File(agent)
	if err != nil {
		t.Fatal(err)
	}
	r := request(t)
	r.Agent, r.Files = Agent{Path: agent, Digest: d}, nil
	r.URoot = []string{"gosh", "ls", "cat", "mount", "dmesg", "ip", "ps", "ls"}
	r.Go, r.WorkDir = Go{Path: goPath, Env: os.Environ()}, t.TempDir()
	if err := FetchURoot(t.Context(), r.Go, r.WorkDir); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestURootBuiltTwiceElsewhereIsTheSame(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_TWICE", "twice"), testenv.Tool("go"))
	r := shellRequest(t)
	a, _ := built(t, r)
	r.WorkDir = filepath.Join(t.TempDir(), "another", "folder")
	r.URoot = []string{"ps", "ip", "dmesg", "mount", "cat", "ls", "gosh"}
	r.Go.Env = append(r.Go.Env, "TZ=Asia/Kathmandu", "GOFLAGS=-p=1", "GOCACHE="+t.TempDir())
	b, _ := built(t, r)
	if a.Digest != b.Digest {
		t.Error(a.Digest, b.Digest)
	}
}

func TestTheDebugConsoleRunsCommands(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File(kernel),
		testenv.Tool("qemu-system-x86_64"), testenv.Tool("go"))
	res, _ := built(t, shellRequest(t))
	// The shell's prompt comes first; what is typed before it is lost.
	lines := boot(t, res.Path, "agent.debug_console", "$ done",
		talk{"$ ", "echo $((40+2)) files: && ls /bin && mount && echo ended\n"}, talk{"ended\r\n$ ", "done\n"})
	console := strings.Join(lines, "\n")
	for _, want := range []string{"42 files:\n", "\ndmesg\ngosh\nip\n", "cgroup2"} {
		if !strings.Contains(console, want) {
			t.Errorf("the console lacks %q:\n%s", want, console)
		}
	}
}
