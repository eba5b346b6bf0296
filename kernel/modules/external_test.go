package modules

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/regular"
)

// needed are files of a built tree that headers.tar has, left those that it has not.
const (
	needed = `
	.config Makefile Module.symvers Kbuild Kconfig include/linux/module.h include/generated/autoconf.h
	include/config/auto.conf include/config/kernel.release include/uapi/linux/if.h scripts/Makefile.modpost
	scripts/mod/modpost scripts/mod/modpost.c scripts/basic/fixdep scripts/module.lds scripts/sign-file
	arch/x86/Makefile arch/x86/include/asm/page.h arch/x86/include/generated/asm/rwonce.h arch/x86/boot/install.sh
	arch/x86/tools/relocs arch/arm64/Makefile tools/objtool/objtool drivers/net/Makefile drivers/net/Kconfig`
	left = `
	System.map vmlinux vmlinux.o vmlinux.a modules.order .tmp_vmlinux1 README MAINTAINERS
	include/config/auto.conf.cmd scripts/mod/modpost.o scripts/mod/.modpost.o.cmd scripts/mod/devicetable-offsets.s
	scripts/dtc/include-prefixes/arm arch/x86/kernel/asm-offsets.s arch/x86/kernel/head64.c arch/x86/boot/bzImage
	arch/x86/tools/relocs_64.o arch/arm64/include/asm/page.h arch/powerpc/kernel/module.lds tools/objtool/check.c
	tools/objtool/Makefile tools/include/linux/types.h Documentation/Makefile Documentation/process/howto.rst
	drivers/net/dummy.c drivers/net/dummy.ko drivers/net/dummy.mod.c drivers/net/internal.h kernel/bounds.s
	certs/katabuild-modules.pem certs/signing_key.pem`
)

// built is a tree as a make leaves it, with few of its files.
func built(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "linux")
	for _, name := range strings.Fields(needed + left) {
		p := filepath.Join(dir, name)
		mode := os.FileMode(0o666)
		if base := filepath.Base(name); base == "modpost" || base == "install.sh" {
			mode = 0o777
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o777), os.WriteFile(p, []byte(name), mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../linux/module.h", filepath.Join(dir, "include/uapi/module.h")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func packed(t *testing.T, dir string) ([]byte, error) {
	t.Helper()
	handle, err := regular.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	out := filepath.Join(t.TempDir(), "headers.tar")
	err = Headers{Tree: dir, Left: handle, Arch: "x86", Release: "6.12-kb", Time: time.Unix(5, 0)}.Pack(
		t.Context(), out)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

func TestHeadersAreWhatAModuleIsBuiltAgainst(t *testing.T) {
	first, err := packed(t, built(t))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(first)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name, below := strings.CutPrefix(h.Name, "linux-headers-6.12-kb/")
		if !below || h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(time.Unix(5, 0)) || got[name] != nil {
			t.Errorf("%+v", h)
		}
		if dir := filepath.Dir(strings.TrimSuffix(name, "/")) + "/"; dir != "./" && got[dir] == nil {
			t.Errorf("%s comes before its folder", name)
		}
		got[name] = h
	}
	for _, name := range strings.Fields(needed) {
		if h := got[name]; h == nil || h.Size != int64(len(name)) {
			t.Errorf("%s: %+v", name, h)
		}
	}
	for _, name := range strings.Fields(left) {
		if got[name] != nil {
			t.Errorf("%s is there, and no module needs it", name)
		}
	}
	for name, mode := range map[string]int64{"scripts/mod/modpost": 0o755, "arch/x86/boot/install.sh": 0o755,
		"Makefile": 0o644, "scripts/": 0o755} {
		if h := got[name]; h == nil || h.Mode != mode {
			t.Errorf("%s: %+v, want mode %o", name, h, mode)
		}
	}
	if h := got["include/uapi/module.h"]; h == nil || h.Typeflag != tar.TypeSymlink ||
		h.Linkname != "../linux/module.h" {
		t.Errorf("the link is %+v", h)
	}
}

func TestHeadersAreTheSameBytesEverywhere(t *testing.T) {
	var all [][]byte
	for _, mask := range []int{0o022, 0o077} {
		old := syscall.Umask(mask)
		b, err := packed(t, built(t))
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	if !bytes.Equal(all[0], all[1]) {
		t.Error("another folder and umask give other bytes")
	}
}

func TestHeadersDoNotLeadOutOfTheTree(t *testing.T) {
	for _, target := range []string{"/etc/passwd", "../../../../etc/passwd"} {
		dir := built(t)
		if err := os.Symlink(target, filepath.Join(dir, "include/linux/passwd.h")); err != nil {
			t.Fatal(err)
		}
		if _, err := packed(t, dir); err == nil || !strings.Contains(err.Error(),
			"include/linux/passwd.h is a link that leads out of the tree") {
			t.Errorf("%s: %v", target, err)
		}
	}
}
