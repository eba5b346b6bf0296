package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
)

// kindOf says for people what a field wants. field is a pointer, as key.field returns it.
func kindOf(field any) string {
	switch field.(type) {
	case *bool:
		return "true or false"
	case *int:
		return "a whole number"
	case *float64:
		return "a number"
	case *time.Duration:
		return "a whole number of seconds"
	case *[]string:
		return "a list of texts"
	case *[]ExtensionDisk:
		return "a list of tables"
	case *string, *accel.Wish, *qemu.Machine, *Attestation, *[]KernelParam:
		return "text"
	}
	panic(fmt.Sprintf("configuration field of type %T", field)) // a new type needs a line in every function here
}

// kindOfValue says what a TOML value is.
func kindOfValue(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a point"
	case string:
		return "text"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

// set puts a TOML value into a field.
func set(field, v any) error {
	wrong := fmt.Errorf("want %s, got %s", kindOf(field), kindOfValue(v))
	switch f := field.(type) {
	case *bool:
		b, ok := v.(bool)
		if !ok {
			return wrong
		}
		*f = b
	case *int, *time.Duration:
		n, ok := v.(int64)
		if !ok {
			return wrong
		}
		if d, seconds := f.(*time.Duration); seconds {
			if n < 1 || n > maxSeconds {
				return fmt.Errorf("%d seconds: want 1 to %d", n, maxSeconds)
			}
			*d = time.Duration(n) * time.Second
			return nil
		}
		if n < math.MinInt32 || n > math.MaxInt32 {
			return fmt.Errorf("%d is out of range", n)
		}
		*f.(*int) = int(n)
	case *float64:
		switch n := v.(type) {
		case int64:
			*f = float64(n)
		case float64:
			*f = n
		default:
			return wrong
		}
	case *[]string:
		list, ok := v.([]any)
		if !ok {
			return wrong
		}
		out := make([]string, len(list))
		for i, e := range list {
			if out[i], ok = e.(string); !ok {
				return fmt.Errorf("want %s, got one with %s", kindOf(field), kindOfValue(e))
			}
		}
		*f = out
	case *[]ExtensionDisk:
		list, ok := v.([]any)
		if !ok {
			return wrong
		}
		out := make([]ExtensionDisk, len(list))
		for i, e := range list {
			var err error
			if out[i], err = extensionDisk(e); err != nil {
				return fmt.Errorf("image %d: %w", i+1, err)
			}
		}
		*f = out
	default:
		s, ok := v.(string)
		if !ok {
			return wrong
		}
		return setText(field, s)
	}
	return nil
}

func setText(field any, s string) (err error) {
	switch f := field.(type) {
	case *string:
		*f = s
	case *[]KernelParam:
		*f = []KernelParam{KernelParam(s)}
	case *accel.Wish:
		w, err := accel.ParseWish(s)
		if err != nil {
			return err
		}
		*f = w
	case *qemu.Machine:
		if s == "" {
			*f = ""
			return nil
		}
		m, err := qemu.ParseMachine(s)
		if err != nil {
			return err
		}
		*f = m
	case *Attestation:
		a, err := parseAttestation(s)
		if err != nil {
			return err
		}
		*f = a
	}
	return nil
}

func extensionDisk(v any) (ExtensionDisk, error) {
	table, ok := v.(map[string]any)
	if !ok {
		return ExtensionDisk{}, fmt.Errorf("want a table, got %s", kindOfValue(v))
	}
	var e ExtensionDisk
	var params string
	fields := map[string]*string{"name": &e.Name, "path": &e.Path, "verity_params": &params}
	names := make([]string, 0, len(table))
	for n := range table {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		f, ok := fields[n]
		if !ok {
			return e, fmt.Errorf("unknown key %q%s", n, didYouMean(n, []string{"name", "path", "verity_params"}))
		}
		if *f, ok = table[n].(string); !ok {
			return e, fmt.Errorf("%s: want text, got %s", n, kindOfValue(table[n]))
		}
	}
	if err := extension.CheckName(e.Name); err != nil {
		return e, err
	}
	if e.Path == "" {
		return e, fmt.Errorf("%s has no path", e.Name)
	}
	if err := absolute(e.Path); err != nil {
		return e, err
	}
	if params != "" {
		p, err := dmverity.ParseParams(params)
		if err != nil {
			return e, fmt.Errorf("verity_params: %w", err)
		}
		e.Params = &p
	}
	return e, nil
}

// fromText makes the TOML value of an annotation's text for a field.
func fromText(field any, s string) (any, error) {
	wrong := fmt.Errorf("want %s, got %q", kindOf(field), s)
	switch field.(type) {
	case *bool:
		switch s {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, wrong
	case *int, *time.Duration:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, wrong
		}
		return n, nil
	case *float64:
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, wrong
		}
		return n, nil
	case *[]string, *[]ExtensionDisk:
		panic("no annotation sets a list")
	}
	return s, nil
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// text is a string field's value.
func text(field any) string {
	switch f := field.(type) {
	case *string:
		return *f
	case *accel.Wish:
		return string(*f)
	case *qemu.Machine:
		return string(*f)
	case *Attestation:
		return string(*f)
	case *[]KernelParam:
		parts := make([]string, len(*f))
		for i, p := range *f {
			parts[i] = string(p)
		}
		return strings.Join(parts, " ")
	}
	panic(fmt.Sprintf("configuration field of type %T", field))
}

// toTOML writes a field's value.
func toTOML(field any) string {
	switch f := field.(type) {
	case *bool:
		return strconv.FormatBool(*f)
	case *int:
		return strconv.Itoa(*f)
	case *float64:
		return strconv.FormatFloat(*f, 'f', -1, 64)
	case *time.Duration:
		return strconv.FormatInt(int64(*f/time.Second), 10)
	case *[]string:
		parts := make([]string, len(*f))
		for i, s := range *f {
			parts[i] = quote(s)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case *[]ExtensionDisk:
		parts := make([]string, len(*f))
		for i, e := range *f {
			params := ""
			if e.Params != nil {
				params = ", verity_params = " + quote(e.Params.String())
			}
			parts[i] = fmt.Sprintf("{name = %s, path = %s%s}", quote(e.Name), quote(e.Path), params)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return quote(text(field))
}

// toJSON writes a field's value.
func toJSON(field any) (json.RawMessage, error) {
	switch f := field.(type) {
	case *bool, *int, *float64, *time.Duration:
		return json.RawMessage(toTOML(f)), nil // numbers and truth values are written alike
	case *[]string:
		return json.Marshal(append([]string{}, *f...)) // never null
	case *[]ExtensionDisk:
		type disk struct {
			Name   string `json:"name"`
			Path   string `json:"path"`
			Params string `json:"verity_params,omitempty"`
		}
		out := make([]disk, len(*f))
		for i, e := range *f {
			out[i] = disk{Name: e.Name, Path: e.Path}
			if e.Params != nil {
				out[i].Params = e.Params.String()
			}
		}
		return json.Marshal(out)
	}
	return json.Marshal(text(field))
}

// Files is what Load needs of a file system. Paths are absolute, or as the user gave them.
type Files interface {
	// ReadFile reads a file. A missing one is fs.ErrNotExist.
	ReadFile(path string) ([]byte, error)
	// ReadDir lists the names in a folder that are no folders, sorted by byte. A missing folder is fs.ErrNotExist.
	ReadDir(path string) ([]string, error)
	// Resolve follows symbolic links to the end. A missing file is fs.ErrNotExist.
	Resolve(path string) (string, error)
}

// Host is the files of this host.
type Host struct{}

// ReadFile is os.ReadFile for files of at most the size a configuration may have; one byte more tells that there is
// more. A file that another user than this one or root could have written is an *owned.Unsafe: what stands in it is run
// as root.
func (Host) ReadFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if err := errors.Join(owned.By(path, st.Uid, st.Mode), safeFolder(filepath.Dir(path)),
		owned.Above(path)); err != nil {
		return nil, err
	}
	return readLimited(f, maxSize+1)
}

// safeFolder refuses a folder in which another user could put one file in the place of another. Where the sticky bit
// keeps them from that, as in /tmp, the file's own owner decides.
func safeFolder(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_ISVTX != 0 && (st.Uid == 0 || int(st.Uid) == os.Geteuid()) {
		return nil
	}
	return owned.By(dir, st.Uid, st.Mode)
}

// ReadDir implements Files.
func (Host) ReadDir(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if !e.IsDir() {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out, nil
}

// Resolve implements Files.
func (Host) Resolve(path string) (string, error) { return filepath.EvalSymlinks(path) }
