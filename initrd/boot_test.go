package initrd

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// kernel names the variable that holds the path of a kernel for boot tests.
const kernel = "KATABUILD_TEST_VMLINUX"

// bootTimeout is many times what a boot takes under emulation on a busy machine.
const bootTimeout = 3 * time.Minute

// talk is a part of a conversation with the console: once it has printed see, type say.
type talk struct{ see, say string }

// boot starts the initrd in the emulator and returns the lines of the console up to the first that begins with end.
func boot(t *testing.T, initrd, appended, end string, talks ...talk) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", os.Getenv(kernel), "-initrd", initrd, "-append",
		"console=ttyS0 rdinit=/init panic=-1 quiet "+appended)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		cmd.Wait()
	}()
	var console []byte
	seen := 0 // how much of the console earlier talks used up
	for buf := make([]byte, 4096); ; {
		n, err := out.Read(buf)
		console = append(console, buf[:n]...)
		for len(talks) > 0 {
			i := bytes.Index(console[seen:], []byte(talks[0].see))
			if i < 0 {
				break
			}
			seen += i + len(talks[0].see)
			if _, err := io.WriteString(in, talks[0].say); err != nil {
				t.Fatal(err)
			}
			talks = talks[1:]
		}
		lines := strings.Split(strings.ReplaceAll(string(console), "\r", ""), "\n")
		for i, l := range lines[:len(lines)-1] {
			if strings.HasPrefix(l, end) {
				return lines[:i+1]
			}
		}
		if err != nil {
			t.Fatalf("%s\nthe console ends before %q:\n%s", cmd, end, console)
		}
	}
}

func goBuild(t *testing.T, out string, args ...string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", out}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch.All()[0].Go)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, b)
	}
}

func TestTheKernelUnpacksEveryKindOfFile(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File(kernel),
		testenv.Tool("qemu-system-x86_64"), testenv.Tool("go"))
	lister := filepath.Join(t.TempDir(), "lister")
	goBuild(t, lister, "./testdata/lister")
	d, _, err := digest.File(lister)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []Compression{none, zstandard} {
		t.Run(string(c), func(t *testing.T) {
			r := request(t)
			r.Compression, r.Agent = c, Agent{Path: lister, Digest: d}
			r.Files = append(r.Files, File{Path: "/dev/big", Kind: Char, Major: 4095, Minor: 1<<20 - 1,
				Mode: new(uint32(0o4711)), UID: 1 << 30})
			res, _ := built(t, r)
			var got []string
			for _, l := range boot(t, res.Path, "", "LIST end") {
				// the kernel's own
				if l, ok := strings.CutPrefix(l, "LIST "); ok && !strings.Contains(l, " / ") &&
					!strings.Contains(l, " /root ") {
					got = append(got, l)
				}
			}
			// Times are not compared: a kernel without CONFIG_INITRAMFS_PRESERVE_MTIME leaves that of the boot.
			want := []string{
				`120777 0:0 links 1 device 0:0 /bin "usr/bin"`,
				`40755 0:0 links 0 device 0:0 /dev ""`,
				`24711 1073741824:0 links 1 device 4095:1048575 /dev/big ""`,
				`20600 0:0 links 1 device 5:1 /dev/console ""`,
				`20666 0:0 links 1 device 1:3 /dev/null ""`,
				`60600 0:0 links 1 device 254:16 /dev/vda ""`,
				`40755 0:0 links 0 device 0:0 /etc ""`,
				`100644 0:0 links 1 device 0:0 /etc/hostname "guest\n"`,
				`100755 0:0 links 1 device 0:0 /init ""`,
				`40555 0:0 links 0 device 0:0 /proc ""`,
				`40700 0:0 links 0 device 0:0 /run ""`,
				`40555 0:0 links 0 device 0:0 /sys ""`,
				`41777 0:0 links 0 device 0:0 /tmp ""`,
				`40755 0:0 links 0 device 0:0 /usr ""`,
				`40755 0:0 links 0 device 0:0 /usr/bin ""`,
				`100755 1:2 links 3 device 0:0 /usr/bin/alias "a tool"`,
				`100755 1:2 links 3 device 0:0 /usr/bin/tool "a tool"`,
				`100755 1:2 links 3 device 0:0 /usr/bin/zlias "a tool"`,
				`40755 0:0 links 0 device 0:0 /var ""`,
				`10600 0:0 links 1 device 0:0 /var/pipe ""`,
				"end <nil>",
			}
			if !slices.Equal(got, want) {
				t.Errorf("the kernel made:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}
