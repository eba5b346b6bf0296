// Package metrics says how the agent and its guest do, in Prometheus' text format 0.0.4, under the names that Kata
// Containers gives these numbers.
//
// Files of proc go in; one text comes out. A file that is missing or strange costs the numbers in it, not the others.
package metrics

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/mountinfo"
)

// ticks is how many of them the kernel counts in a second for user space: USER_HZ, 100 on every architecture of ours.
// proc(5).
const ticks = 100

// FileSystem is how full one is.
type FileSystem struct {
	TotalBytes, FreeBytes, AvailableBytes uint64
	TotalInodes, FreeInodes               uint64
}

// Collector collects. Its zero value is that of a guest; its methods may be called from several goroutines.
type Collector struct {
	Root   string                                // where proc is found; empty is "/"
	Statfs func(path string) (FileSystem, error) // nil is statfs(2)

	scrapes atomic.Uint64
}

// source is a file of proc, and the families whose numbers are in it.
type source struct {
	file string
	read func(c *Collector, text string) ([]family, error)
}

// sources are all there are.
var sources = []source{
	{"self/status", (*Collector).status},
	{"self/stat", (*Collector).stat},
	{"self/io", (*Collector).io},
	{"loadavg", (*Collector).load},
	{"stat", (*Collector).cpu},
	{"vmstat", (*Collector).vmstat},
	{"net/dev", (*Collector).netdev},
	{"diskstats", (*Collector).disks},
	{"meminfo", (*Collector).meminfo},
	{"self/mounts", (*Collector).fileSystems},
}

// Collect returns the text, and what kept numbers out of it.
func (c *Collector) Collect() (string, error) {
	families := []family{{name: "kata_agent_scrape_count", help: "How often these numbers were asked for.",
		kind: counter, samples: []sample{{value: float64(c.scrapes.Add(1))}}}}
	var errs []error
	for _, s := range sources {
		b, err := os.ReadFile(filepath.Join("/", c.Root, "proc", s.file))
		if err == nil {
			var more []family
			more, err = s.read(c, string(b))
			families = append(families, more...)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("metrics of %s: %w", s.file, err))
		}
	}
	return write(families), errors.Join(errs...)
}

func statfs(path string) (FileSystem, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return FileSystem{}, err
	}
	block := uint64(st.Frsize)
	if block == 0 {
		block = uint64(st.Bsize)
	}
	return FileSystem{TotalBytes: st.Blocks * block, FreeBytes: st.Bfree * block, AvailableBytes: st.Bavail * block,
		TotalInodes: st.Files, FreeInodes: st.Ffree}, nil
}

// fileSystems are those on devices, and memory: the others have no size.
func (c *Collector) fileSystems(text string) ([]family, error) {
	f := c.Statfs
	if f == nil {
		f = statfs
	}
	bytes := family{name: "kata_guest_filesystem_bytes", help: "Size of file systems in bytes."}
	inodes := family{name: "kata_guest_filesystem_inodes", help: "Inodes of file systems."}
	seen := map[string]bool{}
	var errs []error
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 3 {
			return nil, fmt.Errorf("line %q: want device, mount point and type", strings.TrimSpace(line))
		}
		device, point := mountinfo.Unescape(words[0]), mountinfo.Unescape(words[1])
		if !strings.HasPrefix(device, "/dev/") && words[2] != "tmpfs" && words[2] != "virtiofs" &&
			words[2] != "overlay" || seen[point] {
			continue
		}
		seen[point] = true
		s, err := f(point)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", point, err))
			continue
		}
		add := func(to *family, item string, value uint64) {
			to.samples = append(to.samples, sample{[]label{{"mount", point}, {"device", device}, {"item", item}},
				float64(value)})
		}
		add(&bytes, "total", s.TotalBytes)
		add(&bytes, "free", s.FreeBytes)
		add(&bytes, "available", s.AvailableBytes)
		add(&bytes, "used", s.TotalBytes-min(s.FreeBytes, s.TotalBytes))
		add(&inodes, "total", s.TotalInodes)
		add(&inodes, "free", s.FreeInodes)
		add(&inodes, "used", s.TotalInodes-min(s.FreeInodes, s.TotalInodes))
	}
	return []family{bytes, inodes}, errors.Join(errs...)
}
