// Package rego decides about calls of the guest API by a policy in Rego, as the agent of Kata Containers does.
//
// The text is of package agent_policy. A call is allowed when data.agent_policy.NAME is true, or an object whose member
// allowed is true; NAME is the name of the request's message, such as ExecProcessRequest, and input the request. Such
// an object may have a member ops, a JSON Patch (RFC 6902) of data, in which the policy keeps what it wants to remember
// below pstate. Where AllowRequestsFailingPolicy is true, what is not allowed is only logged.
package rego

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/print"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/agent/policy"
)

// Limits of a text, those of Kata Containers' agent.
const (
	maxText  = 16 << 20
	maxLine  = 64 << 10
	maxLines = 200_000
)

// evalTime bounds one decision: a policy can loop for longer than anybody waits.
const evalTime = 30 * time.Second

// home is where the rules are, and failing the one that lets everything pass.
const (
	home    = "data.agent_policy"
	failing = "AllowRequestsFailingPolicy"
)

// outside are functions that would let a policy reach out of the guest's agent.
var outside = []string{"http.send", "net.lookup_ip_addr", "opa.runtime"}

// Engine is a policy, read. Its methods may be called from several goroutines.
type Engine struct {
	log      *slog.Logger
	compiler *ast.Compiler

	mu      sync.Mutex // guards what follows
	store   storage.Store
	queries map[string]opa.PreparedEvalQuery
	lenient bool
	prints  []string
}

var _ policy.Engine = (*Engine)(nil)

// Read reads a policy. A nil log is silent.
func Read(text string, log *slog.Logger) (policy.Engine, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := bounded(text); err != nil {
		return nil, err
	}
	capabilities := ast.CapabilitiesForThisVersion()
	capabilities.Builtins = slices.DeleteFunc(capabilities.Builtins,
		func(b *ast.Builtin) bool { return slices.Contains(outside, b.Name) })
	capabilities.AllowNet = []string{}
	module, err := parse(text, capabilities)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if got := module.Package.Path.String(); got != home {
		return nil, fmt.Errorf("policy: it is of package %s: want package agent_policy",
			strings.TrimPrefix(got, "data."))
	}
	e := &Engine{
		log: log, store: inmem.NewFromObject(map[string]any{"pstate": map[string]any{}}),
		queries:  map[string]opa.PreparedEvalQuery{},
		compiler: ast.NewCompiler().WithCapabilities(capabilities).WithEnablePrintStatements(true),
	}
	if e.compiler.Compile(map[string]*ast.Module{"policy": module}); e.compiler.Failed() {
		return nil, fmt.Errorf("policy: %w", e.compiler.Errors)
	}
	if v, found, err := e.eval(failing, map[string]any{}); err == nil && found && v == true {
		e.lenient = true
		log.Warn("policy: " + failing + " is set: calls that are not allowed are made all the same")
	}
	return e, nil
}

func bounded(text string) error {
	if len(text) > maxText {
		return fmt.Errorf("policy of %d bytes: want at most %d", len(text), maxText)
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		if len(line) > maxLine {
			return fmt.Errorf("policy: line %d has %d bytes: want at most %d", n, len(line), maxLine)
		}
	}
	if n > maxLines {
		return fmt.Errorf("policy of %d lines: want at most %d", n, maxLines)
	}
	return nil
}

// parse reads Rego of version 0, as Kata Containers writes it, or 1.
func parse(text string, c *ast.Capabilities) (*ast.Module, error) {
	m, err := ast.ParseModuleWithOpts("policy", text, ast.ParserOptions{RegoVersion: ast.RegoV0, Capabilities: c})
	if err == nil {
		return m, nil
	}
	if m, err := ast.ParseModuleWithOpts("policy", text, ast.ParserOptions{RegoVersion: ast.RegoV1,
		Capabilities: c}); err == nil {
		return m, nil
	}
	return nil, err
}

// Check says whether the host may make a call. The error has the code PermissionDenied, and what the policy printed;
// one of the policy itself is Internal.
func (e *Engine) Check(method string, request proto.Message) error {
	name := method + "Request"
	if request != nil {
		name = string(request.ProtoReflect().Descriptor().Name())
	}
	in, err := input(request)
	if err != nil {
		return status.Errorf(codes.PermissionDenied, "%s is blocked by policy: %v", name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	why := e.decide(name, in)
	if why == nil {
		return nil
	}
	if e.lenient {
		e.log.Warn("policy: a call that is not allowed is made all the same", "call", name, "err", why)
		return nil
	}
	return why
}

// decide is Check for a request that Rego can read. e.mu is held.
func (e *Engine) decide(name string, in any) error {
	v, found, err := e.eval(name, in)
	if err != nil {
		return status.Errorf(codes.Internal, "%s: the policy fails: %v", name, err)
	}
	blocked := func(why string) error {
		if len(e.prints) > 0 {
			why = strings.Join(e.prints, " ")
		}
		return status.Errorf(codes.PermissionDenied, "%s is blocked by policy: %s", name, why)
	}
	if !found {
		return blocked("it has no rule of this name")
	}
	switch v := v.(type) {
	case bool:
		if v {
			return nil
		}
		return blocked("its rule says no")
	case map[string]any:
		if allowed, ok := v["allowed"].(bool); !ok {
			return status.Errorf(
				codes.Internal, "%s: the policy fails: its rule gives an object without a truth value called allowed",
				name)
		} else if !allowed {
			return blocked("its rule says no")
		}
		if ops := v["ops"]; ops != nil {
			if err := e.remember(ops); err != nil {
				return status.Errorf(codes.Internal, "%s: the policy fails: %v", name, err)
			}
		}
		return nil
	}
	return status.Errorf(codes.Internal, "%s: the policy fails: its rule gives %T: want true, false or an object",
		name, v)
}

// eval is the value of a rule. e.mu is held, or nobody else knows e.
func (e *Engine) eval(name string, in any) (v any, found bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), evalTime)
	defer cancel()
	q, ok := e.queries[name]
	if !ok {
		q, err = opa.New(opa.Query(home+"."+name), opa.Compiler(e.compiler), opa.Store(e.store),
			opa.PrintHook((*hook)(e))).PrepareForEval(ctx)
		if err != nil {
			return nil, false, err
		}
		e.queries[name] = q
	}
	e.prints = nil
	set, err := q.Eval(ctx, opa.EvalInput(in), opa.EvalPrintHook((*hook)(e)))
	switch {
	case topdown.IsCancel(err) || errors.Is(err, context.DeadlineExceeded):
		return nil, false, fmt.Errorf("it takes longer than %v", evalTime)
	case err != nil:
		return nil, false, err
	case len(set) == 0:
		return nil, false, nil
	}
	return set[0].Expressions[0].Value, true, nil
}

// hook gathers what a policy prints.
type hook Engine

func (h *hook) Print(_ print.Context, s string) error {
	const most = 20 // beginnings are what an error can show
	if len(h.prints) < most {
		h.prints = append(h.prints, s)
	}
	return nil
}

// remember applies a JSON Patch to the data. All of it is applied, or nothing.
func (e *Engine) remember(ops any) error {
	ctx := context.Background()
	data, err := storage.ReadOne(ctx, e.store, storage.Path{})
	if err != nil {
		return fmt.Errorf("read its state: %w", err)
	}
	set, err := opa.New(opa.Query("json.patch(input.data, input.ops)"),
		opa.Input(map[string]any{"data": data, "ops": ops}), opa.StrictBuiltinErrors(true)).Eval(ctx)
	if err != nil {
		return fmt.Errorf("change its state: %w", err)
	}
	if len(set) == 0 {
		return errors.New("change its state: the patch does not fit")
	}
	if err := storage.WriteOne(ctx, e.store, storage.AddOp, storage.Path{}, set[0].Expressions[0].Value); err != nil {
		return fmt.Errorf("write its state: %w", err)
	}
	return nil
}
