// Package mountinfo reads what Linux says of the mounts that a process sees: /proc/PID/mountinfo of
// proc_pid_mountinfo(5).
package mountinfo

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Mount is a line. A mount that lies on another one comes after it.
type Mount struct {
	ID     uint64
	Device string // major:minor
	Root   string // what of the file system is mounted
	Point  string
	Type   string
	Source string
	Super  []string // options of the file system, not of the mount
}

// Self are the mounts that this process sees.
func Self() ([]Mount, error) { return File("/proc/self/mountinfo") }

// File reads a file of this form. Errors name it, or the line that is of another form.
func File(name string) ([]Mount, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	all, err := Parse(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return all, nil
}

// The fields up to the mount's options, behind which there may be others, and those behind the lone dash.
const (
	fieldID     = 0
	fieldDevice = 2
	fieldRoot   = 3
	fieldPoint  = 4
	fields      = 6

	fieldType   = 0
	fieldSource = 1
	fieldSuper  = 2
	behind      = 3
)

// Parse reads such a text. Every field ends with one space, since a source may be empty.
func Parse(text string) ([]Mount, error) {
	var out []Mount
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		left, right, _ := strings.Cut(line, " - ")
		f, g := strings.Split(left, " "), strings.SplitN(right, " ", behind)
		if len(f) < fields || len(g) < behind {
			return nil, fmt.Errorf("line %q: want %d fields or more, a dash, and %d", line, fields, behind)
		}
		id, err := strconv.ParseUint(f[fieldID], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line %q: %q is not the number of a mount", line, f[fieldID])
		}
		out = append(out, Mount{
			ID: id, Device: f[fieldDevice], Root: Unescape(f[fieldRoot]), Point: Unescape(f[fieldPoint]),
			Type: Unescape(g[fieldType]), Source: Unescape(g[fieldSource]), Super: strings.Split(g[fieldSuper], ","),
		})
	}
	return out, nil
}

// At is the mount at a point that lies on top.
func At(all []Mount, point string) (Mount, error) {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Point == point {
			return all[i], nil
		}
	}
	return Mount{}, fmt.Errorf("nothing is mounted at %s", point)
}

// Unescape reads \ooo, by which the kernel writes spaces, tabs, ends of lines and backslashes, here and in
// /proc/PID/mounts.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
