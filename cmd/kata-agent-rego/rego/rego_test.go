package rego

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/agent/policy"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// example has what policies of Kata Containers are made of: defaults, the words of the future that they import, and
// state.
const example = `# A policy.
package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default AllowRequestsFailingPolicy := false
default CreateContainerRequest := {"allowed": false, "ops": []}
default ExecProcessRequest := false
default GuestDetailsRequest := true
default CopyFileRequest := false
default ReadStreamRequest := false
default SetPolicyRequest := false

CreateContainerRequest := {"allowed": true, "ops": ops} if {
	count(input.OCI.Process.Args) == 2
	input.OCI.Process.Args[0] == "/bin/server"
	every m in input.OCI.Mounts { m.type_ in ["bind", "tmpfs"] }
	input.OCI.Linux.Resources.Memory.Limit == 9007199254740993
	is_null(input.OCI.Hooks)
	not data.pstate[input.container_id]
	ops := [{"op": "add", "path": concat("/", ["/pstate", input.container_id]), "value": "made"}]
}

ExecProcessRequest if {
	print("is it made?", data.pstate)
	data.pstate[input.container_id] == "made"
	input.process.Env == []
}

CopyFileRequest if {
	input.file_type == "Symlink"
	input.symlink_target == "data"
	startswith(input.path, "/run/kata-containers/shared/")
}

CopyFileRequest if {
	input.file_type == "Regular"
	input.symlink_target == null
	input.file_size < 10
}
`

func read(t *testing.T, text string) policy.Engine {
	t.Helper()
	e, err := Read(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func container(id string) *katapb.CreateContainerRequest {
	return &katapb.CreateContainerRequest{ContainerId: id, OCI: &katapb.Spec{
		Process: &katapb.Process{Args: []string{"/bin/server", "-v"}},
		Mounts:  []*katapb.Mount{{Type: "tmpfs"}, {Type: "bind"}},
		Linux:   &katapb.Linux{Resources: &katapb.LinuxResources{Memory: &katapb.LinuxMemory{Limit: 1<<53 + 1}}},
	}}
}

func TestAPolicyDecidesAndRemembers(t *testing.T) {
	e := read(t, example)
	other := container("a")
	other.OCI.Mounts[0].Type = "overlay"
	hooked := container("a")
	hooked.OCI.Hooks = &katapb.Hooks{}
	exec := &katapb.ExecProcessRequest{ContainerId: "a", Process: &katapb.Process{}}
	link := &katapb.CopyFileRequest{Path: "/run/kata-containers/shared/x", FileMode: unix.S_IFLNK | 0o777,
		Data: []byte("data")}
	elsewhere := proto.Clone(link).(*katapb.CopyFileRequest)
	elsewhere.Data = []byte("/etc/passwd")
	broken := proto.Clone(link).(*katapb.CopyFileRequest)
	broken.Data = []byte{0xff}
	for _, c := range []struct {
		name, method string
		request      proto.Message
		why          string // empty is allowed
	}{
		{"a default", "GetGuestDetails", &katapb.GuestDetailsRequest{}, ""},
		{"a default that denies", "ReadStdout", &katapb.ReadStreamRequest{},
			"ReadStreamRequest is blocked by policy: its rule says no"},
		{"a call without a rule", "Pause", &katapb.PauseContainerRequest{},
			"PauseContainerRequest is blocked by policy: it has no rule of this name"},
		{"a process before its container", "ExecProcess", exec,
			"ExecProcessRequest is blocked by policy: is it made? {}"},
		{"a mount of another kind", "CreateContainer", other,
			"CreateContainerRequest is blocked by policy: its rule says no"},
		{"a message that shall not be there", "CreateContainer", hooked,
			"CreateContainerRequest is blocked by policy: its rule says no"},
		{"a container", "CreateContainer", container("a"), ""},
		{"the same once more", "CreateContainer", container("a"),
			"CreateContainerRequest is blocked by policy: its rule says no"},
		{"another one", "CreateContainer", container("b"), ""},
		{"a process", "ExecProcess", exec, ""},
		{"a link", "CopyFile", link, ""},
		{"a link elsewhere", "CopyFile", elsewhere, "CopyFileRequest is blocked by policy: its rule says no"},
		{"a link to what is no text", "CopyFile", broken,
			"CopyFileRequest is blocked by policy: the target of a symbolic link is no text"},
		{"a small file", "CopyFile", &katapb.CopyFileRequest{FileMode: unix.S_IFREG, FileSize: 9}, ""},
		{"a large file", "CopyFile", &katapb.CopyFileRequest{FileMode: unix.S_IFREG, FileSize: 10},
			"CopyFileRequest is blocked by policy: its rule says no"},
		{"a folder", "CopyFile", &katapb.CopyFileRequest{FileMode: unix.S_IFDIR},
			"CopyFileRequest is blocked by policy: its rule says no"},
		{"another policy", "SetPolicy", &katapb.SetPolicyRequest{},
			"SetPolicyRequest is blocked by policy: its rule says no"},
		{"no request", "StartContainer", nil, "StartContainerRequest is blocked by policy: it has no rule of " +
			"this name"},
	} {
		err := e.Check(c.method, c.request)
		switch {
		case c.why == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.why != "" && (status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != c.why):
			t.Errorf("%s: %v, want %s", c.name, err, c.why)
		}
	}
}

func TestFailuresAreOnlyLoggedWhereThePolicySaysSo(t *testing.T) {
	var log bytes.Buffer
	e, err := Read("package agent_policy\ndefault AllowRequestsFailingPolicy := true\nExecProcessRequest := 1\n",
		slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"ExecProcess", "CreateSandbox"} {
		if err := e.Check(m, nil); err != nil {
			t.Errorf("%s: %v", m, err)
		}
		if !strings.Contains(log.String(), m+"Request") {
			t.Errorf("nothing is said of %s: %s", m, &log)
		}
	}
}

func TestAPolicyThatFailsSaysHow(t *testing.T) {
	e := read(t, `package agent_policy
ExecProcessRequest := "yes"
CreateSandboxRequest := {"ops": []}
DestroySandboxRequest := {"allowed": true, "ops": [{"op": "remove", "path": "/pstate/none"}]}
PauseContainerRequest := true { input.x == 1 } else := false
PauseContainerRequest := false { input.container_id == "c" }
`)
	for method, want := range map[string]string{
		"ExecProcess":    "want true, false or an object",
		"CreateSandbox":  "without a truth value called allowed",
		"DestroySandbox": "change its state",
	} {
		if err := e.Check(method, nil); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", method, err, want)
		}
	}
}

func TestWhatIsNoPolicyIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no Rego":                     {"package agent_policy\nhello there", "policy:2"},
		"another package":             {"package other\nx := 1", "it is of package other"},
		"a function that reaches out": {"package agent_policy\nx := http.send({})", "undefined function http.send"},
		"an unknown name":             {"package agent_policy\nx := y", "var y is unsafe"},
		"a long line":                 {"package agent_policy\n# " + strings.Repeat("x", maxLine), "line 2 has"},
		"many lines":                  {"package agent_policy\n" + strings.Repeat("\n", maxLines), "lines"},
		"too much": {strings.Repeat(strings.Repeat("#", 1000)+"\n", maxText/1000),
			"bytes: want at most"},
	} {
		if _, err := Read(c.text, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if e := read(t, "package agent_policy\nimport rego.v1\nExecProcessRequest if input.exec_id == \"\"\n"); e.Check(
		"ExecProcess", &katapb.ExecProcessRequest{}) != nil {
		t.Error("version 1 with its import is not read")
	}
	if e := read(t, "package agent_policy\nExecProcessRequest if input.exec_id == \"\"\n"); e.Check("ExecProcess",
		&katapb.ExecProcessRequest{}) != nil {
		t.Error("version 1 is not read")
	}
}

func TestThePolicyIsSetThroughTheAgents(t *testing.T) {
	p := policy.Policy{Rego: Read}
	if err := p.Set(example); err != nil {
		t.Fatal(err)
	}
	if err := p.Set("katabuild-policy 1\ndefault allow\n"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a policy that allows no other: %v", err)
	}
	if err := p.Check("GetGuestDetails", &katapb.GuestDetailsRequest{}); err != nil {
		t.Error(err)
	}
}
