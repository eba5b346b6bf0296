package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/csi/images"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/management"
)

// errNotRunning says that no pod runs with a volume.
var errNotRunning = management.ErrNotRunning

// NodeGetInfo implements Node.
func (d *Driver) NodeGetInfo(context.Context, *spec.NodeGetInfoRequest) (*spec.NodeGetInfoResponse, error) {
	r := &spec.NodeGetInfoResponse{NodeId: d.o.Node}
	if t := d.topology(); t != nil {
		r.AccessibleTopology = t[0]
	}
	return r, nil
}

// NodeGetCapabilities implements Node. VOLUME_MOUNT_GROUP has a kubelet tell the pod's fsGroup, in place of changing
// files itself, which are on no mount of the host.
func (d *Driver) NodeGetCapabilities(context.Context, *spec.NodeGetCapabilitiesRequest) (
	*spec.NodeGetCapabilitiesResponse, error) {
	r := &spec.NodeGetCapabilitiesResponse{}
	for _, t := range []spec.NodeServiceCapability_RPC_Type{
		spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, spec.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		spec.NodeServiceCapability_RPC_EXPAND_VOLUME, spec.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
	} {
		r.Capabilities = append(r.Capabilities, &spec.NodeServiceCapability{Type: &spec.NodeServiceCapability_Rpc{
			Rpc: &spec.NodeServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

// ready finds a volume that is to be staged or published, and says why it cannot be.
func (d *Driver) ready(id string, c *spec.VolumeCapability, context map[string]string) (*images.Volume, error) {
	fsType, err := usable(c)
	if err != nil {
		return nil, err
	}
	v, err := d.o.Images.Volume(id)
	if err != nil {
		return nil, err
	}
	for _, want := range []string{fsType, context[fsTypeParameter]} {
		if _, err := same(v.FSType, want); err != nil {
			return nil, err
		}
	}
	if t := context[typeParameter]; t != "" && (&directvolume.Info{Type: t}).Kind() != directvolume.Block {
		return nil, invalid("%s %q: this driver has volumes of files alone, want %s", typeParameter, t, typeless)
	}
	return v, nil
}

// NodeStageVolume implements Node. There is nothing to do for a volume that is whole: no pod has it yet.
func (d *Driver) NodeStageVolume(_ context.Context, r *spec.NodeStageVolumeRequest) (
	*spec.NodeStageVolumeResponse, error) {
	switch {
	case r.GetVolumeId() == "":
		return nil, invalid("no volume id")
	case r.GetStagingTargetPath() == "":
		return nil, invalid("no staging target path")
	case r.GetVolumeCapability() == nil:
		return nil, invalid("no volume capability")
	}
	_, err := d.ready(r.GetVolumeId(), r.GetVolumeCapability(), r.GetVolumeContext())
	return &spec.NodeStageVolumeResponse{}, err
}

// NodeUnstageVolume implements Node.
func (d *Driver) NodeUnstageVolume(_ context.Context, r *spec.NodeUnstageVolumeRequest) (
	*spec.NodeUnstageVolumeResponse, error) {
	switch {
	case r.GetVolumeId() == "":
		return nil, invalid("no volume id")
	case r.GetStagingTargetPath() == "":
		return nil, invalid("no staging target path")
	}
	return &spec.NodeUnstageVolumeResponse{}, nil
}

// isTarget says whether a path can be one that a volume is published at.
func isTarget(path string) error {
	if path == "" {
		return invalid("no target path")
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return invalid("target path %q: want an absolute one, without . and ..", path)
	}
	if err := directvolume.CheckPath(path); err != nil {
		return invalid("target path: %v", err)
	}
	return nil
}

// NodePublishVolume implements Node.
func (d *Driver) NodePublishVolume(_ context.Context, r *spec.NodePublishVolumeRequest) (
	*spec.NodePublishVolumeResponse, error) {
	id, target := r.GetVolumeId(), r.GetTargetPath()
	if id == "" {
		return nil, invalid("no volume id")
	}
	if err := isTarget(target); err != nil {
		return nil, err
	}
	if r.GetVolumeCapability() == nil {
		return nil, invalid("no volume capability")
	}
	if r.GetStagingTargetPath() == "" {
		return nil, status.Error(codes.FailedPrecondition, "no staging target path: volumes are staged first")
	}
	leave, err := d.use(id)
	if err != nil {
		return nil, err
	}
	defer leave()
	v, err := d.ready(id, r.GetVolumeCapability(), r.GetVolumeContext())
	if err != nil {
		return nil, err
	}
	i, err := describe(v, r)
	if err != nil {
		return nil, err
	}
	at, err := d.published(v.Image)
	if err != nil {
		return nil, err
	}
	if err := alone(id, target, i, at); err != nil {
		return nil, err
	}
	if at[target] == nil {
		switch other, err := directvolume.Read(d.o.Volumes, target); {
		case err == nil:
			return nil, status.Errorf(codes.AlreadyExists, "target path %s: %s is published there", target,
				other.Device)
		case !errors.Is(err, directvolume.ErrNone):
			return nil, err
		}
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.o.Volumes, 0o700); err != nil {
		return nil, err
	}
	return &spec.NodePublishVolumeResponse{}, directvolume.Add(d.o.Volumes, target, i)
}

// alone says why a volume cannot be published as i where it is published already.
func alone(id, target string, i *directvolume.Info, at map[string]*directvolume.Info) error {
	for _, path := range slices.Sorted(maps.Keys(at)) {
		have := at[path]
		switch {
		case path == target && (!slices.Equal(have.Options, i.Options) || !maps.Equal(have.Metadata, i.Metadata)):
			return status.Errorf(codes.AlreadyExists, "volume %s: it is published at %s in another way", id, path)
		case path != target && !(have.ReadOnly() && i.ReadOnly()):
			return status.Errorf(codes.FailedPrecondition, "volume %s: it is published at %s: two guests that mount "+
				"one disk, of which one writes, destroy it", id, path)
		}
	}
	return nil
}

// describe says how a guest mounts a volume.
func describe(v *images.Volume, r *spec.NodePublishVolumeRequest) (*directvolume.Info, error) {
	m := r.GetVolumeCapability().GetMount()
	i := &directvolume.Info{Type: directvolume.Block, Device: v.Image, FSType: v.FSType, Options: m.GetMountFlags()}
	if slices.Contains(i.Options, "") {
		return nil, invalid("a mount flag that is empty")
	}
	mode := r.GetVolumeCapability().GetAccessMode().GetMode()
	if (r.GetReadonly() || mode == spec.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY) && !i.ReadOnly() {
		i.Options = append(slices.Clone(i.Options), "ro")
	}
	if g := m.GetVolumeMountGroup(); g != "" {
		if _, err := strconv.ParseUint(g, 10, 32); err != nil {
			return nil, invalid("volume mount group %q: want the number of a group", g)
		}
		i.Metadata = map[string]string{directvolume.FSGroup: g}
		if p := r.GetVolumeContext()[groupParameter]; p != "" {
			i.Metadata[directvolume.FSGroupPolicy] = p
		}
	}
	if _, err := i.Group(); err != nil {
		return nil, invalid("%v", err)
	}
	return i, nil
}

// NodeUnpublishVolume implements Node. What is at the path and is not the volume's stays. So does a volume that a pod
// runs with, whose disk could be removed else.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *spec.NodeUnpublishVolumeRequest) (
	*spec.NodeUnpublishVolumeResponse, error) {
	id, target := r.GetVolumeId(), r.GetTargetPath()
	if id == "" {
		return nil, invalid("no volume id")
	}
	if err := isTarget(target); err != nil {
		return nil, err
	}
	if !images.IsID(id) {
		return nil, fmt.Errorf("volume %q: %w", id, images.ErrNone)
	}
	leave, err := d.use(id)
	if err != nil {
		return nil, err
	}
	defer leave()
	i, err := directvolume.Read(d.o.Volumes, target)
	switch {
	case errors.Is(err, directvolume.ErrNone): // perhaps a driver was killed before it removed the folder
	case err != nil:
		return nil, err
	case i.Device != d.o.Images.Image(id):
		return &spec.NodeUnpublishVolumeResponse{}, nil
	default:
		if _, pod, err := d.inUse(map[string]*directvolume.Info{target: i}); err != nil || pod != "" {
			if err == nil {
				err = status.Errorf(codes.FailedPrecondition, "volume %s: pod %s runs with it", id, pod)
			}
			return nil, err
		}
		if err := directvolume.Remove(d.o.Volumes, target); err != nil && !errors.Is(err, directvolume.ErrNone) {
			return nil, err
		}
	}
	if err := unix.Rmdir(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("target path: %w", &fs.PathError{Op: "rmdir", Path: target, Err: err})
	}
	return &spec.NodeUnpublishVolumeResponse{}, nil
}

// NodeExpandVolume implements Node. While a pod runs with the volume, its guest has the file system grow.
func (d *Driver) NodeExpandVolume(ctx context.Context, r *spec.NodeExpandVolumeRequest) (
	*spec.NodeExpandVolumeResponse, error) {
	id := r.GetVolumeId()
	switch {
	case id == "":
		return nil, invalid("no volume id")
	case r.GetVolumePath() == "":
		return nil, invalid("no volume path")
	}
	if c := r.GetVolumeCapability(); c != nil {
		if _, err := usable(c); err != nil {
			return nil, err
		}
	}
	need := r.GetCapacityRange()
	if need.GetRequiredBytes() < 0 || need.GetLimitBytes() < 0 ||
		need.GetLimitBytes() > 0 && need.GetLimitBytes() < need.GetRequiredBytes() {
		return nil, invalid("a capacity of %d to %d bytes", need.GetRequiredBytes(), need.GetLimitBytes())
	}
	leave, err := d.use(id)
	if err != nil {
		return nil, err
	}
	defer leave()
	v, err := d.o.Images.Volume(id)
	if err != nil {
		return nil, err
	}
	at, err := d.published(v.Image)
	if err != nil {
		return nil, err
	}
	path, pod, err := d.inUse(at)
	if err != nil {
		return nil, err
	}
	if pod != "" && at[path].ReadOnly() {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s: pod %s reads it alone, and nothing grows that "+
			"nobody writes to", id, pod)
	}
	if v, err = d.o.Images.GrowImage(id, need.GetRequiredBytes(), need.GetLimitBytes()); err != nil {
		return nil, err
	}
	if pod != "" {
		err = d.pods.Resize(ctx, path, v.Size)
	} else {
		err = d.o.Images.GrowFileSystem(ctx, v)
	}
	if err != nil {
		return nil, err
	}
	return &spec.NodeExpandVolumeResponse{CapacityBytes: v.Size}, nil
}

// NodeGetVolumeStats implements Node. The guest says how full the file system is; where none runs, the file does.
func (d *Driver) NodeGetVolumeStats(ctx context.Context, r *spec.NodeGetVolumeStatsRequest) (
	*spec.NodeGetVolumeStatsResponse, error) {
	id, path := r.GetVolumeId(), r.GetVolumePath()
	switch {
	case id == "":
		return nil, invalid("no volume id")
	case path == "":
		return nil, invalid("no volume path")
	}
	v, err := d.o.Images.Volume(id)
	if err != nil {
		return nil, err
	}
	i, err := directvolume.Read(d.o.Volumes, path)
	if errors.Is(err, directvolume.ErrNone) || err == nil && i.Device != v.Image {
		return nil, status.Errorf(codes.NotFound, "volume %s: it is not published at %s", id, path)
	}
	if err != nil {
		return nil, err
	}
	b, err := d.pods.Stats(ctx, path)
	if errors.Is(err, errNotRunning) || errors.Is(err, directvolume.ErrNone) {
		return &spec.NodeGetVolumeStatsResponse{Usage: []*spec.VolumeUsage{{Unit: spec.VolumeUsage_BYTES,
			Total: v.Size, Used: min(v.Used, v.Size), Available: max(0, v.Size-v.Used)}}}, nil
	}
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "volume %s: %v", id, err)
	}
	return usageOf(b)
}

// usageOf reads what a guest says of a volume. It is a guest's word: numbers that cannot be are refused.
func usageOf(b []byte) (*spec.NodeGetVolumeStatsResponse, error) {
	var said katapb.VolumeStatsResponse
	if err := json.Unmarshal(b, &said); err != nil {
		return nil, fmt.Errorf("what the guest says: %w", err)
	}
	out := &spec.NodeGetVolumeStatsResponse{}
	for _, u := range said.GetUsage() {
		unit := spec.VolumeUsage_BYTES
		switch u.GetUnit() {
		case katapb.VolumeUsage_BYTES:
		case katapb.VolumeUsage_INODES:
			unit = spec.VolumeUsage_INODES
		default:
			continue
		}
		if u.GetTotal() > 1<<62 || u.GetUsed() > u.GetTotal() || u.GetAvailable() > u.GetTotal() {
			return nil, fmt.Errorf("what the guest says: %d used and %d available of %d", u.GetUsed(), u.GetAvailable(),
				u.GetTotal())
		}
		out.Usage = append(out.Usage, &spec.VolumeUsage{Unit: unit, Total: int64(u.GetTotal()),
			Used: int64(u.GetUsed()), Available: int64(u.GetAvailable())})
	}
	return out, nil
}
