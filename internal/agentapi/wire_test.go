package agentapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/reportpb"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// wire is what other programs rely on: Kata Containers' hosts for the package grpc, hosts of older and newer katabuild for our own.
// A line may be added; none may change.
const wire = `
service grpc.AgentService
  GetGuestDetails(grpc.GuestDetailsRequest) grpc.GuestDetailsResponse
service grpc.Health
  Check(grpc.CheckRequest) grpc.HealthCheckResponse
  Version(grpc.CheckRequest) grpc.VersionCheckResponse
service katabuild.report.v1.Report
  Get(katabuild.report.v1.GetRequest) katabuild.report.v1.GetResponse
message grpc.AgentDetails
  1 version string
  2 init_daemon bool
  3 device_handlers repeated string
  4 storage_handlers repeated string
  5 supports_seccomp bool
  6 extra_features repeated string
message grpc.CheckRequest
  1 service string
message grpc.GuestDetailsRequest
  1 mem_block_size bool
  2 mem_hotplug_probe bool
message grpc.GuestDetailsResponse
  1 mem_block_size_bytes uint64
  2 agent_details grpc.AgentDetails
  3 support_mem_hotplug_probe bool
message grpc.HealthCheckResponse
  1 status grpc.HealthCheckResponse.ServingStatus {UNKNOWN=0 SERVING=1 NOT_SERVING=2}
message grpc.VersionCheckResponse
  1 grpc_version string
  2 agent_version string
message katabuild.report.v1.GetRequest
  1 nonce bytes
message katabuild.report.v1.GetResponse
  1 report bytes
`

func TestWireFactsHold(t *testing.T) {
	var services, messages []string
	for _, f := range []protoreflect.FileDescriptor{
		katapb.File_katabuild_agentapi_health_proto, katapb.File_katabuild_agentapi_agent_proto, reportpb.File_katabuild_agentapi_report_proto,
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
	if got := "\n" + strings.Join(services, "") + strings.Join(messages, ""); got != wire {
		t.Errorf("the wire format is now:%s\nwant:%s", got, wire)
	}
}

func field(f protoreflect.FieldDescriptor) string {
	s := fmt.Sprintf("%d %s ", f.Number(), f.Name())
	if f.IsList() {
		s += "repeated "
	}
	switch f.Kind() {
	case protoreflect.MessageKind:
		return s + string(f.Message().FullName())
	case protoreflect.EnumKind:
		var values []string
		for i := range f.Enum().Values().Len() {
			v := f.Enum().Values().Get(i)
			values = append(values, fmt.Sprintf("%s=%d", v.Name(), v.Number()))
		}
		return s + string(f.Enum().FullName()) + " {" + strings.Join(values, " ") + "}"
	}
	return s + f.Kind().String()
}
