package e2e

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/containerd/ttrpc"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// TestMain is the first stage of jails too.
func TestMain(m *testing.M) {
	jail.Main()
	os.Exit(m.Run())
}

// moduleTree takes the modules out of what a build packed, and returns a folder with lib/modules and the release.
func moduleTree(t *testing.T, guest string) (dir, release string) {
	t.Helper()
	dir = t.TempDir()
	finish(t, exec.Command("tar", "-xf", filepath.Join(guest, "modules.tar"), "-C", dir)).want(t, 0)
	found, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	return dir, filepath.Base(found[0])
}

// kept are the files beside the modules that a kernel's make writes, and not depmod.
func kept(name string) bool {
	return slices.Contains([]string{"modules.order", "modules.builtin", "modules.builtin.modinfo"}, name)
}

// sameIndex has this machine's depmod make the index of the same modules, and compares every file of it.
func sameIndex(t *testing.T, built string) {
	t.Helper()
	dir, release := moduleTree(t, built)
	mine := filepath.Join(dir, "lib/modules", release)
	other := filepath.Join(t.TempDir(), "other")
	theirs := filepath.Join(other, "lib/modules", release)
	if err := os.CopyFS(theirs, os.DirFS(mine)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(theirs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "modules.") && !kept(e.Name()) {
			if err := os.Remove(filepath.Join(theirs, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	finish(t, exec.Command("depmod", "-a", "-e", "-F", filepath.Join(built, "System.map"), "-b", other, release)).
		want(t, 0)
	if entries, err = os.ReadDir(theirs); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, e := range entries {
		if e.IsDir() || kept(e.Name()) {
			continue
		}
		want, err := os.ReadFile(filepath.Join(theirs, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(mine, e.Name()))
		if err != nil {
			t.Error(err)
			continue
		}
		a, b := entriesOf(t, e.Name(), got), entriesOf(t, e.Name(), want)
		if e.Name() == "modules.dep.bin" && len(a) == 0 {
			t.Error("modules.dep.bin has no module")
		}
		if !slices.Equal(a, b) {
			t.Errorf("%s\n%q\nthis machine's depmod writes\n%q", e.Name(), a, b)
		}
		seen++
	}
	for _, name := range []string{"modules.dep", "modules.dep.bin", "modules.alias", "modules.alias.bin",
		"modules.symbols", "modules.symbols.bin", "modules.softdep", "modules.devname", "modules.builtin.bin"} {
		if _, err := os.Stat(filepath.Join(mine, name)); err != nil {
			t.Error(err)
		}
	}
	if seen < 9 {
		t.Errorf("only %d files were compared", seen)
	}
}

// entriesOf are the lines of a file of the index. Versions of kmod put the parts of its binary files into different
// orders, so that these are read.
func entriesOf(t *testing.T, name string, data []byte) []string {
	t.Helper()
	if !strings.HasSuffix(name, ".bin") {
		return strings.Split(string(data), "\n")
	}
	const magic = 0xb007f457
	if len(data) < 12 || binary.BigEndian.Uint32(data) != magic || binary.BigEndian.Uint32(data[4:]) != 2<<16|1 {
		t.Fatalf("%s is no index of version 2.1", name)
	}
	// A node is named by its offset, and by bits for what it has: a prefix, values, children.
	const prefix, values, children = 1 << 31, 1 << 30, 1 << 29
	var out []string
	text := func(at uint32) string {
		s, _, ok := bytes.Cut(data[at:], []byte{0})
		if !ok {
			t.Fatalf("%s ends within a text", name)
		}
		return string(s)
	}
	var read func(node uint32, key string)
	read = func(node uint32, key string) {
		at := node &^ (15 << 28)
		if node&prefix != 0 {
			s := text(at)
			key, at = key+s, at+uint32(len(s))+1
		}
		if node&children != 0 {
			first, last := data[at], data[at+1]
			at += 2
			for c := int(first); c <= int(last); c++ {
				if child := binary.BigEndian.Uint32(data[at:]); child != 0 {
					read(child, key+string(rune(c)))
				}
				at += 4
			}
		}
		if node&values != 0 {
			n := binary.BigEndian.Uint32(data[at:])
			at += 4
			for range n {
				s := text(at + 4)
				out = append(out, fmt.Sprintf("%s %d %s", key, binary.BigEndian.Uint32(data[at:]), s))
				at += 4 + uint32(len(s)) + 1
			}
		}
	}
	read(binary.BigEndian.Uint32(data[8:]), "")
	slices.Sort(out)
	return out
}

func TestTheIndexOfModulesIsThatOfDepmod(t *testing.T) {
	need(t, testenv.Tool("depmod"))
	sameIndex(t, abs(t, "out/module"))
}

// below are the entries of an initrd for a folder of this machine and all in it.
func below(t *testing.T, dir, as string) []boottest.Entry {
	t.Helper()
	var out []boottest.Entry
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		name := filepath.Join(as, rel)
		if d.IsDir() {
			out = append(out, boottest.Entry{Name: name, Mode: cpio.TypeDir | 0o755})
			return nil
		}
		out = append(out, boottest.File(t, name, p))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// libraries are what a program of this machine needs to run, with its loader, by their paths here.
func libraries(t *testing.T, program string) []string {
	t.Helper()
	r := finish(t, exec.Command("ldd", program))
	r.want(t, 0)
	return regexp.MustCompile(`/[^ ]+`).FindAllString(r.out, -1)
}

// TestModprobeLoadsByTheIndex boots the example's kernel with its modules, and has other people's modprobe load one:
// busybox's reads the text of the index, kmod's its binary form.
func TestModprobeLoadsByTheIndex(t *testing.T) {
	need(t, testenv.Tool("busybox"), testenv.Tool("modprobe"), testenv.Tool("ldd"))
	built := abs(t, "out/module")
	dir, _ := moduleTree(t, built)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	kmod, err := exec.LookPath("modprobe")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(script, []byte(`#!/bin/busybox sh
/bin/busybox mkdir /proc /sys
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
for m in "/bin/busybox modprobe" /bin/kmod/modprobe; do
	$m katabuild_hello whom="$m" && echo "loaded: $(/bin/busybox cat /proc/modules)"
	echo "greeted: $(/bin/busybox cat /sys/module/katabuild_hello/parameters/whom)"
	$m no-such-module || echo "refused by $m"
	$m -r katabuild-hello && echo "left: $(/bin/busybox cat /proc/modules)."
done
/bin/busybox poweroff -f
`), 0o755); err != nil {
		t.Fatal(err)
	}
	more := below(t, filepath.Join(dir, "lib"), "lib")
	more = append(more, boottest.Entry{Name: "bin", Mode: cpio.TypeDir | 0o755},
		boottest.File(t, "bin/busybox", busybox), boottest.Entry{Name: "bin/kmod", Mode: cpio.TypeDir | 0o755},
		boottest.File(t, "bin/kmod/modprobe", kmod))
	folders := map[string]bool{"lib": true, "bin": true}
	for _, l := range libraries(t, kmod) {
		name := strings.TrimPrefix(l, "/")
		for i, r := range name {
			if d := name[:i]; r == '/' && !folders[d] {
				folders[d] = true
				more = append(more, boottest.Entry{Name: d, Mode: cpio.TypeDir | 0o755})
			}
		}
		more = append(more, boottest.File(t, name, l))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	r := finish(t, exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m",
		"256", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel",
		filepath.Join(built, "vmlinux"), "-initrd", boottest.Initrd(t, script, more...), "-append",
		"console=ttyS0 quiet panic=-1"))
	said := strings.ReplaceAll(r.out, "\r", "")
	for _, m := range []string{"/bin/busybox modprobe", "/bin/kmod/modprobe"} {
		for _, want := range []string{"greeted: " + m + "\n", "refused by " + m + "\n"} {
			if !strings.Contains(said, want) {
				t.Errorf("the guest did not say %q", want)
			}
		}
	}
	if n := strings.Count(said, "loaded: katabuild_hello "); n != 2 {
		t.Errorf("the module was there %d times", n)
	}
	if n := strings.Count(said, "left: .\n"); n != 2 {
		t.Errorf("the module was taken out %d times", n)
	}
	if t.Failed() {
		t.Errorf("exit code %d\n%s%s", r.code, said, r.err)
	}
}

// pairRecipe is the example's recipe with all that modules may have: the user's own key, headers, a module that needs
// another, and Debian's kmod in the root.
func pairRecipe(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(abs(t, "recipes/module"))); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "recipe.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		// A sandbox has namespaces and control groups.
		{"module-signing]", "module-signing, cgroups, namespaces]"},
		{"external: [hello]\n", "external: [hello, pair]\n  module_key: key.pem\n  headers: true\n" +
			"  fragments: [more.config]\n"},
		{"    - files:\n        - {path: /etc/modules-load.d/hello.conf, text: \"katabuild_hello\\n\"}\n",
			"    - debian: {packages: [kmod, bash, coreutils, base-files, base-passwd]}\n"},
		{"memory: 128MiB\n", "memory: 256MiB\n  command_line: [agent.debug_console, agent.debug_console_vport=1026]\n"},
	} {
		if !bytes.Contains(text, []byte(c[0])) {
			t.Fatalf("recipes/module has no line %q", c[0])
		}
		text = bytes.Replace(text, []byte(c[0]), []byte(c[1]), 1)
	}
	for name, s := range map[string]string{
		"recipe.yaml": string(text),
		"more.config": "CONFIG_UNIX98_PTYS=y\n", // a shell on vsock has a terminal
		"pair/Kbuild": "obj-m := pair_base.o pair_top.o\n",
		"pair/pair_base.c": `#include <linux/module.h>
int pair_base(void);
int pair_base(void) { return 42; }
EXPORT_SYMBOL_GPL(pair_base);
MODULE_DESCRIPTION("What another module needs");
MODULE_LICENSE("GPL");
`,
		"pair/pair_top.c": `#include <linux/module.h>
int pair_base(void);
static int sum;
module_param(sum, int, 0444);
static int __init top(void) { sum += pair_base(); return 0; }
static void __exit bottom(void) { }
module_init(top);
module_exit(bottom);
MODULE_ALIAS("katabuild-pair");
MODULE_SOFTDEP("pre: katabuild_hello");
MODULE_DESCRIPTION("A module that needs another");
MODULE_LICENSE("GPL");
`,
	} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(s), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := os.ReadFile(abs(t, "out/module.lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lock.json"), lock, 0o644); err != nil {
		t.Fatal(err)
	}
	// As docs/modules.md says.
	cmd := exec.Command("sh", "-ec", `openssl req -new -x509 -newkey rsa:3072 -nodes -days 36500 -subj "/CN=mine" \
		-keyout private.pem -out cert.pem
		install -m 600 /dev/null key.pem
		cat private.pem cert.pem > key.pem`)
	cmd.Dir = dir
	finish(t, cmd).want(t, 0)
	return dir
}

// TestModulesHaveAllThatTheyMayHave builds a kernel of its own: modules signed by the user's key, which need each other
// and have aliases; kmod of Debian in the guest loads them, and so does the agent as a host asks; headers build one
// more elsewhere.
func TestModulesHaveAllThatTheyMayHave(t *testing.T) {
	need(t, minutes, testenv.Tool("openssl"), testenv.Tool("depmod"))
	dir := pairRecipe(t)
	katabuild(t, nil, "lock", dir).want(t, 0)
	built := filepath.Join(dir, "out")
	katabuild(t, nil, "build", dir, "-o", built).want(t, 0)
	m, _, err := manifest.Read(built, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("the manifest names the certificate", func(t *testing.T) {
		want, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if m.Kernel.ModuleKey == nil {
			t.Fatal("there is none")
		}
		got, err := os.ReadFile(filepath.Join(built, m.Kernel.ModuleKey.Path))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v\n%s\nwant\n%s", err, got, want)
		}
	})
	t.Run("depmod makes the same index", func(t *testing.T) { sameIndex(t, built) })
	tree, release := moduleTree(t, built)
	updates := filepath.Join(tree, "lib/modules", release, "updates")
	t.Run("OpenSSL believes the signatures", func(t *testing.T) {
		for _, name := range []string{"katabuild_hello.ko", "pair_base.ko", "pair_top.ko"} {
			signedBy(t, filepath.Join(updates, name), filepath.Join(dir, "cert.pem"))
		}
	})
	t.Run("headers build a module elsewhere", func(t *testing.T) {
		headersBuild(t, built, release, filepath.Join(dir, "key.pem"), filepath.Join(updates, "katabuild_hello.ko"))
	})
	t.Run("modprobe and the agent load them", func(t *testing.T) { loads(t, built) })
}

// signedBy has OpenSSL compare a module with the signature at its end.
func signedBy(t *testing.T, module, certificate string) {
	t.Helper()
	data, err := os.ReadFile(module)
	if err != nil {
		t.Fatal(err)
	}
	rest, ok := bytes.CutSuffix(data, []byte("~Module signature appended~\n"))
	if !ok {
		t.Fatalf("%s is not signed", module)
	}
	info := len(rest) - 12 // Linux: include/linux/module_signature.h, struct module_signature
	start := info - int(binary.BigEndian.Uint32(rest[info+8:]))
	if start < 0 {
		t.Fatalf("%s: a signature of more bytes than there are", module)
	}
	dir := t.TempDir()
	content, signature := filepath.Join(dir, "content"), filepath.Join(dir, "signature")
	if err := errors.Join(os.WriteFile(content, rest[:start], 0o600),
		os.WriteFile(signature, rest[start:info], 0o600)); err != nil {
		t.Fatal(err)
	}
	finish(t, exec.Command("openssl", "smime", "-verify", "-inform", "DER", "-in", signature, "-content", content,
		"-certfile", certificate, "-noverify", "-binary", "-out", filepath.Join(dir, "out"))).want(t, 0)
}

// vermagic is what a module says of the kernel that it is for.
func vermagic(t *testing.T, module string) string {
	t.Helper()
	f, err := elf.Open(module)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		t.Fatalf("%s has no .modinfo", module)
	}
	data, err := s.Data()
	if err != nil {
		t.Fatal(err)
	}
	for e := range strings.SplitSeq(string(data), "\x00") {
		if v, ok := strings.CutPrefix(e, "vermagic="); ok {
			return v
		}
	}
	t.Fatalf("%s has no vermagic", module)
	return ""
}

// headersBuild unpacks headers and builds the example against them, with the tool-chain that built the kernel and
// nothing else of it. The module is the one that came with the kernel.
func headersBuild(t *testing.T, built, release, key, like string) {
	work := t.TempDir()
	finish(t, exec.Command("tar", "-xf", filepath.Join(built, "headers.tar"), "-C", work)).want(t, 0)
	headers := filepath.Join(work, "linux-headers-"+release)
	err := filepath.WalkDir(headers, func(p string, d fs.DirEntry, err error) error {
		switch filepath.Ext(p) {
		case ".o", ".a", ".ko", ".cmd":
			t.Errorf("%s is there", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	hello := filepath.Join(work, "hello")
	if err := os.CopyFS(hello, os.DirFS(abs(t, "recipes/module/hello"))); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		var said bytes.Buffer
		_, err := jail.Command{Args: args, Root: toolchainRoot(t, built), Stdout: &said, Stderr: &said,
			Env:   []string{"SOURCE_DATE_EPOCH=0"},
			Binds: []jail.Bind{{Host: work, Jail: jail.Home, Writable: true}, {Host: key, Jail: "/key.pem"}},
		}.Run(t.Context())
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, said.String())
		}
	}
	run("make", "-C", jail.Home+"/linux-headers-"+release, "M="+jail.Home+"/hello", "modules")
	module := filepath.Join(hello, "katabuild_hello.ko")
	if got, want := vermagic(t, module), vermagic(t, like); got != want || !strings.HasPrefix(got, release+" ") {
		t.Errorf("vermagic is %q, of the kernel's own build %q", got, want)
	}
	run(jail.Home+"/linux-headers-"+release+"/scripts/sign-file", "sha256", "/key.pem", "/key.pem",
		jail.Home+"/hello/katabuild_hello.ko")
	signedBy(t, module, key)
}

// toolchainRoot is the root of the tool-chain in the store that has the kernel's compiler.
func toolchainRoot(t *testing.T, built string) string {
	t.Helper()
	store := os.Getenv("KATABUILD_STORE")
	if store == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		store = filepath.Join(cache, "katabuild")
	}
	found, err := filepath.Glob(filepath.Join(store, "toolchains", "*", "usr/bin", arch.All()[0].CrossPrefix+"gcc"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no tool-chain in %s, %v", store, err)
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(found[0])))
}

// loads boots the guest twice: once a person loads modules, once the host.
func loads(t *testing.T, built string) {
	g, err := guest.ReadFolder(built, "", "")
	if err != nil {
		t.Fatal(err)
	}
	boot := func(t *testing.T) (*sandbox.Sandbox, func(command string) string) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		t.Cleanup(cancel)
		vm, err := sandbox.Start(ctx, sandbox.Config{Guest: g, Hypervisor: hypervisor.Default()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { vm.Stop() }) // the guest is thrown away
		console, err := vm.Dial(ctx, agentapi.DebugConsolePort)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { console.Close() })
		return vm, func(command string) string { return shellSays(t, console, command) }
	}
	t.Run("modprobe", func(t *testing.T) {
		_, sh := boot(t)
		if said := sh("modprobe katabuild-pair sum=1; echo code $?"); !strings.Contains(said, "code 0") {
			t.Fatalf("by its alias: %s", said)
		}
		for _, c := range [][2]string{
			{"echo $(cut -d' ' -f1 /proc/modules | sort)", "katabuild_hello pair_base pair_top"},
			{"cat /sys/module/pair_top/parameters/sum", "43"},
			{"modinfo -F description pair_base", "What another module needs"},
			{"modprobe -r pair_top katabuild_hello; wc -l </proc/modules", "0"},
			{"modprobe no-such-module; echo code $?", "code 1"},
		} {
			if said := sh(c[0]); !strings.Contains(said, c[1]) {
				t.Errorf("%s: %q, want %q", c[0], said, c[1])
			}
		}
	})
	t.Run("the agent", func(t *testing.T) {
		vm, sh := boot(t)
		conn, err := vm.Dial(t.Context(), agentapi.Port)
		if err != nil {
			t.Fatal(err)
		}
		client := ttrpc.NewClient(conn)
		defer client.Close()
		api := katapb.NewAgentServiceClient(client)
		ask := func(modules ...*katapb.KernelModule) error {
			_, err := api.CreateSandbox(t.Context(), &katapb.CreateSandboxRequest{SandboxId: "pod",
				KernelModules: modules})
			return err
		}
		if err := ask(&katapb.KernelModule{Name: "no_such_module"}); err == nil ||
			!strings.Contains(err.Error(), "kernel module no_such_module: neither built into this guest's kernel") {
			t.Errorf("a module that is not there: %v", err)
		}
		if err := ask(&katapb.KernelModule{Name: "pair-top", Parameters: []string{"sum=8"}},
			&katapb.KernelModule{Name: "katabuild_hello", Parameters: []string{`whom="a`, `pod"`}}); err != nil {
			t.Fatal(err)
		}
		for _, c := range [][2]string{
			{"echo $(cut -d' ' -f1 /proc/modules | sort)", "katabuild_hello pair_base pair_top"},
			{"cat /sys/module/pair_top/parameters/sum", "50"},
			{"cat /sys/module/katabuild_hello/parameters/whom", "a pod"},
		} {
			if said := sh(c[0]); !strings.Contains(said, c[1]) {
				t.Errorf("%s: %q, want %q", c[0], said, c[1])
			}
		}
	})
}

// shellSays types a command into a shell and returns what comes back, up to the line that says that it has ended.
func shellSays(t *testing.T, console net.Conn, command string) string {
	t.Helper()
	if err := console.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	// What is typed comes back too, and has no such line.
	if _, err := console.Write([]byte(command + "; echo the-$((40+2))-end\n")); err != nil {
		t.Fatal(err)
	}
	var all []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(all, []byte("the-42-end")) {
		n, err := console.Read(buf)
		if err != nil {
			t.Fatalf("%s: %v after %q", command, err, all)
		}
		all = append(all, buf[:n]...)
	}
	_, said, _ := strings.Cut(string(all), "-end\r\n") // behind what was typed
	return said
}
