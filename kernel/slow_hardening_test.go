package kernel

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// ofTools matches symbols that tell of the tool-chain, which is another on other machines, and of names.
var ofTools = regexp.MustCompile(`^(CC|AS|LD|GCC|TOOLS|RUSTC|PAHOLE|CLANG|LLD|BINDGEN)_|^(LOCALVERSION|BUILD_SALT)$`)

// TestFinalConfigurationsForHardeningAreCurrent compares what Linux makes of the set default with the file that package
// hardening checks without a tree; `make golden` with the variables of this test writes it.
func TestFinalConfigurationsForHardeningAreCurrent(t *testing.T) {
	r := slowRequest(t, features.Default)
	r.OnlyConfig = true
	res, err := Build(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(res.Outputs[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	final, err := kconfig.ParseConfig(OutputConfig, data)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, s := range final.Symbols() {
		if v := final.Get(s); v != kconfig.No && !ofTools.MatchString(s) {
			lines = append(lines, fmt.Sprintf("CONFIG_%s=%s\n", s, v))
		}
	}
	slices.Sort(lines)
	version := strings.Join(strings.SplitN(res.SourceVersion, ".", 3)[:2], ".")
	golden.Check(t, "../hardening/testdata/"+r.Arch.Name+"-"+version+".config", []byte(strings.Join(lines, "")))
}
