// Package sandboxapi is containerd's sandbox service and CRI's words for a pod, as far as a shim has use for them: the
// messages are in sandboxpb, written by make generate from proto. Here is what they are called.
package sandboxapi

// Service is the service's name. containerd: api/runtime/sandbox/v1/sandbox.proto.
const Service = "containerd.runtime.sandbox.v1.Sandbox"

// PodSandboxConfig ends the name of the message in which CRI says what pod it wants.
const PodSandboxConfig = "runtime.v1.PodSandboxConfig"

// The states of a pod, as CRI calls them.
const (
	Ready    = "SANDBOX_READY"
	NotReady = "SANDBOX_NOTREADY"
)
