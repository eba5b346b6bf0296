package erofs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs/tree"
	"golang.org/x/sys/unix"
)

// BenchmarkWrite writes the folder that KATABUILD_TEST_TREE names, in every way of ours and in some of mkfs.erofs's:
//
//	KATABUILD_TEST_TREE=/some/rootfs go test -run xxx -bench . -benchtime 1x ./rootfs/erofs
func BenchmarkWrite(b *testing.B) {
	const variable = "KATABUILD_TEST_TREE"
	testenv.Require(b, testenv.File(variable))
	dir := os.Getenv(variable)
	image := filepath.Join(b.TempDir(), "image")
	for c := None; int(c) < len(compressionNames); c++ {
		b.Run("ours-"+c.String(), func(b *testing.B) {
			measure(b, image, func() time.Duration {
				start := spent(b)
				t, err := tree.FromDir(dir, tree.DirOptions{})
				if err != nil {
					b.Fatal(err)
				}
				f, err := os.Create(image)
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				if _, err := Write(b.Context(), f, t, Options{Compression: c}); err != nil {
					b.Fatal(err)
				}
				return spent(b) - start
			})
		})
	}
	for name, args := range map[string][]string{
		"none": nil, "lz4": {"-zlz4"}, "lz4-64K": {"-zlz4", "-C65536"}, "lz4hc-64K": {"-zlz4hc,9", "-C65536"},
		"lz4hc-best": {"-zlz4hc,12", "-C1048576", "-Eztailpacking"},
	} {
		b.Run("mkfs-"+name, func(b *testing.B) {
			testenv.Require(b, testenv.Tool("mkfs.erofs"))
			measure(b, image, func() time.Duration {
				cmd := exec.Command("mkfs.erofs", append(args, "--quiet", image, dir)...)
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			})
		})
	}
}

// measure reports processor time and size.
func measure(b *testing.B, image string, f func() time.Duration) {
	cpu := time.Duration(0)
	for b.Loop() {
		os.Remove(image)
		cpu += f()
	}
	fi, err := os.Stat(image)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
	b.ReportMetric(float64(fi.Size())/1e6, "MB")
}

// spent is the processor time of this process.
func spent(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
