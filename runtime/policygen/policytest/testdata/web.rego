# What the host may do with pods of Pod web.
package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default CreateSandboxRequest := false

# The pod, before it has containers.
CreateSandboxRequest if {
	only(input, {"dns", "hostname", "sandbox_id", "storages"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.sandbox_id)
	like("webhost", input.hostname)
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
	only(input.OCI, {"Annotations", "Hostname", "Linux", "Mounts", "Process", "Root", "Version"})
	every x3 in input.OCI.Mounts {
		one_of_3(x3)
	}
	every x5, x4v in input.OCI.Annotations {
		x4 := concat("=", [x5, x4v])
		like("io\\.kubernetes\\.cri\\.container-type=sandbox|io\\.kubernetes\\.cri\\.(?:podsandbox\\.|sandbox-)image-name=(?:registry\\.test/pause:1)|io\\.kubernetes\\.cri\\.sandbox-(?:cpu-period|cpu-quota|cpu-shares|memory)=-?[0-9]+|io\\.kubernetes\\.cri\\.sandbox-log-directory=[^ ]+|io\\.kubernetes\\.cri\\.sandbox-id=[0-9A-Za-z][0-9A-Za-z_.-]*|io\\.kubernetes\\.cri\\.sandbox-name=web|io\\.kubernetes\\.cri\\.sandbox-namespace=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|io\\.kubernetes\\.cri\\.sandbox-uid=[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|io\\.kubernetes\\.cri\\.runtime-handler=[a-z0-9.-]*|io\\.katabuild\\.oci-extra=\\{(?:\"defaultErrnoRet\":[0-9]+,?)?(?:\"unified\":\\{(?:\"(?:memory|cpu|pids|io|hugetlb)\\.[a-z0-9_.]+\":\"[0-9a-z ]*\",?)*\\},?)?(?:\"cpuBurst\":[0-9]+,?)?(?:\"cpuIdle\":[0-9]+)?\\}|io\\.katacontainers\\.config\\.agent\\.policy=[A-Za-z0-9+/=]*", x4)
	}
	like("webhost", input.OCI.Hostname)
	only(input.OCI.Linux, {"MaskedPaths", "Namespaces", "ReadonlyPaths", "Resources", "Seccomp", "Sysctl"})
	every x6 in input.OCI.Linux.Namespaces {
		one_of_4(x6)
	}
	every x8, x7v in input.OCI.Linux.Sysctl {
		x7 := concat("=", [x8, x7v])
		like("net\\.ipv4\\.ip_unprivileged_port_start=1024|net\\.ipv4\\.ping_group_range=0 2147483647", x7)
	}
	only(input.OCI.Linux.Resources, {"CPU", "HugepageLimits", "Memory", "Pids"})
	only(input.OCI.Process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.OCI.Process.Args == ["/toolbox","pause"]
	every x9 in input.OCI.Process.Env {
		like("", x9)
	}
	input.OCI.Process.Cwd == "/"
	input.OCI.Process.NoNewPrivileges == true
	only(input.OCI.Process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x10 in input.OCI.Process.Capabilities.Bounding {
		one_of_5(x10)
	}
	every x11 in input.OCI.Process.Capabilities.Effective {
		one_of_6(x11)
	}
	every x12 in input.OCI.Process.Capabilities.Permitted {
		one_of_7(x12)
	}
	only(input.OCI.Process.User, {"AdditionalGids", "GID", "UID"})
	input.OCI.Process.User.UID == 1000
	input.OCI.Process.User.GID == 2000
	every x13 in input.OCI.Process.User.AdditionalGids {
		one_of_8(x13)
	}
	only(input.OCI.Root, {"Path", "Readonly"})
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*/rootfs|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", input.OCI.Root.Path)
	input.OCI.Root.Readonly == true
}

# Container prepare.
CreateContainerRequest if {
	only(input, {"OCI", "container_id", "exec_id", "stderr_port", "stdout_port", "storages"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	every x14 in input.storages {
		one_of_9(x14)
	}
	only(input.OCI, {"Annotations", "Linux", "Mounts", "Process", "Root", "Version"})
	every x15 in input.OCI.Mounts {
		one_of_10(x15)
	}
	every x17, x16v in input.OCI.Annotations {
		x16 := concat("=", [x17, x16v])
		like("io\\.kubernetes\\.cri\\.container-type=container|io\\.kubernetes\\.cri\\.container-name=prepare|io\\.kubernetes\\.cri\\.image-name=(?:registry\\.test/tools:1)|io\\.kubernetes\\.cri\\.sandbox-id=[0-9A-Za-z][0-9A-Za-z_.-]*|io\\.kubernetes\\.cri\\.sandbox-name=web|io\\.kubernetes\\.cri\\.sandbox-namespace=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|io\\.kubernetes\\.cri\\.sandbox-uid=[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|io\\.kubernetes\\.cri\\.runtime-handler=[a-z0-9.-]*|io\\.katabuild\\.oci-extra=\\{(?:\"defaultErrnoRet\":[0-9]+,?)?(?:\"unified\":\\{(?:\"(?:memory|cpu|pids|io|hugetlb)\\.[a-z0-9_.]+\":\"[0-9a-z ]*\",?)*\\},?)?(?:\"cpuBurst\":[0-9]+,?)?(?:\"cpuIdle\":[0-9]+)?\\}|io\\.katacontainers\\.config\\.agent\\.policy=[A-Za-z0-9+/=]*", x16)
	}
	only(input.OCI.Linux, {"MaskedPaths", "Namespaces", "ReadonlyPaths", "Resources", "Seccomp"})
	every x18 in input.OCI.Linux.Namespaces {
		one_of_11(x18)
	}
	only(input.OCI.Linux.Resources, {"CPU", "HugepageLimits", "Memory", "Pids"})
	only(input.OCI.Linux.Seccomp, {"Architectures", "DefaultAction", "Flags", "Syscalls"})
	input.OCI.Linux.Seccomp.DefaultAction == "SCMP_ACT_ERRNO"
	only(input.OCI.Process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.OCI.Process.Args == ["sh","-c","echo prepared"]
	every x19 in input.OCI.Process.Env {
		like("HOSTNAME=webhost|PATH=/bin|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x19)
	}
	input.OCI.Process.Cwd == "/"
	input.OCI.Process.NoNewPrivileges == false
	only(input.OCI.Process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x20 in input.OCI.Process.Capabilities.Bounding {
		one_of_12(x20)
	}
	every x21 in input.OCI.Process.Capabilities.Effective {
		one_of_13(x21)
	}
	every x22 in input.OCI.Process.Capabilities.Permitted {
		one_of_14(x22)
	}
	only(input.OCI.Process.User, {"AdditionalGids", "GID", "UID"})
	input.OCI.Process.User.UID == 1000
	input.OCI.Process.User.GID == 2000
	every x23 in input.OCI.Process.User.AdditionalGids {
		one_of_15(x23)
	}
	only(input.OCI.Root, {"Path", "Readonly"})
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*/rootfs|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", input.OCI.Root.Path)
	input.OCI.Root.Readonly == false
}

default ExecProcessRequest := false

# A command in prepare.
ExecProcessRequest if {
	only(input, {"container_id", "exec_id", "process", "stderr_port", "stdout_port"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	only(input.process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.process.Args == ["toolbox","report"]
	every x24 in input.process.Env {
		like("HOSTNAME=webhost|PATH=/bin|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x24)
	}
	input.process.Cwd == "/"
	input.process.NoNewPrivileges == false
	only(input.process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x25 in input.process.Capabilities.Bounding {
		one_of_16(x25)
	}
	every x26 in input.process.Capabilities.Effective {
		one_of_17(x26)
	}
	every x27 in input.process.Capabilities.Permitted {
		one_of_18(x27)
	}
	only(input.process.User, {"AdditionalGids", "GID", "UID"})
	input.process.User.UID == 1000
	input.process.User.GID == 2000
	every x28 in input.process.User.AdditionalGids {
		one_of_19(x28)
	}
}

# Container server.
CreateContainerRequest if {
	only(input, {"OCI", "container_id", "exec_id", "stderr_port", "stdout_port", "storages"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	every x29 in input.storages {
		one_of_20(x29)
	}
	only(input.OCI, {"Annotations", "Linux", "Mounts", "Process", "Root", "Version"})
	every x30 in input.OCI.Mounts {
		one_of_21(x30)
	}
	every x32, x31v in input.OCI.Annotations {
		x31 := concat("=", [x32, x31v])
		like("io\\.kubernetes\\.cri\\.container-type=container|io\\.kubernetes\\.cri\\.container-name=server|io\\.kubernetes\\.cri\\.image-name=(?:registry\\.test/tools:1)|io\\.kubernetes\\.cri\\.sandbox-id=[0-9A-Za-z][0-9A-Za-z_.-]*|io\\.kubernetes\\.cri\\.sandbox-name=web|io\\.kubernetes\\.cri\\.sandbox-namespace=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|io\\.kubernetes\\.cri\\.sandbox-uid=[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|io\\.kubernetes\\.cri\\.runtime-handler=[a-z0-9.-]*|io\\.katabuild\\.oci-extra=\\{(?:\"defaultErrnoRet\":[0-9]+,?)?(?:\"unified\":\\{(?:\"(?:memory|cpu|pids|io|hugetlb)\\.[a-z0-9_.]+\":\"[0-9a-z ]*\",?)*\\},?)?(?:\"cpuBurst\":[0-9]+,?)?(?:\"cpuIdle\":[0-9]+)?\\}|io\\.katacontainers\\.config\\.agent\\.policy=[A-Za-z0-9+/=]*", x31)
	}
	only(input.OCI.Linux, {"MaskedPaths", "Namespaces", "ReadonlyPaths", "Resources", "RootfsPropagation", "Seccomp"})
	every x33 in input.OCI.Linux.Namespaces {
		one_of_22(x33)
	}
	like("rslave|rshared", input.OCI.Linux.RootfsPropagation)
	only(input.OCI.Linux.Resources, {"CPU", "HugepageLimits", "Memory", "Pids"})
	only(input.OCI.Linux.Seccomp, {"Architectures", "DefaultAction", "Flags", "Syscalls"})
	input.OCI.Linux.Seccomp.DefaultAction == "SCMP_ACT_ERRNO"
	only(input.OCI.Process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.OCI.Process.Args == ["sh","-c","exec toolbox pause","round node","$(SHAPE)","$(NOPE)"]
	every x34 in input.OCI.Process.Env {
		like("CPUS=(?:[0-9]+)|HOSTNAME=webhost|JOINED=round-(?:[0-9a-fA-F.:]+)-\\$\\(NOPE\\)|LABEL=web|NAME=web|NS=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|PATH=/bin|PLAIN=a b=c|POD_IP=(?:[0-9a-fA-F.:]+)|SHAPE=round|S_colour=green|S_not-a-name\\.x=y|S_shape=round|UID=(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})|WORD=xyzzy|node=node|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x34)
	}
	input.OCI.Process.Cwd == "/tmp"
	input.OCI.Process.NoNewPrivileges == true
	only(input.OCI.Process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x35 in input.OCI.Process.Capabilities.Bounding {
		one_of_23(x35)
	}
	every x36 in input.OCI.Process.Capabilities.Effective {
		one_of_24(x36)
	}
	every x37 in input.OCI.Process.Capabilities.Permitted {
		one_of_25(x37)
	}
	only(input.OCI.Process.User, {"AdditionalGids", "GID", "UID"})
	input.OCI.Process.User.UID == 1000
	input.OCI.Process.User.GID == 2000
	every x38 in input.OCI.Process.User.AdditionalGids {
		one_of_26(x38)
	}
	only(input.OCI.Root, {"Path", "Readonly"})
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*/rootfs|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", input.OCI.Root.Path)
	input.OCI.Root.Readonly == true
}

# A command in server.
ExecProcessRequest if {
	only(input, {"container_id", "exec_id", "process", "stderr_port", "stdout_port"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	only(input.process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.process.Args == ["toolbox","report"]
	every x39 in input.process.Env {
		like("CPUS=(?:[0-9]+)|HOSTNAME=webhost|JOINED=round-(?:[0-9a-fA-F.:]+)-\\$\\(NOPE\\)|LABEL=web|NAME=web|NS=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|PATH=/bin|PLAIN=a b=c|POD_IP=(?:[0-9a-fA-F.:]+)|SHAPE=round|S_colour=green|S_not-a-name\\.x=y|S_shape=round|UID=(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})|WORD=xyzzy|node=node|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x39)
	}
	input.process.Cwd == "/tmp"
	input.process.NoNewPrivileges == true
	only(input.process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x40 in input.process.Capabilities.Bounding {
		one_of_27(x40)
	}
	every x41 in input.process.Capabilities.Effective {
		one_of_28(x41)
	}
	every x42 in input.process.Capabilities.Permitted {
		one_of_29(x42)
	}
	only(input.process.User, {"AdditionalGids", "GID", "UID"})
	input.process.User.UID == 1000
	input.process.User.GID == 2000
	every x43 in input.process.User.AdditionalGids {
		one_of_30(x43)
	}
}

# A command in server.
ExecProcessRequest if {
	only(input, {"container_id", "exec_id", "process", "stderr_port", "stdout_port"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	only(input.process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.process.Args == ["test","-e","/disk"]
	every x44 in input.process.Env {
		like("CPUS=(?:[0-9]+)|HOSTNAME=webhost|JOINED=round-(?:[0-9a-fA-F.:]+)-\\$\\(NOPE\\)|LABEL=web|NAME=web|NS=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|PATH=/bin|PLAIN=a b=c|POD_IP=(?:[0-9a-fA-F.:]+)|SHAPE=round|S_colour=green|S_not-a-name\\.x=y|S_shape=round|UID=(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})|WORD=xyzzy|node=node|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x44)
	}
	input.process.Cwd == "/tmp"
	input.process.NoNewPrivileges == true
	only(input.process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x45 in input.process.Capabilities.Bounding {
		one_of_31(x45)
	}
	every x46 in input.process.Capabilities.Effective {
		one_of_32(x46)
	}
	every x47 in input.process.Capabilities.Permitted {
		one_of_33(x47)
	}
	only(input.process.User, {"AdditionalGids", "GID", "UID"})
	input.process.User.UID == 1000
	input.process.User.GID == 2000
	every x48 in input.process.User.AdditionalGids {
		one_of_34(x48)
	}
}

# A command in server.
ExecProcessRequest if {
	only(input, {"container_id", "exec_id", "process", "stderr_port", "stdout_port"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	only(input.process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.process.Args == ["sh","-c","echo begun"]
	every x49 in input.process.Env {
		like("CPUS=(?:[0-9]+)|HOSTNAME=webhost|JOINED=round-(?:[0-9a-fA-F.:]+)-\\$\\(NOPE\\)|LABEL=web|NAME=web|NS=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|PATH=/bin|PLAIN=a b=c|POD_IP=(?:[0-9a-fA-F.:]+)|SHAPE=round|S_colour=green|S_not-a-name\\.x=y|S_shape=round|UID=(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})|WORD=xyzzy|node=node|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x49)
	}
	input.process.Cwd == "/tmp"
	input.process.NoNewPrivileges == true
	only(input.process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x50 in input.process.Capabilities.Bounding {
		one_of_35(x50)
	}
	every x51 in input.process.Capabilities.Effective {
		one_of_36(x51)
	}
	every x52 in input.process.Capabilities.Permitted {
		one_of_37(x52)
	}
	only(input.process.User, {"AdditionalGids", "GID", "UID"})
	input.process.User.UID == 1000
	input.process.User.GID == 2000
	every x53 in input.process.User.AdditionalGids {
		one_of_38(x53)
	}
}

# A command in server.
ExecProcessRequest if {
	only(input, {"container_id", "exec_id", "process", "stderr_port", "stdout_port"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	only(input.process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.process.Args == ["sh","-c","echo ending"]
	every x54 in input.process.Env {
		like("CPUS=(?:[0-9]+)|HOSTNAME=webhost|JOINED=round-(?:[0-9a-fA-F.:]+)-\\$\\(NOPE\\)|LABEL=web|NAME=web|NS=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|PATH=/bin|PLAIN=a b=c|POD_IP=(?:[0-9a-fA-F.:]+)|SHAPE=round|S_colour=green|S_not-a-name\\.x=y|S_shape=round|UID=(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})|WORD=xyzzy|node=node|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x54)
	}
	input.process.Cwd == "/tmp"
	input.process.NoNewPrivileges == true
	only(input.process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x55 in input.process.Capabilities.Bounding {
		one_of_39(x55)
	}
	every x56 in input.process.Capabilities.Effective {
		one_of_40(x56)
	}
	every x57 in input.process.Capabilities.Permitted {
		one_of_41(x57)
	}
	only(input.process.User, {"AdditionalGids", "GID", "UID"})
	input.process.User.UID == 1000
	input.process.User.GID == 2000
	every x58 in input.process.User.AdditionalGids {
		one_of_42(x58)
	}
}

# Container free.
CreateContainerRequest if {
	only(input, {"OCI", "container_id", "exec_id", "stderr_port", "stdin_port", "stdout_port", "storages"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	every x59 in input.storages {
		one_of_43(x59)
	}
	only(input.OCI, {"Annotations", "Linux", "Mounts", "Process", "Root", "Version"})
	every x60 in input.OCI.Mounts {
		one_of_44(x60)
	}
	every x62, x61v in input.OCI.Annotations {
		x61 := concat("=", [x62, x61v])
		like("io\\.kubernetes\\.cri\\.container-type=container|io\\.kubernetes\\.cri\\.container-name=free|io\\.kubernetes\\.cri\\.image-name=(?:registry\\.test/tools:1)|io\\.kubernetes\\.cri\\.sandbox-id=[0-9A-Za-z][0-9A-Za-z_.-]*|io\\.kubernetes\\.cri\\.sandbox-name=web|io\\.kubernetes\\.cri\\.sandbox-namespace=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|io\\.kubernetes\\.cri\\.sandbox-uid=[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|io\\.kubernetes\\.cri\\.runtime-handler=[a-z0-9.-]*|io\\.katabuild\\.oci-extra=\\{(?:\"defaultErrnoRet\":[0-9]+,?)?(?:\"unified\":\\{(?:\"(?:memory|cpu|pids|io|hugetlb)\\.[a-z0-9_.]+\":\"[0-9a-z ]*\",?)*\\},?)?(?:\"cpuBurst\":[0-9]+,?)?(?:\"cpuIdle\":[0-9]+)?\\}|io\\.katacontainers\\.config\\.agent\\.policy=[A-Za-z0-9+/=]*", x61)
	}
	only(input.OCI.Linux, {"MaskedPaths", "Namespaces", "ReadonlyPaths", "Resources"})
	every x63 in input.OCI.Linux.Namespaces {
		one_of_45(x63)
	}
	only(input.OCI.Linux.Resources, {"CPU", "Devices", "HugepageLimits", "Memory", "Pids"})
	every x64 in input.OCI.Linux.Resources.Devices {
		one_of_46(x64)
	}
	only(input.OCI.Process, {"Args", "Capabilities", "ConsoleSize", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "Terminal", "User"})
	input.OCI.Process.Args == ["sh","-c","exec toolbox pause"]
	every x65 in input.OCI.Process.Env {
		like("HOSTNAME=webhost|PATH=/bin|TERM=xterm|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x65)
	}
	input.OCI.Process.Cwd == "/"
	input.OCI.Process.NoNewPrivileges == false
	only(input.OCI.Process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x66 in input.OCI.Process.Capabilities.Bounding {
		one_of_47(x66)
	}
	every x67 in input.OCI.Process.Capabilities.Effective {
		one_of_48(x67)
	}
	every x68 in input.OCI.Process.Capabilities.Permitted {
		one_of_49(x68)
	}
	only(input.OCI.Process.User, {"AdditionalGids", "GID", "UID"})
	input.OCI.Process.User.UID == 0
	input.OCI.Process.User.GID == 2000
	every x69 in input.OCI.Process.User.AdditionalGids {
		one_of_50(x69)
	}
	only(input.OCI.Root, {"Path", "Readonly"})
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*/rootfs|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", input.OCI.Root.Path)
	input.OCI.Root.Readonly == false
}

# A command in free.
ExecProcessRequest if {
	only(input, {"container_id", "exec_id", "process", "stderr_port", "stdout_port"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	only(input.process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.process.Args == ["toolbox","report"]
	every x70 in input.process.Env {
		like("HOSTNAME=webhost|PATH=/bin|TERM=xterm|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x70)
	}
	input.process.Cwd == "/"
	input.process.NoNewPrivileges == false
	only(input.process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x71 in input.process.Capabilities.Bounding {
		one_of_51(x71)
	}
	every x72 in input.process.Capabilities.Effective {
		one_of_52(x72)
	}
	every x73 in input.process.Capabilities.Permitted {
		one_of_53(x73)
	}
	only(input.process.User, {"AdditionalGids", "GID", "UID"})
	input.process.User.UID == 0
	input.process.User.GID == 2000
	every x74 in input.process.User.AdditionalGids {
		one_of_54(x74)
	}
}

# Container imaged.
CreateContainerRequest if {
	only(input, {"OCI", "container_id", "exec_id", "stderr_port", "stdout_port", "storages"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	every x75 in input.storages {
		one_of_55(x75)
	}
	only(input.OCI, {"Annotations", "Linux", "Mounts", "Process", "Root", "Version"})
	every x76 in input.OCI.Mounts {
		one_of_56(x76)
	}
	every x78, x77v in input.OCI.Annotations {
		x77 := concat("=", [x78, x77v])
		like("io\\.kubernetes\\.cri\\.container-type=container|io\\.kubernetes\\.cri\\.container-name=imaged|io\\.kubernetes\\.cri\\.image-name=(?:registry\\.test/user:1)|io\\.kubernetes\\.cri\\.sandbox-id=[0-9A-Za-z][0-9A-Za-z_.-]*|io\\.kubernetes\\.cri\\.sandbox-name=web|io\\.kubernetes\\.cri\\.sandbox-namespace=(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|io\\.kubernetes\\.cri\\.sandbox-uid=[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|io\\.kubernetes\\.cri\\.runtime-handler=[a-z0-9.-]*|io\\.katabuild\\.oci-extra=\\{(?:\"defaultErrnoRet\":[0-9]+,?)?(?:\"unified\":\\{(?:\"(?:memory|cpu|pids|io|hugetlb)\\.[a-z0-9_.]+\":\"[0-9a-z ]*\",?)*\\},?)?(?:\"cpuBurst\":[0-9]+,?)?(?:\"cpuIdle\":[0-9]+)?\\}|io\\.katacontainers\\.config\\.agent\\.policy=[A-Za-z0-9+/=]*", x77)
	}
	only(input.OCI.Linux, {"MaskedPaths", "Namespaces", "ReadonlyPaths", "Resources"})
	every x79 in input.OCI.Linux.Namespaces {
		one_of_57(x79)
	}
	only(input.OCI.Linux.Resources, {"CPU", "HugepageLimits", "Memory", "Pids"})
	only(input.OCI.Process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.OCI.Process.Args == ["/bin/toolbox","self"]
	every x80 in input.OCI.Process.Env {
		like("COLOUR=green|HOSTNAME=webhost|PATH=/bin|SHAPE=round|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x80)
	}
	input.OCI.Process.Cwd == "/home/worker"
	input.OCI.Process.NoNewPrivileges == false
	only(input.OCI.Process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x81 in input.OCI.Process.Capabilities.Bounding {
		one_of_58(x81)
	}
	every x82 in input.OCI.Process.Capabilities.Effective {
		one_of_59(x82)
	}
	every x83 in input.OCI.Process.Capabilities.Permitted {
		one_of_60(x83)
	}
	only(input.OCI.Process.User, {"AdditionalGids", "GID", "UID"})
	input.OCI.Process.User.UID == 1000
	input.OCI.Process.User.GID == 2000
	every x84 in input.OCI.Process.User.AdditionalGids {
		one_of_61(x84)
	}
	only(input.OCI.Root, {"Path", "Readonly"})
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*/rootfs|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", input.OCI.Root.Path)
	input.OCI.Root.Readonly == false
}

# A command in imaged.
ExecProcessRequest if {
	only(input, {"container_id", "exec_id", "process", "stderr_port", "stdout_port"})
	like("[0-9A-Za-z][0-9A-Za-z_.-]*", input.container_id)
	only(input.process, {"Args", "Capabilities", "Cwd", "Env", "NoNewPrivileges", "OOMScoreAdj", "User"})
	input.process.Args == ["toolbox","report"]
	every x85 in input.process.Env {
		like("COLOUR=green|HOSTNAME=webhost|PATH=/bin|SHAPE=round|[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9a-fA-F.:]+|[A-Z][A-Z0-9_]*_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|[A-Z][A-Z0-9_]*_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\\[\\]]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+|[A-Z][A-Z0-9_]*_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=[0-9a-fA-F.:]+", x85)
	}
	input.process.Cwd == "/home/worker"
	input.process.NoNewPrivileges == false
	only(input.process.Capabilities, {"Bounding", "Effective", "Permitted"})
	every x86 in input.process.Capabilities.Bounding {
		one_of_62(x86)
	}
	every x87 in input.process.Capabilities.Effective {
		one_of_63(x87)
	}
	every x88 in input.process.Capabilities.Permitted {
		one_of_64(x88)
	}
	only(input.process.User, {"AdditionalGids", "GID", "UID"})
	input.process.User.UID == 1000
	input.process.User.GID == 2000
	every x89 in input.process.User.AdditionalGids {
		one_of_65(x89)
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

default WriteStreamRequest := false

WriteStreamRequest := true

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
	every x90 in input.routes.Routes {
		like("|l|[^l].*|l[^o].*|lo.+", x90.device)
		like("|(?:[0-9]|[1-9][0-9]|1[013-9][0-9]|12[0-689]|2[0-9][0-9])\\.[0-9.]+(?:/[0-9]+)?|[2-9a-fA-F][0-9a-fA-F:]+(?:/[0-9]+)?", x90.source)
	}
}

default AddARPNeighborsRequest := false

AddARPNeighborsRequest if {
	every x91 in input.neighbors.ARPNeighbors {
		like("|l|[^l].*|l[^o].*|lo.+", x91.device)
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
	x.options == ["nosuid","noexec","nodev","rw"]
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
	x == 2000
}

one_of_9(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	x.driver == "watchable-bind"
	x.fstype == "bind"
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5}", x.source)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5}", x.mount_point)
	x.options == ["rbind","rprivate","ro"]
}

one_of_9(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "shared", "source"})
	x.driver == "local"
	x.source == "local"
	x.fstype == "local"
	x.mount_point == "/run/kata-containers/sandbox/local/disk"
	x.shared == true
	count(x.options) == 1
	like("mode=[0-7]+", x.options[0])
}

one_of_9(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "shared", "source"})
	x.driver == "local"
	x.source == "local"
	x.fstype == "local"
	x.mount_point == "/run/kata-containers/sandbox/local/disk"
	x.shared == true
	count(x.options) == 2
	like("mode=[0-7]+", x.options[0])
	like("fsgid=[0-9]+", x.options[1])
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

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/var/run/secrets/kubernetes.io/serviceaccount"
	x.type_ == "bind"
	like("(?:(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)kube-api-access-[a-z0-9]{5}|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5})", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/disk"
	x.type_ == "bind"
	x.source == "/run/kata-containers/sandbox/local/disk"
	x.options == ["rbind","rprivate","rw"]
}

one_of_10(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/disk"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)disk", x.source)
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
	x == 2000
}

one_of_15(x) if {
	x == 3000
}

one_of_15(x) if {
	x == 4000
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
	x == 2000
}

one_of_19(x) if {
	x == 3000
}

one_of_19(x) if {
	x == 4000
}

one_of_20(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	x.driver == "watchable-bind"
	x.fstype == "bind"
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5}", x.source)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5}", x.mount_point)
	x.options == ["rbind","rprivate","ro"]
}

one_of_20(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	x.driver == "watchable-bind"
	x.fstype == "bind"
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-settings", x.source)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-settings", x.mount_point)
	x.options == ["rbind","rprivate","ro"]
}

one_of_20(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	x.driver == "watchable-bind"
	x.fstype == "bind"
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-secret", x.source)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-secret", x.mount_point)
	x.options == ["rbind","rprivate","ro"]
}

one_of_20(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	x.driver == "watchable-bind"
	x.fstype == "bind"
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-about", x.source)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-about", x.mount_point)
	x.options == ["rbind","rprivate","ro"]
}

one_of_20(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "shared", "source"})
	x.driver == "local"
	x.source == "local"
	x.fstype == "local"
	x.mount_point == "/run/kata-containers/sandbox/local/disk"
	x.shared == true
	count(x.options) == 1
	like("mode=[0-7]+", x.options[0])
}

one_of_20(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "shared", "source"})
	x.driver == "local"
	x.source == "local"
	x.fstype == "local"
	x.mount_point == "/run/kata-containers/sandbox/local/disk"
	x.shared == true
	count(x.options) == 2
	like("mode=[0-7]+", x.options[0])
	like("fsgid=[0-9]+", x.options[1])
}

one_of_20(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "shared", "source"})
	x.driver == "ephemeral"
	x.source == "tmpfs"
	x.fstype == "tmpfs"
	x.mount_point == "/run/kata-containers/sandbox/ephemeral/memory"
	x.shared == true
	count(x.options) == 2
	like("size=[0-9]+", x.options[0])
	like("mode=[0-7]+", x.options[1])
}

one_of_20(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "shared", "source"})
	x.driver == "ephemeral"
	x.source == "tmpfs"
	x.fstype == "tmpfs"
	x.mount_point == "/run/kata-containers/sandbox/ephemeral/memory"
	x.shared == true
	count(x.options) == 3
	like("size=[0-9]+", x.options[0])
	like("mode=[0-7]+", x.options[1])
	like("fsgid=[0-9]+", x.options[2])
}

one_of_20(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	x.driver == "watchable-bind"
	x.fstype == "bind"
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-mixed", x.source)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-mixed", x.mount_point)
	x.options == ["rbind","rprivate","ro"]
}

one_of_20(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	like("blk|mmioblk", x.driver)
	like(".*", x.source)
	like("ext4|xfs|btrfs|erofs", x.fstype)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", x.mount_point)
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/proc"
	x.type_ == "proc"
	x.source == "proc"
	x.options == ["nosuid","noexec","nodev"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev"
	x.type_ == "tmpfs"
	x.source == "tmpfs"
	x.options == ["nosuid","strictatime","mode=755","size=65536k"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/pts"
	x.type_ == "devpts"
	x.source == "devpts"
	x.options == ["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/mqueue"
	x.type_ == "mqueue"
	x.source == "mqueue"
	x.options == ["nosuid","noexec","nodev"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/sys"
	x.type_ == "sysfs"
	x.source == "sysfs"
	x.options == ["nosuid","noexec","nodev","ro"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/shm"
	x.type_ == "bind"
	x.source == "/run/kata-containers/sandbox/shm"
	x.options == ["rbind"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/sys/fs/cgroup"
	x.type_ == "cgroup"
	x.source == "cgroup"
	x.options == ["nosuid","noexec","nodev","relatime","ro"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/hosts"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)etc-hosts", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/termination-log"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)[0-9a-f]+", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/hostname"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)hostname", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/resolv.conf"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)resolv\\.conf", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/var/run/secrets/kubernetes.io/serviceaccount"
	x.type_ == "bind"
	like("(?:(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)kube-api-access-[a-z0-9]{5}|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5})", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/settings"
	x.type_ == "bind"
	like("(?:(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)settings|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-settings)", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/one/colour"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)[0-9]+", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/secret"
	x.type_ == "bind"
	like("(?:(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)secret|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-secret)", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/about"
	x.type_ == "bind"
	like("(?:(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)about|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-about)", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/disk"
	x.type_ == "bind"
	x.source == "/run/kata-containers/sandbox/local/disk"
	x.options == ["rbind","rprivate","rw"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/disk"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)disk", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/memory"
	x.type_ == "bind"
	x.source == "/run/kata-containers/sandbox/ephemeral/memory"
	x.options == ["rbind","rprivate","rw"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/memory"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)memory", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/hostdir"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)data", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/hostdir"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)data", x.source)
	x.options == ["rbind","rprivate","ro","x-katabuild.foreign-locks"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/hostprop"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)data", x.source)
	x.options == ["rbind","rslave","rw"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/hostprop"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)data", x.source)
	x.options == ["rbind","rslave","rw","x-katabuild.foreign-locks"]
}

one_of_21(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/mixed"
	x.type_ == "bind"
	like("(?:(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)mixed|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-mixed)", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_22(x) if {
	only(x, {"Type"})
	x.Type == "ipc"
}

one_of_22(x) if {
	only(x, {"Type"})
	x.Type == "uts"
}

one_of_22(x) if {
	only(x, {"Type"})
	x.Type == "mount"
}

one_of_23(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_24(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_25(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_26(x) if {
	x == 2000
}

one_of_26(x) if {
	x == 3000
}

one_of_26(x) if {
	x == 4000
}

one_of_27(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_28(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_29(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_30(x) if {
	x == 2000
}

one_of_30(x) if {
	x == 3000
}

one_of_30(x) if {
	x == 4000
}

one_of_31(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_32(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_33(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_34(x) if {
	x == 2000
}

one_of_34(x) if {
	x == 3000
}

one_of_34(x) if {
	x == 4000
}

one_of_35(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_36(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_37(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_38(x) if {
	x == 2000
}

one_of_38(x) if {
	x == 3000
}

one_of_38(x) if {
	x == 4000
}

one_of_39(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_40(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_41(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_42(x) if {
	x == 2000
}

one_of_42(x) if {
	x == 3000
}

one_of_42(x) if {
	x == 4000
}

one_of_43(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	x.driver == "watchable-bind"
	x.fstype == "bind"
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5}", x.source)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5}", x.mount_point)
	x.options == ["rbind","rprivate","ro"]
}

one_of_43(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	like("blk|mmioblk", x.driver)
	like(".*", x.source)
	like("ext4|xfs|btrfs|erofs", x.fstype)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", x.mount_point)
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/proc"
	x.type_ == "proc"
	x.source == "proc"
	x.options == ["nosuid","noexec","nodev"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev"
	x.type_ == "tmpfs"
	x.source == "tmpfs"
	x.options == ["nosuid","strictatime","mode=755","size=65536k"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/pts"
	x.type_ == "devpts"
	x.source == "devpts"
	x.options == ["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/mqueue"
	x.type_ == "mqueue"
	x.source == "mqueue"
	x.options == ["nosuid","noexec","nodev"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/sys"
	x.type_ == "sysfs"
	x.source == "sysfs"
	x.options == ["nosuid","noexec","nodev","rw"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/shm"
	x.type_ == "bind"
	x.source == "/run/kata-containers/sandbox/shm"
	x.options == ["rbind"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/sys/fs/cgroup"
	x.type_ == "cgroup"
	x.source == "cgroup"
	x.options == ["nosuid","noexec","nodev","relatime","rw"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/hosts"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)etc-hosts", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/termination-log"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)[0-9a-f]+", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/hostname"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)hostname", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/resolv.conf"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)resolv\\.conf", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_44(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/var/run/secrets/kubernetes.io/serviceaccount"
	x.type_ == "bind"
	like("(?:(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)kube-api-access-[a-z0-9]{5}|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5})", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_45(x) if {
	only(x, {"Type"})
	x.Type == "ipc"
}

one_of_45(x) if {
	only(x, {"Type"})
	x.Type == "uts"
}

one_of_45(x) if {
	only(x, {"Type"})
	x.Type == "mount"
}

one_of_46(x) if {
	only(x, {"Access", "Allow", "Major", "Minor", "Type"})
	x.Allow == true
	x.Type == "a"
	x.Major == -1
	x.Minor == -1
	x.Access == "rwm"
}

one_of_47(x) if {
	x == "CAP_AUDIT_CONTROL"
}

one_of_47(x) if {
	x == "CAP_AUDIT_READ"
}

one_of_47(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_47(x) if {
	x == "CAP_BLOCK_SUSPEND"
}

one_of_47(x) if {
	x == "CAP_BPF"
}

one_of_47(x) if {
	x == "CAP_CHECKPOINT_RESTORE"
}

one_of_47(x) if {
	x == "CAP_CHOWN"
}

one_of_47(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_47(x) if {
	x == "CAP_DAC_READ_SEARCH"
}

one_of_47(x) if {
	x == "CAP_FOWNER"
}

one_of_47(x) if {
	x == "CAP_FSETID"
}

one_of_47(x) if {
	x == "CAP_IPC_LOCK"
}

one_of_47(x) if {
	x == "CAP_IPC_OWNER"
}

one_of_47(x) if {
	x == "CAP_KILL"
}

one_of_47(x) if {
	x == "CAP_LEASE"
}

one_of_47(x) if {
	x == "CAP_LINUX_IMMUTABLE"
}

one_of_47(x) if {
	x == "CAP_MAC_ADMIN"
}

one_of_47(x) if {
	x == "CAP_MAC_OVERRIDE"
}

one_of_47(x) if {
	x == "CAP_MKNOD"
}

one_of_47(x) if {
	x == "CAP_NET_ADMIN"
}

one_of_47(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_47(x) if {
	x == "CAP_NET_BROADCAST"
}

one_of_47(x) if {
	x == "CAP_NET_RAW"
}

one_of_47(x) if {
	x == "CAP_PERFMON"
}

one_of_47(x) if {
	x == "CAP_SETFCAP"
}

one_of_47(x) if {
	x == "CAP_SETGID"
}

one_of_47(x) if {
	x == "CAP_SETPCAP"
}

one_of_47(x) if {
	x == "CAP_SETUID"
}

one_of_47(x) if {
	x == "CAP_SYSLOG"
}

one_of_47(x) if {
	x == "CAP_SYS_ADMIN"
}

one_of_47(x) if {
	x == "CAP_SYS_BOOT"
}

one_of_47(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_47(x) if {
	x == "CAP_SYS_MODULE"
}

one_of_47(x) if {
	x == "CAP_SYS_NICE"
}

one_of_47(x) if {
	x == "CAP_SYS_PACCT"
}

one_of_47(x) if {
	x == "CAP_SYS_PTRACE"
}

one_of_47(x) if {
	x == "CAP_SYS_RAWIO"
}

one_of_47(x) if {
	x == "CAP_SYS_RESOURCE"
}

one_of_47(x) if {
	x == "CAP_SYS_TIME"
}

one_of_47(x) if {
	x == "CAP_SYS_TTY_CONFIG"
}

one_of_47(x) if {
	x == "CAP_WAKE_ALARM"
}

one_of_48(x) if {
	x == "CAP_AUDIT_CONTROL"
}

one_of_48(x) if {
	x == "CAP_AUDIT_READ"
}

one_of_48(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_48(x) if {
	x == "CAP_BLOCK_SUSPEND"
}

one_of_48(x) if {
	x == "CAP_BPF"
}

one_of_48(x) if {
	x == "CAP_CHECKPOINT_RESTORE"
}

one_of_48(x) if {
	x == "CAP_CHOWN"
}

one_of_48(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_48(x) if {
	x == "CAP_DAC_READ_SEARCH"
}

one_of_48(x) if {
	x == "CAP_FOWNER"
}

one_of_48(x) if {
	x == "CAP_FSETID"
}

one_of_48(x) if {
	x == "CAP_IPC_LOCK"
}

one_of_48(x) if {
	x == "CAP_IPC_OWNER"
}

one_of_48(x) if {
	x == "CAP_KILL"
}

one_of_48(x) if {
	x == "CAP_LEASE"
}

one_of_48(x) if {
	x == "CAP_LINUX_IMMUTABLE"
}

one_of_48(x) if {
	x == "CAP_MAC_ADMIN"
}

one_of_48(x) if {
	x == "CAP_MAC_OVERRIDE"
}

one_of_48(x) if {
	x == "CAP_MKNOD"
}

one_of_48(x) if {
	x == "CAP_NET_ADMIN"
}

one_of_48(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_48(x) if {
	x == "CAP_NET_BROADCAST"
}

one_of_48(x) if {
	x == "CAP_NET_RAW"
}

one_of_48(x) if {
	x == "CAP_PERFMON"
}

one_of_48(x) if {
	x == "CAP_SETFCAP"
}

one_of_48(x) if {
	x == "CAP_SETGID"
}

one_of_48(x) if {
	x == "CAP_SETPCAP"
}

one_of_48(x) if {
	x == "CAP_SETUID"
}

one_of_48(x) if {
	x == "CAP_SYSLOG"
}

one_of_48(x) if {
	x == "CAP_SYS_ADMIN"
}

one_of_48(x) if {
	x == "CAP_SYS_BOOT"
}

one_of_48(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_48(x) if {
	x == "CAP_SYS_MODULE"
}

one_of_48(x) if {
	x == "CAP_SYS_NICE"
}

one_of_48(x) if {
	x == "CAP_SYS_PACCT"
}

one_of_48(x) if {
	x == "CAP_SYS_PTRACE"
}

one_of_48(x) if {
	x == "CAP_SYS_RAWIO"
}

one_of_48(x) if {
	x == "CAP_SYS_RESOURCE"
}

one_of_48(x) if {
	x == "CAP_SYS_TIME"
}

one_of_48(x) if {
	x == "CAP_SYS_TTY_CONFIG"
}

one_of_48(x) if {
	x == "CAP_WAKE_ALARM"
}

one_of_49(x) if {
	x == "CAP_AUDIT_CONTROL"
}

one_of_49(x) if {
	x == "CAP_AUDIT_READ"
}

one_of_49(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_49(x) if {
	x == "CAP_BLOCK_SUSPEND"
}

one_of_49(x) if {
	x == "CAP_BPF"
}

one_of_49(x) if {
	x == "CAP_CHECKPOINT_RESTORE"
}

one_of_49(x) if {
	x == "CAP_CHOWN"
}

one_of_49(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_49(x) if {
	x == "CAP_DAC_READ_SEARCH"
}

one_of_49(x) if {
	x == "CAP_FOWNER"
}

one_of_49(x) if {
	x == "CAP_FSETID"
}

one_of_49(x) if {
	x == "CAP_IPC_LOCK"
}

one_of_49(x) if {
	x == "CAP_IPC_OWNER"
}

one_of_49(x) if {
	x == "CAP_KILL"
}

one_of_49(x) if {
	x == "CAP_LEASE"
}

one_of_49(x) if {
	x == "CAP_LINUX_IMMUTABLE"
}

one_of_49(x) if {
	x == "CAP_MAC_ADMIN"
}

one_of_49(x) if {
	x == "CAP_MAC_OVERRIDE"
}

one_of_49(x) if {
	x == "CAP_MKNOD"
}

one_of_49(x) if {
	x == "CAP_NET_ADMIN"
}

one_of_49(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_49(x) if {
	x == "CAP_NET_BROADCAST"
}

one_of_49(x) if {
	x == "CAP_NET_RAW"
}

one_of_49(x) if {
	x == "CAP_PERFMON"
}

one_of_49(x) if {
	x == "CAP_SETFCAP"
}

one_of_49(x) if {
	x == "CAP_SETGID"
}

one_of_49(x) if {
	x == "CAP_SETPCAP"
}

one_of_49(x) if {
	x == "CAP_SETUID"
}

one_of_49(x) if {
	x == "CAP_SYSLOG"
}

one_of_49(x) if {
	x == "CAP_SYS_ADMIN"
}

one_of_49(x) if {
	x == "CAP_SYS_BOOT"
}

one_of_49(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_49(x) if {
	x == "CAP_SYS_MODULE"
}

one_of_49(x) if {
	x == "CAP_SYS_NICE"
}

one_of_49(x) if {
	x == "CAP_SYS_PACCT"
}

one_of_49(x) if {
	x == "CAP_SYS_PTRACE"
}

one_of_49(x) if {
	x == "CAP_SYS_RAWIO"
}

one_of_49(x) if {
	x == "CAP_SYS_RESOURCE"
}

one_of_49(x) if {
	x == "CAP_SYS_TIME"
}

one_of_49(x) if {
	x == "CAP_SYS_TTY_CONFIG"
}

one_of_49(x) if {
	x == "CAP_WAKE_ALARM"
}

one_of_50(x) if {
	x == 2000
}

one_of_50(x) if {
	x == 3000
}

one_of_50(x) if {
	x == 4000
}

one_of_51(x) if {
	x == "CAP_AUDIT_CONTROL"
}

one_of_51(x) if {
	x == "CAP_AUDIT_READ"
}

one_of_51(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_51(x) if {
	x == "CAP_BLOCK_SUSPEND"
}

one_of_51(x) if {
	x == "CAP_BPF"
}

one_of_51(x) if {
	x == "CAP_CHECKPOINT_RESTORE"
}

one_of_51(x) if {
	x == "CAP_CHOWN"
}

one_of_51(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_51(x) if {
	x == "CAP_DAC_READ_SEARCH"
}

one_of_51(x) if {
	x == "CAP_FOWNER"
}

one_of_51(x) if {
	x == "CAP_FSETID"
}

one_of_51(x) if {
	x == "CAP_IPC_LOCK"
}

one_of_51(x) if {
	x == "CAP_IPC_OWNER"
}

one_of_51(x) if {
	x == "CAP_KILL"
}

one_of_51(x) if {
	x == "CAP_LEASE"
}

one_of_51(x) if {
	x == "CAP_LINUX_IMMUTABLE"
}

one_of_51(x) if {
	x == "CAP_MAC_ADMIN"
}

one_of_51(x) if {
	x == "CAP_MAC_OVERRIDE"
}

one_of_51(x) if {
	x == "CAP_MKNOD"
}

one_of_51(x) if {
	x == "CAP_NET_ADMIN"
}

one_of_51(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_51(x) if {
	x == "CAP_NET_BROADCAST"
}

one_of_51(x) if {
	x == "CAP_NET_RAW"
}

one_of_51(x) if {
	x == "CAP_PERFMON"
}

one_of_51(x) if {
	x == "CAP_SETFCAP"
}

one_of_51(x) if {
	x == "CAP_SETGID"
}

one_of_51(x) if {
	x == "CAP_SETPCAP"
}

one_of_51(x) if {
	x == "CAP_SETUID"
}

one_of_51(x) if {
	x == "CAP_SYSLOG"
}

one_of_51(x) if {
	x == "CAP_SYS_ADMIN"
}

one_of_51(x) if {
	x == "CAP_SYS_BOOT"
}

one_of_51(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_51(x) if {
	x == "CAP_SYS_MODULE"
}

one_of_51(x) if {
	x == "CAP_SYS_NICE"
}

one_of_51(x) if {
	x == "CAP_SYS_PACCT"
}

one_of_51(x) if {
	x == "CAP_SYS_PTRACE"
}

one_of_51(x) if {
	x == "CAP_SYS_RAWIO"
}

one_of_51(x) if {
	x == "CAP_SYS_RESOURCE"
}

one_of_51(x) if {
	x == "CAP_SYS_TIME"
}

one_of_51(x) if {
	x == "CAP_SYS_TTY_CONFIG"
}

one_of_51(x) if {
	x == "CAP_WAKE_ALARM"
}

one_of_52(x) if {
	x == "CAP_AUDIT_CONTROL"
}

one_of_52(x) if {
	x == "CAP_AUDIT_READ"
}

one_of_52(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_52(x) if {
	x == "CAP_BLOCK_SUSPEND"
}

one_of_52(x) if {
	x == "CAP_BPF"
}

one_of_52(x) if {
	x == "CAP_CHECKPOINT_RESTORE"
}

one_of_52(x) if {
	x == "CAP_CHOWN"
}

one_of_52(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_52(x) if {
	x == "CAP_DAC_READ_SEARCH"
}

one_of_52(x) if {
	x == "CAP_FOWNER"
}

one_of_52(x) if {
	x == "CAP_FSETID"
}

one_of_52(x) if {
	x == "CAP_IPC_LOCK"
}

one_of_52(x) if {
	x == "CAP_IPC_OWNER"
}

one_of_52(x) if {
	x == "CAP_KILL"
}

one_of_52(x) if {
	x == "CAP_LEASE"
}

one_of_52(x) if {
	x == "CAP_LINUX_IMMUTABLE"
}

one_of_52(x) if {
	x == "CAP_MAC_ADMIN"
}

one_of_52(x) if {
	x == "CAP_MAC_OVERRIDE"
}

one_of_52(x) if {
	x == "CAP_MKNOD"
}

one_of_52(x) if {
	x == "CAP_NET_ADMIN"
}

one_of_52(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_52(x) if {
	x == "CAP_NET_BROADCAST"
}

one_of_52(x) if {
	x == "CAP_NET_RAW"
}

one_of_52(x) if {
	x == "CAP_PERFMON"
}

one_of_52(x) if {
	x == "CAP_SETFCAP"
}

one_of_52(x) if {
	x == "CAP_SETGID"
}

one_of_52(x) if {
	x == "CAP_SETPCAP"
}

one_of_52(x) if {
	x == "CAP_SETUID"
}

one_of_52(x) if {
	x == "CAP_SYSLOG"
}

one_of_52(x) if {
	x == "CAP_SYS_ADMIN"
}

one_of_52(x) if {
	x == "CAP_SYS_BOOT"
}

one_of_52(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_52(x) if {
	x == "CAP_SYS_MODULE"
}

one_of_52(x) if {
	x == "CAP_SYS_NICE"
}

one_of_52(x) if {
	x == "CAP_SYS_PACCT"
}

one_of_52(x) if {
	x == "CAP_SYS_PTRACE"
}

one_of_52(x) if {
	x == "CAP_SYS_RAWIO"
}

one_of_52(x) if {
	x == "CAP_SYS_RESOURCE"
}

one_of_52(x) if {
	x == "CAP_SYS_TIME"
}

one_of_52(x) if {
	x == "CAP_SYS_TTY_CONFIG"
}

one_of_52(x) if {
	x == "CAP_WAKE_ALARM"
}

one_of_53(x) if {
	x == "CAP_AUDIT_CONTROL"
}

one_of_53(x) if {
	x == "CAP_AUDIT_READ"
}

one_of_53(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_53(x) if {
	x == "CAP_BLOCK_SUSPEND"
}

one_of_53(x) if {
	x == "CAP_BPF"
}

one_of_53(x) if {
	x == "CAP_CHECKPOINT_RESTORE"
}

one_of_53(x) if {
	x == "CAP_CHOWN"
}

one_of_53(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_53(x) if {
	x == "CAP_DAC_READ_SEARCH"
}

one_of_53(x) if {
	x == "CAP_FOWNER"
}

one_of_53(x) if {
	x == "CAP_FSETID"
}

one_of_53(x) if {
	x == "CAP_IPC_LOCK"
}

one_of_53(x) if {
	x == "CAP_IPC_OWNER"
}

one_of_53(x) if {
	x == "CAP_KILL"
}

one_of_53(x) if {
	x == "CAP_LEASE"
}

one_of_53(x) if {
	x == "CAP_LINUX_IMMUTABLE"
}

one_of_53(x) if {
	x == "CAP_MAC_ADMIN"
}

one_of_53(x) if {
	x == "CAP_MAC_OVERRIDE"
}

one_of_53(x) if {
	x == "CAP_MKNOD"
}

one_of_53(x) if {
	x == "CAP_NET_ADMIN"
}

one_of_53(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_53(x) if {
	x == "CAP_NET_BROADCAST"
}

one_of_53(x) if {
	x == "CAP_NET_RAW"
}

one_of_53(x) if {
	x == "CAP_PERFMON"
}

one_of_53(x) if {
	x == "CAP_SETFCAP"
}

one_of_53(x) if {
	x == "CAP_SETGID"
}

one_of_53(x) if {
	x == "CAP_SETPCAP"
}

one_of_53(x) if {
	x == "CAP_SETUID"
}

one_of_53(x) if {
	x == "CAP_SYSLOG"
}

one_of_53(x) if {
	x == "CAP_SYS_ADMIN"
}

one_of_53(x) if {
	x == "CAP_SYS_BOOT"
}

one_of_53(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_53(x) if {
	x == "CAP_SYS_MODULE"
}

one_of_53(x) if {
	x == "CAP_SYS_NICE"
}

one_of_53(x) if {
	x == "CAP_SYS_PACCT"
}

one_of_53(x) if {
	x == "CAP_SYS_PTRACE"
}

one_of_53(x) if {
	x == "CAP_SYS_RAWIO"
}

one_of_53(x) if {
	x == "CAP_SYS_RESOURCE"
}

one_of_53(x) if {
	x == "CAP_SYS_TIME"
}

one_of_53(x) if {
	x == "CAP_SYS_TTY_CONFIG"
}

one_of_53(x) if {
	x == "CAP_WAKE_ALARM"
}

one_of_54(x) if {
	x == 2000
}

one_of_54(x) if {
	x == 3000
}

one_of_54(x) if {
	x == 4000
}

one_of_55(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	x.driver == "watchable-bind"
	x.fstype == "bind"
	like("/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5}", x.source)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5}", x.mount_point)
	x.options == ["rbind","rprivate","ro"]
}

one_of_55(x) if {
	only(x, {"driver", "fstype", "mount_point", "options", "source"})
	like("blk|mmioblk", x.driver)
	like(".*", x.source)
	like("ext4|xfs|btrfs|erofs", x.fstype)
	like("/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/disk", x.mount_point)
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/proc"
	x.type_ == "proc"
	x.source == "proc"
	x.options == ["nosuid","noexec","nodev"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev"
	x.type_ == "tmpfs"
	x.source == "tmpfs"
	x.options == ["nosuid","strictatime","mode=755","size=65536k"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/pts"
	x.type_ == "devpts"
	x.source == "devpts"
	x.options == ["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/mqueue"
	x.type_ == "mqueue"
	x.source == "mqueue"
	x.options == ["nosuid","noexec","nodev"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/sys"
	x.type_ == "sysfs"
	x.source == "sysfs"
	x.options == ["nosuid","noexec","nodev","ro"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/shm"
	x.type_ == "bind"
	x.source == "/run/kata-containers/sandbox/shm"
	x.options == ["rbind"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/sys/fs/cgroup"
	x.type_ == "cgroup"
	x.source == "cgroup"
	x.options == ["nosuid","noexec","nodev","relatime","ro"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/hosts"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)etc-hosts", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/dev/termination-log"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)[0-9a-f]+", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/hostname"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)hostname", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/etc/resolv.conf"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)resolv\\.conf", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/var/run/secrets/kubernetes.io/serviceaccount"
	x.type_ == "bind"
	like("(?:(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)kube-api-access-[a-z0-9]{5}|/run/kata-containers/[0-9A-Za-z][0-9A-Za-z_.-]*/watchable/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-kube-api-access-[a-z0-9]{5})", x.source)
	x.options == ["rbind","rprivate","ro"]
}

one_of_56(x) if {
	only(x, {"destination", "options", "source", "type_"})
	x.destination == "/data"
	x.type_ == "bind"
	like("(?:/run/kata-containers/shared/containers/[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9a-f]{8}-|/run/kata-containers/shared/containers/copied-[0-9a-f]{16}-)[0-9a-f]{64}", x.source)
	x.options == ["rbind","rprivate","rw"]
}

one_of_57(x) if {
	only(x, {"Type"})
	x.Type == "ipc"
}

one_of_57(x) if {
	only(x, {"Type"})
	x.Type == "uts"
}

one_of_57(x) if {
	only(x, {"Type"})
	x.Type == "mount"
}

one_of_58(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_58(x) if {
	x == "CAP_CHOWN"
}

one_of_58(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_58(x) if {
	x == "CAP_FOWNER"
}

one_of_58(x) if {
	x == "CAP_FSETID"
}

one_of_58(x) if {
	x == "CAP_KILL"
}

one_of_58(x) if {
	x == "CAP_MKNOD"
}

one_of_58(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_58(x) if {
	x == "CAP_NET_RAW"
}

one_of_58(x) if {
	x == "CAP_SETFCAP"
}

one_of_58(x) if {
	x == "CAP_SETGID"
}

one_of_58(x) if {
	x == "CAP_SETPCAP"
}

one_of_58(x) if {
	x == "CAP_SETUID"
}

one_of_58(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_59(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_59(x) if {
	x == "CAP_CHOWN"
}

one_of_59(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_59(x) if {
	x == "CAP_FOWNER"
}

one_of_59(x) if {
	x == "CAP_FSETID"
}

one_of_59(x) if {
	x == "CAP_KILL"
}

one_of_59(x) if {
	x == "CAP_MKNOD"
}

one_of_59(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_59(x) if {
	x == "CAP_NET_RAW"
}

one_of_59(x) if {
	x == "CAP_SETFCAP"
}

one_of_59(x) if {
	x == "CAP_SETGID"
}

one_of_59(x) if {
	x == "CAP_SETPCAP"
}

one_of_59(x) if {
	x == "CAP_SETUID"
}

one_of_59(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_60(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_60(x) if {
	x == "CAP_CHOWN"
}

one_of_60(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_60(x) if {
	x == "CAP_FOWNER"
}

one_of_60(x) if {
	x == "CAP_FSETID"
}

one_of_60(x) if {
	x == "CAP_KILL"
}

one_of_60(x) if {
	x == "CAP_MKNOD"
}

one_of_60(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_60(x) if {
	x == "CAP_NET_RAW"
}

one_of_60(x) if {
	x == "CAP_SETFCAP"
}

one_of_60(x) if {
	x == "CAP_SETGID"
}

one_of_60(x) if {
	x == "CAP_SETPCAP"
}

one_of_60(x) if {
	x == "CAP_SETUID"
}

one_of_60(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_61(x) if {
	x == 2000
}

one_of_61(x) if {
	x == 3000
}

one_of_61(x) if {
	x == 4000
}

one_of_62(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_62(x) if {
	x == "CAP_CHOWN"
}

one_of_62(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_62(x) if {
	x == "CAP_FOWNER"
}

one_of_62(x) if {
	x == "CAP_FSETID"
}

one_of_62(x) if {
	x == "CAP_KILL"
}

one_of_62(x) if {
	x == "CAP_MKNOD"
}

one_of_62(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_62(x) if {
	x == "CAP_NET_RAW"
}

one_of_62(x) if {
	x == "CAP_SETFCAP"
}

one_of_62(x) if {
	x == "CAP_SETGID"
}

one_of_62(x) if {
	x == "CAP_SETPCAP"
}

one_of_62(x) if {
	x == "CAP_SETUID"
}

one_of_62(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_63(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_63(x) if {
	x == "CAP_CHOWN"
}

one_of_63(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_63(x) if {
	x == "CAP_FOWNER"
}

one_of_63(x) if {
	x == "CAP_FSETID"
}

one_of_63(x) if {
	x == "CAP_KILL"
}

one_of_63(x) if {
	x == "CAP_MKNOD"
}

one_of_63(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_63(x) if {
	x == "CAP_NET_RAW"
}

one_of_63(x) if {
	x == "CAP_SETFCAP"
}

one_of_63(x) if {
	x == "CAP_SETGID"
}

one_of_63(x) if {
	x == "CAP_SETPCAP"
}

one_of_63(x) if {
	x == "CAP_SETUID"
}

one_of_63(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_64(x) if {
	x == "CAP_AUDIT_WRITE"
}

one_of_64(x) if {
	x == "CAP_CHOWN"
}

one_of_64(x) if {
	x == "CAP_DAC_OVERRIDE"
}

one_of_64(x) if {
	x == "CAP_FOWNER"
}

one_of_64(x) if {
	x == "CAP_FSETID"
}

one_of_64(x) if {
	x == "CAP_KILL"
}

one_of_64(x) if {
	x == "CAP_MKNOD"
}

one_of_64(x) if {
	x == "CAP_NET_BIND_SERVICE"
}

one_of_64(x) if {
	x == "CAP_NET_RAW"
}

one_of_64(x) if {
	x == "CAP_SETFCAP"
}

one_of_64(x) if {
	x == "CAP_SETGID"
}

one_of_64(x) if {
	x == "CAP_SETPCAP"
}

one_of_64(x) if {
	x == "CAP_SETUID"
}

one_of_64(x) if {
	x == "CAP_SYS_CHROOT"
}

one_of_65(x) if {
	x == 2000
}

one_of_65(x) if {
	x == 3000
}

one_of_65(x) if {
	x == 4000
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
