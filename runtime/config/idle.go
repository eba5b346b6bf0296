package config

import "slices"

// idle are keys of Kata's that are accepted and have no effect, each group with the reason.
//
// A key whose other values promise protection must not be ignored in silence: harmless is the only value it may have.
type idle struct {
	section  string // hypervisorGroup is every hypervisor's
	names    []string
	reason   string // continues "has no effect, because ..."
	harmless string // "", or the value that asks for nothing: "false", "true" or `""`
}

const passedByQEMU = "the runtime passes devices of the host to QEMU's machines alone; use [hypervisor.qemu]"

var idles = []idle{
	{hypervisorGroup, []string{"firmware", "firmware_volume", "pflashes"},
		"guests are booted from their kernel, without firmware of their own", ""},
	{hypervisorGroup, []string{"machine_accelerators", "cpu_features"},
		"the machine's options are made by the runtime, for what runs the guest", ""},
	{sectionQEMU, []string{"seccompsandbox"}, "QEMU always runs in its own seccomp sandbox", ""},
	{hypervisorGroup, []string{"default_bridges", "memory_offset", "enable_virtio_mem",
		"enable_vcpus_pinning", "enable_numa", "numa_mapping",
		"overhead_vcpus", "overhead_memory"},
		"the machine has the processors, the memory and the places for devices that the runtime gives it", ""},
	{hypervisorGroup, []string{"virtio_fs_cache_size", "virtio_fs_queue_size", "virtio_fs_is_dax"},
		"the guest reads shared files through its own page cache", ""},
	{hypervisorGroup, []string{"block_device_driver", "block_device_aio",
		"block_device_cache_set", "block_device_cache_direct",
		"block_device_cache_noflush", "block_device_logical_sector_size", "block_device_physical_sector_size",
		"enable_iothreads", "indep_iothreads",
		"queue_size", "num_queues", "vm_rootfs_driver", "disable_image_nvdimm"},
		"the guest's manifest says how its disk is attached, and all others are virtio-blk", ""},
	{hypervisorGroup, []string{"enable_vhost_user_store", "vhost_user_store_path", "valid_vhost_user_store_paths",
		"vhost_user_reconnect_timeout_sec"},
		"no vhost-user disks are attached", ""},
	{hypervisorGroup, []string{"enable_mem_prealloc", "enable_hugepages", "reclaim_guest_freed_memory",
		"file_mem_backend", "valid_file_mem_backends",
		"enable_guest_swap", "guest_swap_path", "guest_swap_size_percent", "guest_swap_create_threshold_secs"},
		"the guest's memory is ordinary memory of the host, without swap in the guest", ""},
	{sectionQEMU, []string{"extra_monitor_socket"}, "QEMU's monitor belongs to the runtime alone", ""},
	{hypervisorGroup, []string{"disable_nesting_checks"},
		"no device is made another way inside another virtual machine", ""},
	{sectionQEMU, []string{"disable_vhost_net", "network_queues"},
		"QEMU moves the packets itself, in one queue and as fast as it can", ""},
	{hypervisorGroup, []string{"entropy_source", "valid_entropy_sources"},
		"the guest's random numbers come from the host's /dev/urandom", ""},
	{hypervisorGroup, []string{"guest_memory_dump_path", "guest_memory_dump_paging"},
		"no dump is written when a guest panics", ""},
	{hypervisorGroup, []string{"use_legacy_serial"}, "the guest's manifest says which console it uses, and without " +
		"one it is the serial port", ""},
	{hypervisorGroup, []string{"default_gpus", "default_gpu_model"}, "the machine has no GPU", ""},
	{hypervisorGroup, []string{"measurement_algo", "snp_guest_policy", "snp_id_block", "snp_id_auth",
		"tdx_quote_generation_service_socket_port"},
		"confidential guests are not supported", ""},
	{hypervisorGroup, []string{"confidential_guest", "sev_snp_guest"}, "confidential guests are not supported",
		"false"},
	{hypervisorGroup, []string{"initdata"}, "confidential guests are not supported", `""`},
	{hypervisorGroup, []string{"rootless"}, "the hypervisor runs as the user that the runtime gives it", "false"},
	{hypervisorGroup, []string{"disable_selinux"}, "the runtime sets no SELinux labels", ""},
	{hypervisorGroup, []string{"disable_guest_selinux"}, "the guests have no SELinux", "true"},
	{hypervisorGroup, []string{"factory"}, "templates are set in [factory]", ""},
	{sectionQEMU, []string{"disable_block_device_use"}, "a root file system on a block device is plugged in", ""},

	{sectionCLH, []string{"machine_type", "pcie_root_port", "msize_9p"},
		"Cloud Hypervisor has one machine, with places for devices, and no 9p", ""},
	{sectionCLH, []string{"cold_plug_vfio", "hot_plug_vfio"}, passedByQEMU, `"no-port"`},
	{sectionCLH, []string{"pcie_switch_port", "enable_iommu", "enable_iommu_platform"}, passedByQEMU, ""},
	{sectionFirecracker, []string{"cold_plug_vfio", "hot_plug_vfio"}, passedByQEMU, `"no-port"`},
	{sectionFirecracker, []string{"pcie_switch_port", "enable_iommu", "enable_iommu_platform"}, passedByQEMU, ""},

	{sectionCLH, []string{"disable_vhost_net", "rx_rate_limiter_max_rate", "tx_rate_limiter_max_rate",
		"network_queues"},
		"Cloud Hypervisor moves the packets itself, in one queue; net_rate_limiter_bw_max_rate bounds them", ""},
	{sectionCLH, []string{"hypervisor_loglevel", "virtio_fs_inode_file_handles"}, "the runtime says it", ""},
	{sectionCLH, []string{"disable_block_device_use"}, "a root file system on a block device is plugged in", ""},

	{sectionFirecracker, []string{"machine_type", "pcie_root_port", "msize_9p", "hotplug_vfio_on_root_bus"},
		"Firecracker has one machine, without PCI", ""},
	{sectionFirecracker, []string{"default_maxvcpus", "default_maxmemory", "memory_slots"},
		"a machine of Firecracker's stays as large as it was started", ""},
	{sectionFirecracker, []string{"disable_vhost_net", "network_queues"},
		"Firecracker moves the packets itself, in one queue", ""},
	{sectionFirecracker, []string{"shared_fs"}, "Firecracker shares no folders: root file systems come on block " +
		"devices (devmapper, blockfile), other files are copied; [hypervisor.qemu] and [hypervisor.clh] share",
		`"none"`},
	{sectionFirecracker, []string{"disable_block_device_use"}, "Firecracker shares no folders, so that root file " +
		"systems must come on block devices; use [hypervisor.qemu] or [hypervisor.clh]", "false"},
	{sectionFirecracker, []string{"virtio_fs_daemon", "valid_virtio_fs_daemon_paths", "virtio_fs_cache",
		"virtio_fs_extra_args", "foreign_locks"}, "Firecracker shares no folders", ""},

	{sectionAgent, []string{"cdh_api_timeout", "launch_process_timeout", "visible_cdi_devices"},
		"the agent has no such option", ""},
	{sectionAgent, []string{"mem_agent"}, "the agent does not reclaim memory by itself", ""},
	{sectionAgent, []string{"server_port", "log_port", "passfd_listener_port"},
		"the ports are fixed; docs/formats/vsock.md", ""},
	{sectionAgent, []string{"dial_timeout_ms", "reconnect_timeout_ms", "health_check_request_timeout_ms"},
		"the agent says when it is ready, so nobody dials again and again; see dial_timeout", ""},
	{sectionAgent, []string{"create_container_timeout"}, "it stands in [runtime] here", ""},

	{sectionRuntime, []string{"name", "hypervisor_name", "agent_name"},
		"there is one runtime and one agent, and the hypervisor is the one whose table is there", ""},
	{sectionRuntime, []string{"log_level"}, "enable_debug says it", ""},
	{sectionRuntime, []string{"guest_selinux_label"}, "the guests have no SELinux", `""`},
	{sectionRuntime, []string{"enable_vcpus_pinning", "sandbox_cgroup_only"},
		"the machine stays in the cgroup it was started in", ""},
	{sectionRuntime, []string{"jaeger_endpoint", "jaeger_user", "jaeger_password"},
		"spans are sent as OTLP, which Jaeger takes too; see otlp_endpoint", ""},
	{sectionRuntime, []string{"disable_guest_empty_dir", "emptydir_mode"},
		"an emptyDir is a folder of the host, shared as others are", ""},
	{sectionRuntime, []string{"pod_resource_api_sock", "kubelet_root_dir"},
		"the devices of a pod are those that its containers and its CDI annotations name", ""},
	{sectionRuntime, []string{"experimental", "experimental_force_guest_pull", "keep_abnormal", "use_passfd_io",
		"passfd_listener_port"},
		"the runtime has nothing of that name", ""},
}

// podIdles are annotations of Kata's that name no key.
var podIdles = []idle{
	{sectionQEMU, []string{"jailer_path"}, "the jailer is Firecracker's", ""},
	{sectionCLH, []string{"jailer_path"}, "the jailer is Firecracker's", ""},
	{hypervisorGroup, []string{"default_max_vcpus", "ctlpath"}, "the runtime has nothing of that name", ""},
	{hypervisorGroup, []string{"asset_hash_type", "hypervisor_hash", "kernel_hash", "image_hash", "initrd_hash",
		"firmware_hash", "jailer_hash"},
		"a guest's files are checked by the digests of its manifest, not by an annotation", `""`},
	{hypervisorGroup, []string{"cc_init_data"}, "confidential guests are not supported", `""`},
}

// in says whether the keys are a section's.
func (i *idle) in(section string) bool {
	return i.section == section || i.section == hypervisorGroup && slices.Contains(hypervisorSections, section)
}

func findIdle(list []idle, section, name string) *idle {
	for i := range list {
		if list[i].in(section) && slices.Contains(list[i].names, name) {
			return &list[i]
		}
	}
	return nil
}
