package containerd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// taskTemplate runs containers in guests that are restored from a template: with shared files and an interface, and as
// large as they want; and in one that boots, as the template was changed by one byte.
func taskTemplate(t *testing.T, c *client) {
	if !c.guest() {
		t.Log("nothing to test: containers run on the host")
		return
	}
	folder := filepath.Join(t.TempDir(), "templates")
	c = c.configured(t, fmt.Sprintf("machine_type = \"q35\"\n[agent.kata]\ndial_timeout = 300\n[factory]\n"+
		"enable_template = true\ntemplate_path = %q\n", folder))
	runtime, err := filepath.Abs(filepath.Join(repository, "bin/kata-runtime"))
	if err != nil {
		t.Fatal(err)
	}
	factory := func(word string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), runtime, "--config", c.config, "factory", word).CombinedOutput()
		if err != nil {
			t.Fatalf("factory %s: %v: %s", word, err, out)
		}
		return string(out)
	}
	made := factory("init")
	dir := strings.TrimSpace(made[strings.LastIndex(strings.TrimSpace(made), "\n")+1:])
	log := func() string {
		t.Helper()
		b, err := os.ReadFile(c.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	restored := func() int { return strings.Count(log(), "the guest was restored from a template") }

	wired(t, "kbtmpl")()
	before := restored()
	id := c.detach(t, []string{"--with-ns", "network:/run/netns/kbtmpl", "--memory-limit", "314572800"}, "toolbox",
		"wire", ":8300")
	if restored() != before+1 {
		t.Fatalf("it was not restored; factory init said:\n%s", made)
	}
	echoes(t)
	if r := c.exec(t, id, "sh", "-c", "echo x >/file && cat /file"); r.out != "x\n" {
		t.Errorf("its files: %+v", r)
	}
	var kib int
	_, err = fmt.Sscanf(c.exec(t, id, "cat", "/proc/meminfo").out, "MemTotal: %d kB", &kib)
	if err != nil || kib < 500<<10 { // the guest's own 256 MiB, and 300 for the container
		t.Errorf("it has %d KiB, %v", kib, err)
	}
	other := c.detach(t, nil, "toolbox", "pause")
	random := []string{"cat", "/proc/sys/kernel/random/boot_id"}
	if one, two := c.exec(t, id, random...).out, c.exec(t, other, random...).out; one == two || one == "" {
		t.Errorf("two guests of one template have the boot id %q", one)
	}
	for _, pid := range processes("qemu-system-", "-"+other+"\x00") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "exit code of a task whose machine is gone", c.ended(t, other), 255)

	memory := filepath.Join(dir, "memory")
	f, err := os.OpenFile(memory, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 1<<20)
	b[0]++
	if _, e := f.WriteAt(b, 1<<20); errors.Join(err, e, f.Close()) != nil {
		t.Fatal(err, e)
	}
	before = restored()
	if r := c.ctr(t, nil, c.run(c.id(), []string{"--rm"}, "echo", "booted")...); !strings.Contains(r.out, "booted") {
		t.Errorf("with a template that was changed: %+v", r)
	}
	if text := log(); restored() != before || !strings.Contains(text, memory+": wrong digest") {
		t.Error("a template that was changed is used, or the log does not say so")
	}
	if out := factory("destroy"); !strings.HasPrefix(out, "1 removed") {
		t.Error(out)
	}
}
