package clh

import (
	"encoding/json"
	"strings"
)

// The requests that are made of Cloud Hypervisor, as far as they are used. Its own description of them is
// vmm/src/api/openapi/cloud-hypervisor.yaml; the names of types are those of its schemas. What has a default there and
// is left to it is not here.

// vmConfig is what vm.create takes.
type vmConfig struct {
	CPUs    cpusConfig    `json:"cpus"`
	Memory  memoryConfig  `json:"memory"`
	Payload payloadConfig `json:"payload"`
	Disks   []diskConfig  `json:"disks,omitempty"`
	RNG     *rngConfig    `json:"rng,omitempty"`
	FS      []fsConfig    `json:"fs,omitempty"`
	Pmem    []pmemConfig  `json:"pmem,omitempty"`
	Serial  consoleConfig `json:"serial"`
	Console consoleConfig `json:"console"`
	Vsock   vsockConfig   `json:"vsock"`
}

// cpusConfig is the processors.
type cpusConfig struct {
	Boot int `json:"boot_vcpus"`
	Max  int `json:"max_vcpus"`
}

// memoryConfig is the memory, in bytes.
type memoryConfig struct {
	Size          int64  `json:"size"`
	HotplugSize   int64  `json:"hotplug_size,omitempty"`
	HotplugMethod string `json:"hotplug_method,omitempty"`
	Shared        bool   `json:"shared"`
}

// payloadConfig is what is booted.
type payloadConfig struct {
	Kernel    string `json:"kernel"`
	Cmdline   string `json:"cmdline"`
	Initramfs string `json:"initramfs,omitempty"`
}

// diskConfig is a virtio-blk disk.
type diskConfig struct {
	ID        string       `json:"id"`
	Path      string       `json:"path"`
	Readonly  bool         `json:"readonly"`
	ImageType string       `json:"image_type"`
	Serial    string       `json:"serial,omitempty"`
	Rate      *rateLimiter `json:"rate_limiter_config,omitempty"`
}

// netConfig is a virtio-net interface, whose tap goes along as an open file.
type netConfig struct {
	ID        string       `json:"id"`
	MAC       string       `json:"mac"`
	MTU       int          `json:"mtu,omitempty"`
	NumQueues int          `json:"num_queues"`
	Rate      *rateLimiter `json:"rate_limiter_config,omitempty"`
}

// rateLimiter bounds a device.
type rateLimiter struct {
	Bandwidth *tokenBucket `json:"bandwidth,omitempty"`
	Ops       *tokenBucket `json:"ops,omitempty"`
}

// tokenBucket is Size tokens every RefillTime milliseconds, and OneTimeBurst more, once.
type tokenBucket struct {
	Size         int64 `json:"size"`
	OneTimeBurst int64 `json:"one_time_burst,omitempty"`
	RefillTime   int64 `json:"refill_time"`
}

// rngConfig is the entropy device.
type rngConfig struct {
	Src string `json:"src"`
}

// fsConfig is a folder by virtio-fs.
type fsConfig struct {
	Tag       string `json:"tag"`
	Socket    string `json:"socket"`
	NumQueues int    `json:"num_queues"`
	QueueSize int    `json:"queue_size"`
}

// pmemConfig is a file that is mapped into the guest's address space.
type pmemConfig struct {
	ID            string `json:"id"`
	File          string `json:"file"`
	DiscardWrites bool   `json:"discard_writes"`
}

// consoleConfig is a serial port or console.
type consoleConfig struct {
	Mode string `json:"mode"`
}

// vsockConfig is the vsock.
type vsockConfig struct {
	CID    int    `json:"cid"`
	Socket string `json:"socket"`
}

// vmResize is what vm.resize takes.
type vmResize struct {
	VCPUs int   `json:"desired_vcpus,omitempty"`
	RAM   int64 `json:"desired_ram,omitempty"`
}

// vmRemoveDevice is what vm.remove-device takes.
type vmRemoveDevice struct {
	ID string `json:"id"`
}

// pingResponse is the answer to vmm.ping.
type pingResponse struct {
	Version string `json:"version"`
}

// vmInfo is the answer to vm.info.
type vmInfo struct {
	State      string                     `json:"state"`
	DeviceTree map[string]json.RawMessage `json:"device_tree"`
}

// pciDeviceInfo is the answer to what plugs in a device of a machine that runs.
type pciDeviceInfo struct {
	ID  string `json:"id"`
	BDF string `json:"bdf"`
}

// fault is what a refusal says: a list of errors, each the cause of the one before, or a text in older versions.
func fault(body []byte) string {
	var chain []string
	if json.Unmarshal(body, &chain) == nil {
		return strings.Join(chain, ": ")
	}
	return string(body)
}
