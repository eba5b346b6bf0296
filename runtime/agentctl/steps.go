package agentctl

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/oci"
	"github.com/katabuild/katabuild/internal/agentapi/reportpb"
	"github.com/katabuild/katabuild/runtime/agentctl/inside"
)

// What a check calls things, beside the session's ids.
const (
	greeting    = "hello"
	programName = "program"
	nobody      = "nobody-has-this-id"
	endCode     = 7
	killedCode  = 128 + int32(unix.SIGKILL)
	oomWait     = 500 * time.Millisecond
)

// done wants success.
func done(_ proto.Message, err error) string {
	if err != nil {
		return "it is refused"
	}
	return ""
}

// answered is content with whatever it is told: what there is depends on the guest.
func answered(_ proto.Message, err error) string {
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Unavailable:
		return "there is no answer"
	}
	return ""
}

// refused wants an error, and one that is an answer.
func refused(_ proto.Message, err error) string {
	switch {
	case err == nil:
		return "it is not refused"
	case status.Code(err) == codes.Unavailable && !strings.Contains(err.Error(), "ermin"), // Kata's for a terminal
		status.Code(err) == codes.Unknown:
		return "the connection ended"
	}
	return ""
}

// holds wants success, and something of the answer.
func holds[A proto.Message](what string, is func(A) bool) func(proto.Message, error) string {
	return func(answer proto.Message, err error) string {
		if err != nil {
			return "it is refused"
		}
		if a, ok := answer.(A); !ok || !is(a) {
			return "it lacks " + what
		}
		return ""
	}
}

// of makes a request that is known beforehand.
func of(m proto.Message) func() proto.Message { return func() proto.Message { return m } }

// steps are all that a check asks, in order. program is copied into the guest.
func (s *Session) steps(program string) []step {
	return slices.Concat(s.beforeSandbox(), s.guest(), s.copies(program), s.life(), s.streams(), s.processes(),
		s.hardware(), s.end())
}

func (s *Session) beforeSandbox() []step {
	return []step{
		{call: "Check", asked: "whether it serves", request: of(&katapb.CheckRequest{}),
			want: holds("SERVING", func(a *katapb.HealthCheckResponse) bool {
				return a.Status == katapb.HealthCheckResponse_SERVING
			})},
		{call: "Version", asked: "versions", request: of(&katapb.CheckRequest{}),
			want: holds("a version", func(a *katapb.VersionCheckResponse) bool { return a.GrpcVersion != "" })},
		{call: "Report", asked: "a report for a nonce", request: of(&reportpb.GetRequest{Nonce: random(nonceLength)}),
			want: holds("a report", func(a *reportpb.GetResponse) bool { return json.Valid(a.Report) })},
		{call: "GetGuestDetails", asked: "what the guest can do",
			request: of(&katapb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true}),
			want: holds("the agent's version", func(a *katapb.GuestDetailsResponse) bool {
				return a.GetAgentDetails().GetVersion() != ""
			})},
		{call: "SetPolicy", asked: "a text that is no policy", request: of(&katapb.SetPolicyRequest{
			Policy: "no policy"}), want: refused},
		{call: "StatsContainer", asked: "an unknown container", request: of(&katapb.StatsContainerRequest{
			ContainerId: nobody}), want: refused},
		{call: "CreateSandbox", asked: "a sandbox", request: of(&katapb.CreateSandboxRequest{
			Hostname: defaultHostname, SandboxId: s.ids.sandbox}), want: done},
	}
}

func (s *Session) guest() []step {
	const unknownLink = "02:00:00:00:00:01"
	return []step{
		{call: "ListInterfaces", asked: "the interfaces", request: of(&katapb.ListInterfacesRequest{}),
			want: holds("lo", func(a *katapb.Interfaces) bool {
				return slices.ContainsFunc(a.Interfaces, func(i *katapb.Interface) bool { return i.Name == "lo" })
			})},
		{call: "ListRoutes", asked: "the routes", request: of(&katapb.ListRoutesRequest{}), want: done},
		{call: "UpdateInterface", asked: "an interface that is not there", request: of(&katapb.UpdateInterfaceRequest{
			Interface: &katapb.Interface{Name: "eth9", HwAddr: unknownLink}}), want: refused},
		{call: "UpdateRoutes", asked: "no routes", request: of(&katapb.UpdateRoutesRequest{Routes: &katapb.Routes{}}),
			want: done},
		{call: "AddARPNeighbors", asked: "no neighbours", request: of(&katapb.AddARPNeighborsRequest{
			Neighbors: &katapb.ARPNeighbors{}}), want: done},
		{call: "GetIPTables", asked: "the packet filter", request: of(&katapb.GetIPTablesRequest{}), want: answered},
		{call: "SetIPTables", asked: "an empty packet filter", request: of(&katapb.SetIPTablesRequest{
			Data: []byte("*filter\nCOMMIT\n")}), want: answered},
		{call: "ReseedRandomDev", asked: "64 random bytes", request: of(&katapb.ReseedRandomDevRequest{
			Data: random(randomLength)}), want: done},
		{call: "SetGuestDateTime", asked: "this host's time", request: func() proto.Message {
			return &katapb.SetGuestDateTimeRequest{Sec: time.Now().Unix()}
		}, want: done},
		{call: "GetMetrics", asked: "numbers", request: of(&katapb.GetMetricsRequest{}),
			want: holds("numbers of kata_agent or kata_guest", func(a *katapb.Metrics) bool {
				return strings.Contains(a.Metrics, "kata_")
			})},
	}
}

func (s *Session) copies(program string) []step {
	file := func(path string, mode uint32, data string) func() proto.Message {
		return of(&katapb.CopyFileRequest{Path: path, FileMode: mode, DirMode: 0o755, FileSize: int64(len(data)),
			Data: []byte(data)})
	}
	here := filepath.Join(sharedFolder, s.ids.container)
	return []step{
		{call: "CopyFile", asked: "a file", request: file(here+"/file", unix.S_IFREG|0o640, "text\n"), want: done},
		{call: "CopyFile", asked: "a link", request: file(here+"/link", unix.S_IFLNK|0o777, "file"), want: done},
		{call: "CopyFile", asked: "a folder", request: file(here+"/folder", unix.S_IFDIR|0o750, ""), want: done},
		{call: "CopyFile", asked: "a file in /tmp", request: file("/tmp/file", unix.S_IFREG|0o640, "text\n"),
			want: refused},
		{call: "CopyFile", asked: "a file outside by ..", request: file(sharedFolder+"/../file", unix.S_IFREG|0o640,
			"text\n"), want: refused},
		{call: "CopyFile", asked: "a program, in chunks", deed: func(ctx context.Context) error {
			return s.copyOne(ctx, program, filepath.Join(rootOf(s.ids.container), programName))
		}, want: done},
	}
}

// spec is that of a container whose program is this one.
func (s *Session) spec() *katapb.Spec {
	spec := defaultSpec(s.ids.container, []string{"/" + programName, inside.Word, "echo"})
	w, err := oci.ToWire(spec)
	if err != nil {
		panic(err) // nothing in it is from outside
	}
	return w
}

func (s *Session) life() []step {
	id := s.ids.container
	create := func() proto.Message { return &katapb.CreateContainerRequest{ContainerId: id, OCI: s.spec()} }
	return []step{
		{call: "CreateContainer", asked: "one without a specification", request: of(&katapb.CreateContainerRequest{
			ContainerId: nobody}), want: refused},
		{call: "CreateContainer", asked: "one whose id is a path", request: of(&katapb.CreateContainerRequest{
			ContainerId: "../" + nobody, OCI: s.spec()}), want: refused},
		{call: "CreateContainer", asked: "a container", request: create, want: done},
		{call: "CreateContainer", asked: "the same once more", request: create, want: refused},
		{call: "StartContainer", asked: "it to run", request: of(&katapb.StartContainerRequest{ContainerId: id}),
			want: done},
		{call: "StatsContainer", asked: "what it uses", request: of(&katapb.StatsContainerRequest{ContainerId: id}),
			want: holds("numbers", func(a *katapb.StatsContainerResponse) bool { return a.CgroupStats != nil })},
		{call: "UpdateContainer", asked: "a limit of 64 processes", request: of(&katapb.UpdateContainerRequest{
			ContainerId: id, Resources: &katapb.LinuxResources{Pids: &katapb.LinuxPids{Limit: 64}}}), want: done},
		{call: "PauseContainer", asked: "it to stand still", request: of(&katapb.PauseContainerRequest{
			ContainerId: id}), want: done},
		{call: "ResumeContainer", asked: "it to go on", request: of(&katapb.ResumeContainerRequest{ContainerId: id}),
			want: done},
		{call: "GetOOMEvent", asked: "an event that does not come", request: of(&katapb.GetOOMEventRequest{}),
			within: oomWait, want: func(_ proto.Message, err error) string {
				if err == nil {
					return "there was one"
				}
				return ""
			}},
		{call: "GetDiagnosticData", asked: "of an unknown kind", request: of(&katapb.GetDiagnosticDataRequest{
			LogType: "unknown", ContainerId: id}), want: refused},
	}
}

func (s *Session) streams() []step {
	id := s.ids.container
	says := func(text string) func(proto.Message, error) string {
		return holds("what was to be said", func(a *katapb.ReadStreamResponse) bool { return string(a.Data) == text })
	}
	return []step{
		{call: "WriteStdin", asked: "a line", request: of(&katapb.WriteStreamRequest{ContainerId: id,
			Data: []byte(greeting + "\n")}),
			want: holds("its length", func(a *katapb.WriteStreamResponse) bool {
				return int(a.Len) == len(greeting)+1
			})},
		{call: "ReadStdout", asked: "the line again", request: of(&katapb.ReadStreamRequest{ContainerId: id,
			Len: readLength}), want: says(greeting + "\n")},
		{call: "ReadStderr", asked: "a line", request: of(&katapb.ReadStreamRequest{ContainerId: id,
			Len: readLength}), want: says(inside.Complaint + "\n")},
		{call: "TtyWinResize", asked: "a process without a terminal", request: of(&katapb.TtyWinResizeRequest{
			ContainerId: id, Row: rows, Column: columns}), want: refused},
	}
}

func (s *Session) processes() []step {
	id, exec := s.ids.container, s.ids.exec
	run := func(exec string, args ...string) func() proto.Message {
		return of(&katapb.ExecProcessRequest{ContainerId: id, ExecId: exec, Process: oci.ProcessToWire(
			defaultProcess(append([]string{"/" + programName, inside.Word}, args...)))})
	}
	ended := func(code int32) func(proto.Message, error) string {
		return holds(fmt.Sprintf("the code %d", code), func(a *katapb.WaitProcessResponse) bool {
			return a.Status == code
		})
	}
	return []step{
		{call: "ExecProcess", asked: "another process", request: run(exec, "exit", fmt.Sprint(endCode)), want: done},
		{call: "WaitProcess", asked: "its end", request: of(&katapb.WaitProcessRequest{ContainerId: id, ExecId: exec}),
			want: ended(endCode)},
		{call: "ExecProcess", asked: "one that stays", request: run(exec+"-2", "hold"), want: done},
		{call: "SignalProcess", asked: "it to be killed", request: of(&katapb.SignalProcessRequest{ContainerId: id,
			ExecId: exec + "-2", Signal: uint32(unix.SIGKILL)}), want: done},
		{call: "WaitProcess", asked: "its end", request: of(&katapb.WaitProcessRequest{ContainerId: id,
			ExecId: exec + "-2"}), want: ended(killedCode)},
		{call: "SignalProcess", asked: "an unknown process", request: of(&katapb.SignalProcessRequest{ContainerId: id,
			ExecId: nobody, Signal: uint32(unix.SIGKILL)}), want: refused},
		{call: "CloseStdin", asked: "the end of its input", request: of(&katapb.CloseStdinRequest{ContainerId: id}),
			want: done},
		{call: "WaitProcess", asked: "the container's end", request: of(&katapb.WaitProcessRequest{ContainerId: id}),
			want: ended(0)},
		{call: "ReadStdout", asked: "what is left", request: of(&katapb.ReadStreamRequest{ContainerId: id,
			Len: readLength}), want: holds("the end", func(a *katapb.ReadStreamResponse) bool {
			return len(a.Data) == 0
		})},
	}
}

func (s *Session) hardware() []step {
	const nowhere = "/nowhere"
	return []step{
		{call: "OnlineCPUMem", asked: "the processors there are", request: of(&katapb.OnlineCPUMemRequest{NbCpus: 1,
			CpuOnly: true}), want: answered},
		{call: "MemHotplugByProbe", asked: "no memory", request: of(&katapb.MemHotplugByProbeRequest{}),
			want: answered},
		{call: "MemAgentMemcgSet", asked: "nothing to change", request: of(&katapb.MemAgentMemcgConfig{}),
			want: answered},
		{call: "MemAgentCompactSet", asked: "nothing to change", request: of(&katapb.MemAgentCompactConfig{}),
			want: answered},
		{call: "AddSwap", asked: "a disk that is not there", request: of(&katapb.AddSwapRequest{PCIPath: []uint32{31}}),
			want: func(_ proto.Message, err error) string {
				if err == nil {
					return "it is not refused"
				}
				return ""
			}},
		{call: "AddSwapPath", asked: "a file that is not there", request: of(&katapb.AddSwapPathRequest{Path: nowhere}),
			want: refused},
		{call: "GetVolumeStats", asked: "how full /run is", request: of(&katapb.VolumeStatsRequest{
			VolumeGuestPath: "/run"}), want: answered},
		{call: "GetVolumeStats", asked: "a volume that is not there", request: of(&katapb.VolumeStatsRequest{
			VolumeGuestPath: nowhere}), want: refused},
		{call: "ResizeVolume", asked: "a volume that is not there", request: of(&katapb.ResizeVolumeRequest{
			VolumeGuestPath: nowhere, Size: 1 << 20}), want: refused},
		{call: "UpdateEphemeralMounts", asked: "none", request: of(&katapb.UpdateEphemeralMountsRequest{}), want: done},
		{call: "RemoveStaleVirtiofsShareMounts", asked: "to forget what is gone",
			request: of(&katapb.RemoveStaleVirtiofsShareMountsRequest{}), want: done},
	}
}

func (s *Session) end() []step {
	return []step{
		{call: "RemoveContainer", asked: "the container's end", request: of(&katapb.RemoveContainerRequest{
			ContainerId: s.ids.container}), want: done},
		{call: "RemoveContainer", asked: "the same once more", request: of(&katapb.RemoveContainerRequest{
			ContainerId: s.ids.container}), want: refused},
		{call: "DestroySandbox", asked: "the end of all", request: of(&katapb.DestroySandboxRequest{}),
			want: func(answer proto.Message, err error) string {
				if _, is := answer.(*emptypb.Empty); err != nil || !is {
					return "it is refused"
				}
				return ""
			}},
	}
}
