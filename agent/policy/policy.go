// Package policy says which calls of the guest API a host may make: a list of rules, the first of which that fits a call decides.
//
// A text goes in, docs/formats/policy.md; for each call a yes, or an error with the rule that said no, comes out. It knows the calls and their fields from
// the API's own description, so that a rule about none of them is an error. It refuses to know what a call does.
package policy

import (
	"errors"
	"fmt"
	"log/slog"
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

// ErrRego says that a policy is written in Rego, which this agent cannot read.
var ErrRego = errors.New("this policy is written in Rego; the Rego engine is an optional build of its own, kata-agent-rego, which this agent is not: use that, or write the policy as docs/formats/policy.md says")

// rego is how a policy of Kata Containers begins, after comments.
var rego = regexp.MustCompile(`(?m)^\s*package\s+agent_policy\b`)

// Engine is a policy, read. Its methods may be called from several goroutines.
type Engine interface {
	// Check says whether the host may make a call, by its method's name and its request, which may be nil.
	Check(method string, request proto.Message) error
}

// Policy is the one in force. The zero value allows everything, and does not know Rego. Its methods may be called from several goroutines.
type Policy struct {
	// Rego reads a policy in Rego. Nil refuses them.
	Rego func(text string, log *slog.Logger) (Engine, error)
	Log  *slog.Logger

	engine atomic.Pointer[Engine]
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
	e := p.engine.Load()
	if e == nil {
		return nil
	}
	return (*e).Check(method, request)
}

// Check is Engine's.
func (r *rules) Check(method string, request proto.Message) error {
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
	before := p.engine.Load()
	if err := p.Check(setPolicy, &katapb.SetPolicyRequest{Policy: text}); err != nil {
		return err
	}
	e, err := p.read(text)
	if err != nil {
		return err
	}
	if !p.engine.CompareAndSwap(before, &e) {
		return errors.New("policy: another one was set meanwhile")
	}
	return nil
}

func (p *Policy) read(text string) (Engine, error) {
	if !rego.MatchString(text) {
		return parse(text)
	}
	if p.Rego == nil {
		return nil, ErrRego
	}
	return p.Rego(text, p.Log)
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
