package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kitchen is a folder with the repository's recipes, their locks beside them, and its guests.
func kitchen(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "recipes"), os.DirFS(abs(t, "recipes"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tiny", "minimal", "default"} {
		data, err := os.ReadFile(abs(t, "out/"+name+".lock.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "recipes", name, "lock.json"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(abs(t, "out"), filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shell lists the command lines of a page's sh blocks.
func shell(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(abs(t, page))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	inside := false
	for line := range strings.Lines(string(text)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "```"):
			inside = line == "```sh"
		case inside && line != "":
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s shows no commands", page)
	}
	return out
}

// TestTheCommandsOfThePageOnOptionsWork runs each line of the page, in its order, in one folder.
func TestTheCommandsOfThePageOnOptionsWork(t *testing.T) {
	need(t)
	dir := kitchen(t)
	for _, line := range shell(t, "docs/kernel-options.md") {
		t.Run(line, func(t *testing.T) {
			cmd := exec.Command("sh", "-ec", line)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "PATH="+abs(t, "bin")+":"+os.Getenv("PATH"))
			r := finish(t, cmd)
			// 3 is the answer that something differs.
			if r.code != 0 && (r.code != 3 || !strings.Contains(line, " diff ")) {
				t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
			}
			if r.out == "" {
				t.Error("it says nothing")
			}
		})
	}
}

func TestAnOptionIsExplained(t *testing.T) {
	need(t)
	lock := abs(t, "out/tiny.lock.json")
	run := func(option string, more ...string) result {
		return katabuild(t, nil, append([]string{"kernel", "explain", option, "recipes/tiny", "--lock", lock},
			more...)...)
	}
	run("CONFIG_PRINTK_TIME").want(t, 0, "CONFIG_PRINTK_TIME=y, a bool", "kernel/features/core.config:", "feature core",
		"prompt: Show timing information on printks", "depends on PRINTK: y")
	run("CONFIG_NO_SUCH_OPTION_AT_ALL").want(t, 1, "this kernel has no CONFIG_NO_SUCH_OPTION_AT_ALL")
	run("CONFIG_VIRTIO_MIMO").want(t, 1, "CONFIG_VIRTIO_MMIO")
	r := run("VIRTIO_FS", "--json")
	r.want(t, 0)
	var a struct {
		Option, Value string
		Wish          []struct{ Line string }
	}
	if err := json.Unmarshal([]byte(r.out), &a); err != nil {
		t.Fatal(err)
	}
	if a.Option != "CONFIG_VIRTIO_FS" || a.Value != "n" || len(a.Wish) != 2 ||
		a.Wish[0].Line != "CONFIG_FUSE_FS=y" || a.Wish[1].Line != "CONFIG_VIRTIO_FS=y" {
		t.Errorf("%+v", a)
	}
}
