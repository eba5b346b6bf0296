package usage

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestFlagsThatDoNotGoTogetherAreRefused(t *testing.T) {
	for line, want := range map[string]string{
		"":                     "",
		"--report r --nonce n": "",
		"--nonce n":            "--nonce goes with --report",
		"--build":              "",
		"--build --report=":    "--report does not go with --build, which compares files alone; see: verify --help",
	} {
		ran := false
		c := &cobra.Command{Use: "verify", RunE: func(*cobra.Command, []string) error { ran = true; return nil }}
		c.Flags().Bool("build", false, "")
		c.Flags().String("report", "", "")
		c.Flags().String("nonce", "", "")
		Rules(c, append(Need("report", "nonce"), Rule{Flag: "build", Excludes: []string{"report"},
			Why: "which compares files alone"})...)
		Apply(c)
		c.SetArgs(strings.Fields(line))
		err := c.Execute()
		var wrong *Error
		if want == "" && err != nil || want != "" && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
		if ran != (want == "") {
			t.Errorf("%q: it ran: %v", line, ran)
		}
	}
}
