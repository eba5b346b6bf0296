package measure

import (
	"fmt"
	"os"
	"strings"

	"github.com/katabuild/katabuild/internal/report"
)

func (g *Guest) root() (report.Root, error) {
	b, err := os.ReadFile(g.path("proc/self/mountinfo"))
	if err != nil {
		return report.Root{}, fmt.Errorf("root file system: %w", err)
	}
	m, err := mountAt(string(b), "/")
	if err != nil {
		return report.Root{}, fmt.Errorf("root file system: %w", err)
	}
	r := report.Root{Kind: "disk", FileSystem: m.fileSystem, Source: m.source}
	if m.fileSystem == "rootfs" {
		r.Kind = "initrd"
		return r, nil
	}
	if r.Verity, err = g.verity(m.device); err != nil {
		return report.Root{}, fmt.Errorf("root file system: %w", err)
	}
	return r, nil
}

// mount is a line of mountinfo, as far as the report needs it.
type mount struct {
	device     string // major:minor
	fileSystem string
	source     string
}

// extensions reads from the running tables what the mounted extensions are.
func (g *Guest) extensions() ([]report.Extension, error) {
	if len(g.Extensions) == 0 {
		return nil, nil
	}
	b, err := os.ReadFile(g.path("proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("extensions: %w", err)
	}
	var out []report.Extension
	for _, e := range g.Extensions {
		m, err := mountAt(string(b), e.MountPoint())
		if err != nil {
			return nil, fmt.Errorf("extension %s: %w", e.Name, err)
		}
		v, err := g.verity(m.device)
		if err != nil {
			return nil, fmt.Errorf("extension %s: %w", e.Name, err)
		}
		if v == nil {
			return nil, fmt.Errorf("extension %s: what is mounted at %s is not behind dm-verity", e.Name, e.MountPoint())
		}
		out = append(out, report.Extension{Name: e.Name, RootHash: v.RootHash, MountPoint: e.MountPoint()})
	}
	return out, nil
}

// mountAt finds what is mounted at a path: the last line that says so, as it lies on top. Fields are those of proc(5): the fifth is the mount
// point, and behind a lone "-" come type and source.
func mountAt(mountinfo, path string) (mount, error) {
	var top mount
	found := false
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 6 {
			return mount{}, fmt.Errorf("mountinfo line %q: want at least 6 fields", line)
		}
		if unescape(f[4]) != path {
			continue
		}
		i := 6
		for i < len(f) && f[i] != "-" { // optional fields
			i++
		}
		if len(f) < i+3 {
			return mount{}, fmt.Errorf("mountinfo line %q: no file system", line)
		}
		top, found = mount{f[2], unescape(f[i+1]), unescape(f[i+2])}, true
	}
	if !found {
		return mount{}, fmt.Errorf("nothing is mounted at %s in mountinfo", path)
	}
	return top, nil
}

// unescape undoes the octal escapes of mountinfo: \040 is a space.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }
