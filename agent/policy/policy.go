// Package policy says which calls of the guest API a host may make: a list of rules, the first of which that fits a
// call decides.
//
// A text goes in, docs/formats/policy.md; for each call a yes, or an error with the rule that said no, comes out. It
// knows the calls and their fields from the API's own description, so that a rule about none of them is an error. It
// does not know what a call does.
package policy

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/lazyregexp"
)

// setPolicy is the call that replaces a policy, and needs the leave of the one before.
const setPolicy = "SetPolicy"

// service is whose calls are checked. Those of health and of the report always pass.
const service = "AgentService"

// ErrRego says that a policy is written in Rego, which this agent cannot read.
var ErrRego = errors.New("this policy is written in Rego; the Rego engine is an optional build of its own, " +
	"kata-agent-rego, which this agent is not: use that, or write the policy as docs/formats/policy.md says")

// rego is how a policy of Kata Containers begins, after comments.
var rego = lazyregexp.New(`(?m)^\s*package\s+agent_policy\b`)

// Engine is a policy, read. Its methods may be called from several goroutines.
type Engine interface {
	// Check says whether the host may make a call, by its method's name and its request, which may be nil.
	Check(method string, request proto.Message) error
}

// Policy is the one in force. The zero value allows everything, and does not know Rego. Its methods may be called from
// several goroutines.
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
	ended bool // while it is read: what stands last is no rule
}

// rule is one line, and those that go on with it.
type rule struct {
	line       int
	allow      bool
	method     string
	conditions []condition
	open       bool   // other fields may be anything
	named      *named // those that a call may have; nil where it may have any
}

// Check says whether the host may make a call, by its method's name and its request. The error has the code
// PermissionDenied.
func (p *Policy) Check(method string, request proto.Message) error {
	e := p.engine.Load()
	if e == nil {
		return nil
	}
	return (*e).Check(method, request)
}

// Check is Engine's.
func (r *rules) Check(method string, request proto.Message) error {
	request = plain(request)
	allow, why := r.allow, "no rule allows it"
	for _, rule := range r.list {
		fits, unnamed := rule.fits(method, request)
		if fits {
			allow, why = rule.allow, fmt.Sprintf("the rule in line %d denies it", rule.line)
			break
		}
		if unnamed != "" {
			why = fmt.Sprintf("no rule allows it; the one in line %d would, but does not name %s", rule.line, unnamed)
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
	if !rego().MatchString(text) {
		return parse(text)
	}
	if p.Rego == nil {
		return nil, ErrRego
	}
	return p.Rego(text, p.Log)
}

// plain is a request in which the first process of a container goes by one name. The agent takes the container's own id
// for it too, and a signal to all processes is one to
// the first.
func plain(request proto.Message) proto.Message {
	if request == nil || !request.ProtoReflect().IsValid() {
		return request
	}
	m := request.ProtoReflect()
	c, e := m.Descriptor().Fields().ByName("container_id"), m.Descriptor().Fields().ByName("exec_id")
	if c == nil || e == nil {
		return request
	}
	if id := m.Get(e).String(); id == "" || id != m.Get(c).String() && id != agentapi.AllProcesses {
		return request
	}
	request = proto.Clone(request)
	request.ProtoReflect().Clear(e)
	return request
}

// fits says whether a rule is for a call. One that allows is only for calls whose fields it all names: unnamed is one
// that it does not, where nothing else is in the way. One that denies is for them whatever else they say.
func (r rule) fits(method string, request proto.Message) (fits bool, unnamed string) {
	if r.method != method {
		return false, ""
	}
	if len(r.conditions) > 0 && request == nil {
		return false, ""
	}
	for _, c := range r.conditions {
		if !c.holds(request.ProtoReflect()) {
			return false, ""
		}
	}
	if r.allow && r.named != nil {
		if unnamed = r.named.unnamed(request.ProtoReflect()); unnamed != "" {
			return false, unnamed
		}
	}
	return true, ""
}
