package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// regoPolicy lets a sandbox be made, once, and prints why not.
const regoPolicy = `package agent_policy
import future.keywords.if

default GuestDetailsRequest := true
default SetPolicyRequest := false
default CreateSandboxRequest := {"allowed": false}

CreateSandboxRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/made", "value": input.sandbox_id}]} if {
	print("pod", input.sandbox_id, "after", data.pstate)
	input.sandbox_id == "one"
	not data.pstate.made
}
`

// regoGuest is the default kernel with an agent that reads Rego, or the usual one, and a policy.
func regoGuest(t *testing.T, flags ...string) *guest.Guest {
	t.Helper()
	const initrd = "initrd:\n  compression: none"
	text := strings.ReplaceAll("\n"+regoPolicy, "\n", "\n        ")
	built := variant(t, initrd, initrd+"\n  files:\n    - path: /etc/kata-opa/default-policy.rego\n      text: |"+
		text, flags...)
	dir := clone(t, abs(t, "out/default"))
	m, _, err := manifest.Read(built, "")
	if err != nil {
		t.Fatal(err)
	}
	kernel, _, err := manifest.Read(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	m.Kernel = kernel.Kernel
	data, err := os.ReadFile(filepath.Join(built, m.Initrd.Path))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, m.Initrd.Path), data, 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := guest.FromManifest(m, "", dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAPolicyInRegoDecidesInTheGuest(t *testing.T) {
	need(t)
	agent := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", agent, ".")
	cmd.Dir = abs(t, "cmd/kata-agent-rego")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	finish(t, cmd).want(t, 0)
	g := regoGuest(t, "--agent", agent)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	vm, err := sandbox.Start(ctx, sandbox.Config{Guest: g, Hypervisor: hypervisor.Default()})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop() // the guest is thrown away
	conn, err := vm.Dial(ctx, agentapi.Port)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	api := katapb.NewAgentServiceClient(client)
	if _, err := api.GetGuestDetails(ctx, &katapb.GuestDetailsRequest{}); err != nil {
		t.Errorf("a call that is allowed: %v", err)
	}
	denied := func(name string, err error, words string) {
		t.Helper()
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want that it is denied: %s", name, err, words)
		}
	}
	_, err = api.CreateSandbox(ctx, &katapb.CreateSandboxRequest{SandboxId: "two"})
	denied("another sandbox", err, "CreateSandboxRequest is blocked by policy: pod two after {}")
	if _, err := api.CreateSandbox(ctx, &katapb.CreateSandboxRequest{SandboxId: "one"}); err != nil {
		t.Errorf("the sandbox: %v", err)
	}
	_, err = api.CreateSandbox(ctx, &katapb.CreateSandboxRequest{SandboxId: "one"})
	denied("the sandbox once more", err, `pod one after {"made": "one"}`)
	_, err = api.ExecProcess(ctx, &katapb.ExecProcessRequest{})
	denied("a call without a rule", err, "it has no rule of this name")
	_, err = api.SetPolicy(ctx, &katapb.SetPolicyRequest{Policy: "katabuild-policy 1\ndefault allow\n"})
	denied("another policy", err, "SetPolicyRequest is blocked by policy")
}

func TestAPolicyThatTheAgentCannotReadEndsTheGuest(t *testing.T) {
	need(t)
	g := regoGuest(t)
	vm, err := sandbox.Start(t.Context(), sandbox.Config{Guest: g, Hypervisor: hypervisor.Default()})
	if err == nil {
		vm.Stop() // it should not be there
	}
	var stage *sandbox.StageError
	if !errors.As(err, &stage) || !strings.Contains(strings.Join(stage.Console, "\n"),
		"/etc/kata-opa/default-policy.rego: this policy is written in Rego") {
		t.Errorf("the guest starts, or does not say why not: %v, %+v", err, stage)
	}
}
