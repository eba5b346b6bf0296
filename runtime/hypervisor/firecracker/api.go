package firecracker

import "encoding/json"

// The requests that are made of Firecracker, as far as they are used. Its own description of them is
// src/firecracker/swagger/firecracker.yaml; the names of types are those of its definitions. What has a default there
// and is left to it is not here.

// machineConfiguration is the body of /machine-config.
type machineConfiguration struct {
	VCPUs     int  `json:"vcpu_count"`
	MemoryMiB int  `json:"mem_size_mib"`
	SMT       bool `json:"smt"`
}

// bootSource is the body of /boot-source.
type bootSource struct {
	Kernel string `json:"kernel_image_path"`
	Initrd string `json:"initrd_path,omitempty"`
	Args   string `json:"boot_args"`
}

// drive is the body of /drives/ID before the boot.
type drive struct {
	ID       string       `json:"drive_id"`
	Path     string       `json:"path_on_host"`
	Root     bool         `json:"is_root_device"`
	ReadOnly bool         `json:"is_read_only"`
	Rate     *rateLimiter `json:"rate_limiter,omitempty"`
}

// partialDrive is the body of /drives/ID after it.
type partialDrive struct {
	ID   string `json:"drive_id"`
	Path string `json:"path_on_host"`
}

// networkInterface is the body of /network-interfaces/ID.
type networkInterface struct {
	ID  string       `json:"iface_id"`
	MAC string       `json:"guest_mac"`
	Tap string       `json:"host_dev_name"`
	Rx  *rateLimiter `json:"rx_rate_limiter,omitempty"`
	Tx  *rateLimiter `json:"tx_rate_limiter,omitempty"`
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

// vsockDevice is the body of /vsock.
type vsockDevice struct {
	CID  int    `json:"guest_cid"`
	Path string `json:"uds_path"`
}

// entropyDevice is the body of /entropy.
type entropyDevice struct{}

// action is the body of /actions.
type action struct {
	Type string `json:"action_type"`
}

// versionAnswer is the answer to /version.
type versionAnswer struct {
	Version string `json:"firecracker_version"`
}

// fault is what a refusal says.
func fault(body []byte) string {
	var e struct {
		Fault string `json:"fault_message"`
	}
	if json.Unmarshal(body, &e) != nil {
		return string(body)
	}
	return e.Fault
}
