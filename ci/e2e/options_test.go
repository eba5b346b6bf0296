package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kitchen is a folder with the repository's recipes, their locks beside them, its guests, and fragments that lie as
// Kata Containers' do.
func kitchen(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "recipes"), os.DirFS(abs(t, "recipes"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tiny", "minimal"} {
		data, err := os.ReadFile(abs(t, "out/"+name+".lock.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "recipes", name, "lock.json"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"common/net.conf":    "# Networks.\nCONFIG_NET=y\nCONFIG_INET=y\nCONFIG_UNIX=y\n",
		"common/s390.conf":   "# !x86_64 !powerpc\nCONFIG_CIFS=y\n",
		"x86_64/serial.conf": "CONFIG_TTY=y\nCONFIG_SERIAL_8250=y\nCONFIG_NO_SUCH_OPTION=y\n",
		"whitelist.conf":     "NOT A FRAGMENT\n",
	} {
		path := filepath.Join(dir, "fragments", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
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

// TestFragmentsAreImported imports fragments twice: by themselves, and by what the first import made of them.
func TestFragmentsAreImported(t *testing.T) {
	need(t, minutes)
	dir := kitchen(t)
	recipe := filepath.Join(dir, "recipes", "tiny")
	type imported struct {
		Form     string
		Features []string
		Lines    int
		Left     []struct{ Option string }
		Dropped  []struct{ Line, Why string }
	}
	run := func(args ...string) (im imported) {
		r := katabuild(t, nil, append([]string{"kernel", "import", "--json"}, args...)...)
		r.want(t, 0)
		if err := json.Unmarshal([]byte(r.out), &im); err != nil {
			t.Fatal(err)
		}
		return im
	}
	first := run(filepath.Join(dir, "fragments"), recipe, "-o", "theirs.config")
	if first.Form != "fragments" || len(first.Left) > 0 || first.Lines == 0 || len(first.Dropped) != 1 ||
		first.Dropped[0].Line != "CONFIG_NO_SUCH_OPTION=y" {
		t.Errorf("%+v", first)
	}
	fragment, err := os.ReadFile(filepath.Join(recipe, "theirs.config"))
	if err != nil || !strings.Contains(string(fragment), "CONFIG_SERIAL_8250=y\n") || strings.Contains(string(fragment),
		"CIFS") {
		t.Errorf("%s, %v", fragment, err)
	}
	whole := run(abs(t, "out/tiny/config"), recipe)
	if whole.Form != "config" || strings.Join(whole.Features, " ") != "tiny" || whole.Lines != 0 ||
		len(whole.Left) > 0 {
		t.Errorf("%+v", whole)
	}
}

// TestWhatAKernelCosts asks it of the real tree: every object of the build's log counts once, and the Makefiles list
// nearly all of those that are no programs of the build.
func TestWhatAKernelCosts(t *testing.T) {
	need(t)
	type sum struct {
		Objects int
		CPUMS   int64 `json:"cpu_ms"`
	}
	var r struct {
		Release  string
		Total    sum
		Unlisted int
		BootUS   int64 `json:"boot_us"`
		Features []struct {
			sum
			Feature string
			BootUS  int64 `json:"boot_us"`
		}
		Options []struct {
			Option, Feature string
			Alone, Gone     sum
			BootUS          int64 `json:"boot_us"`
		}
	}
	said := katabuild(t, nil, "kernel", "cost", "recipes/tiny", "--lock", abs(t, "out/tiny.lock.json"), "--boot",
		abs(t, "out/tiny"), "--json")
	said.want(t, 0)
	if err := json.Unmarshal([]byte(said.out), &r); err != nil {
		t.Fatal(err)
	}
	all, known, boot := sum{}, sum{}, int64(0)
	for _, f := range r.Features {
		all.Objects, all.CPUMS, boot = all.Objects+f.Objects, all.CPUMS+f.CPUMS, boot+f.BootUS
		if f.Feature == "core" || f.Feature == "vsock" || f.Feature == "always built" {
			known.Objects += f.Objects
		}
	}
	if all != r.Total || boot != r.BootUS || boot == 0 || r.Total.CPUMS == 0 || known.Objects < r.Total.Objects/3 ||
		r.Unlisted > r.Total.Objects/10 || !strings.Contains(r.Release, "-kb-") {
		t.Errorf("the features have %+v and %d µs of %+v", all, boot, r)
	}
	for _, want := range []struct {
		option, feature string
		least, most     int // objects
	}{{"CONFIG_VSOCKETS", "vsock", 3, 12}, {"CONFIG_NET", "core", 50, 400}, {"CONFIG_SERIAL_8250", "serial", 3, 30}} {
		found := false
		for _, o := range r.Options {
			if o.Option == want.option {
				found = true
				if o.Feature != want.feature || o.Alone.Objects < want.least || o.Gone.Objects > want.most ||
					o.Gone.Objects < o.Alone.Objects || o.BootUS == 0 {
					t.Errorf("%+v, want %+v", o, want)
				}
			}
		}
		if !found {
			t.Errorf("%s brings nothing", want.option)
		}
	}
	katabuild(t, nil, "kernel", "cost", "recipes/tiny", "--lock", abs(t, "out/tiny.lock.json"), "--by", "option",
		"--most", "5").want(t, 0, "CPU s gone", "CONFIG_NET ")
	katabuild(t, []string{"KATABUILD_STORE=" + t.TempDir()}, "kernel", "cost", "recipes/tiny", "--lock",
		abs(t, "out/tiny.lock.json")).want(t, 1, "is not built", "run: katabuild build recipes/tiny")
}
