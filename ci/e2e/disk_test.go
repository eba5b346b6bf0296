package e2e

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// diskGuest builds the minimal guest with other lines in its recipe, all with the same kernel. The lock is that of
// minimal, or is made anew where the recipe asks for more than a kernel.
func diskGuest(t *testing.T, lines string, relock bool) string {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile(abs(t, "recipes/minimal/recipe.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(text), "rootfs: {}\n")
	if !ok {
		t.Fatal("recipes/minimal has no line `rootfs: {}`")
	}
	if err := os.WriteFile(filepath.Join(dir, "recipe.yaml"), []byte(head+lines), 0o644); err != nil {
		t.Fatal(err)
	}
	lock := abs(t, "out/minimal.lock.json")
	if relock {
		lock = filepath.Join(dir, "lock.json")
		katabuild(t, nil, "lock", dir).want(t, 0)
	}
	out := filepath.Join(dir, "out")
	katabuild(t, nil, "build", dir, "--lock", lock, "-o", out).want(t, 0)
	return out
}

// TestEveryDiskIsAttested boots each file system, compression, layout and way to attach a disk.
func TestEveryDiskIsAttested(t *testing.T) {
	need(t)
	for name, lines := range map[string]string{
		"erofs gpt virtio-blk microvm": "rootfs: {}\nboot: {machine: microvm, memory: 128MiB}\n",
		"erofs zstd mbr virtio-blk q35": "rootfs: {}\nimage: {compression: zstd, layout: mbr}\nboot: " +
			"{machine: q35, memory: 128MiB}\n",
		"erofs lz4hc bare virtio-blk microvm": "rootfs: {}\nimage: {compression: lz4hc, layout: bare}\nboot: " +
			"{machine: microvm, memory: 128MiB}\n",
		"erofs deflate without verity": "rootfs: {}\nimage: {compression: deflate, verity: false}\nboot: " +
			"{machine: microvm, memory: 128MiB}\n",
		"erofs mbr-dax nvdimm q35": "rootfs: {}\nimage: {layout: mbr-dax}\nboot: {machine: q35, " +
			"memory: 256MiB, disk: nvdimm}\n",
		"erofs mbr-dax virtio-blk q35": "rootfs: {}\nimage: {layout: mbr-dax}\nboot: {machine: q35, " +
			"memory: 128MiB}\n",
		"ext4 gpt virtio-blk microvm": "rootfs: {}\nimage: {filesystem: ext4}\nboot: {machine: microvm, " +
			"memory: 128MiB}\n",
		"ext4 mbr-dax nvdimm q35": "rootfs: {}\nimage: {filesystem: ext4, layout: mbr-dax}\nboot: " +
			"{machine: q35, memory: 256MiB, disk: nvdimm}\n",
		"erofs mapped by DAX": "rootfs: {}\nimage: {layout: mbr-dax, verity: false}\nboot: " +
			"{machine: q35, memory: 256MiB, disk: nvdimm}\n",
		"ext4 mapped by DAX": "rootfs: {}\nimage: {filesystem: ext4, layout: mbr-dax, verity: " +
			"false}\nboot: {machine: q35, memory: 256MiB, disk: nvdimm}\n",
		"ext4 with a journal as Kata mounts it": "rootfs: {}\nimage: {filesystem: ext4, journal: true}\nboot: " +
			"{memory: 128MiB, command_line: [\"rootflags=data=ordered,errors=remount-ro\"]}\n",
		"ext4 with room and a journal": "rootfs: {}\nimage: {filesystem: ext4, verity: false, journal: true, " +
			"free_space: 8MiB}\nboot: {machine: q35, memory: 128MiB}\n",
	} {
		t.Run(name, func(t *testing.T) {
			katabuild(t, nil, "boot", diskGuest(t, lines, false)).want(t, 0, "minimal: attested", "root.verity")
		})
	}
}

// flip changes one bit of a file and returns the digest it has then.
func flip(t *testing.T, path string, at int64) digest.Digest {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	d, _, err := digest.File(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestOneFlippedBitOfADiskIsFound: the host's check finds it before boot. Where somebody has put the new digest into
// the manifest too, the guest cannot read the block, and its owner is told.
func TestOneFlippedBitOfADiskIsFound(t *testing.T) {
	need(t)
	out := diskGuest(t, "rootfs: {}\nboot: {machine: microvm, memory: 128MiB}\n", false)
	m, _, err := manifest.Read(out, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int64{
		// The agent's pages are in the middle of the file system; the tree's last block is its lowest level.
		"first block": m.Image.Offset + 8, "data": m.Image.Offset + m.Image.Length/2,
		"hash tree": m.Image.Verity.Offset + 100, "end of the hash tree": m.Image.Verity.Offset +
			m.Image.Verity.Length - 4096 + 8,
	} {
		t.Run(name, func(t *testing.T) {
			dir := clone(t, out)
			got := flip(t, filepath.Join(dir, m.Image.Path), at)
			katabuild(t, nil, "boot", dir).want(t, 1, m.Image.Path, "wrong digest", string(got))
			katabuild(t, nil, "verify", dir).want(t, 3, "file "+m.Image.Path)
			forged := *m
			image := *m.Image
			image.Digest = got
			forged.Image = &image
			data, err := forged.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if err := manifest.Write(dir, data); err != nil {
				t.Fatal(err)
			}
			katabuild(t, nil, "boot", dir, "--timeout", "20s").want(t, 1, "device-mapper: verity", "corrupted")
		})
	}
}

// TestADiskBuiltAgainIsTheSame builds a disk of every file system again, elsewhere, and compares every byte.
func TestADiskBuiltAgainIsTheSame(t *testing.T) {
	need(t)
	for _, lines := range []string{
		"rootfs: {}\nimage: {compression: zstd}\nboot: {memory: 128MiB}\n",
		"rootfs: {}\nimage: {filesystem: ext4, layout: mbr-dax}\nboot: {memory: 128MiB}\n",
	} {
		out := diskGuest(t, lines, false)
		katabuild(t, nil, "verify", out, "--rebuild", filepath.Dir(out), "--lock", abs(t, "out/minimal.lock.json"),
			"--keep-kernel").want(t, 0, "every byte is the same")
	}
}

// TestAContainerImageBoots serves an image of two layers from a registry on loopback, locks it by its name, and boots a
// disk of it.
func TestAContainerImageBoots(t *testing.T) {
	need(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/guest/app:1"
	img := empty.Image
	for _, files := range []map[string]string{{"etc/motd": "lower\n", "etc/gone": "lower\n"},
		{"etc/motd": "upper\n", "etc/.wh.gone": ""}} {
		layer, err := crane.Layer(bytesOf(files))
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	img, err := mutate.ConfigFile(img, platform(t, img))
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(img, ref, crane.Insecure); err != nil {
		t.Fatal(err)
	}
	out := diskGuest(t, "rootfs:\n  layers:\n    - oci: {image: \""+ref+"\"}\nboot: {memory: 128MiB}\n", true)
	katabuild(t, nil, "boot", out).want(t, 0, "minimal: attested")
	katabuild(t, nil, "cat", out+":/etc/motd").want(t, 0, "upper")
	katabuild(t, nil, "cat", out+":/etc/gone").want(t, 1, "/etc/gone")
	katabuild(t, nil, "explain", out+":/etc/motd").want(t, 0, ref)
}

func bytesOf(files map[string]string) map[string][]byte {
	m := map[string][]byte{}
	for name, text := range files {
		m[name] = []byte(text)
	}
	return m
}

// platform is the image's configuration with the guest's architecture in it.
func platform(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	return c
}

// TestAPlainUserBuildsTheSameDisk builds a disk as nobody, who has no subordinate numbers and no privileges, on tmpfs
// and on the disk that holds temporary files.
func TestAPlainUserBuildsTheSameDisk(t *testing.T) {
	need(t, root, testenv.Tool("setpriv"))
	if ids, err := os.ReadFile("/etc/subuid"); err == nil && strings.Contains(string(ids), "nobody:") {
		t.Error("nobody has subordinate numbers on this host, so this proves less")
	}
	want, _, err := manifest.Read(abs(t, "out/minimal"), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, parent := range []string{"/dev/shm", ""} {
		e := newElsewhere(t, parent)
		data, err := os.ReadFile(abs(t, "out/minimal.lock.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(e.dir, "lock.json"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		e.handOver(t)
		finish(t, e.command(nil, []string{"TZ=Asia/Kathmandu"}, "image", "recipes/minimal", "--lock", "lock.json",
			"--offline", "-o", "out", "-j", "1")).want(t, 0, want.Image.Path)
		if err := digest.Check(filepath.Join(e.dir, "out", want.Image.Path), want.Image.Digest); err != nil {
			t.Errorf("below %q: %v", parent, err)
		}
	}
}

// TestDebianBootsAsAgentAndAsSystemd builds guests of Debian's packages, with the archive of the day.
func TestDebianBootsAsAgentAndAsSystemd(t *testing.T) {
	need(t)
	for name, lines := range map[string]string{
		"agent": "rootfs:\n  layers:\n    - debian: {packages: [base-files, base-passwd, bash, " +
			"coreutils]}\nimage: {compression: zstd}\nboot: {memory: 128MiB}\n",
		"systemd": "rootfs:\n  init: systemd\n  layers:\n    - debian: {packages: [systemd, systemd-sysv, dbus, " +
			"base-files, base-passwd, bash, coreutils]}\nimage: {compression: zstd}\nboot: {machine: q35, memory: " +
			"512MiB}\n",
	} {
		t.Run(name, func(t *testing.T) {
			out := diskGuest(t, lines, true)
			katabuild(t, nil, "boot", out, "--timeout", "3m").want(t, 0, "minimal: attested")
			katabuild(t, nil, "cat", out+":/etc/os-release").want(t, 0, "trixie")
			katabuild(t, nil, "explain", out+":/usr/bin/bash").want(t, 0, "bash 5.")
		})
	}
}

// TestAGuestOfGoAloneIsAttested boots a disk with commands of u-root, and runs them here as the guest would.
func TestAGuestOfGoAloneIsAttested(t *testing.T) {
	need(t, testenv.Tool("go"))
	out := diskGuest(t, "rootfs:\n  layers: [{uroot: [ls, gosh, wc, cat]}]\n", false)
	katabuild(t, nil, "boot", out).want(t, 0, "minimal: attested", "root.verity")
	image := filepath.Join(out, "image.img")
	bin := filepath.Join(t.TempDir(), "bin")
	katabuild(t, nil, "extract", image+":/bin", bin).want(t, 0)
	said, err := exec.Command(filepath.Join(bin, "sh"), "-c", "echo of Go").CombinedOutput()
	if err != nil || string(said) != "of Go\n" {
		t.Errorf("the guest's shell: %v, %q", err, said)
	}
	katabuild(t, nil, "explain", image+":/bin/wc").want(t, 0, "u-root", "BSD-3-Clause")
}
