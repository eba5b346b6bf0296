// Package report is the document in which a running guest says what it is, bound to the nonce it was asked with.
//
// The agent writes it; verify reads it. It is a statement by the guest, not proof against a hostile one.
// docs/formats/report.md owns the bytes.
package report

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
)

// Version is the only version this package reads and writes.
const Version = 1

// Done is the value of End in a whole report.
const Done = "done"

// Nonce sizes, in bytes.
const (
	MinNonce = 16
	MaxNonce = 64
)

// MaxSize bounds an encoded report, in bytes: it comes from a guest.
const MaxSize = 1 << 20

// Report is what the guest says.
type Report struct {
	Version    int         `json:"version"`
	Nonce      string      `json:"nonce"` // hexadecimal, as asked
	Kernel     Kernel      `json:"kernel"`
	Agent      Agent       `json:"agent"`
	Init       Init        `json:"init"`
	Root       Root        `json:"root"`
	Extensions []Extension `json:"extensions,omitempty"` // sorted by name
	Probes     []Probe     `json:"probes,omitempty"`     // those that were asked for, sorted by name
	// names in /proc/modules, sorted; empty, not null, when there are none
	Modules  []string `json:"modules"`
	Timeline []Moment `json:"timeline"` // in order of time
	End      string   `json:"end"`      // always Done
}

// Kernel is what the running kernel says of itself.
type Kernel struct {
	Release     string        `json:"release"`      // uname -r
	Version     string        `json:"version"`      // uname -v
	Machine     string        `json:"machine"`      // uname -m
	BuildID     string        `json:"build_id"`     // GNU build-id from /sys/kernel/notes, hexadecimal
	Config      digest.Digest `json:"config"`       // of /proc/config.gz, unpacked; empty where the kernel has none
	CommandLine string        `json:"command_line"` // /proc/cmdline without the final newline
}

// Agent is the agent's own binary.
type Agent struct {
	Path     string        `json:"path"`
	Digest   digest.Digest `json:"digest"` // of /proc/self/exe
	Version  string        `json:"version"`
	Go       string        `json:"go"`       // version of the Go tool-chain
	Settings []Setting     `json:"settings"` // Go build settings, sorted by key
}

// Setting is one Go build setting, such as CGO_ENABLED.
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Init is the program that runs as PID 1.
type Init struct {
	Kind string `json:"kind"` // "agent" when the agent is PID 1, else the name in /proc/1/comm
}

// Root is the mounted root file system.
type Root struct {
	Kind       string  `json:"kind"`        // "initrd" for the kernel's rootfs, else "disk"
	FileSystem string  `json:"file_system"` // type from /proc/self/mountinfo, e.g. rootfs, tmpfs, ext4
	Source     string  `json:"source"`
	Verity     *Verity `json:"verity,omitempty"`
}

// Verity is the running dm-verity table below the root file system.
type Verity struct {
	RootHash string `json:"root_hash"` // hexadecimal
}

// Extension is a mounted extension image.
type Extension struct {
	Name       string `json:"name"`
	RootHash   string `json:"root_hash"` // of the running dm-verity table, hexadecimal
	MountPoint string `json:"mount_point"`
}

// Probe is what the guest tried, because it was asked to, to see whether its kernel does it.
type Probe struct {
	Name   string `json:"name"`
	Met    bool   `json:"met"`
	Detail string `json:"detail,omitempty"` // what was missing; empty for one that is met
}

// MaxDetail bounds the detail of a probe, in bytes.
const MaxDetail = 1024

// Moment is a point of the boot on CLOCK_BOOTTIME.
type Moment struct {
	Name string `json:"name"`  // kernel, init, mounts, ready, ...
	AtNS int64  `json:"at_ns"` // nanoseconds
}

// Encode is the canonical form.
func (r *Report) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return document.Encode(r)
}

// Decode reads the canonical form and nothing else.
func Decode(data []byte) (*Report, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("report: %d bytes, more than the %d a report may have", len(data), MaxSize)
	}
	var r Report
	if err := document.Decode("report", data, &r); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return &r, nil
}

func (r *Report) check() error {
	if r.Version != Version {
		return fmt.Errorf("version %d, this katabuild reads version %d", r.Version, Version)
	}
	n, err := hex.DecodeString(r.Nonce)
	if err != nil || len(n) < MinNonce || len(n) > MaxNonce {
		return fmt.Errorf("nonce %q: want %d to %d bytes in hexadecimal", r.Nonce, MinNonce, MaxNonce)
	}
	for i := 1; i < len(r.Timeline); i++ {
		if r.Timeline[i].AtNS < r.Timeline[i-1].AtNS {
			return fmt.Errorf("timeline: %s comes before %s", r.Timeline[i].Name, r.Timeline[i-1].Name)
		}
	}
	for i, e := range r.Extensions {
		if _, err := hex.DecodeString(e.RootHash); err != nil || e.RootHash == "" || e.Name == "" {
			return fmt.Errorf("extension %q: root hash %q: want hexadecimal digits", e.Name, e.RootHash)
		}
		if i > 0 && r.Extensions[i-1].Name >= e.Name {
			return fmt.Errorf("extension %q is not in order, or stands twice", e.Name)
		}
	}
	for i, p := range r.Probes {
		if p.Name == "" || p.Met != (p.Detail == "") || len(p.Detail) > MaxDetail {
			return fmt.Errorf("probe %q: want a name, and a detail of at most %d bytes unless it is met", p.Name,
				MaxDetail)
		}
		if i > 0 && r.Probes[i-1].Name >= p.Name {
			return fmt.Errorf("probe %q is not in order, or stands twice", p.Name)
		}
	}
	if r.Modules == nil || r.Timeline == nil || r.Agent.Settings == nil {
		return errors.New("modules, timeline and settings may be empty but not null")
	}
	if r.End != Done {
		return fmt.Errorf("ends in %q, want %q: the guest did not finish it", r.End, Done)
	}
	return nil
}
