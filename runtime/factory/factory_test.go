package factory

import (
	"testing"

	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/runtime/config"
)

func TestExtensionsOfTheConfiguration(t *testing.T) {
	verity := dmverity.Params{}
	if list, err := extensions([]config.ExtensionDisk{{Name: "a", Path: "/x", Params: &verity}}); err != nil ||
		len(list) != 1 || list[0].Name != "a" || list[0].Image != "/x" {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := extensions([]config.ExtensionDisk{{Name: "a", Path: t.TempDir() + "/none"}}); err == nil {
		t.Error("an extension that is not there")
	}
}
