package manpage

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/testenv"
)

func sample() *cobra.Command {
	root := &cobra.Command{Use: "tool", Short: "does things", Long: "tool does things.\n\n  a table\n  of lines\n\n" +
		".not a request\n'nor this\n\\fBnor an escape"}
	root.PersistentFlags().String("store", "", "`folder` of what is kept")
	sub := &cobra.Command{Use: "make THING...", Short: "make things", Example: "  tool make it",
		Run: func(*cobra.Command, []string) {}}
	sub.Flags().IntP("jobs", "j", 4, "how many at once")
	sub.Flags().Bool("secret", false, "not for everybody")
	sub.Flags().Lookup("secret").Hidden = true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(sub, Command(root))
	return root
}

// TestGroffReadsPages has groff judge pages, and shows them as a person reads them.
func TestGroffReadsPages(t *testing.T) {
	testenv.Require(t, testenv.Tool("groff"))
	root := sample()
	for _, c := range []struct {
		page []byte
		want []string
	}{
		{pageOf(root), []string{"tool - does things", "tool does things.", "a table\n", "of lines\n", ".not a request",
			"'nor this", `\fBnor an escape`, "--store folder", "tool-make(1)"}},
		{pageOf(root.Commands()[0]), []string{"tool-make - make things", "tool make THING... [flags]", "-j, --jobs int",
			"how many at once (default 4)", "tool make it", "--store folder", "tool(1)"}},
	} {
		cmd := exec.Command("groff", "-man", "-Tascii", "-ww", "-P-cbou")
		cmd.Stdin = bytes.NewReader(c.page)
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		if err := cmd.Run(); err != nil || said.Len() > 0 {
			t.Errorf("%v: %s\n%s", err, said.String(), c.page)
		}
		for _, w := range c.want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("no %q in\n%s", w, out.String())
			}
		}
		if strings.Contains(out.String(), "secret") {
			t.Errorf("a hidden flag is shown:\n%s", out.String())
		}
	}
}

func TestEveryCommandHasAPage(t *testing.T) {
	dir := t.TempDir()
	root := sample()
	root.SetArgs([]string{"man", "-o", dir})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"man1/tool.1", "man1/tool-make.1", "bash/tool", "zsh/_tool", "fish/tool.fish"} {
		if m, err := filepath.Glob(filepath.Join(dir, f)); err != nil || len(m) != 1 {
			t.Errorf("there is no %s", f)
		}
	}
	if m, _ := filepath.Glob(filepath.Join(dir, "man1/*")); len(m) != 2 {
		t.Errorf("pages: %v", m)
	}
}
