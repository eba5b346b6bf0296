package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheConfigurationAloneIsMade has an option that the recipe decides against a feature, which the plan, the
// configuration and the command tell.
func TestTheConfigurationAloneIsMade(t *testing.T) {
	need(t)
	dir := t.TempDir()
	recipe, err := os.ReadFile(abs(t, "recipes/tiny/recipe.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const with = "  features: [tiny]\n  fragments: [more.config]\n  override:\n" +
		"    - {option: CONFIG_PRINTK_TIME, value: n, reason: no stamps}\n"
	text := strings.Replace(string(recipe), "  features: [tiny]\n", with, 1)
	for name, data := range map[string]string{"recipe.yaml": text, "more.config": "# To try it.\nCONFIG_IKCONFIG=y\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	told := "override CONFIG_PRINTK_TIME=n by " + filepath.Join(dir, "recipe.yaml") + ":"
	katabuild(t, nil, "lock", dir).want(t, 0)
	katabuild(t, nil, "plan", dir).want(t, 0, told, `("no stamps"), against CONFIG_PRINTK_TIME=y at `+
		`kernel/features/core.config:`)
	out := filepath.Join(dir, "out")
	katabuild(t, nil, "kernel", dir, "--config-only", "-o", out).want(t, 0, told, filepath.Join(out, "config"))
	config, err := os.ReadFile(filepath.Join(out, "config"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"# CONFIG_PRINTK_TIME is not set", "CONFIG_IKCONFIG=y"} {
		if !strings.Contains(string(config), line+"\n") {
			t.Errorf("the configuration lacks %q", line)
		}
	}
	if all, err := os.ReadDir(out); err != nil || len(all) != 1 {
		t.Errorf("besides the configuration there are %v, %v", all, err)
	}
}
