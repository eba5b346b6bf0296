package agentctl

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxFile bounds a file that becomes a part of a request: a message of the API has at most 4 MiB.
const maxFile = 4 << 20

// short are names of Kata's own tool, and ours, for fields.
var short = map[string]string{"cid": "container_id", "sid": "sandbox_id", "eid": "exec_id", "exec-id": "exec_id",
	"policy_file": "policy", "policy-file": "policy"}

// jsonBody puts the whole of a request in JSON, inline or in a file, into a message. A field that it does not have is
// refused by its name.
func jsonBody(body string, into proto.Message) error {
	text, inline := strings.CutPrefix(body, jsonScheme)
	if !inline {
		b, err := readFile(body)
		if err != nil {
			return err
		}
		text = string(b)
	}
	if err := protojson.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("request in JSON: %s", plain(err))
	}
	return nil
}

// plain is an error of the JSON library in the form of ours: it begins with its package's name, and a space of one kind
// or another.
func plain(err error) string {
	s := strings.Map(func(r rune) rune {
		if r == '\u00a0' {
			return ' '
		}
		return r
	}, err.Error())
	return strings.TrimSpace(strings.TrimPrefix(s, "proto:"))
}

// readFile reads what a file:// names.
func readFile(address string) ([]byte, error) {
	u, err := url.Parse(address)
	path := strings.TrimPrefix(address, fileScheme) // relative ones, too
	if err == nil && u.Host == "" && u.Path != "" {
		path = u.Path
	}
	return readPath(path)
}

func readPath(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than a message of the API, %d bytes", path, maxFile)
	}
	return b, err
}

// set puts key=value into a message. The key is a path of field names with dots. Of a list, each mention appends; a
// value that is JSON fits fields of every kind; file:// is the content of a file.
func set(m protoreflect.Message, key, value string) error {
	if long := short[key]; long != "" {
		if strings.HasPrefix(key, "policy") && !strings.HasPrefix(value, fileScheme) {
			value = fileScheme + value
		}
		key = long
	}
	head, rest, deeper := strings.Cut(key, ".")
	f := field(m.Descriptor(), head)
	if f == nil {
		return fmt.Errorf("%s has no field %q; its fields are %s", m.Descriptor().Name(), head,
			strings.Join(names(m.Descriptor()), ", "))
	}
	if deeper {
		if f.Message() == nil || f.IsList() || f.IsMap() {
			return fmt.Errorf("%s.%s has no fields", m.Descriptor().Name(), f.Name())
		}
		return set(m.Mutable(f).Message(), rest, value)
	}
	if strings.HasPrefix(value, fileScheme) {
		b, err := readFile(value)
		if err != nil {
			return err
		}
		value = string(b)
	}
	if f.IsList() && f.Message() == nil && !strings.HasPrefix(value, "[") {
		v, err := scalar(f, value)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		m.Mutable(f).List().Append(v)
		return nil
	}
	if f.IsList() || f.IsMap() || f.Message() != nil {
		part := m.New().Interface()
		if err := protojson.Unmarshal(fmt.Appendf(nil, "{%q: %s}", f.Name(), value), part); err != nil {
			return fmt.Errorf("%s wants JSON: %s", key, plain(err))
		}
		proto.Merge(m.Interface(), part)
		return nil
	}
	v, err := scalar(f, value)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	m.Set(f, v)
	return nil
}

func names(d protoreflect.MessageDescriptor) []string {
	var out []string
	for i := range d.Fields().Len() {
		out = append(out, string(d.Fields().Get(i).Name()))
	}
	if len(out) == 0 {
		return []string{"none"}
	}
	return out
}

// field is one by its name, whose letters may be large or small.
func field(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		if strings.EqualFold(string(f.Name()), name) || strings.EqualFold(f.JSONName(), name) {
			return f
		}
	}
	return nil
}

// scalar reads a number, a word or bytes.
func scalar(f protoreflect.FieldDescriptor, s string) (protoreflect.Value, error) {
	none := protoreflect.Value{}
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(s), nil
	case protoreflect.BytesKind:
		if b64, is := strings.CutPrefix(s, "base64:"); is {
			b, err := base64.StdEncoding.DecodeString(b64)
			return protoreflect.ValueOfBytes(b), err
		}
		return protoreflect.ValueOfBytes([]byte(s)), nil
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return none, fmt.Errorf("%q: want true or false", s)
		}
		return protoreflect.ValueOfBool(b), nil
	case protoreflect.EnumKind:
		if v := f.Enum().Values().ByName(protoreflect.Name(s)); v != nil {
			return protoreflect.ValueOfEnum(v.Number()), nil
		}
		n, err := strconv.ParseInt(s, 0, 32)
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), whole(s, err)
	case protoreflect.Int32Kind:
		n, err := strconv.ParseInt(s, 0, 32)
		return protoreflect.ValueOfInt32(int32(n)), whole(s, err)
	case protoreflect.Int64Kind:
		n, err := strconv.ParseInt(s, 0, 64)
		return protoreflect.ValueOfInt64(n), whole(s, err)
	case protoreflect.Uint32Kind:
		if f.Name() == "signal" {
			if n := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")); n != 0 {
				return protoreflect.ValueOfUint32(uint32(n)), nil
			}
		}
		n, err := strconv.ParseUint(s, 0, 32)
		return protoreflect.ValueOfUint32(uint32(n)), whole(s, err)
	case protoreflect.Uint64Kind:
		n, err := strconv.ParseUint(s, 0, 64)
		return protoreflect.ValueOfUint64(n), whole(s, err)
	}
	return none, fmt.Errorf("a field of kind %s", f.Kind())
}

func whole(s string, err error) error {
	if err != nil {
		return fmt.Errorf("%q: want a whole number that fits", s)
	}
	return nil
}

// take removes key=value arguments that are no fields and returns their values.
func take(args []string, keys ...string) (values map[string]string, rest []string, err error) {
	values = map[string]string{}
	for _, a := range args {
		k, v, has := strings.Cut(a, "=")
		switch {
		case !has:
			return nil, nil, fmt.Errorf("%q: want KEY=VALUE, %sJSON or %sPATH", a, jsonScheme, fileScheme)
		case slices.Contains(keys, k):
			values[k] = v
		default:
			rest = append(rest, a)
		}
	}
	return values, rest, nil
}

// list is a JSON list of strings, or one string.
func list(s string) ([]string, error) {
	if !strings.HasPrefix(s, "[") {
		return []string{s}, nil
	}
	var out []string
	if err := json.Unmarshal([]byte(s), &out); err != nil || len(out) == 0 {
		return nil, errors.New("args: want a JSON list of strings, or one word")
	}
	return out, nil
}
