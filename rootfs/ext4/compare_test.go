package ext4

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/verity"
)

// processor is the time that this process, or its children, have used.
func processor(who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Prints what an image and its hash tree cost us beside mke2fs and veritysetup, for the folder that KATABUILD_TEST_TREE
// names.
func TestBesideMke2fs(t *testing.T) {
	testenv.Require(t, testenv.File("KATABUILD_TEST_TREE"), testenv.Tool("mke2fs"), testenv.Tool("veritysetup"))
	dir := os.Getenv("KATABUILD_TEST_TREE")
	out := t.TempDir()
	salt := make([]byte, 32)
	rand.Read(salt)
	measure := func(who int, f func()) (wall, cpu time.Duration) {
		start, used := time.Now(), processor(who)
		f()
		return time.Since(start), processor(who) - used
	}
	run := func(name string, args ...string) {
		if b, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, bytes.TrimSpace(b))
		}
	}
	var info Info
	for round := range 3 { // the first fills the page cache
		var tr *tree.Tree
		var f *os.File
		readWall, readCPU := measure(syscall.RUSAGE_SELF, func() {
			var err error
			if tr, err = tree.FromDir(dir, tree.DirOptions{}); err != nil {
				t.Fatal(err)
			}
		})
		ours := filepath.Join(out, "ours")
		writeWall, writeCPU := measure(syscall.RUSAGE_SELF, func() {
			var err error
			if f, err = os.Create(ours); err != nil {
				t.Fatal(err)
			}
			if info, err = Write(context.Background(), f, tr, Options{}); err != nil {
				t.Fatal(err)
			}
		})
		verityWall, verityCPU := measure(syscall.RUSAGE_SELF, func() {
			if _, err := verity.Format(context.Background(), f, info.Size, f, info.Size,
				verity.Options{Salt: salt}); err != nil {
				t.Fatal(err)
			}
		})
		f.Close()
		theirs := filepath.Join(out, "theirs")
		mkWall, mkCPU := measure(syscall.RUSAGE_CHILDREN, func() {
			run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-d", dir, theirs, "400M")
		})
		vsWall, vsCPU := measure(syscall.RUSAGE_CHILDREN, func() {
			run("veritysetup", "format", "--no-superblock", "--salt="+hex.EncodeToString(salt), theirs, theirs+".hash")
		})
		os.Remove(theirs)
		os.Remove(theirs + ".hash")
		t.Logf("round %d: %d bytes, %d inodes", round, info.Size, info.Inodes)
		t.Logf("ours: tree %v (CPU %v), ext4 %v (%v), verity %v (%v)", readWall, readCPU, writeWall, writeCPU,
			verityWall, verityCPU)
		t.Logf("theirs: mke2fs %v (%v), veritysetup %v (%v)", mkWall, mkCPU, vsWall, vsCPU)
		theirCPU := float64(mkCPU + vsCPU)
		t.Logf("CPU, ours of theirs: %.2f, and %.2f with the tree", float64(writeCPU+verityCPU)/theirCPU,
			float64(readCPU+writeCPU+verityCPU)/theirCPU)
	}
}
