package accel

import (
	"runtime"

	"github.com/katabuild/katabuild/internal/arch"
)

// hostArch is this host's architecture, or Go's name of it where the table has none.
func hostArch() string {
	if a, err := arch.FromGo(runtime.GOARCH); err == nil {
		return a.Name
	}
	return runtime.GOARCH
}
