package csi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/katabuild/katabuild/runtime/csi/images"
	"github.com/katabuild/katabuild/runtime/directvolume"
)

// GetPluginInfo implements Identity.
func (d *Driver) GetPluginInfo(context.Context, *spec.GetPluginInfoRequest) (*spec.GetPluginInfoResponse, error) {
	return &spec.GetPluginInfoResponse{Name: d.o.Name, VendorVersion: d.o.Version}, nil
}

// Probe implements Identity. A driver that answers is ready.
func (d *Driver) Probe(context.Context, *spec.ProbeRequest) (*spec.ProbeResponse, error) {
	return &spec.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// GetPluginCapabilities implements Identity.
func (d *Driver) GetPluginCapabilities(context.Context, *spec.GetPluginCapabilitiesRequest) (
	*spec.GetPluginCapabilitiesResponse, error) {
	services := []spec.PluginCapability_Service_Type{spec.PluginCapability_Service_CONTROLLER_SERVICE}
	if d.o.Topology {
		services = append(services, spec.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS)
	}
	r := &spec.GetPluginCapabilitiesResponse{Capabilities: []*spec.PluginCapability{
		{Type: &spec.PluginCapability_VolumeExpansion_{VolumeExpansion: &spec.PluginCapability_VolumeExpansion{
			Type: spec.PluginCapability_VolumeExpansion_ONLINE}}},
	}}
	for _, s := range services {
		r.Capabilities = append(r.Capabilities, &spec.PluginCapability{Type: &spec.PluginCapability_Service_{
			Service: &spec.PluginCapability_Service{Type: s}}})
	}
	return r, nil
}

// ControllerGetCapabilities implements Controller. Growing is the node's alone: the controller that is asked, one of a
// cluster, need not be on the node where the volume is.
func (d *Driver) ControllerGetCapabilities(context.Context, *spec.ControllerGetCapabilitiesRequest) (
	*spec.ControllerGetCapabilitiesResponse, error) {
	r := &spec.ControllerGetCapabilitiesResponse{}
	for _, t := range []spec.ControllerServiceCapability_RPC_Type{
		spec.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, spec.ControllerServiceCapability_RPC_GET_CAPACITY,
		spec.ControllerServiceCapability_RPC_LIST_VOLUMES,
	} {
		r.Capabilities = append(r.Capabilities, &spec.ControllerServiceCapability{
			Type: &spec.ControllerServiceCapability_Rpc{Rpc: &spec.ControllerServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

// Parameters of a class of volumes, and what a volume's context says. Kata Containers 4.1, csi-kata-directvolume.
const (
	typeParameter   = "katacontainers.direct.volume/volumetype"
	fsTypeParameter = "katacontainers.direct.volume/fstype"
	// groupParameter is Kubernetes' fsGroupChangePolicy, which a kubelet does not tell drivers.
	groupParameter = "katacontainers.direct.volume/fsgroupchangepolicy"
)

// parameters are what a class of volumes says.
type parameters struct {
	fsType      string // empty is any
	groupPolicy string // empty is Kubernetes' default
}

// typeless is the type of volumes that Kata Containers' driver makes of files.
const typeless = "directvol"

// readParameters reads them. Those whose names begin as Kubernetes' programs' do are theirs.
func readParameters(all map[string]string) (p parameters, err error) {
	for k, v := range all {
		switch name := strings.ToLower(k); {
		case name == typeParameter:
			switch kind := (&directvolume.Info{Type: v}).Kind(); kind {
			case directvolume.Block:
			case directvolume.VFIO, directvolume.SPDK:
				return p, invalid("%s %q: this driver makes volumes of files alone, want %s", k, v, typeless)
			default:
				return p, invalid("%s %q: want %s", k, v, typeless)
			}
		case name == fsTypeParameter:
			p.fsType = v
		case name == groupParameter:
			if v != "Always" && v != "OnRootMismatch" {
				return p, invalid("%s %q: want Always or OnRootMismatch", k, v)
			}
			p.groupPolicy = v
		case strings.HasPrefix(name, "csi.storage.k8s.io/"):
		default:
			return p, invalid("parameter %q: want %s, %s or %s", k, typeParameter, fsTypeParameter, groupParameter)
		}
	}
	return p, nil
}

// single are the modes of access that there are: a volume is on one node, and two guests that mount a disk, one of
// which writes, destroy it.
var single = []spec.VolumeCapability_AccessMode_Mode{spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
	spec.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
	spec.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER}

// usable says why a volume cannot be had in a way, and which file system that wants, empty for any.
func usable(c *spec.VolumeCapability) (fsType string, err error) {
	switch {
	case c.GetBlock() != nil:
		return "", invalid("access as a block device: a guest mounts what is on the disk, want a mount")
	case c.GetMount() == nil:
		return "", invalid("no access type, want a mount")
	case !slices.Contains(single, c.GetAccessMode().GetMode()):
		return "", invalid("access mode %s: a volume is one node's, and one pod's that writes to it",
			c.GetAccessMode().GetMode())
	}
	return c.GetMount().GetFsType(), nil
}

// usableAll is usable for several ways, which want one file system.
func usableAll(list []*spec.VolumeCapability) (fsType string, err error) {
	if len(list) == 0 {
		return "", invalid("no volume capabilities")
	}
	for _, c := range list {
		t, err := usable(c)
		if err != nil {
			return "", err
		}
		if fsType, err = same(fsType, t); err != nil {
			return "", err
		}
	}
	return fsType, nil
}

// same is a file system of which two may speak.
func same(a, b string) (string, error) {
	if a != "" && b != "" && a != b {
		return "", invalid("the file systems %s and %s for one volume", a, b)
	}
	return cmp.Or(a, b), nil
}

// CreateVolume implements Controller.
func (d *Driver) CreateVolume(ctx context.Context, r *spec.CreateVolumeRequest) (*spec.CreateVolumeResponse, error) {
	if r.GetName() == "" {
		return nil, invalid("no name")
	}
	fsType, err := usableAll(r.GetVolumeCapabilities())
	if err != nil {
		return nil, err
	}
	p, err := readParameters(r.GetParameters())
	if err != nil {
		return nil, err
	}
	if fsType, err = same(p.fsType, fsType); err != nil {
		return nil, err
	}
	if r.GetVolumeContentSource() != nil {
		return nil, invalid("a volume with the content of another or of a snapshot: there are none")
	}
	if len(r.GetMutableParameters()) > 0 {
		return nil, invalid("mutable parameters: there are none")
	}
	need := r.GetCapacityRange()
	if need.GetRequiredBytes() < 0 || need.GetLimitBytes() < 0 ||
		need.GetLimitBytes() > 0 && need.GetLimitBytes() < need.GetRequiredBytes() {
		return nil, invalid("a capacity of %d to %d bytes", need.GetRequiredBytes(), need.GetLimitBytes())
	}
	if !d.here(r.GetAccessibilityRequirements()) {
		return nil, status.Errorf(codes.ResourceExhausted, "this is node %s, which the volume must not be on", d.o.Node)
	}
	leave, err := d.use("name " + r.GetName())
	if err != nil {
		return nil, err
	}
	defer leave()
	v, err := d.o.Images.Create(ctx, images.Wanted{Name: r.GetName(), FSType: fsType, Required: need.GetRequiredBytes(),
		Limit: need.GetLimitBytes()})
	if err != nil {
		return nil, err
	}
	return &spec.CreateVolumeResponse{Volume: d.told(v, p)}, nil
}

// here says whether requirements let a volume be on this node.
func (d *Driver) here(t *spec.TopologyRequirement) bool {
	if !d.o.Topology || len(t.GetRequisite()) == 0 {
		return true
	}
	return slices.ContainsFunc(t.GetRequisite(), func(t *spec.Topology) bool {
		node, ok := t.GetSegments()[topologyKey]
		return !ok || node == d.o.Node
	})
}

// told is what callers hear of a volume.
func (d *Driver) told(v *images.Volume, p parameters) *spec.Volume {
	out := &spec.Volume{VolumeId: v.ID, CapacityBytes: v.Size, AccessibleTopology: d.topology(),
		VolumeContext: map[string]string{typeParameter: typeless, fsTypeParameter: v.FSType}}
	if p.groupPolicy != "" {
		out.VolumeContext[groupParameter] = p.groupPolicy
	}
	return out
}

// topology is where this node's volumes are.
func (d *Driver) topology() []*spec.Topology {
	if !d.o.Topology {
		return nil
	}
	return []*spec.Topology{{Segments: map[string]string{topologyKey: d.o.Node}}}
}

// DeleteVolume implements Controller. A volume that is published stays.
func (d *Driver) DeleteVolume(_ context.Context, r *spec.DeleteVolumeRequest) (*spec.DeleteVolumeResponse, error) {
	id := r.GetVolumeId()
	if id == "" {
		return nil, invalid("no volume id")
	}
	if !images.IsID(id) {
		return &spec.DeleteVolumeResponse{}, nil
	}
	leave, err := d.use(id)
	if err != nil {
		return nil, err
	}
	defer leave()
	at, err := d.published(d.o.Images.Image(id))
	if err != nil {
		return nil, err
	}
	for path := range at {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s: it is published at %s", id, path)
	}
	return &spec.DeleteVolumeResponse{}, d.o.Images.Delete(id)
}

// ValidateVolumeCapabilities implements Controller.
func (d *Driver) ValidateVolumeCapabilities(_ context.Context, r *spec.ValidateVolumeCapabilitiesRequest) (
	*spec.ValidateVolumeCapabilitiesResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalid("no volume id")
	}
	if len(r.GetVolumeCapabilities()) == 0 {
		return nil, invalid("no volume capabilities")
	}
	v, err := d.o.Images.Volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	fsType, err := usableAll(r.GetVolumeCapabilities())
	if err == nil {
		_, err = same(v.FSType, fsType)
	}
	if err != nil {
		return &spec.ValidateVolumeCapabilitiesResponse{Message: status.Convert(err).Message()}, nil
	}
	return &spec.ValidateVolumeCapabilitiesResponse{Confirmed: &spec.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.GetVolumeContext(), VolumeCapabilities: r.GetVolumeCapabilities(),
		Parameters: r.GetParameters()}}, nil
}

// ListVolumes implements Controller. A token is the id of the last volume of the page before.
func (d *Driver) ListVolumes(_ context.Context, r *spec.ListVolumesRequest) (*spec.ListVolumesResponse, error) {
	if t := r.GetStartingToken(); t != "" && !images.IsID(t) {
		return nil, status.Errorf(codes.Aborted, "token %q: it is none of this driver's; begin again", t)
	}
	if r.GetMaxEntries() < 0 {
		return nil, invalid("%d entries", r.GetMaxEntries())
	}
	all, err := d.o.Images.List()
	if err != nil {
		return nil, err
	}
	out := &spec.ListVolumesResponse{}
	for _, v := range all {
		if v.ID <= r.GetStartingToken() {
			continue
		}
		if n := len(out.Entries); n > 0 && n == int(r.GetMaxEntries()) {
			out.NextToken = out.Entries[n-1].Volume.VolumeId
			break
		}
		out.Entries = append(out.Entries, &spec.ListVolumesResponse_Entry{Volume: d.told(v, parameters{})})
	}
	return out, nil
}

// GetCapacity implements Controller.
func (d *Driver) GetCapacity(_ context.Context, r *spec.GetCapacityRequest) (*spec.GetCapacityResponse, error) {
	none := &spec.GetCapacityResponse{}
	if t := r.GetAccessibleTopology(); t != nil && !d.here(&spec.TopologyRequirement{Requisite: []*spec.Topology{t}}) {
		return none, nil
	}
	if len(r.GetVolumeCapabilities()) > 0 {
		if _, err := usableAll(r.GetVolumeCapabilities()); err != nil {
			return none, nil
		}
	}
	room, err := d.o.Images.Room()
	if err != nil {
		return nil, err
	}
	out := &spec.GetCapacityResponse{AvailableCapacity: room, MaximumVolumeSize: wrapperspb.Int64(room)}
	if d.o.MaxSize > 0 {
		out.MaximumVolumeSize = wrapperspb.Int64(min(room, d.o.MaxSize))
	}
	return out, nil
}

// inUse says which pod runs with a volume that is published at these paths, empty for none.
func (d *Driver) inUse(at map[string]*directvolume.Info) (path, pod string, err error) {
	for path := range at {
		pod, err := d.pods.Pod(path)
		if err == nil {
			return path, pod, nil
		}
		if !errors.Is(err, errNotRunning) && !errors.Is(err, directvolume.ErrNone) {
			return "", "", fmt.Errorf("volume at %s: %w", path, err)
		}
	}
	return "", "", nil
}
