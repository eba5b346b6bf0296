package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// fakeTime is what gives a program another clock, where Debian's package faketime puts it.
const fakeTime = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"

// later runs its arguments in a mount namespace where make, and all that it starts, believes to be two days later. The
// jail of a build shows the same /usr. Times of files stay as they are.
const later = `set -e
mount -t tmpfs later /usr/local/share
cp /usr/bin/make /usr/local/share/make
cat >/usr/local/share/later <<'EOF'
#!/bin/sh
LD_PRELOAD=` + fakeTime + ` FAKETIME=+2d NO_FAKE_STAT=1 FAKETIME_DISABLE_SHM=1 exec /usr/local/share/make "$@"
EOF
chmod 755 /usr/local/share/later
mount --bind /usr/local/share/later /usr/bin/make
exec "$@"
`

// TestAKernelBuiltTwoDaysLaterIsTheSame builds the tiny kernel from nothing by another clock than that of the tiny
// guest.
func TestAKernelBuiltTwoDaysLaterIsTheSame(t *testing.T) {
	need(t, testenv.Asked("KATABUILD_TEST_KERNEL", "test-kernel"), testenv.Root, testenv.Tool("unshare"),
		testenv.Func("faketime", func() error { _, err := os.Stat(fakeTime); return err }))
	e := newElsewhere(t, "")
	e.user = nil // in a mount namespace of root's
	before := []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", later, "later"}

	clock := filepath.Join(e.dir, "clock.mk")
	if err := os.WriteFile(clock, []byte("now:\n\t@date +%s\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(before[0], append(before[1:], "make", "-s", "-f", clock)...).Output()
	now, _ := strconv.ParseInt(strings.TrimSpace(string(said)), 10, 64)
	if ahead := time.Until(time.Unix(now, 0)); err != nil || ahead < 47*time.Hour {
		t.Fatalf("the clock is %v ahead: %q, %v", ahead, said, err)
	}

	out := filepath.Join(e.dir, "out")
	finish(t, e.command(before, nil, "kernel", "recipes/tiny", "--lock", "lock.json", "--offline", "--progress",
		"plain",
		"-o", out)).want(t, 0, "kernel: compile")
	for _, name := range []string{"config", "bzImage", "vmlinux", "System.map"} {
		got, _, err := digest.File(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		want, _, err := digest.File(filepath.Join(tiny(t), name))
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s is %v, and was %v two days before", name, got, want)
		}
	}
	logs, err := filepath.Glob(filepath.Join(e.store.Dir(), "logs", "*kernel.log"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("logs of the build: %v, %v", logs, err)
	}
	text, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "cannot be preloaded") {
		t.Error("the build had no other clock: its programs could not load it")
	}
}
