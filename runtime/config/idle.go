package config

import "slices"

// idle are keys of Kata's that are accepted and have no effect, each group with the reason.
//
// A key whose other values promise protection must not be ignored in silence: harmless is the only value it may have.
type idle struct {
	section  string
	names    []string
	reason   string // continues "has no effect, because ..."
	harmless string // "", or the value that asks for nothing: "false", "true" or `""`
}

var idles = []idle{
	{sectionQEMU, []string{"firmware", "firmware_volume", "pflashes"},
		"guests are booted from their kernel, without firmware of their own", ""},
	{sectionQEMU, []string{"machine_accelerators", "cpu_features"},
		"the machine's options are made by the runtime, for what runs the guest", ""},
	{sectionQEMU, []string{"seccompsandbox"}, "QEMU always runs in its own seccomp sandbox", ""},
	{sectionQEMU, []string{"default_bridges", "memory_offset", "enable_virtio_mem",
		"hot_plug_vfio", "cold_plug_vfio", "pcie_switch_port", "enable_vcpus_pinning", "enable_numa", "numa_mapping",
		"overhead_vcpus", "overhead_memory"},
		"the machine has the processors, the memory and the places for devices that the runtime gives it", ""},
	{sectionQEMU, []string{"virtio_fs_cache_size", "virtio_fs_queue_size", "virtio_fs_is_dax"},
		"the guest reads shared files through its own page cache", ""},
	{sectionQEMU, []string{"disable_block_device_use", "block_device_driver", "block_device_aio",
		"block_device_cache_set", "block_device_cache_direct",
		"block_device_cache_noflush", "block_device_logical_sector_size", "block_device_physical_sector_size",
		"enable_iothreads", "indep_iothreads",
		"queue_size", "num_queues", "vm_rootfs_driver", "disable_image_nvdimm"},
		"the guest's manifest says how its disk is attached, and all others are virtio-blk", ""},
	{sectionQEMU, []string{"enable_vhost_user_store", "vhost_user_store_path", "valid_vhost_user_store_paths",
		"vhost_user_reconnect_timeout_sec"},
		"no vhost-user disks are attached", ""},
	{sectionQEMU, []string{"enable_mem_prealloc", "enable_hugepages", "reclaim_guest_freed_memory",
		"file_mem_backend", "valid_file_mem_backends",
		"enable_guest_swap", "guest_swap_path", "guest_swap_size_percent", "guest_swap_create_threshold_secs"},
		"the guest's memory is ordinary memory of the host, without swap in the guest", ""},
	{sectionQEMU, []string{"enable_iommu", "enable_iommu_platform"},
		"the machine has no IOMMU, as nothing of the host is passed through", ""},
	{sectionQEMU, []string{"extra_monitor_socket"}, "QEMU's monitor belongs to the runtime alone", ""},
	{sectionQEMU, []string{"disable_nesting_checks"}, "no device is made another way inside another virtual machine",
		""},
	{sectionQEMU, []string{"disable_vhost_net", "rx_rate_limiter_max_rate", "tx_rate_limiter_max_rate",
		"network_queues"},
		"QEMU moves the packets itself, in one queue and as fast as it can", ""},
	{sectionQEMU, []string{"entropy_source", "valid_entropy_sources"},
		"the guest's random numbers come from the host's /dev/urandom", ""},
	{sectionQEMU, []string{"guest_memory_dump_path", "guest_memory_dump_paging"},
		"no dump is written when a guest panics", ""},
	{sectionQEMU, []string{"use_legacy_serial"}, "the guest's manifest says which console it uses, and without one " +
		"it is the serial port", ""},
	{sectionQEMU, []string{"default_gpus", "default_gpu_model"}, "the machine has no GPU", ""},
	{sectionQEMU, []string{"measurement_algo", "snp_guest_policy", "snp_id_block", "snp_id_auth",
		"tdx_quote_generation_service_socket_port"},
		"confidential guests are not supported", ""},
	{sectionQEMU, []string{"confidential_guest", "sev_snp_guest"}, "confidential guests are not supported", "false"},
	{sectionQEMU, []string{"initdata"}, "confidential guests are not supported", `""`},
	{sectionQEMU, []string{"rootless"}, "QEMU runs as the user that runs the runtime", "false"},
	{sectionQEMU, []string{"disable_selinux"}, "the runtime sets no SELinux labels", ""},
	{sectionQEMU, []string{"disable_guest_selinux"}, "the guests have no SELinux", "true"},
	{sectionQEMU, []string{"factory"}, "templates are set in [factory]", ""},

	{sectionAgent, []string{"enable_tracing"}, "the agent has no tracing", ""},
	{sectionAgent, []string{"cdh_api_timeout", "launch_process_timeout", "visible_cdi_devices"},
		"the agent has no such option", ""},
	{sectionAgent, []string{"mem_agent"}, "the agent does not reclaim memory by itself", ""},
	{sectionAgent, []string{"server_port", "log_port", "passfd_listener_port"},
		"the ports are fixed; docs/formats/vsock.md", ""},
	{sectionAgent, []string{"dial_timeout_ms", "reconnect_timeout_ms", "health_check_request_timeout_ms"},
		"the agent says when it is ready, so nobody dials again and again; see dial_timeout", ""},
	{sectionAgent, []string{"create_container_timeout"}, "it stands in [runtime] here", ""},

	{sectionRuntime, []string{"name", "hypervisor_name", "agent_name"},
		"there is one runtime, one hypervisor and one agent", ""},
	{sectionRuntime, []string{"log_level"}, "enable_debug says it", ""},
	{sectionRuntime, []string{"disable_new_netns", "dan_conf"},
		"the runtime uses the network namespace that it is given", ""},
	{sectionRuntime, []string{"guest_selinux_label"}, "the guests have no SELinux", `""`},
	{sectionRuntime, []string{"enable_vcpus_pinning", "sandbox_cgroup_only"},
		"the machine stays in the cgroup it was started in", ""},
	{sectionRuntime, []string{"enable_tracing", "jaeger_endpoint", "jaeger_user", "jaeger_password", "enable_pprof"},
		"the runtime has no tracing and no profiles", ""},
	{sectionRuntime, []string{"disable_guest_empty_dir", "emptydir_mode"},
		"an emptyDir is a folder of the host, shared as others are", ""},
	{sectionRuntime, []string{"vfio_mode", "pod_resource_api_sock", "kubelet_root_dir"},
		"no device of the host is passed through", ""},
	{sectionRuntime, []string{"experimental", "experimental_force_guest_pull", "keep_abnormal", "use_passfd_io",
		"passfd_listener_port"},
		"the runtime has nothing of that name", ""},

	{sectionFactory, []string{"vm_cache_number", "vm_cache_endpoint"}, "there is no cache of virtual machines", ""},
}

// podIdles are annotations of Kata's that name no key.
var podIdles = []idle{
	{sectionQEMU, []string{"default_max_vcpus", "ctlpath", "jailer_path"}, "the runtime has nothing of that name", ""},
	{sectionQEMU, []string{"asset_hash_type", "hypervisor_hash", "kernel_hash", "image_hash", "initrd_hash",
		"firmware_hash", "jailer_hash"},
		"a guest's files are checked by the digests of its manifest, not by an annotation", `""`},
	{sectionQEMU, []string{"cc_init_data"}, "confidential guests are not supported", `""`},
}

func findIdle(list []idle, section, name string) *idle {
	for i := range list {
		if list[i].section == section && slices.Contains(list[i].names, name) {
			return &list[i]
		}
	}
	return nil
}
