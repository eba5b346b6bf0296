package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry/registrytest"
)

// TestAReleaseBootsWhereItWasPulled has the tiny guest boot, makes a release of it, publishes it in Debian's registry,
// pulls it as another host and boots it there.
func TestAReleaseBootsWhereItWasPulled(t *testing.T) {
	need(t)
	at := "oci:" + registrytest.Distribution(t) + "/guests:stable"
	dir := clone(t, tiny(t))
	tmp := t.TempDir()
	in := func(name string) string { return filepath.Join(tmp, name) }
	here := []string{"KATABUILD_STORE_KEY=" + in("here.key"), "XDG_STATE_HOME=" + in("here")}
	there := []string{"KATABUILD_STORE_KEY=" + in("there.key"), "XDG_STATE_HOME=" + in("there")}

	for _, name := range []string{"report.json", "verdict.json"} { // of a boot of out/tiny
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	katabuild(t, here, "release", dir, "--version", "1.4.0", "-o", in("release")).want(t, 3, "refused, not attested")
	// Another command line is no boot of this guest.
	katabuild(t, here, "boot", dir, "--append", "quieter").want(t, 3, "command_line")
	katabuild(t, here, "release", dir, "--version", "1.4.0", "-o", in("release")).want(t, 3, "refused, not attested")
	katabuild(t, here, "boot", dir).want(t, 0, "tiny: attested")
	begin := time.Now()
	katabuild(t, here, "release", dir, "--version", "1.4.0", "-o", in("release")).want(t, 0, "a release of 1 guests")
	t.Logf("release: %v", time.Since(begin))
	katabuild(t, here, "verify", in("release")).want(t, 0, "signed by this host: 1 guests, all attested")

	katabuild(t, here, "keys", "new", in("key"), "--no-passphrase").want(t, 0, "ed25519 key")
	katabuild(t, here, "sign", in("release"), "--key", in("key")).want(t, 0, "signed with")
	policy := katabuild(t, here, "keys", "show", "--policy", in("key.pub"))
	policy.want(t, 0, "threshold: 1")
	if err := os.WriteFile(in("policy.yaml"), []byte(policy.out), 0o644); err != nil {
		t.Fatal(err)
	}
	katabuild(t, here, "push", in("release"), at).want(t, 0, "0 files were there")
	katabuild(t, here, "push", in("release"), at).want(t, 0, "0 files and 0 bytes moved")

	katabuild(t, there, "pull", at, in("host")).want(t, 3, "refused, unknown key")
	begin = time.Now()
	katabuild(t, there, "pull", at, in("host"), "--policy", in("policy.yaml"), "--guests", in("ready")).want(t, 0,
		"accepted, signed by")
	t.Logf("pull: %v", time.Since(begin))
	katabuild(t, there, "pull", at, in("host"), "--policy", in("policy.yaml")).want(t, 0, "0 files and 0 bytes moved")
	katabuild(t, there, "boot", in("ready/tiny-1.4.0-x86_64")).want(t, 0, "tiny: attested")

	kernel, _, err := digest.File(filepath.Join(dir, "bzImage"))
	if err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(in("host"), "blobs/sha256", kernel.Hex()), 100_000)
	katabuild(t, there, "verify", in("host"), "--policy", in("policy.yaml")).want(t, 3,
		"tiny 1.4.0 x86_64 bzImage: refused, wrong digest")
}

// TestAReleaseIsReproducedOfItself has another host build the guest of a release once more of what the release has, and
// say so; then one of its files differs.
func TestAReleaseIsReproducedOfItself(t *testing.T) {
	need(t, minutes) // it builds the kernel twice
	at := "oci:" + registrytest.Distribution(t) + "/guests:stable"
	dir := clone(t, tiny(t))
	tmp := t.TempDir()
	in := func(name string) string { return filepath.Join(tmp, name) }
	here := []string{"KATABUILD_STORE_KEY=" + in("here.key"), "XDG_STATE_HOME=" + in("here")}
	there := []string{"KATABUILD_STORE_KEY=" + in("there.key"), "XDG_STATE_HOME=" + in("there")}
	katabuild(t, here, "boot", dir).want(t, 0, "tiny: attested")
	katabuild(t, here, "release", dir, "--version", "1.4.0", "-o", in("release")).want(t, 0, "a release of 1 guests")
	katabuild(t, here, "push", in("release"), at).want(t, 0, "1 guests")
	policy := katabuild(t, here, "keys", "show", "--policy")
	katabuild(t, there, "keys", "new", in("carol"), "--no-passphrase").want(t, 0, "ed25519 key")
	asked := katabuild(t, there, "keys", "show", "--policy", in("carol.pub"))
	_, list, _ := strings.Cut(asked.out, "keys:\n")
	more := policy.out + "reproduced:\n  threshold: 1\n  keys:\n" + list
	for name, text := range map[string]string{"policy.yaml": policy.out, "asks.yaml": more} {
		if err := os.WriteFile(in(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	katabuild(t, there, "pull", at, in("host"), "--policy", in("asks.yaml")).want(t, 3, "refused, too few reproduced")
	katabuild(t, there, "verify", at, "--rebuild", "--key", in("carol"), "--policy", in("policy.yaml")).want(t, 0,
		"built again, and every byte is the same", "1 guests reproduced, signed with")
	katabuild(t, there, "list", at).want(t, 0, "by 1 key")
	katabuild(t, there, "pull", at, in("host"), "--policy", in("asks.yaml")).want(t, 0, "accepted, signed by")

	// Another agent makes another initrd: that is named, and nobody says that it was reproduced.
	agent := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid= -X main.version=other", "-o", agent, "./cmd/kata-agent")
	cmd.Dir = abs(t, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	finish(t, cmd).want(t, 0)
	katabuild(t, there, "keys", "new", in("dave"), "--no-passphrase").want(t, 0, "ed25519 key")
	katabuild(t, there, "verify", in("host"), "--rebuild", "--key", in("dave"), "--policy", in("policy.yaml"),
		"--agent", agent).want(t, 3, "file initrd.img")
	katabuild(t, there, "list", in("host")).want(t, 0, "by 1 key")
}

// TestKilledPushesAndPullsAreFinished kills pushes and pulls of the tiny guest at many moments. Nobody sees a part of a
// release, and the next one finishes.
func TestKilledPushesAndPullsAreFinished(t *testing.T) {
	need(t)
	dir := clone(t, tiny(t))
	tmp := t.TempDir()
	in := func(name string) string { return filepath.Join(tmp, name) }
	env := []string{"KATABUILD_STORE_KEY=" + in("key"), "XDG_STATE_HOME=" + in("state")}
	katabuild(t, env, "boot", dir).want(t, 0, "tiny: attested")
	katabuild(t, env, "release", dir, "--version", "1.4.0", "-o", in("release")).want(t, 0, "a release")
	host := registrytest.Distribution(t)
	at := "oci:" + host + "/guests:stable"

	begin := time.Now()
	katabuild(t, env, "push", in("release"), "oci:"+host+"/measured").want(t, 0, "0 files were there")
	whole := time.Since(begin)
	times := 6
	if os.Getenv("KATABUILD_TEST_FAULTS") != "" { // set by `make test-faults`
		times = 50
	}
	visible := false
	for i := range times {
		kill(t, command(t, env, "push", in("release"), at), whole*time.Duration(i)/time.Duration(times))
		seen := katabuild(t, env, "list", at)
		if seen.code != 0 && !strings.Contains(seen.err, "not found") {
			t.Fatalf("after a push that was killed: %s", seen.err)
		}
		if seen.code == 0 && !visible { // later pushes change nothing
			visible = true
			katabuild(t, env, "verify", at).want(t, 0, "signed by this host")
		}
	}
	katabuild(t, env, "push", in("release"), at).want(t, 0, "1 guests")
	katabuild(t, env, "verify", at).want(t, 0, "signed by this host")

	begin = time.Now()
	katabuild(t, env, "pull", at, in("measured")).want(t, 0, "accepted")
	whole = time.Since(begin)
	for i := range times {
		kill(t, command(t, env, "pull", at, in("host")), whole*time.Duration(i)/time.Duration(times))
		if _, err := os.Stat(in("host/index.json")); err == nil {
			katabuild(t, env, "verify", in("host")).want(t, 0, "signed by this host")
			if err := os.RemoveAll(in("host")); err != nil {
				t.Fatal(err)
			}
		}
	}
	katabuild(t, env, "pull", at, in("host")).want(t, 0, "accepted")
	katabuild(t, env, "verify", in("host")).want(t, 0, "signed by this host")
	left, err := filepath.Glob(in("host/blobs/partial/*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%q is left, %v", left, err)
	}
}

// kill lets a command run for a while and kills it.
func kill(t *testing.T, cmd *exec.Cmd, after time.Duration) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(after)
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()         // it was killed
}
