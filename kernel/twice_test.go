package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/source"
	"github.com/katabuild/katabuild/kernel/toolchain"
)

// twiceVariable makes this test's executable read a child from its standard input and build what it says.
const twiceVariable = "KATABUILD_TEST_KERNEL_TWICE"

// child is a build in a process of its own, with a umask, a time zone and a user of its own.
type child struct {
	Source         string
	Digest         digest.Digest
	Fragment       []byte
	Patch          []byte
	Modules        bool
	Jobs           int
	Umask          int
	WorkDir        string
	OutDir         string
	user           uint32 // 0: whoever runs the test
	timeZone, home string
}

func twiceMain() int {
	var c child
	err := json.NewDecoder(os.Stdin).Decode(&c)
	if err == nil {
		var res *Result
		if res, err = c.build(); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(res)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (c child) build() (*Result, error) {
	syscall.Umask(c.Umask)
	a, err := arch.Parse("x86_64")
	if err != nil {
		return nil, err
	}
	tc, err := toolchain.Find(context.Background(), toolchain.Options{Arch: a, Host: a, Dirs: strings.Split(jail.Path,
		":")})
	if err != nil {
		return nil, err
	}
	r := Request{
		Arch: a, SourceKind: source.Debian, Source: c.Source, SourceDigest: c.Digest,
		Features: []string{features.Tiny}, Modules: c.Modules,
		Time: time.Unix(1_700_000_000, 0), Toolchain: tc, Jobs: c.Jobs, WorkDir: c.WorkDir, OutDir: c.OutDir,
	}
	if c.Fragment != nil {
		r.Fragments = []Fragment{{Name: "user.config", Data: c.Fragment}}
	}
	if c.Patch != nil {
		r.Patches = []Patch{{Name: "user.patch", Data: c.Patch}}
	}
	return Build(context.Background(), r)
}

// run builds, throws the work folder away, and returns the outputs by name.
func (c child) run(t *testing.T) (*Result, map[string][]byte) {
	t.Helper()
	// Another user must get at the executable and into the folders; below the test's own TempDir it would not.
	top, err := os.MkdirTemp("/var/tmp", "kernel-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(top)
	if err := os.Chmod(top, 0o777); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(top, "kernel.test")
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	c.WorkDir, c.OutDir = filepath.Join(top, c.WorkDir), filepath.Join(top, "out")
	in, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = top, bytes.NewReader(in), &out, &errs
	cmd.Env = append(os.Environ(), twiceVariable+"=1", "TZ="+c.timeZone, "HOME="+c.home, "TMPDIR="+top)
	if c.user != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.user, Gid: c.user,
			NoSetGroups: true}}
	}
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	res := &Result{}
	if err := json.Unmarshal(out.Bytes(), res); err != nil {
		t.Fatal(err)
	}
	outputs := map[string][]byte{}
	for _, o := range res.Outputs {
		if outputs[o.Name], err = os.ReadFile(o.Path); err != nil {
			t.Fatal(err)
		}
	}
	return res, outputs
}

// TestTwoBuildsGiveTheSameBytes builds the tiny kernel twice, elsewhere, with another umask, time zone and number of
// jobs and, where root runs the test, as another user. A third build, with a patch and a module, must differ.
func TestTwoBuildsGiveTheSameBytes(t *testing.T) {
	r := slowRequest(t, features.Tiny)
	// The package as another user can read it.
	deb := filepath.Join("/var/tmp", fmt.Sprintf("kernel-test-%d.deb", os.Getpid()))
	data, err := os.ReadFile(r.Source)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(deb, data, 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(deb)
	c := child{Source: deb, Digest: r.SourceDigest, Jobs: r.Jobs, Umask: 0o022, WorkDir: "a", timeZone: "UTC",
		home: "/"}
	first, outputs := c.run(t)
	names := []string{"System.map", "bzImage", "config", "vmlinux"}
	for _, n := range names {
		if len(outputs[n]) == 0 {
			t.Errorf("no %s", n)
		}
	}

	c.Jobs, c.Umask, c.WorkDir, c.timeZone, c.home = r.Jobs+1, 0o077, "a longer/folder", "Asia/Kathmandu", "/nowhere"
	if os.Geteuid() == 0 {
		c.user = 65534
	}
	second, again := c.run(t)
	for _, n := range names {
		if !bytes.Equal(outputs[n], again[n]) {
			t.Errorf("%s differs: %s and %s", n, digest.Of(outputs[n]), digest.Of(again[n]))
		}
	}
	if first.Release != second.Release || first.Version != second.Version || first.BuildID != second.BuildID {
		t.Errorf("%+v\n%+v", first, second)
	}

	v := strings.SplitN(first.SourceVersion, ".", 3)
	c.Patch = fmt.Appendf(nil, "--- a/Makefile\n+++ b/Makefile\n@@ -2,4 +2,4 @@\n VERSION = %s\n PATCHLEVEL = %s\n "+
		"SUBLEVEL = %s\n-EXTRAVERSION =\n+EXTRAVERSION = -patched\n",
		v[0], v[1], v[2])
	c.Modules, c.Fragment = true, []byte("CONFIG_CRC7=m\n")
	third, other := c.run(t)
	if !strings.HasPrefix(third.Release, first.SourceVersion+"-patched-kb-") || third.BuildID == first.BuildID ||
		bytes.Equal(other["vmlinux"], outputs["vmlinux"]) {
		t.Errorf("the patch and the module change nothing: %+v", third)
	}
	var modules []string
	for tr := tar.NewReader(bytes.NewReader(other[OutputModules])); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		modules = append(modules, h.Name)
	}
	if want := "lib/modules/" + third.Release + "/kernel/lib/crc7.ko"; !slices.Contains(modules, want) {
		t.Errorf("no %s in %v", want, modules)
	}
}
