package serve

import (
	"context"
	"slices"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Machine is the guest's hardware, as far as requests change it.
type Machine interface {
	OnlineCPUMem(ctx context.Context, cpus uint32, cpuOnly bool) error
	MemHotplugByProbe(addresses []uint64) error
	ReseedRandomDev(data []byte) error
	SetGuestDateTime(seconds, microseconds int64) error
}

// GetGuestDetails says what the guest can do.
func (f *full) GetGuestDetails(ctx context.Context, r *katapb.GuestDetailsRequest) (*katapb.GuestDetailsResponse,
	error) {
	resp, err := f.api.GetGuestDetails(ctx, r)
	if err != nil {
		return nil, err
	}
	d := resp.AgentDetails
	d.SupportsSeccomp = true
	d.StorageHandlers = f.s.Storage.Handlers()
	d.DeviceHandlers = f.s.Storage.DeviceHandlers()
	d.ExtraFeatures = slices.Clone(d.ExtraFeatures)
	d.ExtraFeatures = append(d.ExtraFeatures, agentapi.SignalAllFeature, agentapi.PIDOfFeature,
		agentapi.GuestDevicesFeature, agentapi.ForeignLocksFeature)
	if f.s.Streams != nil {
		d.ExtraFeatures = append(d.ExtraFeatures, agentapi.StreamsFeature)
	}
	if f.s.Forwards {
		d.ExtraFeatures = append(d.ExtraFeatures, agentapi.ForwardFeature)
	}
	return resp, nil
}

// CopyFile takes a file, folder or link from a host that shares none.
func (f *full) CopyFile(_ context.Context, r *katapb.CopyFileRequest) (*emptypb.Empty, error) {
	return answer(f.s.Storage.CopyFile(r))
}

// GetVolumeStats says how full a volume is.
func (f *full) GetVolumeStats(_ context.Context, r *katapb.VolumeStatsRequest) (*katapb.VolumeStatsResponse, error) {
	v, err := f.s.Storage.VolumeStats(r.VolumeGuestPath)
	return v, coded(err)
}

// ResizeVolume makes a volume's file system as large as its disk.
func (f *full) ResizeVolume(ctx context.Context, r *katapb.ResizeVolumeRequest) (*emptypb.Empty, error) {
	return answer(f.s.Storage.ResizeVolume(ctx, r.VolumeGuestPath, r.Size))
}

// UpdateEphemeralMounts gives volumes in memory another size.
func (f *full) UpdateEphemeralMounts(_ context.Context, r *katapb.UpdateEphemeralMountsRequest) (*emptypb.Empty,
	error) {
	return answer(f.s.Storage.UpdateEphemeral(r.Storages))
}

// RemoveStaleVirtiofsShareMounts has the kernel forget files that the host no longer shares.
func (f *full) RemoveStaleVirtiofsShareMounts(context.Context, *katapb.RemoveStaleVirtiofsShareMountsRequest) (
	*emptypb.Empty, error) {
	return answer(f.s.Storage.StaleMounts())
}

// AddSwap swaps to a disk, found by its PCI path.
func (f *full) AddSwap(ctx context.Context, r *katapb.AddSwapRequest) (*emptypb.Empty, error) {
	return answer(f.s.Storage.AddSwap(ctx, r.PCIPath))
}

// AddSwapPath swaps to a file or disk.
func (f *full) AddSwapPath(_ context.Context, r *katapb.AddSwapPathRequest) (*emptypb.Empty, error) {
	return answer(f.s.Storage.AddSwapPath(r.Path))
}

// OnlineCPUMem uses processors and memory that were plugged in.
func (f *full) OnlineCPUMem(ctx context.Context, r *katapb.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	return answer(f.s.Machine.OnlineCPUMem(ctx, r.NbCpus, r.CpuOnly))
}

// MemHotplugByProbe tells the kernel where memory was plugged in.
func (f *full) MemHotplugByProbe(_ context.Context, r *katapb.MemHotplugByProbeRequest) (*emptypb.Empty, error) {
	return answer(f.s.Machine.MemHotplugByProbe(r.MemHotplugProbeAddr))
}

// ReseedRandomDev gives the kernel fresh randomness, for guests that began as copies of one.
func (f *full) ReseedRandomDev(_ context.Context, r *katapb.ReseedRandomDevRequest) (*emptypb.Empty, error) {
	if len(r.Data) == 0 {
		return nil, status.Error(codes.InvalidArgument, "no random data")
	}
	return answer(f.s.Machine.ReseedRandomDev(r.Data))
}

// SetGuestDateTime sets the clock.
func (f *full) SetGuestDateTime(_ context.Context, r *katapb.SetGuestDateTimeRequest) (*emptypb.Empty, error) {
	return answer(f.s.Machine.SetGuestDateTime(r.Sec, r.Usec))
}
