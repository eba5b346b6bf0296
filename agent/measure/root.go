package measure

import (
	"fmt"

	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/katabuild/katabuild/internal/report"
)

func (g *Guest) root() (report.Root, error) {
	all, err := mountinfo.File(g.path("proc/self/mountinfo"))
	if err != nil {
		return report.Root{}, fmt.Errorf("root file system: %w", err)
	}
	m, err := mountinfo.At(all, "/")
	if err != nil {
		return report.Root{}, fmt.Errorf("root file system: %w", err)
	}
	r := report.Root{Kind: "disk", FileSystem: m.Type, Source: m.Source}
	if m.Type == "rootfs" {
		r.Kind = "initrd"
		return r, nil
	}
	if r.Verity, err = g.verity(m.Device); err != nil {
		return report.Root{}, fmt.Errorf("root file system: %w", err)
	}
	return r, nil
}

// extensions reads from the running tables what the mounted extensions are.
func (g *Guest) extensions() ([]report.Extension, error) {
	if len(g.Extensions) == 0 {
		return nil, nil
	}
	all, err := mountinfo.File(g.path("proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("extensions: %w", err)
	}
	var out []report.Extension
	for _, e := range g.Extensions {
		m, err := mountinfo.At(all, e.MountPoint())
		if err != nil {
			return nil, fmt.Errorf("extension %s: %w", e.Name, err)
		}
		v, err := g.verity(m.Device)
		if err != nil {
			return nil, fmt.Errorf("extension %s: %w", e.Name, err)
		}
		if v == nil {
			return nil, fmt.Errorf("extension %s: what is mounted at %s is not behind dm-verity", e.Name,
				e.MountPoint())
		}
		out = append(out, report.Extension{Name: e.Name, RootHash: v.RootHash, MountPoint: e.MountPoint()})
	}
	return out, nil
}
