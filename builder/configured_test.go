package builder

import (
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/features"
)

func TestAFeatureIsThereWhenAllItsOptionsAre(t *testing.T) {
	a, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	all, err := kernel.Features(a)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(f features.Feature) bool { return f.Name == "vsock" })
	var lines []string
	for _, w := range all[i].Fragment.Settings {
		lines = append(lines, w.Text())
	}
	got, err := FeaturesOf("x86_64", "config", []byte(strings.Join(lines, "\n")+"\n"))
	if err != nil || !slices.Contains(got, "vsock") || slices.Contains(got, "ext4") {
		t.Errorf("%q, %v", got, err)
	}
	got, err = FeaturesOf("x86_64", "config", []byte(strings.Join(lines[1:], "\n")+"\n"))
	if err != nil || slices.Contains(got, "vsock") {
		t.Errorf("without %s: %q, %v", lines[0], got, err)
	}
	if _, err := FeaturesOf("x86_64", "config", []byte("nonsense\n")); err == nil {
		t.Error("nonsense is a configuration")
	}
}
