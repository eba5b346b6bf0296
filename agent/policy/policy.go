// Package policy says which calls of the guest API a host may make: a list of rules, the first of which that fits a call decides.
//
// A text goes in, docs/formats/policy.md; for each call a yes, or an error with the rule that said no, comes out. It knows the calls and their fields from
// the API's own description, so that a rule about none of them is an error. It refuses to know what a call does.
package policy

import (
	"errors"
	"fmt"
	"regexp"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// setPolicy is the call that replaces a policy, and needs the leave of the one before.
const setPolicy = "SetPolicy"

// service is whose calls are checked. Those of health and of the report always pass.
const service = "AgentService"

// ErrRego says that a policy is written in Rego.
var ErrRego = errors.New("this policy is written in Rego; the Rego engine is an optional build of its own, which this agent does not have: write the policy as docs/formats/policy.md says")

// rego is how a policy of Kata Containers begins, after comments.
var rego = regexp.MustCompile(`(?m)^\s*package\s+agent_policy\b`)

// Policy is the one in force. The zero value allows everything. Its methods may be called from several goroutines.
type Policy struct {
	rules atomic.Pointer[rules]
}

// rules are a policy, read. They never change.
type rules struct {
	allow bool // what no rule fits
	list  []rule
}

// rule is one line.
type rule struct {
	line       int
	allow      bool
	method     string
	conditions []condition
}

// condition is a field that must have a value.
type condition struct {
	path []protoreflect.FieldDescriptor
	want protoreflect.Value // of a single field
	list []string           // of a repeated one
}

// Check says whether the host may make a call, by its method's name and its request. The error has the code PermissionDenied.
func (p *Policy) Check(method string, request proto.Message) error {
	r := p.rules.Load()
	if r == nil {
		return nil
	}
	allow, why := r.allow, "no rule allows it"
	for _, rule := range r.list {
		if rule.fits(method, request) {
			allow, why = rule.allow, fmt.Sprintf("the rule in line %d denies it", rule.line)
			break
		}
	}
	if allow {
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "%sRequest is blocked by policy: %s", method, why)
}

// Set puts a policy in force, if the one before allows that. A text that is none changes nothing.
func (p *Policy) Set(text string) error {
	before := p.rules.Load()
	if err := p.Check(setPolicy, &katapb.SetPolicyRequest{Policy: text}); err != nil {
		return err
	}
	r, err := parse(text)
	if err != nil {
		return err
	}
	if !p.rules.CompareAndSwap(before, r) {
		return errors.New("policy: another one was set meanwhile")
	}
	return nil
}

func (r rule) fits(method string, request proto.Message) bool {
	if r.method != method {
		return false
	}
	for _, c := range r.conditions {
		if request == nil || !c.holds(request.ProtoReflect()) {
			return false
		}
	}
	return true
}

// holds follows the path. What a request does not have is empty, as on the wire.
func (c condition) holds(m protoreflect.Message) bool {
	for _, f := range c.path[:len(c.path)-1] {
		if m.Descriptor() != f.Parent() {
			return false // a request of another method
		}
		m = m.Get(f).Message()
	}
	last := c.path[len(c.path)-1]
	if m.Descriptor() != last.Parent() {
		return false
	}
	if !last.IsList() {
		return m.Get(last).Equal(c.want)
	}
	list := m.Get(last).List()
	if list.Len() != len(c.list) {
		return false
	}
	for i, want := range c.list {
		if list.Get(i).String() != want {
			return false
		}
	}
	return true
}
