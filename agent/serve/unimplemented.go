package serve

import (
	"context"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// unimplemented refuses every call by name.
type unimplemented struct{}

func refuse(call string) error {
	return status.Errorf(codes.Unimplemented, "%s is not implemented by this agent", call)
}

func (unimplemented) GetGuestDetails(context.Context, *katapb.GuestDetailsRequest) (*katapb.GuestDetailsResponse,
	error) {
	return nil, refuse("GetGuestDetails")
}

func (unimplemented) GetMetrics(context.Context, *katapb.GetMetricsRequest) (*katapb.Metrics, error) {
	return nil, refuse("GetMetrics")
}

func (unimplemented) ReseedRandomDev(context.Context, *katapb.ReseedRandomDevRequest) (*emptypb.Empty, error) {
	return nil, refuse("ReseedRandomDev")
}

func (unimplemented) SetGuestDateTime(context.Context, *katapb.SetGuestDateTimeRequest) (*emptypb.Empty, error) {
	return nil, refuse("SetGuestDateTime")
}

func (unimplemented) SetPolicy(context.Context, *katapb.SetPolicyRequest) (*emptypb.Empty, error) {
	return nil, refuse("SetPolicy")
}

func (unimplemented) CreateSandbox(context.Context, *katapb.CreateSandboxRequest) (*emptypb.Empty, error) {
	return nil, refuse("CreateSandbox")
}

func (unimplemented) DestroySandbox(context.Context, *katapb.DestroySandboxRequest) (*emptypb.Empty, error) {
	return nil, refuse("DestroySandbox")
}

func (unimplemented) CreateContainer(context.Context, *katapb.CreateContainerRequest) (*emptypb.Empty, error) {
	return nil, refuse("CreateContainer")
}

func (unimplemented) StartContainer(context.Context, *katapb.StartContainerRequest) (*emptypb.Empty, error) {
	return nil, refuse("StartContainer")
}

func (unimplemented) RemoveContainer(context.Context, *katapb.RemoveContainerRequest) (*emptypb.Empty, error) {
	return nil, refuse("RemoveContainer")
}

func (unimplemented) UpdateContainer(context.Context, *katapb.UpdateContainerRequest) (*emptypb.Empty, error) {
	return nil, refuse("UpdateContainer")
}

func (unimplemented) StatsContainer(context.Context, *katapb.StatsContainerRequest) (*katapb.StatsContainerResponse,
	error) {
	return nil, refuse("StatsContainer")
}

func (unimplemented) PauseContainer(context.Context, *katapb.PauseContainerRequest) (*emptypb.Empty, error) {
	return nil, refuse("PauseContainer")
}

func (unimplemented) ResumeContainer(context.Context, *katapb.ResumeContainerRequest) (*emptypb.Empty, error) {
	return nil, refuse("ResumeContainer")
}

func (unimplemented) GetOOMEvent(context.Context, *katapb.GetOOMEventRequest) (*katapb.OOMEvent, error) {
	return nil, refuse("GetOOMEvent")
}

func (unimplemented) GetDiagnosticData(context.Context, *katapb.GetDiagnosticDataRequest) (
	*katapb.GetDiagnosticDataResponse, error) {
	return nil, refuse("GetDiagnosticData")
}

func (unimplemented) ExecProcess(context.Context, *katapb.ExecProcessRequest) (*emptypb.Empty, error) {
	return nil, refuse("ExecProcess")
}

func (unimplemented) SignalProcess(context.Context, *katapb.SignalProcessRequest) (*emptypb.Empty, error) {
	return nil, refuse("SignalProcess")
}

func (unimplemented) WaitProcess(context.Context, *katapb.WaitProcessRequest) (*katapb.WaitProcessResponse, error) {
	return nil, refuse("WaitProcess")
}

func (unimplemented) WriteStdin(context.Context, *katapb.WriteStreamRequest) (*katapb.WriteStreamResponse, error) {
	return nil, refuse("WriteStdin")
}

func (unimplemented) ReadStdout(context.Context, *katapb.ReadStreamRequest) (*katapb.ReadStreamResponse, error) {
	return nil, refuse("ReadStdout")
}

func (unimplemented) ReadStderr(context.Context, *katapb.ReadStreamRequest) (*katapb.ReadStreamResponse, error) {
	return nil, refuse("ReadStderr")
}

func (unimplemented) CloseStdin(context.Context, *katapb.CloseStdinRequest) (*emptypb.Empty, error) {
	return nil, refuse("CloseStdin")
}

func (unimplemented) TtyWinResize(context.Context, *katapb.TtyWinResizeRequest) (*emptypb.Empty, error) {
	return nil, refuse("TtyWinResize")
}

func (unimplemented) UpdateInterface(context.Context, *katapb.UpdateInterfaceRequest) (*katapb.Interface, error) {
	return nil, refuse("UpdateInterface")
}

func (unimplemented) UpdateRoutes(context.Context, *katapb.UpdateRoutesRequest) (*katapb.Routes, error) {
	return nil, refuse("UpdateRoutes")
}

func (unimplemented) ListInterfaces(context.Context, *katapb.ListInterfacesRequest) (*katapb.Interfaces, error) {
	return nil, refuse("ListInterfaces")
}

func (unimplemented) ListRoutes(context.Context, *katapb.ListRoutesRequest) (*katapb.Routes, error) {
	return nil, refuse("ListRoutes")
}

func (unimplemented) AddARPNeighbors(context.Context, *katapb.AddARPNeighborsRequest) (*emptypb.Empty, error) {
	return nil, refuse("AddARPNeighbors")
}

func (unimplemented) GetIPTables(context.Context, *katapb.GetIPTablesRequest) (*katapb.GetIPTablesResponse, error) {
	return nil, refuse("GetIPTables")
}

func (unimplemented) SetIPTables(context.Context, *katapb.SetIPTablesRequest) (*katapb.SetIPTablesResponse, error) {
	return nil, refuse("SetIPTables")
}

func (unimplemented) OnlineCPUMem(context.Context, *katapb.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	return nil, refuse("OnlineCPUMem")
}

func (unimplemented) MemHotplugByProbe(context.Context, *katapb.MemHotplugByProbeRequest) (*emptypb.Empty, error) {
	return nil, refuse("MemHotplugByProbe")
}

func (unimplemented) MemAgentMemcgSet(context.Context, *katapb.MemAgentMemcgConfig) (*emptypb.Empty, error) {
	return nil, refuse("MemAgentMemcgSet")
}

func (unimplemented) MemAgentCompactSet(context.Context, *katapb.MemAgentCompactConfig) (*emptypb.Empty, error) {
	return nil, refuse("MemAgentCompactSet")
}

func (unimplemented) AddSwap(context.Context, *katapb.AddSwapRequest) (*emptypb.Empty, error) {
	return nil, refuse("AddSwap")
}

func (unimplemented) AddSwapPath(context.Context, *katapb.AddSwapPathRequest) (*emptypb.Empty, error) {
	return nil, refuse("AddSwapPath")
}

func (unimplemented) CopyFile(context.Context, *katapb.CopyFileRequest) (*emptypb.Empty, error) {
	return nil, refuse("CopyFile")
}

func (unimplemented) GetVolumeStats(context.Context, *katapb.VolumeStatsRequest) (*katapb.VolumeStatsResponse, error) {
	return nil, refuse("GetVolumeStats")
}

func (unimplemented) ResizeVolume(context.Context, *katapb.ResizeVolumeRequest) (*emptypb.Empty, error) {
	return nil, refuse("ResizeVolume")
}

func (unimplemented) UpdateEphemeralMounts(context.Context, *katapb.UpdateEphemeralMountsRequest) (*emptypb.Empty,
	error) {
	return nil, refuse("UpdateEphemeralMounts")
}

func (unimplemented) RemoveStaleVirtiofsShareMounts(context.Context, *katapb.RemoveStaleVirtiofsShareMountsRequest) (
	*emptypb.Empty, error) {
	return nil, refuse("RemoveStaleVirtiofsShareMounts")
}
