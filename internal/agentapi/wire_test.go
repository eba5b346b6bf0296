package agentapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/reportpb"
	"github.com/katabuild/katabuild/internal/golden"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The wire format is what other programs rely on: Kata Containers' hosts for the packages grpc and types, whose facts
// are those of its protocol files in release 4.1, and hosts of older and newer katabuild for our own. A line may be
// added to testdata/wire.txt; none may change.
func TestWireFactsHold(t *testing.T) {
	var services, messages []string
	for _, f := range []protoreflect.FileDescriptor{
		katapb.File_katabuild_agentapi_types_proto, katapb.File_katabuild_agentapi_csi_proto,
		katapb.File_katabuild_agentapi_oci_proto,
		katapb.File_katabuild_agentapi_health_proto, katapb.File_katabuild_agentapi_agent_proto,
		reportpb.File_katabuild_agentapi_report_proto,
	} {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			b := fmt.Sprintf("service %s\n", s.FullName())
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				if m.IsStreamingClient() || m.IsStreamingServer() {
					t.Errorf("%s streams; every RPC of this API is unary", m.FullName())
				}
				b += fmt.Sprintf("  %s(%s) %s\n", m.Name(), m.Input().FullName(), m.Output().FullName())
			}
			services = append(services, b)
		}
		for i := range f.Messages().Len() {
			m := f.Messages().Get(i)
			b := fmt.Sprintf("message %s\n", m.FullName())
			for j := range m.Fields().Len() {
				b += "  " + field(m.Fields().Get(j)) + "\n"
			}
			messages = append(messages, b)
		}
	}
	slices.Sort(services)
	slices.Sort(messages)
	golden.Check(t, "wire.txt", []byte(strings.Join(services, "")+strings.Join(messages, "")))
}

func field(f protoreflect.FieldDescriptor) string {
	s := fmt.Sprintf("%d %s ", f.Number(), f.Name())
	switch o := f.ContainingOneof(); {
	case f.IsMap():
		return s + "map of " + f.MapKey().Kind().String() + " to " + kind(f.MapValue())
	case f.IsList():
		s += "repeated "
	case o != nil && o.IsSynthetic():
		s += "optional "
	case o != nil:
		s += "one of " + string(o.Name()) + " "
	}
	return s + kind(f)
}

func kind(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return string(f.Message().FullName())
	case protoreflect.EnumKind:
		var values []string
		for i := range f.Enum().Values().Len() {
			v := f.Enum().Values().Get(i)
			values = append(values, fmt.Sprintf("%s=%d", v.Name(), v.Number()))
		}
		return string(f.Enum().FullName()) + " {" + strings.Join(values, " ") + "}"
	}
	return f.Kind().String()
}
