// Package agentctl speaks to an agent by words that people type: every call of the guest API by its name, with JSON or
// key=value behind it.
//
// In come lines and a connection to an agent; out go requests, and answers fit for a terminal. Nothing is known of an
// agent but the API: whoever wrote it can be asked, and compared with what the API promises (Check). What an agent
// says is hostile: it is bounded, and cleaned of what a terminal would act on.
package agentctl

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/reportpb"
)

// apiCall is one call of the API.
type apiCall struct {
	Name    string // what it is asked by
	Service string // as on the wire
	method  protoreflect.MethodDescriptor
}

// calls are all calls of the API, in order of names.
func calls() []apiCall {
	var out []apiCall
	for _, f := range []protoreflect.FileDescriptor{katapb.File_katabuild_agentapi_health_proto,
		katapb.File_katabuild_agentapi_agent_proto, reportpb.File_katabuild_agentapi_report_proto} {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				c := apiCall{string(m.Name()), string(s.FullName()), m}
				if c.Name == "Get" { // it says nothing without its service
					c.Name = string(s.Name())
				}
				out = append(out, c)
			}
		}
	}
	slices.SortFunc(out, func(a, b apiCall) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// find is a call by its name, whose letters may be large or small.
func find(name string) (apiCall, bool) {
	all := calls()
	i := slices.IndexFunc(all, func(c apiCall) bool { return strings.EqualFold(c.Name, name) })
	if i < 0 {
		return apiCall{}, false
	}
	return all[i], true
}

// fields are those of the call's request, by the API's own names.
func (c apiCall) fields() []string {
	var out []string
	fields := c.method.Input().Fields()
	for i := range fields.Len() {
		out = append(out, string(fields.Get(i).Name()))
	}
	return out
}

// request and response are empty messages of the call.
func (c apiCall) request() proto.Message  { return message(c.method.Input()) }
func (c apiCall) response() proto.Message { return message(c.method.Output()) }

// message is an empty one of a type that this program was built with.
func message(d protoreflect.MessageDescriptor) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err) // generated code registers its types
	}
	return t.New().Interface()
}
