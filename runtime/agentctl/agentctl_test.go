package agentctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/testenv"
)

// listen serves at a UNIX socket, and connects to it.
func dialled(t *testing.T, serve func(net.Listener, <-chan struct{}) error) net.Conn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	over, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- serve(l, over) }()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		close(over)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c
}

// session is one with an agent in memory.
func session(t *testing.T, a *agenttest.Agent, o Options) (*Session, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	o.Out = &out
	s := New(dialled(t, func(l net.Listener, over <-chan struct{}) error { return a.Serve(l, "", over) }), o)
	t.Cleanup(func() { s.Close() })
	return s, &out
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]Address{
		"unix:///run/a":         {Path: "/run/a"},
		"unix://@name":          {Path: "@name"},
		"vsock://3:1024":        {CID: 3, Port: 1024},
		"vsock://3":             {CID: 3, Port: 1024},
		"hvsock:///run/a:1026":  {Path: "/run/a", Hybrid: true, Port: 1026},
		"hvsock:///run/a:b:102": {Path: "/run/a:b", Hybrid: true, Port: 102},
	} {
		if got, err := ParseAddress(in, Hybrid{}); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	if got, err := ParseAddress("unix:///a", Hybrid{Asked: true, Port: 9}); err != nil ||
		got != (Address{Path: "/a", Hybrid: true, Port: 9}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, in := range []string{"", "/run/a", "unix://", "unix://@", "unix://relative", "vsock://x:1", "vsock://3:x",
		"vsock://3:99999999999", "tcp://localhost:1", "hvsock:///a", "hvsock://:1"} {
		if got, err := ParseAddress(in, Hybrid{}); err == nil {
			t.Errorf("%q is %+v", in, got)
		}
	}
	if _, err := ParseAddress("vsock://3:1", Hybrid{Asked: true}); err == nil {
		t.Error("a guest's number is a hypervisor's socket")
	}
}

func TestLinesAreReadAsShellsDo(t *testing.T) {
	for in, want := range map[string][]string{
		"":                                       nil,
		"a b  c":                                 {"a", "b", "c"},
		`a='x y' "b c"=d`:                        {"a=x y", "b c=d"},
		`a\ b '\' ""`:                            {"a b", `\`, ""},
		`args='["a b", "c\"d"]'`:                 {`args=["a b", "c\"d"]`},
		`a=["b c","]\"" ] d={"e": {"f": "}"}} g`: {`a=["b c","]\"" ]`, `d={"e": {"f": "}"}}`, "g"},
	} {
		if got, err := split(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{`"a`, `a\`, `'`, `a=[`, `a={"}`} {
		if got, err := split(in); err == nil {
			t.Errorf("%s: %q", in, got)
		}
	}
	c, err := parse(`CreateSandbox json://{"hostname": "a  b"}`)
	if err != nil || c.word != "CreateSandbox" || c.body != `json://{"hostname": "a  b"}` {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestFieldsAreSetByTheirNames(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("of a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		m    proto.Message
		args []string
		want string
	}{
		{&katapb.SignalProcessRequest{}, []string{"cid=a", "signal=SIGKILL", "eid=b"},
			`{"container_id":"a","exec_id":"b","signal":9}`},
		{&katapb.SignalProcessRequest{}, []string{"signal=term"}, `{"signal":15}`},
		{&katapb.CreateSandboxRequest{}, []string{"dns=a", "dns=b", "sandbox_pidns=true",
			`kernel_modules=[{"name":"m","parameters":["p=1"]}]`},
			`{"dns":["a","b"],"sandbox_pidns":true,"kernel_modules":[{"name":"m","parameters":["p=1"]}]}`},
		{&katapb.CreateContainerRequest{}, []string{"OCI.Process.Args=sh", "oci.process.args=-c",
			`OCI.Annotations={"a":"b"}`, "OCI.Root.Readonly=true"},
			`{"OCI":{"Process":{"Args":["sh","-c"]},"Root":{"Readonly":true},"Annotations":{"a":"b"}}}`},
		{&katapb.WriteStreamRequest{}, []string{"data=text"}, `{"data":"dGV4dA=="}`},
		{&katapb.WriteStreamRequest{}, []string{"data=base64:AAE="}, `{"data":"AAE="}`},
		{&katapb.WriteStreamRequest{}, []string{"data=file://" + text}, `{"data":"b2YgYSBmaWxl"}`},
		{&katapb.SetPolicyRequest{}, []string{"policy_file=" + text}, `{"policy":"of a file"}`},
		{&katapb.CopyFileRequest{}, []string{"path=/a", "file_mode=0o100644", "uid=-1", "offset=0x10"},
			`{"path":"/a","file_mode":33188,"uid":-1,"offset":"16"}`},
		{&katapb.AddSwapRequest{}, []string{"PCIPath=1", "PCIPath=2"}, `{"PCIPath":[1,2]}`},
		{&katapb.Route{}, []string{"family=v6"}, `{"family":"v6"}`},
	} {
		for _, a := range tc.args {
			k, v, _ := strings.Cut(a, "=")
			if err := set(tc.m.ProtoReflect(), k, v); err != nil {
				t.Errorf("%q: %v", a, err)
			}
		}
		want := tc.m.ProtoReflect().New().Interface()
		if err := protojson.Unmarshal([]byte(tc.want), want); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(tc.m, want) {
			got, _ := jsonOf(tc.m)
			t.Errorf("%q: %s, want %s", tc.args, got, tc.want)
		}
	}
	for a, want := range map[string]string{
		"nothing=1":                           `no field "nothing"; its fields are container_id`,
		"signal=x":                            "want a whole number",
		"signal=4294967296":                   "want a whole number",
		"exec_id.a=1":                         "has no fields",
		"container_id=file:///nowhere/at/all": "no such file",
	} {
		k, v, _ := strings.Cut(a, "=")
		if err := set((&katapb.SignalProcessRequest{}).ProtoReflect(), k, v); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", a, err, want)
		}
	}
}

func TestASessionIsAboutOneContainer(t *testing.T) {
	a := &agenttest.Agent{}
	s, out := session(t, a, Options{})
	for _, line := range []string{"", "# a remark", "check", "CreateSandbox", "CreateContainer args=true",
		"StartContainer", "ExecProcess args='[\"a\",\"b\"]'", "repeat 2 StatsContainer", "echo 'a  b'", "sleep 1ms"} {
		if err := s.Do(t.Context(), line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	ids := a.Containers()
	if len(ids) != 1 || len(ids[0]) != 64 {
		t.Fatalf("containers %q", ids)
	}
	spec := a.Request(ids[0]).OCI
	if spec.Root.Path != sharedFolder+"/"+ids[0]+"/rootfs" || !slices.Equal(spec.Process.Args, []string{"true"}) ||
		spec.Linux.CgroupsPath != "/agentctl/"+ids[0] {
		t.Errorf("specification %v", spec)
	}
	if q := a.Sandbox(); q.Hostname != defaultHostname || len(q.SandboxId) != 64 {
		t.Errorf("sandbox %v", q)
	}
	if !strings.Contains(out.String(), `Check: {"status":"SERVING"}`+"\n") ||
		!strings.Contains(out.String(), "a  b\n") ||
		strings.Count(out.String(), "StatsContainer: ") != 2 {
		t.Errorf("it says:\n%s", out)
	}
	for line, want := range map[string]string{
		"Nothing":                     `unknown word "Nothing"`,
		"Check word":                  "want KEY=VALUE",
		"sleep x":                     "no duration",
		"sleep -1s":                   "no duration",
		"repeat x":                    "want a number and a line",
		"CreateContainer image=a":     "images are not pulled",
		`Check json://{"service": 1}`: "request in JSON",
		`Check json://{"other": ""}`:  `unknown field "other"`,
		"Check file:///nowhere/else":  "no such file",
		"Check file://" + t.TempDir(): "is a directory",
		"CopyFile src=/nowhere/at":    "no such file",
		"CreateContainer args=[]":     "want a JSON list",
		"help Nothing":                "no call",
	} {
		if err := s.Do(t.Context(), line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
	if err := s.Do(t.Context(), "quit"); !errors.Is(err, ErrQuit) {
		t.Error(err)
	}
}

func TestNothingIsFilledInThatIsNotToBe(t *testing.T) {
	a := &agenttest.Agent{}
	s, _ := session(t, a, Options{Bare: true})
	if err := s.Do(t.Context(), "CreateSandbox"); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(a.Sandbox(), &katapb.CreateSandboxRequest{}) {
		t.Errorf("%v", a.Sandbox())
	}
	if err := s.Do(t.Context(), `CreateContainer json://{"container_id":"c"}`); err != nil {
		t.Fatal(err)
	}
	if got := a.Request("c"); got.OCI != nil {
		t.Errorf("%v", got)
	}
}

func TestABundleIsCopiedIntoTheGuest(t *testing.T) {
	bundle := t.TempDir()
	for _, d := range []string{"root", "root/bin"} {
		if err := os.Mkdir(filepath.Join(bundle, d), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	for name, data := range map[string][]byte{"config.json": []byte(`{"ociVersion":"1.1.0",` +
		`"process":{"args":["/bin/p"],` +
		`"cwd":"/"},"root":{"path":"root","readonly":true}}`), "root/bin/p": big, "root/empty": nil} {
		if err := os.WriteFile(filepath.Join(bundle, name), data, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("bin/p", filepath.Join(bundle, "root/link")); err != nil {
		t.Fatal(err)
	}
	a := &agenttest.Agent{}
	s, _ := session(t, a, Options{Bundle: bundle})
	if err := s.Do(t.Context(), "CreateContainer cid=c"); err != nil {
		t.Fatal(err)
	}
	root := sharedFolder + "/c/rootfs"
	if got := a.Request("c").OCI; got.Root.Path != root || !got.Root.Readonly || got.Process.Args[0] != "/bin/p" {
		t.Errorf("%v", got)
	}
	copied := a.Copied()
	if copied[root+"/bin/p"] != string(big) || copied[root+"/link"] != "bin/p" {
		t.Errorf("%d files, %d bytes", len(copied), len(copied[root+"/bin/p"]))
	}
	if _, has := copied[root+"/empty"]; !has {
		t.Error("an empty file is missing")
	}
}

// hostile is an agent that says what a terminal would act on.
type hostile struct {
	katapb.AgentServiceService
}

const escapes = "\x1b]0;title\x07\x1b[2Ja\rb\u202ec\u009bd"

func (hostile) GetMetrics(context.Context, *katapb.GetMetricsRequest) (*katapb.Metrics, error) {
	return &katapb.Metrics{Metrics: strings.Repeat(escapes+"\n", 100_000)}, nil
}

func (hostile) ListInterfaces(context.Context, *katapb.ListInterfacesRequest) (*katapb.Interfaces, error) {
	return &katapb.Interfaces{Interfaces: []*katapb.Interface{{Name: escapes}}}, nil
}

func (hostile) ListRoutes(context.Context, *katapb.ListRoutesRequest) (*katapb.Routes, error) {
	return nil, status.Error(codes.Internal, strings.Repeat(escapes+"\n", 5000))
}

func (hostile) ReadStdout(ctx context.Context, _ *katapb.ReadStreamRequest) (*katapb.ReadStreamResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hostile) DestroySandbox(context.Context, *katapb.DestroySandboxRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func serveHostile(l net.Listener, over <-chan struct{}) error {
	s, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	katapb.RegisterAgentServiceService(s, hostile{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(context.Background(), l) })
	<-over
	err = s.Close()
	wg.Wait()
	return err
}

func TestWhatAnAgentSaysIsBoundedAndCleaned(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		var out bytes.Buffer
		s := New(dialled(t, serveHostile), Options{Out: &out, JSON: asJSON, Timeout: 100 * time.Millisecond})
		defer s.Close()
		said := ""
		for _, call := range []string{"ListInterfaces", "ListRoutes", "ReadStdout", "GetMetrics"} {
			s.o.Timeout = time.Minute
			if call == "ReadStdout" {
				s.o.Timeout = 50 * time.Millisecond
			}
			if err := s.Do(t.Context(), call); err != nil {
				said += err.Error() + "\n"
			}
		}
		if asJSON { // a program's, whole
			out.Truncate(min(out.Len(), 4096))
		} else if out.Len() > maxShown+1024 {
			t.Errorf("%d bytes are shown", out.Len())
		}
		for _, text := range []string{out.String(), said} {
			if strings.ContainsAny(text, "\x1b\x07\r\u202e\u009b") {
				t.Errorf("a terminal would act on %q", text[:200])
			}
		}
		if !strings.Contains(said, "ListRoutes: Internal: ab") || !strings.Contains(said, "bytes more") ||
			!strings.Contains(said, "ReadStdout: ") {
			t.Errorf("%.300q", said)
		}
	}
}

// An agent that is told to end may do so before its answer is out. Of other calls that is an error.
func TestTheEndOfTheAgentAnswersWhatEndsIt(t *testing.T) {
	for call, want := range map[string]string{"DestroySandbox": "", "CreateSandbox": "closed"} {
		s := New(dialled(t, func(l net.Listener, over <-chan struct{}) error {
			c, err := l.Accept()
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
			<-over
			return err
		}), Options{Out: io.Discard})
		ended := make(chan error, 1)
		go func() { ended <- s.Do(context.Background(), call) }()
		testenv.Blocked(t, "ttrpc.(*Client).dispatch")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", call, err, want)
		}
	}
}

func TestEveryCallIsAskedInACheck(t *testing.T) {
	s := &Session{ids: ids{"c", "e", "s"}}
	asked := map[string]bool{}
	for _, st := range s.steps("/nowhere") {
		asked[st.call] = true
		if (st.request == nil) == (st.deed == nil) || st.want == nil || st.asked == "" {
			t.Errorf("step %s, %s is not whole", st.call, st.asked)
		}
	}
	for _, c := range calls() {
		if !asked[c.Name] {
			t.Errorf("nobody asks for %s", c.Name)
		}
	}
}

func TestAnAgentThatDiffersIsToldByItsCalls(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("program"), 0o700); err != nil {
		t.Fatal(err)
	}
	a := &agenttest.Agent{}
	a.Fail("UpdateRoutes", status.Error(codes.Unimplemented, "not here"))
	a.Fail("CreateSandbox", status.Error(codes.Internal, "no\x1b[2J"))
	s, _ := session(t, a, Options{})
	// The agent in memory has no programs that say something or end by themselves.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := map[string]Finding{}
	findings, err := s.Check(ctx, program, func(f Finding) {
		got[f.Call+" "+f.Asked] = f
		if f.Call == "StartContainer" {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for asked, want := range map[string]Judgement{
		"Check whether it serves": pass, "UpdateRoutes no routes": notServed, "CreateSandbox a sandbox": differs,
		"SetPolicy a text that is no policy": differs,
	} {
		if got[asked].Judgement != want {
			t.Errorf("%s: %+v, want %s", asked, got[asked], want)
		}
	}
	if f := got["CreateSandbox a sandbox"]; f.Answer != "it is refused: Internal, no" {
		t.Errorf("%q", f.Answer)
	}
	if err := Judge(findings); !errors.Is(err, errDiffers) || !strings.Contains(err.Error(), "CreateSandbox") {
		t.Error(err)
	}
	if err := Judge([]Finding{{Judgement: notServed}, {Judgement: pass}}); err != nil {
		t.Error(err)
	}
	var table bytes.Buffer
	if err := PrintTable(&table, findings); err != nil || !strings.HasPrefix(table.String(), "CALL ") ||
		!strings.Contains(table.String(), " differ, ") {
		t.Errorf("%v\n%s", err, &table)
	}
}

func TestTabCompletesWhatIsClear(t *testing.T) {
	for line, want := range map[string]string{
		"getm":                 "GetMetrics ",
		"Create":               "Create",
		"createc":              "CreateContainer ",
		"SignalProcess si":     "SignalProcess signal=",
		"SignalProcess x=1 c":  "SignalProcess x=1 container_id=",
		"help GetG":            "help GetGuestDetails ",
		"CreateContainer root": "CreateContainer rootfs=",
		"nothing a":            "nothing a",
		"zzz":                  "zzz",
	} {
		if got := Complete(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func FuzzLines(f *testing.F) {
	for _, s := range []string{`CreateContainer args='["a"]' OCI.Root.Path=/a`, `Check json://{"service":"a"}`,
		`echo "`,
		"SignalProcess signal=kill cid=a", "repeat 2 echo a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := parse(line)
		if err != nil {
			return
		}
		call, known := find(c.word)
		if !known || c.body != "" || strings.Contains(line, fileScheme) || strings.Contains(line, "policy") {
			return
		}
		m := call.request()
		for _, a := range c.args {
			k, v, _ := strings.Cut(a, "=")
			_ = set(m.ProtoReflect(), k, v)
		}
		if _, err := jsonOf(m); err != nil && !strings.Contains(fmt.Sprint(err), "UTF-8") {
			t.Error(err)
		}
		Complete(line)
	})
}
