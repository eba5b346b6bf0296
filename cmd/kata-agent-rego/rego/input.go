package rego

import (
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// input is a request as policies of Kata Containers know it: every field by its name in the API's description, with a
// zero where it was not sent; messages that were not sent are null, bytes are lists of numbers, enumerations numbers.
func input(request proto.Message) (any, error) {
	switch r := request.(type) {
	case nil:
		return nil, nil
	case *katapb.CopyFileRequest:
		return copyFile(r)
	}
	return message(request.ProtoReflect()), nil
}

// copyFile is what a policy may know of a file: not its content, but where a symbolic link leads, and in words what
// kind of file it is.
func copyFile(r *katapb.CopyFileRequest) (any, error) {
	kind, target := "Unknown", any(nil)
	switch r.FileMode & unix.S_IFMT {
	case unix.S_IFREG:
		kind = "Regular"
	case unix.S_IFDIR:
		kind = "Directory"
	case unix.S_IFLNK:
		if !utf8.Valid(r.Data) {
			return nil, errors.New("the target of a symbolic link is no text")
		}
		kind, target = "Symlink", string(r.Data)
	}
	return map[string]any{
		"path": r.Path, "file_type": kind, "symlink_target": target,
		"file_size": number(r.FileSize), "file_mode": number(int64(r.FileMode)), "dir_mode": number(int64(r.DirMode)),
		"uid": number(int64(r.Uid)), "gid": number(int64(r.Gid)), "offset": number(r.Offset),
	}, nil
}

func number(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

// typeField is the one name of a field that is a word of the Rust language, in which that agent is written. There it is
// type_.
const typeField = "type"

func message(m protoreflect.Message) map[string]any {
	out := map[string]any{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := string(f.Name())
		if name == typeField {
			name += "_"
		}
		out[name] = field(f, m)
	}
	return out
}

func field(f protoreflect.FieldDescriptor, m protoreflect.Message) any {
	v := m.Get(f)
	switch {
	case f.IsMap():
		out := map[string]any{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			out[k.String()] = single(f.MapValue(), v)
			return true
		})
		return out
	case f.IsList():
		out := []any{}
		for i := range v.List().Len() {
			out = append(out, single(f, v.List().Get(i)))
		}
		return out
	case f.HasPresence() && !m.Has(f):
		return nil
	}
	return single(f, v)
}

func single(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return v.Bool()
	case protoreflect.StringKind:
		return v.String()
	case protoreflect.BytesKind:
		out := []any{}
		for _, b := range v.Bytes() {
			out = append(out, number(int64(b)))
		}
		return out
	case protoreflect.EnumKind:
		return number(int64(v.Enum()))
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return message(v.Message())
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return v.Float()
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return json.Number(strconv.FormatUint(v.Uint(), 10))
	}
	return number(v.Int())
}
