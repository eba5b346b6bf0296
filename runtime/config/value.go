package config

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/owned"
)

// value is a field of Config, by the kind of its value. Each is a pointer into the Config.
type value interface {
	// kind says for people what the field wants.
	kind() string
	// set puts a TOML value into the field.
	set(v any) error
	// parse makes the TOML value of an annotation's text. A text that is none of the kind is false.
	parse(s string) (any, bool)
	// toml writes the value.
	toml() string
	// json is the value for encoding/json.
	json() any
}

// wrong says that a TOML value is not of a field's kind.
func wrong(f value, v any) error { return fmt.Errorf("want %s, got %s", f.kind(), kindOf(v)) }

// flag is true or false.
type flag bool

func (*flag) kind() string { return "true or false" }

func (f *flag) set(v any) error {
	b, ok := v.(bool)
	if !ok {
		return wrong(f, v)
	}
	*f = flag(b)
	return nil
}

func (*flag) parse(s string) (any, bool) { return s == "true", s == "true" || s == "false" }
func (f *flag) toml() string             { return strconv.FormatBool(bool(*f)) }
func (f *flag) json() any                { return bool(*f) }

// number is a whole number of 32 bits.
type number int

func (*number) kind() string { return "a whole number" }

func (f *number) set(v any) error {
	n, ok := v.(int64)
	switch {
	case !ok:
		return wrong(f, v)
	case n < math.MinInt32 || n > math.MaxInt32:
		return fmt.Errorf("%d is out of range", n)
	}
	*f = number(n)
	return nil
}

func (*number) parse(s string) (any, bool) { return parseWhole(s) }
func (f *number) toml() string             { return strconv.Itoa(int(*f)) }
func (f *number) json() any                { return int(*f) }

// wide is a whole number of 63 bits that is not negative.
type wide int64

func (*wide) kind() string { return "a whole number" }

func (f *wide) set(v any) error {
	n, ok := v.(int64)
	switch {
	case !ok:
		return wrong(f, v)
	case n < 0:
		return fmt.Errorf("%d: want 0 or more", n)
	}
	*f = wide(n)
	return nil
}

func (*wide) parse(s string) (any, bool) { return parseWhole(s) }
func (f *wide) toml() string             { return strconv.FormatInt(int64(*f), 10) }
func (f *wide) json() any                { return int64(*f) }

func parseWhole(s string) (any, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// seconds is a time of at least one.
type seconds time.Duration

func (*seconds) kind() string { return "a whole number of seconds" }

func (f *seconds) set(v any) error {
	n, ok := v.(int64)
	switch {
	case !ok:
		return wrong(f, v)
	case n < 1 || n > maxSeconds:
		return fmt.Errorf("%d seconds: want 1 to %d", n, maxSeconds)
	}
	*f = seconds(time.Duration(n) * time.Second)
	return nil
}

func (*seconds) parse(s string) (any, bool) { return parseWhole(s) }
func (f *seconds) toml() string             { return strconv.FormatInt(f.count(), 10) }
func (f *seconds) json() any                { return f.count() }
func (f *seconds) count() int64             { return int64(time.Duration(*f) / time.Second) }

// fraction is a number, whole or not.
type fraction float64

func (*fraction) kind() string { return "a number" }

func (f *fraction) set(v any) error {
	switch n := v.(type) {
	case int64:
		*f = fraction(n)
	case float64:
		*f = fraction(n)
	default:
		return wrong(f, v)
	}
	return nil
}

func (*fraction) parse(s string) (any, bool) {
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

func (f *fraction) toml() string { return strconv.FormatFloat(float64(*f), 'f', -1, 64) }
func (f *fraction) json() any    { return json.RawMessage(f.toml()) }

// text is a text that read understands.
type text[T ~string] struct {
	to   *T
	read func(string) (T, error)
}

// textOf is the field to.
func textOf[T ~string](to *T, read func(string) (T, error)) value { return text[T]{to, read} }

// plainText is a field that takes every text.
func plainText(to *string) value {
	return text[string]{to, func(s string) (string, error) { return s, nil }}
}

func (text[T]) kind() string { return "text" }

func (f text[T]) set(v any) error {
	s, ok := v.(string)
	if !ok {
		return wrong(f, v)
	}
	t, err := f.read(s)
	if err == nil {
		*f.to = t
	}
	return err
}

func (text[T]) parse(s string) (any, bool) { return s, true }
func (f text[T]) toml() string             { return quote(string(*f.to)) }
func (f text[T]) json() any                { return string(*f.to) }

// params is kernel parameters: a text, to which an annotation adds.
type params []KernelParam

func (*params) kind() string { return "text" }

func (f *params) set(v any) error {
	s, ok := v.(string)
	if !ok {
		return wrong(f, v)
	}
	*f = params{KernelParam(s)}
	return nil
}

func (*params) parse(s string) (any, bool) { return s, true }
func (f *params) toml() string             { return quote(f.joined()) }
func (f *params) json() any                { return f.joined() }

func (f *params) joined() string {
	parts := make([]string, len(*f))
	for i, p := range *f {
		parts[i] = string(p)
	}
	return strings.Join(parts, " ")
}

// texts is a list of texts.
type texts []string

func (*texts) kind() string { return "a list of texts" }

func (f *texts) set(v any) error {
	list, ok := v.([]any)
	if !ok {
		return wrong(f, v)
	}
	out := make(texts, len(list))
	for i, e := range list {
		if out[i], ok = e.(string); !ok {
			return fmt.Errorf("want %s, got one with %s", f.kind(), kindOf(e))
		}
	}
	*f = out
	return nil
}

// parse splits at semicolons, as Kata does for kernel_modules, the one list that an annotation sets.
func (*texts) parse(s string) (any, bool) {
	out := []any{}
	if s != "" {
		for e := range strings.SplitSeq(s, ";") {
			out = append(out, strings.TrimSpace(e))
		}
	}
	return out, true
}

func (f *texts) toml() string {
	parts := make([]string, len(*f))
	for i, s := range *f {
		parts[i] = quote(s)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (f *texts) json() any { return append([]string{}, *f...) } // never null

// disks is a list of tables, one an extension.
type disks []ExtensionDisk

func (*disks) kind() string { return "a list of tables" }

func (f *disks) set(v any) error {
	list, ok := v.([]any)
	if !ok {
		return wrong(f, v)
	}
	out := make(disks, len(list))
	for i, e := range list {
		var err error
		if out[i], err = extensionDisk(e); err != nil {
			return fmt.Errorf("image %d: %w", i+1, err)
		}
	}
	*f = out
	return nil
}

func (*disks) parse(string) (any, bool) { return nil, false } // no annotation sets a list

func (f *disks) toml() string {
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

func (f *disks) json() any {
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
	return out
}

// kindOf says what a TOML value is.
func kindOf(v any) string {
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

func extensionDisk(v any) (ExtensionDisk, error) {
	table, ok := v.(map[string]any)
	if !ok {
		return ExtensionDisk{}, fmt.Errorf("want a table, got %s", kindOf(v))
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
			return e, fmt.Errorf("%s: want text, got %s", n, kindOf(table[n]))
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

// Files is what Load needs of a file system. Paths are absolute, or as the user gave them.
type Files interface {
	// ReadFile reads a file. A missing one is fs.ErrNotExist.
	ReadFile(path string) ([]byte, error)
	// ReadDir lists the names in a folder that are no folders, sorted by byte. A missing folder is fs.ErrNotExist.
	ReadDir(path string) ([]string, error)
	// Resolve follows symbolic links to the end. A missing file is fs.ErrNotExist.
	Resolve(path string) (string, error)
}

// hostFiles are the files of this host.
type hostFiles struct{}

// ReadFile reads a file of at most the size a configuration may have; one byte more tells that there is more. What
// stands in it is run as root, so owned.Read refuses a file that another user could have written.
func (hostFiles) ReadFile(path string) ([]byte, error) { return owned.Read(path, maxSize+1) }

// ReadDir implements Files.
func (hostFiles) ReadDir(path string) ([]string, error) {
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
func (hostFiles) Resolve(path string) (string, error) { return filepath.EvalSymlinks(path) }
