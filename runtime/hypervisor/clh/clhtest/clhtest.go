// Package clhtest is a strict server that stands for Cloud Hypervisor in tests.
//
// In come requests; out come the answers that Cloud Hypervisor's API description (vmm/src/api/openapi/
// cloud-hypervisor.yaml of version 53) and docs/api.md document: for what is unknown, of a wrong type, in a wrong order
// or in a wrong state the documented refusal. What a request describes is checked, and can be carried out by a QEMU
// that stands in behind (package standintest).
package clhtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/runtime/hypervisor/rest/resttest"
)

// schemas are the API's, as far as there are requests for them.
var schemas = resttest.Schemas{
	"VmConfig": "cpus CpusConfig, memory MemoryConfig, payload! PayloadConfig, disks []DiskConfig, net []NetConfig, " +
		"rng RngConfig, fs []FsConfig, pmem []PmemConfig, serial SerialConfig, console ConsoleConfig, " +
		"vsock VsockConfig, iommu boolean, watchdog boolean, pvpanic boolean, landlock_enable boolean",
	"CpusConfig": "boot_vcpus! integer 1.., max_vcpus! integer 1.., kvm_hyperv boolean, max_phys_bits integer, " +
		"nested boolean",
	"MemoryConfig": "size! integer, hotplug_size integer, hotplugged_size integer, mergeable boolean, " +
		"hotplug_method HotplugMethod, shared boolean, hugepages boolean, hugepage_size integer, prefault boolean, " +
		"thp boolean",
	"HotplugMethod": "enum Acpi|VirtioMem",
	"PayloadConfig": "firmware string, kernel string, cmdline string, initramfs string, igvm string, host_data string",
	"TokenBucket":   "size! integer, one_time_burst integer, refill_time! integer",
	"RateLimiter":   "bandwidth TokenBucket, ops TokenBucket",
	"ImageType":     "enum FixedVhd|Qcow2|Raw|Vhdx|Unknown",
	"DiskConfig": "path string, readonly boolean, direct boolean, iommu boolean, num_queues integer, " +
		"queue_size integer, vhost_user boolean, vhost_socket string, rate_limiter_config RateLimiter, " +
		"pci_segment integer, " +
		"pci_device_id integer, id string, serial string, rate_limit_group string, backing_files boolean, " +
		"sparse boolean, image_type ImageType",
	"NetConfig": "tap string, ip string, mask string, mac string, host_mac string, mtu integer, iommu boolean, " +
		"num_queues integer, queue_size integer, vhost_user boolean, vhost_socket string, vhost_mode string, " +
		"id string, pci_segment integer, pci_device_id integer, rate_limiter_config RateLimiter, " +
		"offload_tso boolean, " +
		"offload_ufo boolean, offload_csum boolean",
	"RngConfig": "src! string, iommu boolean, id string",
	"FsConfig": "tag! string, socket! string, num_queues! integer, queue_size! integer, pci_segment integer, " +
		"pci_device_id integer, id string",
	"PmemConfig": "file! string, size integer, iommu boolean, discard_writes boolean, pci_segment integer, " +
		"pci_device_id integer, id string",
	"ConsoleMode":    "enum Off|Pty|Tty|File|Socket|Null",
	"ConsoleConfig":  "file string, socket string, mode! ConsoleMode, iommu boolean, id string",
	"SerialConfig":   "file string, socket string, mode! ConsoleMode",
	"VsockConfig":    "cid! integer 3.., socket! string, iommu boolean, pci_segment integer, id string",
	"VmResize":       "desired_vcpus integer 1.., desired_ram integer, desired_balloon integer",
	"VmRemoveDevice": "id string",
}

// standIn carries out what requests describe. A server without one only judges them.
type standIn interface {
	// Boot starts a machine. The taps are those of the interfaces, in their order.
	Boot(ctx context.Context, c config, taps []*os.File) error
	// AddDisk and AddNet plug in a device, and return its slot on the bus.
	AddDisk(context.Context, disk) (int, error)
	AddNet(context.Context, nic, *os.File) (int, error)
	// Remove takes a disk away.
	Remove(ctx context.Context, id string) error
	// Resize makes the memory this large, in bytes.
	Resize(ctx context.Context, ram int64) error
	// Stop ends it.
	Stop() error
}

// config is what of vm.create a standIn needs.
type config struct {
	CPUs struct {
		Boot int `json:"boot_vcpus"`
		Max  int `json:"max_vcpus"`
	} `json:"cpus"`
	Memory struct {
		Size    int64 `json:"size"`
		Hotplug int64 `json:"hotplug_size"`
		Shared  bool  `json:"shared"`
	} `json:"memory"`
	Payload struct {
		Kernel    string `json:"kernel"`
		Cmdline   string `json:"cmdline"`
		Initramfs string `json:"initramfs"`
	} `json:"payload"`
	Disks []disk          `json:"disks"`
	Net   []nic           `json:"-"` // of vm.add-net
	RNG   json.RawMessage `json:"rng"`
	FS    []shared        `json:"fs"`
	Pmem  []struct {
		ID string `json:"id"`
	} `json:"pmem"`
	Vsock struct {
		Socket string `json:"socket"`
	} `json:"vsock"`
}

// disk is a disk.
type disk struct {
	ID       string `json:"id"`
	Path     string `json:"path"`
	Readonly bool   `json:"readonly"`
	Serial   string `json:"serial"`
}

// nic is an interface.
type nic struct {
	ID  string `json:"id"`
	MAC string `json:"mac"`
}

// shared is a shared folder.
type shared struct {
	Tag    string `json:"tag"`
	Socket string `json:"socket"`
}

// server is one Cloud Hypervisor. The zero value has no machine yet. It must not be asked two things at once.
type server struct {
	machine standIn
	// Ended is set by a request to end.
	Ended bool

	created, booted bool
	config          config
	taps            []*os.File
	ids             []string
	slot            int // the last one, where there is no machine
	cpus            int
	ram             int64
}

// refusal is an error with its status.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// answer answers one request.
func (s *server) answer(r resttest.Request) resttest.Answer {
	path, ok := strings.CutPrefix(r.Path, "/api/v1/")
	endpoint, known := endpoints[path]
	if !ok || !known {
		return failed(refuse(404, "Not Found"))
	}
	if r.Method != endpoint.method {
		return failed(refuse(400, "Bad Request"))
	}
	if endpoint.body == "" && len(r.Body) > 0 || endpoint.body != "" && len(r.Body) == 0 {
		return failed(refuse(400, "Bad Request"))
	}
	if endpoint.body != "" {
		if err := schemas.Check(endpoint.body, r.Body); err != nil {
			return failed(refuse(400, "Failed to deserialize JSON: %v", err))
		}
	}
	if len(r.Files) > 0 && path != "vm.add-net" {
		return failed(refuse(400, "Bad Request"))
	}
	if endpoint.created && !s.created {
		return failed(refuse(404, "The VM is not created"))
	}
	body, err := endpoint.serve(s, context.Background(), r)
	switch {
	case err != nil:
		return failed(err)
	case body != nil:
		return resttest.Answer{Status: 200, Body: body}
	}
	return resttest.Answer{Status: 204}
}

// failed is the answer to what is refused: the chain of errors, as a list.
func failed(err error) resttest.Answer {
	status := 500
	if r, ok := err.(*refusal); ok { //nolint:errorlint // it is never wrapped
		status = r.status
	}
	b, _ := json.Marshal([]string{"Error from API", err.Error()}) // texts
	return resttest.Answer{Status: status, Body: b}
}

// endpoint is one of the API's.
type endpoint struct {
	method, body string
	created      bool // there must be a VM
	serve        func(*server, context.Context, resttest.Request) ([]byte, error)
}

var endpoints = map[string]endpoint{
	"vmm.ping": {"GET", "", false, func(*server, context.Context, resttest.Request) ([]byte, error) {
		return []byte(`{"build_version":"strict","version":"v51.1.0","pid":1,"features":["kvm"]}`), nil
	}},
	"vmm.shutdown": {"PUT", "", false, func(s *server, _ context.Context, _ resttest.Request) ([]byte, error) {
		s.Ended = true
		return nil, nil
	}},
	"vm.create":        {"PUT", "VmConfig", false, (*server).create},
	"vm.boot":          {"PUT", "", true, (*server).boot},
	"vm.info":          {"GET", "", true, (*server).info},
	"vm.add-disk":      {"PUT", "DiskConfig", true, (*server).addDisk},
	"vm.add-net":       {"PUT", "NetConfig", true, (*server).addNet},
	"vm.remove-device": {"PUT", "VmRemoveDevice", true, (*server).remove},
	"vm.resize":        {"PUT", "VmResize", true, (*server).resize},
}

func (s *server) create(_ context.Context, r resttest.Request) ([]byte, error) {
	if s.created {
		return nil, refuse(500, "VM is already created")
	}
	var c config
	if err := json.Unmarshal(r.Body, &c); err != nil {
		return nil, err
	}
	switch {
	case c.Payload.Kernel == "":
		return nil, refuse(400, "Kernel is missing")
	case c.CPUs.Max < c.CPUs.Boot:
		return nil, refuse(400, "Max CPUs lower than boot CPUs")
	case len(c.FS) > 0 && !c.Memory.Shared:
		return nil, refuse(400, "Using vhost-user requires using shared memory or huge pages")
	}
	for _, d := range c.Disks {
		if err := s.name(d.ID); err != nil {
			return nil, err
		}
		if d.Path == "" {
			return nil, refuse(400, "Path missing from disk")
		}
	}
	for _, p := range c.Pmem {
		if err := s.name(p.ID); err != nil {
			return nil, err
		}
	}
	s.config, s.created, s.cpus, s.ram = c, true, c.CPUs.Boot, c.Memory.Size
	return nil, nil
}

// name takes a name, of which there can be one.
func (s *server) name(id string) error {
	if slices.Contains(s.ids, id) {
		return refuse(409, "Identifier %s is not unique", id)
	}
	if strings.HasPrefix(id, "_") {
		return refuse(400, "Identifier %s is reserved", id)
	}
	s.ids = append(s.ids, id)
	return nil
}

func (s *server) boot(ctx context.Context, _ resttest.Request) ([]byte, error) {
	if s.booted {
		return nil, refuse(500, "VM is already running")
	}
	if s.machine != nil {
		if err := s.machine.Boot(ctx, s.config, s.taps); err != nil {
			return nil, err
		}
	}
	s.booted = true
	return nil, nil
}

func (s *server) info(context.Context, resttest.Request) ([]byte, error) {
	tree := map[string]map[string]string{}
	for _, id := range s.ids {
		tree[id] = map[string]string{"id": id}
	}
	state := "Created"
	if s.booted {
		state = "Running"
	}
	return json.Marshal(map[string]any{"config": map[string]any{}, "state": state, "device_tree": tree})
}

// added is the answer to a device that was plugged in, or nothing before the boot.
func (s *server) added(id string, slot int) ([]byte, error) {
	if !s.booted {
		return nil, nil
	}
	return fmt.Appendf(nil, `{"id":%q,"bdf":"0000:00:%02x.0"}`, id, slot), nil
}

func (s *server) addDisk(ctx context.Context, r resttest.Request) ([]byte, error) {
	var d disk
	if err := json.Unmarshal(r.Body, &d); err != nil {
		return nil, err
	}
	if err := s.name(d.ID); err != nil {
		return nil, err
	}
	s.slot++
	slot := s.slot
	if s.machine != nil && s.booted {
		var err error
		if slot, err = s.machine.AddDisk(ctx, d); err != nil {
			s.forget(d.ID)
			return nil, err
		}
	}
	return s.added(d.ID, slot)
}

func (s *server) addNet(ctx context.Context, r resttest.Request) ([]byte, error) {
	var n nic
	if err := json.Unmarshal(r.Body, &n); err != nil {
		return nil, err
	}
	if len(r.Files) != 1 {
		return nil, refuse(400, "Number of FDs to restore %d does not fit one pair of queues", len(r.Files))
	}
	if err := s.name(n.ID); err != nil {
		return nil, err
	}
	s.slot++
	slot := s.slot
	if s.booted && s.machine != nil {
		var err error
		if slot, err = s.machine.AddNet(ctx, n, r.Files[0]); err != nil {
			s.forget(n.ID)
			return nil, err
		}
	}
	if !s.booted {
		tap, err := duplicate(r.Files[0])
		if err != nil {
			return nil, err
		}
		s.config.Net, s.taps = append(s.config.Net, n), append(s.taps, tap)
	}
	return s.added(n.ID, slot)
}

func (s *server) forget(id string) {
	s.ids = slices.DeleteFunc(s.ids, func(other string) bool { return other == id })
}

func (s *server) remove(ctx context.Context, r resttest.Request) ([]byte, error) {
	var d disk
	if err := json.Unmarshal(r.Body, &d); err != nil {
		return nil, err
	}
	if !slices.Contains(s.ids, d.ID) {
		return nil, refuse(404, "Unknown device id %s", d.ID)
	}
	if s.machine != nil && s.booted {
		if err := s.machine.Remove(ctx, d.ID); err != nil {
			return nil, err
		}
	}
	s.forget(d.ID)
	return nil, nil
}

func (s *server) resize(ctx context.Context, r resttest.Request) ([]byte, error) {
	var want struct {
		CPUs int   `json:"desired_vcpus"`
		RAM  int64 `json:"desired_ram"`
	}
	if err := json.Unmarshal(r.Body, &want); err != nil {
		return nil, err
	}
	const block = 128 << 20
	switch {
	case !s.booted:
		return nil, refuse(500, "VM is not running")
	case want.CPUs > s.config.CPUs.Max:
		return nil, refuse(500, "Desired VCPU count exceeds maximum")
	case want.RAM > s.config.Memory.Size+s.config.Memory.Hotplug:
		return nil, refuse(500, "Not enough space in the hotplug RAM region")
	case want.RAM > s.ram && (want.RAM-s.ram)%block != 0:
		return nil, refuse(500, "Requested hotplug size is not a multiple of 128 MiB")
	}
	if want.RAM > s.ram {
		if s.machine != nil {
			if err := s.machine.Resize(ctx, want.RAM); err != nil {
				return nil, err
			}
		}
		s.ram = want.RAM
	}
	s.cpus = max(s.cpus, want.CPUs)
	return nil, nil
}
