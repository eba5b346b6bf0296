package jail

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
)

// showRoot makes TestARootOfItsOwn, run in a jail, say what it sees.
const showRoot = "KATABUILD_TEST_SHOW_ROOT"

// TestARootOfItsOwn runs itself, a program without libraries, in a root that holds nothing else.
func TestARootOfItsOwn(t *testing.T) {
	if os.Getenv(showRoot) != "" {
		show()
		return
	}
	testenv.Require(t, userNamespaces)
	root := t.TempDir()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"usr/bin", "usr/lib", "etc/alternatives", "home"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "usr/bin/program"), self, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	_, err = Command{
		Args: []string{"program", "-test.run=^TestARootOfItsOwn$"}, Root: root, Env: []string{showRoot + "=1"},
		Stdout: &out, Stderr: &out,
	}.Run(t.Context())
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	seen, _, _ := strings.Cut(out.String(), "PASS")
	want := "/: bin build dev etc lib lib64 proc tmp usr\n/usr: bin lib\n/usr/bin: program\n" +
		"/etc: group hosts nsswitch.conf passwd\nsh: none\n/usr: read-only\n"
	if seen != want {
		t.Errorf("it sees\n%swant\n%s", seen, want)
	}
}

func show() {
	for _, dir := range []string{"/", "/usr", "/usr/bin", "/etc"} {
		entries, _ := os.ReadDir(dir)
		names := []string{}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		fmt.Printf("%s: %s\n", dir, strings.Join(names, " "))
	}
	if _, err := exec.LookPath("sh"); err != nil {
		fmt.Println("sh: none")
	}
	if err := os.WriteFile("/usr/bin/x", nil, 0o644); err != nil {
		fmt.Println("/usr: read-only")
	}
}

func TestARootThatIsNotThereIsNamed(t *testing.T) {
	testenv.Require(t, userNamespaces)
	missing := filepath.Join(t.TempDir(), "no-root")
	_, err := Command{Args: []string{"true"}, Root: missing}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), `no program "true"`) {
		t.Errorf("%v", err)
	}
}
