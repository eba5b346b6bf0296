package policy

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

const example = `# What a pod of ours may do.
katabuild-policy 1

default deny
allow CreateSandbox sandbox_pidns=false
allow CreateContainer OCI.Process.Args=["/bin/server","--port=80"] OCI.Root.Readonly=true
allow ExecProcess process.Args=["sh","-c","echo a b=c"]
deny SignalProcess signal=9 exec_id=""
allow SignalProcess
`

func exec(args ...string) *katapb.ExecProcessRequest {
	return &katapb.ExecProcessRequest{ContainerId: "c", Process: &katapb.Process{Args: args}}
}

func TestTheFirstRuleThatFitsDecides(t *testing.T) {
	var p Policy
	if err := p.Check("ExecProcess", exec("anything")); err != nil {
		t.Errorf("without a policy: %v", err)
	}
	if err := p.Set(example); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		method  string
		request proto.Message
		why     string // empty is allowed
	}{
		"the command that is listed":        {"ExecProcess", exec("sh", "-c", "echo a b=c"), ""},
		"another command":                   {"ExecProcess", exec("sh", "-c", "echo"), "no rule allows it"},
		"the command and more":              {"ExecProcess", exec("sh", "-c", "echo a b=c", "x"), "no rule allows it"},
		"less of the command":               {"ExecProcess", exec("sh"), "no rule allows it"},
		"no process":                        {"ExecProcess", &katapb.ExecProcessRequest{}, "no rule allows it"},
		"no request":                        {"ExecProcess", nil, "no rule allows it"},
		"a request of another call":         {"ExecProcess", &katapb.CopyFileRequest{}, "no rule allows it"},
		"a false field that is not there":   {"CreateSandbox", &katapb.CreateSandboxRequest{}, ""},
		"a true field":                      {"CreateSandbox", &katapb.CreateSandboxRequest{SandboxPidns: true}, "no rule allows it"},
		"one of two conditions":             {"CreateContainer", &katapb.CreateContainerRequest{OCI: &katapb.Spec{Process: &katapb.Process{Args: []string{"/bin/server", "--port=80"}}}}, "no rule allows it"},
		"both":                              {"CreateContainer", &katapb.CreateContainerRequest{OCI: &katapb.Spec{Root: &katapb.Root{Readonly: true}, Process: &katapb.Process{Args: []string{"/bin/server", "--port=80"}}}}, ""},
		"a denial before what would allow":  {"SignalProcess", &katapb.SignalProcessRequest{Signal: 9}, "the rule in line 8 denies it"},
		"the same call with another value":  {"SignalProcess", &katapb.SignalProcessRequest{Signal: 9, ExecId: "x"}, ""},
		"a call without a rule":             {"CopyFile", &katapb.CopyFileRequest{}, "no rule allows it"},
		"a call that the API does not have": {"Nonsense", nil, "no rule allows it"},
	} {
		err := p.Check(c.method, c.request)
		if c.why == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != c.method+"Request is blocked by policy: "+c.why {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPolicyIsReplacedOnlyWithItsLeave(t *testing.T) {
	var p Policy
	if err := p.Set("katabuild-policy 1\nallow SetPolicy\ndefault deny\n"); err != nil {
		t.Fatal(err)
	}
	if err := p.Set("katabuild-policy 1\nnonsense\n"); err == nil || status.Code(err) == codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
	if err := p.Check("CopyFile", nil); err == nil {
		t.Error("a text that is no policy took the one before away")
	}
	if err := p.Set("katabuild-policy 1\ndefault deny"); err != nil {
		t.Fatal(err)
	}
	if err := p.Set("katabuild-policy 1\ndefault allow"); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "SetPolicyRequest is blocked by policy") {
		t.Errorf("got %v", err)
	}
	if err := p.Check("CopyFile", nil); err == nil {
		t.Error("a refused policy is in force")
	}
}

func TestChecksAndChangesMayMeet(t *testing.T) {
	var p Policy
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range 200 {
				_ = p.Set(strings.Replace(example, "default deny", "default allow", 1)) // may lose to another
				if err := p.Check("CopyFile", nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
}

func TestMistakesAreShownWhereTheyAre(t *testing.T) {
	const head = "katabuild-policy 1\ndefault deny\n"
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                     {"", `policy:1:1: want "katabuild-policy 1" first`},
		"only remarks":                {"# x\n\n", `policy:3:1: want "katabuild-policy 1" first`},
		"another version":             {"katabuild-policy 2\n", `policy:1:1: want "katabuild-policy 1" first`},
		"no default":                  {"katabuild-policy 1\n", `policy:2:1: want a line "default deny"`},
		"two defaults":                {head + "default allow", "policy:3:9: a second default"},
		"a default of neither":        {"katabuild-policy 1\ndefault maybe", "policy:2:9: want allow or deny"},
		"more after a default":        {"katabuild-policy 1\ndefault deny all", "policy:2:14: want nothing more"},
		"another verb":                {head + "permit CopyFile", "policy:3:1: want allow, deny or default"},
		"a call that is misspelt":     {head + "allow CopyFiles", `policy:3:7: the guest API has no call "CopyFiles"; did you mean CopyFile?`},
		"no call":                     {head + "allow", "policy:3:6: the guest API has no call"},
		"a field that is misspelt":    {head + "allow CopyFile paht=\"x\"", `policy:3:16: CopyFileRequest has no field "paht"; did you mean path?`},
		"a field in a string":         {head + "allow CopyFile path.x=1", `policy:3:21: the field before "x" has no fields`},
		"a field in a list":           {head + "allow CreateContainer storages.driver=\"blk\"", `policy:3:23: field "storages" is a list`},
		"a field of another kind":     {head + "allow CopyFile path=7", `policy:3:21: field "path": want a string`},
		"a number out of range":       {head + "allow SignalProcess signal=-1", `policy:3:28: field "signal": want a number of kind uint32`},
		"a fraction":                  {head + "allow SignalProcess signal=1.5", `want a number`},
		"neither true nor false":      {head + "allow CreateSandbox sandbox_pidns=1", "want true or false"},
		"a list for a string":         {head + "allow CopyFile path=[\"x\"]", "want a string"},
		"a string for a list":         {head + "allow ExecProcess process.Args=\"sh\"", "want a list of strings"},
		"numbers in a list":           {head + "allow ExecProcess process.Args=[1]", `field "process.Args"`},
		"null in a list":              {head + "allow ExecProcess process.Args=[null]", "want a list of strings"},
		"a whole message":             {head + "allow ExecProcess process={}", "a rule sees only"},
		"a map":                       {head + "allow CreateContainer OCI.Annotations={}", "a rule sees only"},
		"bytes":                       {head + "allow CopyFile data=\"eA==\"", "a rule sees only"},
		"a string without an end":     {head + "allow CopyFile path=\"x", "this one has no end"},
		"no value":                    {head + "allow CopyFile path=", "this one has no end"},
		"a space before the value":    {head + "allow CopyFile path= \"x\"", "a space after it"},
		"no space after a value":      {head + "allow CopyFile path=\"x\"offset=1", "a space after it"},
		"a word that is no condition": {head + "allow CopyFile please", "policy:3:16: want FIELD=VALUE"},
		"a tab":                       {head + "allow\tCopyFile", "policy:3:1: want allow"},
		"a very long line":            {head + "allow " + strings.Repeat("x", maxLine), "policy:3:1: a line of"},
		"a very long text":            {strings.Repeat("#\n", maxText), "policy of 2097152 bytes"},
	} {
		_, err := parse(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got  %v\nwant %s", name, err, c.want)
		}
	}
}

func TestRegoIsRefusedWithAReason(t *testing.T) {
	var p Policy
	for _, text := range []string{"package agent_policy\ndefault AllowAll := true\n", "# Copyright\n\npackage  agent_policy\n"} {
		if err := p.Set(text); !errors.Is(err, ErrRego) || !strings.Contains(err.Error(), "optional build") {
			t.Errorf("got %v", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("katabuild-policy 1\ndefault allow\ndeny ExecProcess process.Args=[]\n")
	f.Add("katabuild-policy 1\r\ndefault allow\r\n")
	f.Add("package agent_policy")
	f.Add("katabuild-policy 1\nallow CopyFile path=null\ndefault deny")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parse(text)
		if err != nil {
			return
		}
		var p Policy
		var e Engine = r
		p.engine.Store(&e)
		// Whatever was read, a check ends, and never by a panic.
		for method, m := range map[string]proto.Message{"ExecProcess": exec("sh"), "CopyFile": &katapb.CopyFileRequest{Path: "x"}, "CreateContainer": &katapb.CreateContainerRequest{}, "SetPolicy": nil} {
			_ = p.Check(method, m)
		}
	})
}
