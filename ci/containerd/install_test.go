package containerd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/ci/containerd/daemon"
	"github.com/katabuild/katabuild/internal/registry/registrytest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// ownEtc lets a test write to /etc: nobody else sees it, and it is gone afterwards.
func ownEtc(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "")
	for _, d := range []string{"/work", "/upper"} {
		if err == nil {
			err = os.Mkdir(dir+d, 0o755)
		}
	}
	if err == nil {
		err = unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+dir+"/upper,workdir="+dir+"/work")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount("/etc", 0), unix.Unmount(dir, 0)); err != nil {
			t.Error(err)
		}
	})
}

// stranger makes and publishes releases.
type stranger struct {
	katabuild string // the program
	dir       string // of all, and of what the stranger's commands keep
	policy    string // file: whose releases are accepted
}

// run runs a command of katabuild, as the stranger or, with here, as this host.
func (r *stranger) run(t *testing.T, here bool, args ...string) string {
	t.Helper()
	as := filepath.Join(r.dir, "stranger")
	if here {
		as = filepath.Join(r.dir, "host")
	}
	cmd := exec.Command(r.katabuild, append([]string{"--progress", "quiet"}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+as, "XDG_CONFIG_HOME="+as, "KATABUILD_STORE_KEY="+as+".key")
	var said, problem strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("katabuild %s: %v\n%s%s", strings.Join(args, " "), err, said.String(), problem.String())
	}
	return said.String()
}

// published are releases of the guest that pods have, which boots first, with the programs of this architecture; each
// is in the registry, under its version.
func published(t *testing.T, registry, programs string, versions ...string) *stranger {
	t.Helper()
	dir := t.TempDir()
	in := func(elem ...string) string { return filepath.Join(append([]string{dir}, elem...)...) }
	r := &stranger{katabuild: filepath.Join(programs, "katabuild"), dir: dir, policy: in("policy.yaml")}
	if err := errors.Join(os.CopyFS(in("guest"), os.DirFS(guestFolder(t))),
		os.MkdirAll(in("programs", "x86_64"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"katabuild", "kata-runtime", "containerd-shim-kata-v2"} {
		if err := os.Link(filepath.Join(programs, p), in("programs", "x86_64", p)); err != nil {
			t.Fatal(err)
		}
	}
	r.run(t, false, "boot", in("guest"))
	r.run(t, false, "keys", "new", in("key"), "--no-passphrase")
	policy := r.run(t, false, "keys", "show", "--policy", in("key.pub"))
	if err := os.WriteFile(r.policy, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		r.run(t, false, "release", in("guest"), "--version", v, "--programs", in("programs"), "-o", in(v))
		r.run(t, false, "sign", in(v), "--key", in("key"))
		r.run(t, false, "push", in(v), "oci:"+registry+"/guests:"+v)
	}
	return r
}

// installation is one on this host, for the containerd of a test.
type installation struct {
	dir      string // everything is below, but for /etc
	config   string // containerd's
	from     *stranger
	registry string
}

const installedSuffix = "nest"

// run runs a word of kata-runtime.
func (i *installation) run(word string, args ...string) (string, error) {
	args = append([]string{word, "--suffix", installedSuffix, "--prefix", i.dir + "/opt/katabuild"}, args...)
	out, err := exec.Command(i.dir+"/pulled/programs/x86_64/kata-runtime", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kata-runtime %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// put pulls a version and installs it, or upgrades to it.
func (i *installation) put(t *testing.T, word, version string) (string, error) {
	t.Helper()
	pulled := i.dir + "/pulled"
	if err := errors.Join(os.RemoveAll(pulled+"/guests"), os.RemoveAll(pulled+"/programs")); err != nil {
		return "", err
	}
	i.from.run(t, true, "pull", "oci:"+i.registry+"/guests:"+version, pulled+"/release", "--policy",
		i.from.policy, "--guests", pulled+"/guests", "--programs", pulled+"/programs")
	return i.run(word, pulled+"/guests/default-"+version+"-x86_64", "--version", version, "--bin", i.dir+"/bin",
		"--containerd-config", i.config, "--crio", "no", "--no-restart")
}

// must is for what run or put return when it has to work.
func must(t *testing.T) func(out string, err error) string {
	return func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// shimOf is the release whose shim serves a pod.
func (i *installation) shimOf(t *testing.T, p *pod) string {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range procs {
		if b, err := os.ReadFile(c); err != nil || !strings.Contains(string(b), "\x00"+p.id+"\x00") {
			continue
		}
		exe, err := os.Readlink(filepath.Join(filepath.Dir(c), "exe"))
		if rest, ok := strings.CutPrefix(exe, i.dir+"/opt/katabuild/releases/"); err == nil && ok {
			release, _, _ := strings.Cut(rest, "/")
			return release
		}
	}
	t.Fatalf("no shim of pod %s runs from %s", p.id, i.dir)
	return ""
}

// TestInstalledRuntimes: a stranger's releases are pulled and installed. Pods run by them, and go on while other
// releases are put in their place; when all is taken off, containerd's configuration is what it was.
func TestInstalledRuntimes(t *testing.T) {
	testenv.Require(t, testenv.Asked(asked, "test-containerd"), root, testenv.Tool("containerd"), testenv.Tool("go"),
		testenv.Tool("ip"), testenv.Tool("iptables"))
	for release, registry := range map[string]func() string{
		"1.6": func() string { return registrytest.Distribution(t) },
		"2":   func() string { return registrytest.Serve(t, nil) },
	} {
		t.Run("containerd "+release, func(t *testing.T) {
			ownEtc(t)
			i := &installation{dir: t.TempDir(), registry: registry()}
			given := kata(t, "", t.TempDir()) // requires what a pod needs
			i.from = published(t, i.registry, given.Path, "1.0.0", "1.1.0", "1.2.0")
			var before []byte
			onChanged(t, release, func(c *daemon.Config) {
				c.Runtime, c.Programs = nil, i.dir+"/bin"
				c.Prepare = func(file string) (err error) {
					if before, err = os.ReadFile(file); err != nil {
						return err
					}
					if release == "2" { // as containerd 2's own packages have it
						before = append(fmt.Appendf(nil, "imports = ['%s/conf.d/*.toml']\n", filepath.Dir(file)),
							before...)
					}
					if err := os.WriteFile(file, before, 0o644); err != nil {
						return err
					}
					i.config = file
					_, err = i.put(t, "install", "1.0.0")
					return err
				}
			}, func(t *testing.T, s *setting) {
				s.handler = "kata-" + installedSuffix
				i.checkLife(t, s, before)
			})
		})
	}
}

// guestFolder is the guest that pods have.
func guestFolder(t *testing.T) string {
	t.Helper()
	if g := os.Getenv("KATABUILD_TEST_GUEST"); g != "" {
		return g
	}
	g, err := filepath.Abs(filepath.Join(repository, "out/default"))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// checkLife is the life of an installation whose release 1.0.0 containerd knows.
func (i *installation) checkLife(t *testing.T, s *setting, before []byte) {
	n := newNode(t, s)
	first := n.run(t, n.podConfig("first"))
	equal(t, "the first pod's release", i.shimOf(t, first), "1.0.0")
	kernel := first.output(t, nil, "uname", "-r")
	if !strings.Contains(kernel, "-kb-") {
		t.Errorf("the pod's kernel is %q", kernel)
	}
	must(t)(i.put(t, "upgrade", "1.1.0"))
	second := n.run(t, n.podConfig("second"))
	equal(t, "the second pod's release", i.shimOf(t, second), "1.1.0")
	equal(t, "the first pod's kernel after the upgrade", first.output(t, nil, "uname", "-r"), kernel)
	// Release 1.0.0 is neither in force nor the one before; the first pod runs by it.
	if out := must(t)(i.put(t, "upgrade", "1.2.0")); strings.Contains(out, "removed release") {
		t.Errorf("a release was removed that a pod runs by:\n%s", out)
	}
	first.remove(t)
	if out := must(t)(i.put(t, "upgrade", "1.2.0")); !strings.Contains(out, "removed release 1.0.0,") {
		t.Errorf("release 1.0.0 is kept:\n%s", out)
	}
	must(t)(i.run("rollback", "--no-restart"))
	third := n.run(t, n.podConfig("third"))
	equal(t, "the third pod's release", i.shimOf(t, third), "1.1.0")
	must(t)(i.run("verify-install"))
	third.remove(t)
	if _, err := i.run("uninstall", "--no-restart"); err == nil || !strings.Contains(err.Error(), "pods run from") {
		t.Errorf("uninstalled while a pod runs: %v", err)
	}
	second.remove(t)
	must(t)(i.run("uninstall", "--no-restart"))
	after, err := os.ReadFile(i.config)
	if err != nil || string(after) != string(before) {
		t.Errorf("containerd's configuration is not what it was (%v):\n%s", err, after)
	}
	for _, p := range []string{i.dir + "/opt", i.dir + "/bin", "/etc/katabuild-" + installedSuffix,
		filepath.Dir(i.config) + "/conf.d"} {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("%s is left", p)
		}
	}
}
