package accel

import (
	"os"
	"runtime"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
)

// hostArch is this host's architecture, or Go's name of it where the table has none.
func hostArch() string {
	if a, err := arch.FromGo(runtime.GOARCH); err == nil {
		return a.Name
	}
	return runtime.GOARCH
}

// HostProcessor is what guests may see of this host's processor: in the form of /proc/cpuinfo, the first one's lines
// that are about its kind and abilities.
func HostProcessor() ([]byte, error) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, err
	}
	return processor(string(b)), nil
}

// processor keeps of the first processor what does not change while a host runs.
func processor(cpuinfo string) []byte {
	first, _, _ := strings.Cut(cpuinfo, "\n\n")
	var b strings.Builder
	for line := range strings.Lines(first) {
		name, _, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "processor", "cpu MHz", "bogomips", "BogoMIPS", "apicid", "initial apicid", "core id", "physical id",
			"microcode", "siblings", "cpu cores":
			continue // another one's on another processor of this host, or at another time
		}
		b.WriteString(line)
	}
	return []byte(b.String())
}
