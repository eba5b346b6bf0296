package modules

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/kmodule"
	"github.com/katabuild/katabuild/internal/testenv"
)

// guestVariable names the folder of recipes/module's guest, whose kernel has the module hello and takes no other.
const guestVariable = "KATABUILD_TEST_MODULE_GUEST"

const guestDone = "guest: ended with "

// TestMain is PID 1 of a guest too.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		for _, k := range []string{"proc", "sys"} {
			_ = os.Mkdir("/"+k, 0o755) // mounting says why not
			if err := unix.Mount(k, "/"+k, strings.Replace(k, "sys", "sysfs", 1), 0, ""); err != nil {
				fmt.Println("guest: mount", k, err)
			}
		}
		os.Args = append(os.Args[:1], "-test.v", "-test.run=^TestInGuest")
		fmt.Printf("%s%d\n", guestDone, m.Run())
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // or the kernel panics, which ends the guest as well
	}
	os.Exit(m.Run())
}

// TestInGuestAModuleIsLoadedWithItsParameters is what CreateSandbox does with kernel_modules. TestAGuestLoadsModules
// starts it in a guest, and fails when it did not run there; on a host there is nothing to load.
func TestInGuestAModuleIsLoadedWithItsParameters(t *testing.T) {
	if os.Getpid() != 1 {
		return
	}
	ask := func(name string, params ...string) error {
		m, err := kmodule.New(name, params)
		if err != nil {
			return err
		}
		return Load(m)
	}
	const whom = "/sys/module/katabuild_hello/parameters/whom"
	if err := ask("no_such_module"); err == nil ||
		!strings.Contains(err.Error(), "kernel module no_such_module: neither") {
		t.Errorf("a module that is not there: %v", err)
	}
	if err := ask("katabuild_hello", "no_such_parameter"); err != nil {
		t.Errorf("Linux only tells the log of a parameter that there is not: %v", err)
	}
	if err := unix.DeleteModule("katabuild_hello", 0); err != nil {
		t.Fatal(err)
	}
	if err := ask("katabuild-hello", `whom="a`, `pod"`); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(whom); err != nil || string(got) != "a pod\n" {
		t.Errorf("%q, %v", got, err)
	}
	if err := ask("katabuild_hello", "whom=other"); err != nil {
		t.Errorf("a module that is there already: %v", err)
	}
	if got, err := os.ReadFile(whom); err != nil || string(got) != "a pod\n" {
		t.Errorf("it keeps its parameters: %q, %v", got, err)
	}
}

func TestAGuestLoadsModules(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File(guestVariable),
		testenv.Tool("qemu-system-x86_64"), testenv.Tool("go"))
	guest := os.Getenv(guestVariable)
	f, err := os.Open(filepath.Join(guest, "modules.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var more []boottest.Entry
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		e := boottest.Entry{Name: strings.TrimSuffix(h.Name, "/"), Mode: cpio.TypeReg | 0o644}
		if h.Typeflag == tar.TypeDir {
			e.Mode = cpio.TypeDir | 0o755
		}
		if e.Data, err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		more = append(more, e)
	}
	initrd := boottest.Initrd(t, boottest.Build(t, "", "test", "-c", "-trimpath", "-ldflags=-s -w", "."), more...)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", filepath.Join(guest, "vmlinux"), "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), guestDone+"0") ||
		!strings.Contains(string(out), "--- PASS: TestInGuest") {
		t.Fatalf("%s\n%v\n%s", cmd, err, out)
	}
}
