package csi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/csi/images"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/record"
)

// node is a driver that serves, and its clients.
type node struct {
	dir, socket string
	dirs        record.Dirs
	spec.IdentityClient
	spec.ControllerClient
	spec.NodeClient
}

// serveNode starts a driver until the test is over.
func serveNode(t *testing.T) *node {
	t.Helper()
	testenv.Require(t, testenv.Tool("mkfs.ext4"))
	// Not t.TempDir, which names the test: the path of a socket has 108 bytes at most.
	dir, err := os.MkdirTemp("", "csi")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: dir, socket: filepath.Join(dir, "csi.sock"), dirs: record.Dirs{State: filepath.Join(dir, "run"),
		Monitor: filepath.Join(dir, "sbs")}}
	store, err := images.Open(t.Context(), images.Options{Dir: filepath.Join(dir, "volumes"), Capacity: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{Node: "n1", Images: store, Topology: true, Volumes: filepath.Join(dir, "descriptions"),
		Dirs: n.dirs, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(ctx, n.socket) }()
	c := dial(t, n.socket)
	n.IdentityClient, n.ControllerClient, n.NodeClient = spec.NewIdentityClient(c), spec.NewControllerClient(c),
		spec.NewNodeClient(c)
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(c.Close(), <-ended, store.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return n
}

func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// writes is how a pod has a volume that it writes to, with mount flags.
func writes(flags ...string) *spec.VolumeCapability {
	return &spec.VolumeCapability{AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{
		MountFlags: flags}}, AccessMode: &spec.VolumeCapability_AccessMode{
		Mode: spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}}
}

// create makes a volume of 16 MiB.
func (n *node) create(t *testing.T, name string, parameters map[string]string) *spec.Volume {
	t.Helper()
	r, err := n.CreateVolume(t.Context(), &spec.CreateVolumeRequest{Name: name, Parameters: parameters,
		CapacityRange:      &spec.CapacityRange{RequiredBytes: 16 << 20},
		VolumeCapabilities: []*spec.VolumeCapability{writes()}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Volume
}

// publish publishes a volume at a path below the node's folder.
func (n *node) publish(t *testing.T, v *spec.Volume, at string, c *spec.VolumeCapability, readOnly bool) error {
	t.Helper()
	_, err := n.NodePublishVolume(t.Context(), &spec.NodePublishVolumeRequest{VolumeId: v.VolumeId,
		StagingTargetPath: filepath.Join(n.dir, "staging"), TargetPath: filepath.Join(n.dir, at), VolumeCapability: c,
		VolumeContext: v.VolumeContext, Readonly: readOnly})
	return err
}

func (n *node) unpublish(t *testing.T, v *spec.Volume, at string) error {
	t.Helper()
	_, err := n.NodeUnpublishVolume(t.Context(), &spec.NodeUnpublishVolumeRequest{VolumeId: v.VolumeId,
		TargetPath: filepath.Join(n.dir, at)})
	return err
}

// coding fails t where an error has another code, or does not say words.
func coding(t *testing.T, what string, err error, code codes.Code, words string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), words) {
		t.Errorf("%s: %v, want %s: %s", what, err, code, words)
	}
}

func TestAPublishedVolumeIsDescribedForTheGuest(t *testing.T) {
	n := serveNode(t)
	v := n.create(t, "pvc-1", map[string]string{groupParameter: "OnRootMismatch", typeParameter: "directvol",
		"csi.storage.k8s.io/pv/name": "pvc-1"})
	c := writes("noatime")
	c.GetMount().VolumeMountGroup = "2000"
	for range 2 { // again is the same
		if err := n.publish(t, v, "pod/mount", c, false); err != nil {
			t.Fatal(err)
		}
	}
	root, target := filepath.Join(n.dir, "descriptions"), filepath.Join(n.dir, "pod/mount")
	b, err := os.ReadFile(filepath.Join(root, directvolume.Name(target), "mountInfo.json"))
	want := `{"volume-type":"block","device":"` + n.dir + `/volumes/` + v.VolumeId + `/disk.img","fstype":"ext4",` +
		`"metadata":{"fsGroup":"2000","fsGroupChangePolicy":"OnRootMismatch"},"options":["noatime"]}`
	if err != nil || string(b) != want {
		t.Errorf("%s, %v, want %s", b, err, want)
	}
	if fi, err := os.Stat(target); err != nil || !fi.IsDir() {
		t.Error(fi, err)
	}
	// It is one pod's, and stays while that has it.
	coding(t, "another pod", n.publish(t, v, "other/mount", c, false), codes.FailedPrecondition, "destroy it")
	coding(t, "a reader", n.publish(t, v, "other/mount", c, true), codes.FailedPrecondition, "destroy it")
	coding(t, "another way", n.publish(t, v, "pod/mount", c, true), codes.AlreadyExists, "in another way")
	_, err = n.DeleteVolume(t.Context(), &spec.DeleteVolumeRequest{VolumeId: v.VolumeId})
	coding(t, "removal", err, codes.FailedPrecondition, "it is published at "+target)
	other := n.create(t, "pvc-2", nil)
	coding(t, "another volume there", n.publish(t, other, "pod/mount", c, false), codes.AlreadyExists, "is published")
	if err := n.unpublish(t, other, "pod/mount"); err != nil {
		t.Error(err)
	}
	if i, err := directvolume.Read(root, target); err != nil || i.Options[0] != "noatime" {
		t.Errorf("another volume's end ended this one's: %v, %v", i, err)
	}
	for range 2 {
		if err := n.unpublish(t, v, "pod/mount"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := directvolume.Read(root, target); !errors.Is(err, directvolume.ErrNone) {
		t.Error(err)
	}
	// Readers may be several.
	for _, at := range []string{"a", "b"} {
		if err := n.publish(t, v, at, writes(), true); err != nil {
			t.Error(err)
		}
		if i, err := directvolume.Read(root, filepath.Join(n.dir, at)); err != nil || !i.ReadOnly() {
			t.Errorf("%v, %v", i, err)
		}
	}
}

func TestFilesAtTheTargetPathStay(t *testing.T) {
	n := serveNode(t)
	v := n.create(t, "pvc-1", nil)
	if err := n.publish(t, v, "mount", writes(), false); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(n.dir, "mount/kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	coding(t, "a folder with a file", n.unpublish(t, v, "mount"), codes.Internal, "not empty")
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}

func TestWhatADriverDoesNotDoIsRefusedByName(t *testing.T) {
	n := serveNode(t)
	of := func(change func(*spec.CreateVolumeRequest)) error {
		r := &spec.CreateVolumeRequest{Name: "pvc-1", CapacityRange: &spec.CapacityRange{RequiredBytes: 16 << 20},
			VolumeCapabilities: []*spec.VolumeCapability{writes()}, Parameters: map[string]string{}}
		change(r)
		_, err := n.CreateVolume(t.Context(), r)
		return err
	}
	for _, c := range []struct {
		what   string
		change func(*spec.CreateVolumeRequest)
		code   codes.Code
		words  string
	}{
		{"SPDK", func(r *spec.CreateVolumeRequest) { r.Parameters[typeParameter] = "spdkvol" },
			codes.InvalidArgument, `"spdkvol": this driver makes volumes of files alone`},
		{"a disk that is passed", func(r *spec.CreateVolumeRequest) { r.Parameters[typeParameter] = "vfio-blk" },
			codes.InvalidArgument, `"vfio-blk": this driver makes volumes of files alone`},
		{"another type", func(r *spec.CreateVolumeRequest) { r.Parameters[typeParameter] = "nfs" },
			codes.InvalidArgument, "want directvol"},
		{"another parameter", func(r *spec.CreateVolumeRequest) { r.Parameters["colour"] = "red" },
			codes.InvalidArgument, `parameter "colour"`},
		{"another file system", func(r *spec.CreateVolumeRequest) { r.Parameters[fsTypeParameter] = "btrfs" },
			codes.InvalidArgument, "want ext4 or xfs"},
		{"two file systems", func(r *spec.CreateVolumeRequest) {
			r.Parameters[fsTypeParameter] = "xfs"
			r.VolumeCapabilities[0].GetMount().FsType = "ext4"
		}, codes.InvalidArgument, "the file systems xfs and ext4"},
		{"a device", func(r *spec.CreateVolumeRequest) {
			r.VolumeCapabilities[0].AccessType = &spec.VolumeCapability_Block{}
		}, codes.InvalidArgument, "want a mount"},
		{"writers on several nodes", func(r *spec.CreateVolumeRequest) {
			r.VolumeCapabilities[0].AccessMode.Mode = spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
		}, codes.InvalidArgument, "MULTI_NODE_MULTI_WRITER"},
		{"a snapshot", func(r *spec.CreateVolumeRequest) {
			r.VolumeContentSource = &spec.VolumeContentSource{}
		}, codes.InvalidArgument, "there are none"},
		{"another node", func(r *spec.CreateVolumeRequest) {
			r.AccessibilityRequirements = &spec.TopologyRequirement{Requisite: []*spec.Topology{
				{Segments: map[string]string{topologyKey: "n2"}}}}
		}, codes.ResourceExhausted, "this is node n1"},
		{"too much", func(r *spec.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = 2 << 30 },
			codes.ResourceExhausted, "no room"},
		{"a policy", func(r *spec.CreateVolumeRequest) { r.Parameters[groupParameter] = "Never" },
			codes.InvalidArgument, "want Always or OnRootMismatch"},
		{"a size below 0", func(r *spec.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = -1 },
			codes.InvalidArgument, "a capacity of -1"},
	} {
		coding(t, c.what, of(c.change), c.code, c.words)
	}
	v := n.create(t, "pvc-1", nil)
	for _, at := range []string{"../mount", "a/../../mount"} {
		_, err := n.NodePublishVolume(t.Context(), &spec.NodePublishVolumeRequest{VolumeId: v.VolumeId,
			StagingTargetPath: "/s", TargetPath: n.dir + "/" + at, VolumeCapability: writes()})
		coding(t, at, err, codes.InvalidArgument, "without . and ..")
	}
	coding(t, "a long path", n.publish(t, v, strings.Repeat("l", 200), writes(), false), codes.InvalidArgument,
		"at most")
	for _, id := range []string{"../../etc", v.VolumeId + "/..", "vol-x"} {
		bad := &spec.Volume{VolumeId: id}
		coding(t, id, n.publish(t, bad, "mount", writes(), false), codes.NotFound, "no such volume")
		coding(t, id, n.unpublish(t, bad, "mount"), codes.NotFound, "no such volume")
		if _, err := n.DeleteVolume(t.Context(), &spec.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Error(err)
		}
	}
	c := writes()
	c.GetMount().VolumeMountGroup = "staff"
	coding(t, "a group's name", n.publish(t, v, "mount", c, false), codes.InvalidArgument, "the number of a group")
}

func TestAnotherCallAboutAVolumeWaitsForNone(t *testing.T) {
	d, err := New(Options{Node: "n1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	leave, err := d.use("v")
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.use("v")
	coding(t, "a second call", err, codes.Aborted, "not over")
	leave()
	if _, err := d.use("v"); err != nil {
		t.Error(err)
	}
}

// guest answers at the management socket of a pod that has a volume.
func (n *node) guest(t *testing.T, pod string, at string, answer http.HandlerFunc) {
	t.Helper()
	f, err := record.Begin(n.dirs, record.Record{ID: pod, Shim: record.ProcessOf(os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	socket := n.dirs.MonitorSocket(pod)
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: answer}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil || !errors.Is(<-ended, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	_ = f // the pod's record stays until the folder goes
	if err := directvolume.Record(filepath.Join(n.dir, "descriptions"), filepath.Join(n.dir, at), pod); err != nil {
		t.Fatal(err)
	}
}

func TestAGuestThatRunsIsAsked(t *testing.T) {
	n := serveNode(t)
	v := n.create(t, "pvc-1", nil)
	if err := n.publish(t, v, "mount", writes(), false); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(n.dir, "mount")
	stats := func() (*spec.NodeGetVolumeStatsResponse, error) {
		return n.NodeGetVolumeStats(t.Context(), &spec.NodeGetVolumeStatsRequest{VolumeId: v.VolumeId,
			VolumePath: target})
	}
	expand := func(size int64) (*spec.NodeExpandVolumeResponse, error) {
		return n.NodeExpandVolume(t.Context(), &spec.NodeExpandVolumeRequest{VolumeId: v.VolumeId, VolumePath: target,
			CapacityRange: &spec.CapacityRange{RequiredBytes: size}})
	}
	// Nobody runs: the file says how full it is, and grows.
	r, err := stats()
	if err != nil || len(r.Usage) != 1 || r.Usage[0].Total != 16<<20 || r.Usage[0].Used == 0 {
		t.Errorf("%v, %v", r, err)
	}
	if e, err := expand(24 << 20); err != nil || e.CapacityBytes != 24<<20 {
		t.Errorf("%v, %v", e, err)
	}
	// A pod runs.
	var said atomic.Pointer[string]
	answer := `{"usage":[{"available":1,"total":3,"used":2,"unit":1},{"available":5,"total":9,"used":4,"unit":2}]}`
	said.Store(&answer)
	var resized atomic.Pointer[string]
	n.guest(t, "p1", "mount", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/direct-volume/resize" {
			b := make([]byte, r.ContentLength)
			_, _ = r.Body.Read(b)
			text := string(b)
			resized.Store(&text)
			return
		}
		_, _ = w.Write([]byte(*said.Load()))
	})
	r, err = stats()
	if err != nil || len(r.Usage) != 2 || r.Usage[0].Total != 3 || r.Usage[1].Unit != spec.VolumeUsage_INODES {
		t.Errorf("%v, %v", r, err)
	}
	for _, lie := range []string{`{"usage":[{"total":1,"used":2,"unit":1}]}`, `[]`,
		`{"usage":[{"total":18446744073709551615,"unit":1}]}`} {
		said.Store(&lie)
		_, err = stats()
		coding(t, lie, err, codes.Internal, "what the guest says")
	}
	e, err := expand(32 << 20)
	if err != nil || e.CapacityBytes != 32<<20 || *resized.Load() != `{"VolumePath":"`+target+`","Size":33554432}` {
		t.Errorf("%v, %v, %v", e, err, resized.Load())
	}
	coding(t, "a volume that is used", n.unpublish(t, v, "mount"), codes.FailedPrecondition, "pod p1 runs with it")
}

func TestVolumesAreListedInPages(t *testing.T) {
	n := serveNode(t)
	want := map[string]bool{}
	for _, name := range []string{"a", "b", "c"} {
		want[n.create(t, name, nil).VolumeId] = true
	}
	token, pages := "", 0
	for {
		r, err := n.ListVolumes(t.Context(), &spec.ListVolumesRequest{MaxEntries: 2, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, e := range r.Entries {
			if !want[e.Volume.VolumeId] {
				t.Errorf("%s twice", e.Volume.VolumeId)
			}
			delete(want, e.Volume.VolumeId)
		}
		if token = r.NextToken; token == "" {
			break
		}
	}
	if pages != 2 || len(want) != 0 {
		t.Errorf("%d pages, %v is missing", pages, want)
	}
	_, err := n.ListVolumes(t.Context(), &spec.ListVolumesRequest{StartingToken: "17"})
	coding(t, "a token", err, codes.Aborted, "begin again")
	c, err := n.GetCapacity(t.Context(), &spec.GetCapacityRequest{})
	if err != nil || c.AvailableCapacity != 1<<30-3*16<<20 {
		t.Errorf("%v, %v", c, err)
	}
	c, err = n.GetCapacity(t.Context(), &spec.GetCapacityRequest{AccessibleTopology: &spec.Topology{
		Segments: map[string]string{topologyKey: "n2"}}})
	if err != nil || c.AvailableCapacity != 0 {
		t.Errorf("on another node: %v, %v", c, err)
	}
}

func TestAKubeletIsToldOfTheDriver(t *testing.T) {
	dir, err := os.MkdirTemp("", "csi")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	r := &Registrar{Name: "d.example", Endpoint: "/k/csi.sock", Folder: dir, Log: slog.New(slog.DiscardHandler)}
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(t.Context()) }()
	conn := dial(t, filepath.Join(dir, "d.example-reg.sock"))
	defer conn.Close()
	c := registration.NewRegistrationClient(conn)
	i, err := c.GetInfo(t.Context(), &registration.InfoRequest{})
	if err != nil || i.Type != "CSIPlugin" || i.Name != "d.example" || i.Endpoint != "/k/csi.sock" ||
		i.SupportedVersions[0] != "1.0.0" {
		t.Errorf("%v, %v", i, err)
	}
	for _, s := range []*registration.RegistrationStatus{{PluginRegistered: true}, {Error: "no such node"}} {
		if _, err := c.NotifyRegistrationStatus(t.Context(), s); err != nil {
			t.Error(err)
		}
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "the driver d.example: no such node") {
		t.Error(err)
	}
}

func TestASocketThatSomebodyServesStaysHis(t *testing.T) {
	n := serveNode(t)
	if _, err := n.Probe(t.Context(), &spec.ProbeRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(n.socket); err == nil || !strings.Contains(err.Error(), "another driver serves it") {
		t.Error(err)
	}
	file := filepath.Join(n.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(file); err == nil || !strings.Contains(err.Error(), "another file") {
		t.Error(err)
	}
}
