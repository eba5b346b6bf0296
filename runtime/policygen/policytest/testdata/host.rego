# What the host may do with pods of Pod host.
package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default CreateSandboxRequest := false

# The pod, before it has containers.
CreateSandboxRequest if {
	only(input, {"dns", "hostname", "sandbox_id", "storages"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.sandbox_id)
	like(".*", input.hostname)
	every x1 in input.storages {
		one_of_1(x1)
	}
}

default CreateContainerRequest := false

# The first container, which waits.
CreateContainerRequest if {
	only(input, {"OCI", "container_id", "exec_id", "stderr_port", "stdout_port", "storages"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	every x2 in input.storages {
		one_of_2(x2)
	}
	only(input.OCI, {"Annotations", "Linux", "Mounts", "Process", "Root", "Version"})
	every x3 in input.OCI.Mounts {
		one_of_3(x3)
	}
	every x5, x4v in input.OCI.Annotations {
		x4 := concat("=", [x5, x4v])
		like("io\\.kubernetes\\.cri\\.container-type=sandbox|io\\.kubernetes\\.cri\\.(?:podsandbox\\.|sandbox-)image-name=(?:registry\\.test/pause:1)|io\\.kubernetes\\.cri\\.sandbox-(?:cpu-period|cpu-quota|cpu-shares|memory)=-?[0-9]+|io\\.kubernetes\\.cri\\.sandbox-log-directory=[^ ]+|io\\.kubernetes\\.cri\\.sandbox-id=[0-9A-Za-z][0-9A-Za-z_.-]*|io\\.kubernetes\\.cri\\.sandbox-name=host|io\\.kubernetes\\.cri\\.sandbox-namespace=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|io\\.kubernetes\\.cri\\.sandbox-uid=[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|io\\.kubernetes\\.cri\\.runtime-handler=[a-z0-9.-]*|io\\.katabuild\\.oci-extra=\\{(?:\"defaultErrnoRet\":[0-9]+,?)?(?:\"unified\":\\{(?:\"(?:memory|cpu|pids|io|hugetlb)\\.[a-z0-9_.]+\":\"[0-9a-z ]*\",?)*\\},?)?(?:\"cpuBurst\":[0-9]+,?)?(?:\"cpuIdle\":[0-9]+)?\\}|io\\.katacontainers\\.config\\.agent\\.policy=[A-Za-z0-9+/=]*", x4)
	}
	only(input.OCI.Linux, {"MaskedPaths", "Namespaces", "ReadonlyPaths", "Resources", "Seccomp"})
	every x6 in input.OCI.Linux.Namespaces {
		one_of_4(x6)
	}
	only(input.OCI.Linux.Resources, {"CPU", "HugepageLimits", "Memory", "Pids"})
	only(input.OCI.Process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.OCI.Process.Args == ["/toolbox","pause"]
	every x7 in input.OCI.Process.Env {
		like("", x7)
	}
	input.OCI.Process.Cwd == "/"
	input.OCI.Process.NoNewPrivileges == true
	only(input.OCI.Process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x8 in input.OCI.Process.Capabilities.Bounding {
		one_of_5(x8)
	}
	every x9 in input.OCI.Process.Capabilities.Effective {
		one_of_6(x9)
	}
	every x10 in input.OCI.Process.Capabilities.Permitted {
		one_of_7(x10)
	}
	only(input.OCI.Process.User, {"AdditionalGids", "GID", "UID"})
	input.OCI.Process.User.UID == 0
	input.OCI.Process.User.GID == 0
	every x11 in input.OCI.Process.User.AdditionalGids {
		one_of_8(x11)
	}
	only(input.OCI.Root, {"Path", "Readonly"})
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*/rootfs|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", input.OCI.Root.Path)
	input.OCI.Root.Readonly == true
}

# Container one.
CreateContainerRequest if {
	only(input, {"OCI", "container_id", "exec_id", "stderr_port", "stdout_port", "storages"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	every x12 in input.storages {
		one_of_9(x12)
	}
	only(input.OCI, {"Annotations", "Linux", "Mounts", "Process", "Root", "Version"})
	every x13 in input.OCI.Mounts {
		one_of_10(x13)
	}
	every x15, x14v in input.OCI.Annotations {
		x14 := concat("=", [x15, x14v])
		like("io\\.kubernetes\\.cri\\.container-type=container|io\\.kubernetes\\.cri\\.container-name=one|io\\.kubernetes\\.cri\\.image-name=(?:registry\\.test/tools:1)|io\\.kubernetes\\.cri\\.sandbox-id=[0-9A-Za-z][0-9A-Za-z_.-]*|io\\.kubernetes\\.cri\\.sandbox-name=host|io\\.kubernetes\\.cri\\.sandbox-namespace=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|io\\.kubernetes\\.cri\\.sandbox-uid=[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|io\\.kubernetes\\.cri\\.runtime-handler=[a-z0-9.-]*|io\\.katabuild\\.oci-extra=\\{(?:\"defaultErrnoRet\":[0-9]+,?)?(?:\"unified\":\\{(?:\"(?:memory|cpu|pids|io|hugetlb)\\.[a-z0-9_.]+\":\"[0-9a-z ]*\",?)*\\},?)?(?:\"cpuBurst\":[0-9]+,?)?(?:\"cpuIdle\":[0-9]+)?\\}|io\\.katacontainers\\.config\\.agent\\.policy=[A-Za-z0-9+/=]*", x14)
	}
	only(input.OCI.Linux, {"MaskedPaths", "Namespaces", "ReadonlyPaths", "Resources"})
	every x16 in input.OCI.Linux.Namespaces {
		one_of_11(x16)
	}
	only(input.OCI.Linux.Resources, {"CPU", "HugepageLimits", "Memory", "Pids"})
	only(input.OCI.Process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.OCI.Process.Args == ["sh","-c","exec toolbox pause"]
	every x17 in input.OCI.Process.Env {
		like("HOSTNAME=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|PATH=/bin|KUBERNETES_SERVICE_HOST=[0-9a-fA-F.:]+|KUBERNETES_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|KUBERNETES_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|KUBERNETES_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|KUBERNETES_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|KUBERNETES_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|KUBERNETES_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x17)
	}
	input.OCI.Process.Cwd == "/"
	input.OCI.Process.NoNewPrivileges == false
	only(input.OCI.Process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x18 in input.OCI.Process.Capabilities.Bounding {
		one_of_12(x18)
	}
	every x19 in input.OCI.Process.Capabilities.Effective {
		one_of_13(x19)
	}
	every x20 in input.OCI.Process.Capabilities.Permitted {
		one_of_14(x20)
	}
	only(input.OCI.Process.User, {"AdditionalGids", "GID", "UID"})
	input.OCI.Process.User.UID == 0
	input.OCI.Process.User.GID == 0
	every x21 in input.OCI.Process.User.AdditionalGids {
		one_of_15(x21)
	}
	only(input.OCI.Root, {"Path", "Readonly"})
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*/rootfs|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", input.OCI.Root.Path)
	input.OCI.Root.Readonly == false
}

default ExecProcessRequest := false

# A command in one.
ExecProcessRequest if {
	only(input, {"container_id", "exec_id", "process", "stderr_port", "stdout_port"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	only(input.process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.process.Args == ["toolbox","report"]
	every x22 in input.process.Env {
		like("HOSTNAME=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|PATH=/bin|KUBERNETES_SERVICE_HOST=[0-9a-fA-F.:]+|KUBERNETES_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|KUBERNETES_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|KUBERNETES_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|KUBERNETES_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|KUBERNETES_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|KUBERNETES_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x22)
	}
	input.process.Cwd == "/"
	input.process.NoNewPrivileges == false
	only(input.process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x23 in input.process.Capabilities.Bounding {
		one_of_16(x23)
	}
	every x24 in input.process.Capabilities.Effective {
		one_of_17(x24)
	}
	every x25 in input.process.Capabilities.Permitted {
		one_of_18(x25)
	}
	only(input.process.User, {"AdditionalGids", "GID", "UID"})
	input.process.User.UID == 0
	input.process.User.GID == 0
	every x26 in input.process.User.AdditionalGids {
		one_of_19(x26)
	}
}

default StartContainerRequest := false

# What every pod's life has.
StartContainerRequest := true

default SignalProcessRequest := false

SignalProcessRequest := true

default WaitProcessRequest := false

WaitProcessRequest := true

default ReadStreamRequest := false

ReadStreamRequest := true

ReadStreamRequest := true

default CloseStdinRequest := false

CloseStdinRequest := true

default TtyWinResizeRequest := false

TtyWinResizeRequest := true

default StatsContainerRequest := false

StatsContainerRequest := true

default PauseContainerRequest := false

PauseContainerRequest := true

default ResumeContainerRequest := false

ResumeContainerRequest := true

default RemoveContainerRequest := false

RemoveContainerRequest := true

default GetOOMEventRequest := false

GetOOMEventRequest := true

default GuestDetailsRequest := false

GuestDetailsRequest := true

default GetMetricsRequest := false

GetMetricsRequest := true

default OnlineCPUMemRequest := false

OnlineCPUMemRequest := true

default ListInterfacesRequest := false

ListInterfacesRequest := true

default ListRoutesRequest := false

ListRoutesRequest := true

default DestroySandboxRequest := false

DestroySandboxRequest := true

default UpdateContainerRequest := false

UpdateContainerRequest if {
	only(input, {"container_id", "resources"})
	only(input.resources, {"CPU", "HugepageLimits", "Memory", "Pids"})
}

default UpdateInterfaceRequest := false

# The network, but for the guest's own loopback.
UpdateInterfaceRequest if {
	like("|l|[^l].*|l[^o].*|lo.+", input.interface.name)
}

default UpdateRoutesRequest := false

UpdateRoutesRequest if {
	every x27 in input.routes.Routes {
		like("|l|[^l].*|l[^o].*|lo.+", x27.device)
		like("|(?:[0-9]|[1-9][0-9]|1[013-9][0-9]|12[0-689]|2[0-9][0-9])\\.[0-9.]+(?:/[0-9]+)?|[2-9a-fA-F][0-9a-fA-F:]+(?:/[0-9]+)?", x27.source)
	}
}

default AddARPNeighborsRequest := false

AddARPNeighborsRequest if {
	every x28 in input.neighbors.ARPNeighbors {
		like("|l|[^l].*|l[^o].*|lo.+", x28.device)
	}
}

one_of_1(x) if {
	only(x, {"driver", "fstype", "mount_point", "shared", "source"})
	x.driver == "virtio-fs"
	x.source == "kataShared"
	x.fstype == "virtiofs"
	x.mount_point == "/run/kata-containers/shared/containers/"
	x.shared == true
}

one_of_1(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "shared", "source"})
	x.driver == "ephemeral"
	x.source == "shm"
	x.fstype == "tmpfs"
	x.mount_point == "/run/kata-containers/sandbox/shm"
	x.shared == true
	x.options == ["noexec","nosuid","nodev","mode=1777"]
}

one_of_1(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "shared", "source"})
	x.driver == "ephemeral"
	x.source == "shm"
	x.fstype == "tmpfs"
	x.mount_point == "/run/kata-containers/sandbox/shm"
	x.shared == true
	count(x.options) == 5
	x.options[0] == "noexec"
	x.options[1] == "nosuid"
	x.options[2] == "nodev"
	x.options[3] == "mode=1777"
	like("size=[0-9]+", x.options[4])
}

one_of_2(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	like("blk|mmioblk", x.driver)
	like(".*", x.source)
	like("ext4|xfs|btrfs|erofs", x.fstype)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", x.mount_point)
}

one_of_3(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/proc"
	x.type_ == "proc"
	x.source == "proc"
	x.options == ["nosuid","noexec","nodev"]
}

one_of_3(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev"
	x.type_ == "tmpfs"
	x.source == "tmpfs"
	x.options == ["nosuid","strictatime","mode=755","size=65536k"]
}

one_of_3(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/pts"
	x.type_ == "devpts"
	x.source == "devpts"
	x.options == ["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]
}

one_of_3(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/mqueue"
	x.type_ == "mqueue"
	x.source == "mqueue"
	x.options == ["nosuid","noexec","nodev"]
}

one_of_3(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/sys"
	x.type_ == "sysfs"
	x.source == "sysfs"
	x.options == ["nosuid","noexec","nodev","ro"]
}

one_of_3(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/shm"
	x.type_ == "bind"
	x.source == "/run/kata-containers/sandbox/shm"
	x.options == ["rbind"]
}

one_of_3(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/resolv.conf"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)resolv\\.conf", x.source)
	x.options == ["rbind","ro","nosuid","nodev","noexec"]
}

one_of_4(x) if {
	only(x, {"Type"})
	x.Type == "ipc"
}

one_of_4(x) if {
	only(x, {"Type"})
	x.Type == "uts"
}

one_of_4(x) if {
	only(x, {"Type"})
	x.Type == "mount"
}

one_of_5(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_5(x) if {
	x == "CAP_CHOWN"
}

one_of_5(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_5(x) if {
	x == "CAP_FOWNER"
}

one_of_5(x) if {
	x == "CAP_FSETID"
}

one_of_5(x) if {
	x == "CAP_KILL"
}

one_of_5(x) if {
	x == "CAP_MKNOD"
}

one_of_5(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_5(x) if {
	x == "CAP_NET_RAW"
}

one_of_5(x) if {
	x == "CAP_SETFCAP"
}

one_of_5(x) if {
	x == "CAP_SETGID"
}

one_of_5(x) if {
	x == "CAP_SETPCAP"
}

one_of_5(x) if {
	x == "CAP_SETUID"
}

one_of_5(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_6(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_6(x) if {
	x == "CAP_CHOWN"
}

one_of_6(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_6(x) if {
	x == "CAP_FOWNER"
}

one_of_6(x) if {
	x == "CAP_FSETID"
}

one_of_6(x) if {
	x == "CAP_KILL"
}

one_of_6(x) if {
	x == "CAP_MKNOD"
}

one_of_6(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_6(x) if {
	x == "CAP_NET_RAW"
}

one_of_6(x) if {
	x == "CAP_SETFCAP"
}

one_of_6(x) if {
	x == "CAP_SETGID"
}

one_of_6(x) if {
	x == "CAP_SETPCAP"
}

one_of_6(x) if {
	x == "CAP_SETUID"
}

one_of_6(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_7(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_7(x) if {
	x == "CAP_CHOWN"
}

one_of_7(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_7(x) if {
	x == "CAP_FOWNER"
}

one_of_7(x) if {
	x == "CAP_FSETID"
}

one_of_7(x) if {
	x == "CAP_KILL"
}

one_of_7(x) if {
	x == "CAP_MKNOD"
}

one_of_7(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_7(x) if {
	x == "CAP_NET_RAW"
}

one_of_7(x) if {
	x == "CAP_SETFCAP"
}

one_of_7(x) if {
	x == "CAP_SETGID"
}

one_of_7(x) if {
	x == "CAP_SETPCAP"
}

one_of_7(x) if {
	x == "CAP_SETUID"
}

one_of_7(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_8(x) if {
	x == 0
}

one_of_9(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	like("blk|mmioblk", x.driver)
	like(".*", x.source)
	like("ext4|xfs|btrfs|erofs", x.fstype)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", x.mount_point)
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/proc"
	x.type_ == "proc"
	x.source == "proc"
	x.options == ["nosuid","noexec","nodev"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev"
	x.type_ == "tmpfs"
	x.source == "tmpfs"
	x.options == ["nosuid","strictatime","mode=755","size=65536k"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/pts"
	x.type_ == "devpts"
	x.source == "devpts"
	x.options == ["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/mqueue"
	x.type_ == "mqueue"
	x.source == "mqueue"
	x.options == ["nosuid","noexec","nodev"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/sys"
	x.type_ == "sysfs"
	x.source == "sysfs"
	x.options == ["nosuid","noexec","nodev","ro"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/shm"
	x.type_ == "bind"
	x.source == "/run/kata-containers/sandbox/shm"
	x.options == ["rbind"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/sys/fs/cgroup"
	x.type_ == "cgroup"
	x.source == "cgroup"
	x.options == ["nosuid","noexec","nodev","relatime","ro"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/hosts"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)etc-hosts", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/termination-log"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)[0-9a-f]+", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/hostname"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)hostname", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/resolv.conf"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)resolv\\.conf", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_11(x) if {
	only(x, {"Type"})
	x.Type == "ipc"
}

one_of_11(x) if {
	only(x, {"Type"})
	x.Type == "uts"
}

one_of_11(x) if {
	only(x, {"Type"})
	x.Type == "mount"
}

one_of_12(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_12(x) if {
	x == "CAP_CHOWN"
}

one_of_12(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_12(x) if {
	x == "CAP_FOWNER"
}

one_of_12(x) if {
	x == "CAP_FSETID"
}

one_of_12(x) if {
	x == "CAP_KILL"
}

one_of_12(x) if {
	x == "CAP_MKNOD"
}

one_of_12(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_12(x) if {
	x == "CAP_NET_RAW"
}

one_of_12(x) if {
	x == "CAP_SETFCAP"
}

one_of_12(x) if {
	x == "CAP_SETGID"
}

one_of_12(x) if {
	x == "CAP_SETPCAP"
}

one_of_12(x) if {
	x == "CAP_SETUID"
}

one_of_12(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_13(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_13(x) if {
	x == "CAP_CHOWN"
}

one_of_13(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_13(x) if {
	x == "CAP_FOWNER"
}

one_of_13(x) if {
	x == "CAP_FSETID"
}

one_of_13(x) if {
	x == "CAP_KILL"
}

one_of_13(x) if {
	x == "CAP_MKNOD"
}

one_of_13(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_13(x) if {
	x == "CAP_NET_RAW"
}

one_of_13(x) if {
	x == "CAP_SETFCAP"
}

one_of_13(x) if {
	x == "CAP_SETGID"
}

one_of_13(x) if {
	x == "CAP_SETPCAP"
}

one_of_13(x) if {
	x == "CAP_SETUID"
}

one_of_13(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_14(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_14(x) if {
	x == "CAP_CHOWN"
}

one_of_14(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_14(x) if {
	x == "CAP_FOWNER"
}

one_of_14(x) if {
	x == "CAP_FSETID"
}

one_of_14(x) if {
	x == "CAP_KILL"
}

one_of_14(x) if {
	x == "CAP_MKNOD"
}

one_of_14(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_14(x) if {
	x == "CAP_NET_RAW"
}

one_of_14(x) if {
	x == "CAP_SETFCAP"
}

one_of_14(x) if {
	x == "CAP_SETGID"
}

one_of_14(x) if {
	x == "CAP_SETPCAP"
}

one_of_14(x) if {
	x == "CAP_SETUID"
}

one_of_14(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_15(x) if {
	x == 0
}

one_of_16(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_16(x) if {
	x == "CAP_CHOWN"
}

one_of_16(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_16(x) if {
	x == "CAP_FOWNER"
}

one_of_16(x) if {
	x == "CAP_FSETID"
}

one_of_16(x) if {
	x == "CAP_KILL"
}

one_of_16(x) if {
	x == "CAP_MKNOD"
}

one_of_16(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_16(x) if {
	x == "CAP_NET_RAW"
}

one_of_16(x) if {
	x == "CAP_SETFCAP"
}

one_of_16(x) if {
	x == "CAP_SETGID"
}

one_of_16(x) if {
	x == "CAP_SETPCAP"
}

one_of_16(x) if {
	x == "CAP_SETUID"
}

one_of_16(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_17(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_17(x) if {
	x == "CAP_CHOWN"
}

one_of_17(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_17(x) if {
	x == "CAP_FOWNER"
}

one_of_17(x) if {
	x == "CAP_FSETID"
}

one_of_17(x) if {
	x == "CAP_KILL"
}

one_of_17(x) if {
	x == "CAP_MKNOD"
}

one_of_17(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_17(x) if {
	x == "CAP_NET_RAW"
}

one_of_17(x) if {
	x == "CAP_SETFCAP"
}

one_of_17(x) if {
	x == "CAP_SETGID"
}

one_of_17(x) if {
	x == "CAP_SETPCAP"
}

one_of_17(x) if {
	x == "CAP_SETUID"
}

one_of_17(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_18(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_18(x) if {
	x == "CAP_CHOWN"
}

one_of_18(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_18(x) if {
	x == "CAP_FOWNER"
}

one_of_18(x) if {
	x == "CAP_FSETID"
}

one_of_18(x) if {
	x == "CAP_KILL"
}

one_of_18(x) if {
	x == "CAP_MKNOD"
}

one_of_18(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_18(x) if {
	x == "CAP_NET_RAW"
}

one_of_18(x) if {
	x == "CAP_SETFCAP"
}

one_of_18(x) if {
	x == "CAP_SETGID"
}

one_of_18(x) if {
	x == "CAP_SETPCAP"
}

one_of_18(x) if {
	x == "CAP_SETUID"
}

one_of_18(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_19(x) if {
	x == 0
}

# only says that a message has no field but these.
only(message, names) if {
	every name, value in message {
		fine(name, value, names)
	}
}

fine(name, _, names) if name in names

fine(_, value, _) if blank(value)

# blank is what a field is that was not sent, also of a message in which nothing was.
blank(value) if value in {"", 0, false, null}

blank([])

blank(value) if {
	is_object(value)
	every part in [p | walk(value, [_, p]); not is_object(p)] {
		flat(part)
	}
}

flat(value) if value in {"", 0, false, null}

flat([])

like(expression, value) if regex.match(concat("", ["^(?s:", expression, ")$"]), value)
