package policy

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

const example = `# What a pod of ours may do.
katabuild-policy 1

default deny
allow CreateSandbox sandbox_pidns=false
allow CreateContainer OCI.Process.Args=["/bin/server","--port=80"] OCI.Root.Readonly=true
allow ExecProcess process.Args=["sh","-c","echo a b=c"] container_id=*
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
		"the command that is listed": {"ExecProcess", exec("sh", "-c", "echo a b=c"), ""},
		"another command":            {"ExecProcess", exec("sh", "-c", "echo"), "no rule allows it"},
		"the command and more": {"ExecProcess", exec("sh", "-c", "echo a b=c", "x"),
			"no rule allows it"},
		"less of the command":       {"ExecProcess", exec("sh"), "no rule allows it"},
		"no process":                {"ExecProcess", &katapb.ExecProcessRequest{}, "no rule allows it"},
		"no request":                {"ExecProcess", nil, "no rule allows it"},
		"a request of another call": {"ExecProcess", &katapb.CopyFileRequest{}, "no rule allows it"},
		"a field that nobody names": {"ExecProcess", &katapb.ExecProcessRequest{ContainerId: "c",
			ExecId: "e", Process: &katapb.Process{Args: []string{"sh", "-c", "echo a b=c"}}},
			"no rule allows it; the one in line 7 would, but does not name exec_id"},
		"deeper": {"ExecProcess",
			&katapb.ExecProcessRequest{Process: &katapb.Process{Args: []string{"sh", "-c", "echo a b=c"},
				Env: []string{"LD_PRELOAD=/x"}}}, "no rule allows it; the one in line 7 would, but does not name " +
				"process.Env"},
		"the first process by its other name": {"SignalProcess", &katapb.SignalProcessRequest{ContainerId: "c",
			ExecId: "c", Signal: 9}, "the rule in line 8 denies it"},
		"a false field that is not there": {"CreateSandbox", &katapb.CreateSandboxRequest{}, ""},
		"a true field": {"CreateSandbox", &katapb.CreateSandboxRequest{SandboxPidns: true},
			"no rule allows it"},
		"one of two conditions": {"CreateContainer",
			&katapb.CreateContainerRequest{OCI: &katapb.Spec{Process: &katapb.Process{Args: []string{"/bin/server",
				"--port=80"}}}}, "no rule allows it"},
		"both": {"CreateContainer",
			&katapb.CreateContainerRequest{OCI: &katapb.Spec{Root: &katapb.Root{Readonly: true},
				Process: &katapb.Process{Args: []string{"/bin/server", "--port=80"}}}}, ""},
		"a denial before what would allow": {"SignalProcess", &katapb.SignalProcessRequest{Signal: 9},
			"the rule in line 8 denies it"},
		"the same call with another value": {"SignalProcess", &katapb.SignalProcessRequest{Signal: 9, ExecId: "x"},
			""},
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
		if s := status.Convert(err); s.Code() != codes.PermissionDenied ||
			s.Message() != c.method+"Request is blocked by policy: "+c.why {
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
	if err := p.Set("katabuild-policy 1\ndefault allow"); status.Code(err) != codes.PermissionDenied ||
		!strings.Contains(err.Error(), "SetPolicyRequest is blocked by policy") {
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
		"nothing":              {"", `policy:1:1: want "katabuild-policy 1" first`},
		"only remarks":         {"# x\n\n", `policy:3:1: want "katabuild-policy 1" first`},
		"another version":      {"katabuild-policy 2\n", `policy:1:1: want "katabuild-policy 1" first`},
		"no default":           {"katabuild-policy 1\n", `policy:2:1: want a line "default deny"`},
		"two defaults":         {head + "default allow", "policy:3:9: a second default"},
		"a default of neither": {"katabuild-policy 1\ndefault maybe", "policy:2:9: want allow or deny"},
		"more after a default": {"katabuild-policy 1\ndefault deny all", "policy:2:14: want nothing more"},
		"another verb":         {head + "permit CopyFile", "policy:3:1: want allow, deny or default"},
		"a call that is misspelt": {head + "allow CopyFiles",
			`policy:3:7: the guest API has no call "CopyFiles"; did you mean CopyFile?`},
		"no call": {head + "allow", "policy:3:6: the guest API has no call"},
		"a field that is misspelt": {head + "allow CopyFile paht=\"x\"",
			`policy:3:16: CopyFileRequest has no field "paht"; did you mean path?`},
		"a field in a string": {head + "allow CopyFile path.x=1",
			`policy:3:21: the field before "x" has no fields`},
		"a field in a list": {head + "allow CreateContainer storages.driver=\"blk\"",
			`policy:3:23: field "storages" is a list: storages[] means each`},
		"a field of another kind": {head + "allow CopyFile path=7", `policy:3:21: field "path": want a string`},
		"a number out of range": {head + "allow SignalProcess signal=-1",
			`policy:3:28: field "signal": want a number of kind uint32`},
		"a fraction":             {head + "allow SignalProcess signal=1.5", `want a number`},
		"neither true nor false": {head + "allow CreateSandbox sandbox_pidns=1", "want true or false"},
		"a list for a string":    {head + "allow CopyFile path=[\"x\"]", "want a string"},
		"a string for a list":    {head + "allow ExecProcess process.Args=\"sh\"", "want a list of strings"},
		"numbers in a list":      {head + "allow ExecProcess process.Args=[1]", `field "process.Args"`},
		"null in a list": {head + "allow ExecProcess process.Args=[null]",
			"want a list of strings: want a string"},
		"a whole message": {head + "allow ExecProcess process={}", "a message is seen by its fields"},
		"a map": {head + "allow CreateContainer OCI.Annotations={}",
			"a map is seen by Annotations=*"},
		"bytes": {head + "allow CopyFile data=\"eA==\"",
			"of bytes a rule sees whether there are any"},
		"each of no list": {head + "allow CopyFile path[]=[]", `policy:3:16: field "path" is no list`},
		"a pattern for a list": {head + "allow ExecProcess process.Args~\"x\"",
			"each element is meant by Args[]~"},
		"a pattern for a number": {head + "allow SignalProcess signal~\"9\"", "~ is for strings"},
		"a pattern that is none": {head + "allow CopyFile path~\"(\"", "want a regular expression"},
		"a field of an object": {head + `allow CreateContainer OCI.Mounts[]=[{"target":"/"}]`,
			`Mount has no field "target"`},
		"no object": {head + `allow CreateContainer OCI.Mounts[]=["/"]`,
			"want an object with fields of Mount"},
		"an entry that is a number": {head + `allow CreateContainer OCI.Annotations[]=[1]`,
			"want a list of strings such as"},
		"a line that goes on": {head + "  path=*",
			"policy:3:1: a line that begins with a space goes on with a rule, and there is none"},
		"a line behind the end":       {head + "allow CopyFile ...\n  path=*", "\"...\" ends a rule"},
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

// page is the example of docs/formats/policy.md.
func page(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../docs/formats/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "```\n")
	text, _, ok := strings.Cut(text, "```\n")
	if !ok {
		t.Fatal("the page has no example")
	}
	return text
}

const shared = "/run/kata-containers/shared/containers/"

// server is the container that the page's example allows.
func server() *katapb.CreateContainerRequest {
	id := strings.Repeat("0123456789abcdef", 4)
	return &katapb.CreateContainerRequest{ContainerId: id, ExecId: id, StdinPort: 7, OCI: &katapb.Spec{
		Version: "1.2.0", Hostname: "pod", Annotations: map[string]string{
			"io.kubernetes.cri.container-type": "container"},
		Process: &katapb.Process{Args: []string{"/bin/server"}, Cwd: "/", User: &katapb.User{UID: 1000, GID: 1000},
			NoNewPrivileges: true,
			Env:             []string{"PATH=/bin", "PORT=80"}},
		Root: &katapb.Root{Readonly: true, Path: shared + id + "/rootfs"},
		Mounts: []*katapb.Mount{{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/data", Type: "bind", Source: shared + "1-data", Options: []string{"rbind", "ro"}}},
		Linux: &katapb.Linux{CgroupsPath: "/x", Namespaces: []*katapb.LinuxNamespace{{Type: "mount"}, {Type: "pid"}},
			MaskedPaths: []string{"/proc/kcore"},
			Resources:   &katapb.LinuxResources{}},
	}}
}

func TestThePagesExampleDeniesWhatItClaims(t *testing.T) {
	var p Policy
	if err := p.Set(page(t)); err != nil {
		t.Fatal(err)
	}
	if err := p.Check("CreateContainer", server()); err != nil {
		t.Fatalf("the container that it is made for: %v", err)
	}
	for name, change := range map[string]func(r *katapb.CreateContainerRequest){
		"a mount over the program": func(r *katapb.CreateContainerRequest) {
			r.OCI.Mounts = append(r.OCI.Mounts, &katapb.Mount{Destination: "/bin/server", Type: "bind",
				Source: shared + "1-data", Options: []string{"rbind", "ro"}})
		},
		"the volume from elsewhere": func(r *katapb.CreateContainerRequest) {
			r.OCI.Mounts[1].Source = shared +
				"../1-data"
		},
		"the volume writable": func(r *katapb.CreateContainerRequest) { r.OCI.Mounts[1].Options[1] = "rw" },
		"a storage": func(r *katapb.CreateContainerRequest) {
			r.Storages = []*katapb.Storage{{Driver: "virtio-fs", MountPoint: "/bin"}}
		},
		"an empty storage": func(r *katapb.CreateContainerRequest) { r.Storages = []*katapb.Storage{{}} },
		"a device": func(r *katapb.CreateContainerRequest) {
			r.Devices = []*katapb.Device{
				{ContainerPath: "/dev/vda"}}
		},
		"a shared mount": func(r *katapb.CreateContainerRequest) {
			r.SharedMounts = []*katapb.SharedMount{
				{Name: "x"}}
		},
		"another root":               func(r *katapb.CreateContainerRequest) { r.OCI.Root.Path = "/" },
		"a root that can be written": func(r *katapb.CreateContainerRequest) { r.OCI.Root.Readonly = false },
		"LD_PRELOAD": func(r *katapb.CreateContainerRequest) {
			r.OCI.Process.Env = append(r.OCI.Process.Env, "LD_PRELOAD=/evil.so")
		},
		"the superuser": func(r *katapb.CreateContainerRequest) { r.OCI.Process.User.UID = 0 },
		"a group more": func(r *katapb.CreateContainerRequest) {
			r.OCI.Process.User.AdditionalGids = []uint32{
				0}
		},
		"a name for the user": func(r *katapb.CreateContainerRequest) { r.StringUser = &katapb.StringUser{Uid: "0"} },
		"capabilities": func(r *katapb.CreateContainerRequest) {
			r.OCI.Process.Capabilities = &katapb.LinuxCapabilities{Bounding: []string{"CAP_SYS_ADMIN"}}
		},
		"privileges":   func(r *katapb.CreateContainerRequest) { r.OCI.Process.NoNewPrivileges = false },
		"another word": func(r *katapb.CreateContainerRequest) { r.OCI.Process.Args = append(r.OCI.Process.Args, "x") },
		"hooks": func(r *katapb.CreateContainerRequest) {
			r.OCI.Hooks = &katapb.Hooks{Prestart: []*katapb.Hook{{Path: "/bin/sh"}}}
		},
		"fields that Kata has not": func(r *katapb.CreateContainerRequest) {
			r.OCI.Annotations["io.katabuild.oci-extra"] = "{}"
		},
		"a namespace by path": func(r *katapb.CreateContainerRequest) {
			r.OCI.Linux.Namespaces[1].Path = "/proc/1/ns/pid"
		},
		"a sysctl": func(r *katapb.CreateContainerRequest) {
			r.OCI.Linux.Sysctl = map[string]string{"kernel.shm_rmid_forced": "1"}
		},
		"a field of a later API": func(r *katapb.CreateContainerRequest) {
			r.OCI.Root.ProtoReflect().SetUnknown(
				[]byte{0xa0, 0x06, 0x01})
		},
	} {
		r := server()
		change(r)
		if err := p.Check("CreateContainer", r); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		method  string
		request proto.Message
		allowed bool
	}{
		"signal 9 to the first process": {"SignalProcess",
			&katapb.SignalProcessRequest{ContainerId: "c", Signal: 9}, false},
		"signal 9 to the first process by its own id": {"SignalProcess",
			&katapb.SignalProcessRequest{ContainerId: "c", ExecId: "c", Signal: 9}, false},
		"signal 9 to all": {"SignalProcess", &katapb.SignalProcessRequest{ContainerId: "c", ExecId: "*",
			Signal: 9}, false},
		"signal 9 to another": {"SignalProcess", &katapb.SignalProcessRequest{ContainerId: "c", ExecId: "e",
			Signal: 9}, true},
		"an added process": {"ExecProcess", exec("sh"), false},
		"another policy":   {"SetPolicy", &katapb.SetPolicyRequest{Policy: "x"}, false},
		"a file":           {"CopyFile", &katapb.CopyFileRequest{Path: "/run/x"}, false},
		"a module": {"CreateSandbox", &katapb.CreateSandboxRequest{KernelModules: []*katapb.KernelModule{
			{Name: "x"}}}, false},
	} {
		if err := p.Check(c.method, c.request); (err == nil) != c.allowed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestModulesAreBoundOneByOne: a rule names the modules that a guest loads with their parameters, and lets no other be.
func TestModulesAreBoundOneByOne(t *testing.T) {
	var p Policy
	if err := p.Set("katabuild-policy 1\ndefault deny\nallow CreateSandbox sandbox_id=*\n" +
		`  kernel_modules[]=[{"name":"dummy","parameters":["numdummies=2"]}, {"name":{"~":"nfs.*"}}]` + "\n"); err != nil {
		t.Fatal(err)
	}
	module := func(name string, params ...string) *katapb.KernelModule {
		return &katapb.KernelModule{Name: name, Parameters: params}
	}
	for name, c := range map[string]struct {
		modules []*katapb.KernelModule
		allowed bool
	}{
		"none":              {nil, true},
		"one that is named": {[]*katapb.KernelModule{module("dummy", "numdummies=2")}, true},
		"both": {[]*katapb.KernelModule{module("nfs_v4"), module("dummy", "numdummies=2")},
			true},
		"other parameters":             {[]*katapb.KernelModule{module("dummy", "numdummies=3")}, false},
		"parameters that nobody names": {[]*katapb.KernelModule{module("nfs", "nfs4_unique_id=x")}, false},
		"one more":                     {[]*katapb.KernelModule{module("nfs"), module("kvm")}, false},
	} {
		err := p.Check("CreateSandbox", &katapb.CreateSandboxRequest{SandboxId: "pod", KernelModules: c.modules})
		if (err == nil) != c.allowed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEachFieldOfEachCallIsSeen changes every field of every request, one at a time: a rule that does not name it does
// not let it pass.
func TestEachFieldOfEachCallIsSeen(t *testing.T) {
	methods := katapb.File_katabuild_agentapi_agent_proto.Services().ByName(service).Methods()
	changed := 0
	for i := range methods.Len() {
		m := methods.Get(i)
		d := m.Input()
		if d.Fields().Len() == 0 {
			continue
		}
		// The first field may be anything, and no other is named.
		first := d.Fields().Get(0)
		r, err := parse(fmt.Sprintf("katabuild-policy 1\ndefault deny\nallow %s %s=*\n", m.Name(), first.Name()))
		if err != nil {
			t.Fatal(err)
		}
		whole := dynamicpb.NewMessage(d)
		if err := r.Check(string(m.Name()), whole); err != nil {
			t.Errorf("%s without any field: %v", m.Name(), err)
		}
		var visit func(at protoreflect.Message, path string, depth int)
		visit = func(at protoreflect.Message, path string, depth int) {
			fields := at.Descriptor().Fields()
			for j := range fields.Len() {
				f := fields.Get(j)
				where := path + string(f.Name())
				if path == "" && f == first || depth > 4 {
					continue
				}
				at.Set(f, filled(at, f))
				if err := r.Check(string(m.Name()), whole); err == nil {
					t.Errorf("%s with %s is allowed", m.Name(), where)
				}
				changed++
				if f.Kind() == protoreflect.MessageKind && !f.IsList() && !f.IsMap() {
					at.Clear(f)
					visit(at.Mutable(f).Message(), where+".", depth+1)
				}
				at.Clear(f)
			}
		}
		visit(whole, "", 0)
	}
	if changed < 200 {
		t.Errorf("only %d fields were changed", changed)
	}
}

// filled is a value of a field that is not its zero.
func filled(at protoreflect.Message, f protoreflect.FieldDescriptor) protoreflect.Value {
	scalar := func() protoreflect.Value {
		switch f.Kind() {
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		case protoreflect.StringKind:
			return protoreflect.ValueOfString("x")
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([]byte("x"))
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(1)
		case protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(1)
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(1)
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(1)
		case protoreflect.Int64Kind:
			return protoreflect.ValueOfInt64(1)
		case protoreflect.DoubleKind:
			return protoreflect.ValueOfFloat64(1)
		}
		return protoreflect.Value{}
	}
	switch {
	case f.IsMap():
		v := at.NewField(f)
		v.Map().Set(protoreflect.ValueOfString("k").MapKey(), v.Map().NewValue())
		return v
	case f.IsList():
		v := at.NewField(f)
		if f.Kind() == protoreflect.MessageKind {
			v.List().Append(v.List().NewElement())
		} else {
			v.List().Append(scalar())
		}
		return v
	case f.Kind() == protoreflect.MessageKind:
		v := at.NewField(f)
		fields := v.Message().Descriptor().Fields()
		if fields.Len() > 0 {
			v.Message().Set(fields.Get(0), filled(v.Message(), fields.Get(0)))
		}
		return v
	}
	return scalar()
}

func TestRegoIsRefusedWithAReason(t *testing.T) {
	var p Policy
	for _, text := range []string{"package agent_policy\ndefault AllowAll := true\n",
		"# Copyright\n\npackage  agent_policy\n"} {
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
	f.Add("katabuild-policy 1\ndefault deny\nallow CreateContainer OCI.Mounts[]=[{\"source\":{\"~\":\"x.*\"}}] " +
		"OCI.Annotations[]~\"a=.*\"\n  OCI.Linux=* ...\n")
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
		for method, m := range map[string]proto.Message{"ExecProcess": exec("sh"),
			"CopyFile": &katapb.CopyFileRequest{Path: "x"}, "CreateContainer": &katapb.CreateContainerRequest{},
			"SetPolicy": nil} {
			_ = p.Check(method, m)
		}
	})
}
