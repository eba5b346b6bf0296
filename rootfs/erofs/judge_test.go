package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

var root = testenv.Func(testenv.Loops, func() error {
	if os.Getuid() != 0 {
		return errors.New("loop devices are root's")
	}
	_, err := os.Stat("/dev/loop-control")
	return err
})

// linux needs a kernel of that version or a later one.
func linux(major, minor int) testenv.Need {
	name := testenv.Name(fmt.Sprintf("linux-%d.%d", major, minor))
	return testenv.Func(name, func() error {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err
		}
		var a, b int
		release := unix.ByteSliceToString(u.Release[:])
		if _, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil || a < major || a == major && b < minor {
			return fmt.Errorf("this is Linux %s, %v", release, err)
		}
		return nil
	})
}

func save(t *testing.T, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// mount mounts an image until the test ends.
func mount(t *testing.T, image string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount -t erofs -o loop,ro %s %s: %v: %s", image, dir, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
	return dir
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %q: %v: %s", name, args, err, out)
	}
}

// The kernel shows what was written: as much as stat, readlink, getxattr and read can say.
func TestTheKernelShowsTheTree(t *testing.T) {
	testenv.Require(t, root, testenv.Tool("mount"))
	trees := map[string]*tree.Tree{"small": treetest.Small(t), "edges": edges(t)}
	if !testing.Short() {
		trees["torture"] = treetest.Torture(t)
	}
	needs := map[Compression]testenv.Need{None: linux(5, 15), LZ4: linux(5, 17), LZ4HC: linux(5, 17),
		Zstd: linux(6, 10), Deflate: linux(6, 6)}
	for name, tr := range trees {
		for way, o := range ways() {
			if name == "torture" && way != o.Compression.String() {
				continue
			}
			t.Run(name+" "+way, func(t *testing.T) {
				testenv.Require(t, needs[o.Compression])
				dir := mount(t, save(t, write(t, tr, o)))
				got, err := tree.FromDir(dir, tree.DirOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if d, err := treetest.Equal(tr, got); d != "" || err != nil {
					t.Errorf("%s, %v", d, err)
				}
				inodes := map[uint64]string{}
				err = tr.Walk(func(p string, n *tree.Node, first bool) error {
					var st unix.Stat_t
					if err := unix.Lstat(filepath.Join(dir, p), &st); err != nil {
						return err
					}
					if int(st.Nlink) != n.Links() {
						t.Errorf("%s: %d links, want %d", p, st.Nlink, n.Links())
					}
					if other, ok := inodes[st.Ino]; st.Ino == 0 || first && ok {
						t.Errorf("%s: inode number %d, as %q", p, st.Ino, other)
					}
					inodes[st.Ino] = p
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// fsck.erofs 1.5 knows no Zstandard, DEFLATE and fragments.
func TestFsckAgrees(t *testing.T) {
	testenv.Require(t, testenv.Tool("fsck.erofs"))
	for name, tr := range map[string]*tree.Tree{"small": treetest.Small(t), "edges": edges(t)} {
		for way, o := range ways() {
			if o.Compression == Zstd || o.Compression == Deflate {
				continue
			}
			t.Run(name+" "+way, func(t *testing.T) { run(t, "fsck.erofs", "--extract", save(t, write(t, tr, o))) })
		}
	}
}

// What mkfs.erofs makes of a folder, in every layout that it knows, reads as the folder.
func TestImagesOfMkfsAreRead(t *testing.T) {
	testenv.Require(t, testenv.Tool("mkfs.erofs"))
	dir := t.TempDir()
	for _, n := range []int{0, 1, 100, 4095, 4096, 4097, 8192, 20000, 65536, 300000} {
		for kind, b := range map[string][]byte{"words": words(n, 1), "noise": noise(n, 2),
			"both": append(words(n/2, 3), noise(n-n/2, 4)...), "zeros": make([]byte, n)} {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d", kind, n)), b, 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o750), os.Symlink("b/c", filepath.Join(dir, "a/link")),
		os.Link(filepath.Join(dir, "words-100"), filepath.Join(dir, "a/hard")),
		unix.Setxattr(filepath.Join(dir, "words-1"), "user.one", []byte("value"), 0),
		unix.Setxattr(filepath.Join(dir, "words-100"), "user.one", []byte("value"), 0),
		unix.Setxattr(filepath.Join(dir, "noise-1"), "user.one", []byte("value"), 0),
		unix.Setxattr(filepath.Join(dir, "both-1"), "user.one", []byte("value"), 0),
	} {
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			t.Fatal(err)
		}
	}
	for i := range 500 {
		if err := os.WriteFile(filepath.Join(dir, "a/b", fmt.Sprintf("name-%d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{}, {"-Enoinline_data"}, {"--chunksize=8192"}, {"--chunksize=4096", "-Eforce-chunk-indexes"},
		{"-Eforce-inode-extended"}, {"-Eforce-inode-compact"}, {"-x0"},
		{"-zlz4"}, {"-zlz4hc,9", "-C65536"}, {"-zlz4", "-Elegacy-compress"}, {"-zlz4", "-C16384", "-Elegacy-compress"},
		{"-zlz4", "-Eztailpacking"}, {"-zlz4hc", "-C65536", "-Eztailpacking"},
		{"-zlz4", "-Eztailpacking,legacy-compress"},
	} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			p := filepath.Join(t.TempDir(), "image")
			run(t, "mkfs.erofs", append(args, "--quiet", "-T1700000000", "-U00000000-0000-4000-8000-000000000000", p,
				dir)...)
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			img, err := Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			want, err := tree.FromDir(dir, tree.DirOptions{Time: &tree.Time{Sec: 1700000000}})
			if err != nil {
				t.Fatal(err)
			}
			if d, err := treetest.Equal(want, img.Tree); d != "" || err != nil {
				t.Errorf("%s, %v", d, err)
			}
		})
	}
}
