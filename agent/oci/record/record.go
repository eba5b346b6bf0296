// Package record is the document on disk about a container of runk: what it is, and what has to be taken away with it.
//
// In come a container's process, folders and control groups; out comes the record, for the programs that later start,
// ask about, signal or delete the container. It knows nothing of how one is run. docs/formats/runk-state.md owns the
// bytes.
package record

import (
	"fmt"
	"path"
	"time"

	"github.com/katabuild/katabuild/internal/document"
)

// Version is the version of the record that this package writes, and the only one so far.
const Version = 1

// Record is what there is to know of a container.
type Record struct {
	Version int               `json:"version"`
	ID      string            `json:"id"`
	OCI     string            `json:"ociVersion"` // of its specification
	Bundle  string            `json:"bundle"`
	Rootfs  string            `json:"rootfs"`
	Created string            `json:"created"` // RFC 3339, UTC
	Owner   uint32            `json:"owner"`   // the user who made it
	Process Process           `json:"process"` // its first one
	Groups  map[string]string `json:"groups"`  // folders of its control groups by controller; "" is version 2
	Join    Join              `json:"join"`
	// Annotations are the specification's.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Process is a process of the host. Both numbers together are no other one.
type Process struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // field 22 of proc_pid_stat(5)
}

// Join says how others join the container's namespaces.
type Join struct {
	User bool `json:"user"` // it has a user namespace of its own
	Time bool `json:"time"` // likewise for clocks
	PIDs bool `json:"pids"` // likewise for processes: they end with the first one
}

// Encode writes a record.
func Encode(r *Record) ([]byte, error) {
	b, err := document.Encode(r)
	if err != nil {
		return nil, fmt.Errorf("state of container %s: %w", r.ID, err)
	}
	return b, nil
}

// Decode reads a record.
func Decode(data []byte) (*Record, error) {
	var r Record
	if err := document.Decode("state of a container", data, &r); err != nil {
		return nil, err
	}
	if r.Version != Version {
		return nil, fmt.Errorf("state of a container: version %d, want %d", r.Version, Version)
	}
	if _, err := time.Parse(time.RFC3339Nano, r.Created); err != nil {
		return nil, fmt.Errorf("state of a container: created %q: not a time", r.Created)
	}
	if r.Process.Pid <= 1 {
		return nil, fmt.Errorf("state of a container: process %d: no container has that one", r.Process.Pid)
	}
	for c, dir := range r.Groups {
		if !path.IsAbs(dir) || path.Clean(dir) != dir || dir == "/" {
			return nil, fmt.Errorf("state of a container: control group %q of %q: not the path of one", dir, c)
		}
	}
	return &r, nil
}
