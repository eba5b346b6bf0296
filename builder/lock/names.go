package lock

import (
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
)

// The names of inputs that a guest has once. docs/formats/lock.md.
const (
	SourceInput    = "kernel source"
	SignatureInput = "kernel signature"
	KeyringInput   = "kernel keyring"
	AgentInput     = "agent"
	ModuleKeyInput = "kernel module key"
)

// FragmentInput is the name of a fragment of the kernel's configuration, by its path or address.
func FragmentInput(path string) string { return "kernel fragment " + path }

// PatchInput is the name of a patch of the kernel, by its path or address.
func PatchInput(path string) string { return "kernel patch " + path }

// ExternalInput is the name of the source of a module outside of the kernel, by its folder.
func ExternalInput(path string) string { return "kernel module " + path }

// FileInput is the name of a file of an initrd or a layer, by its path or address.
func FileInput(from string) string { return "file " + from }

// TarInput is the name of a tar, by its path or address.
func TarInput(path string) string { return "tar " + path }

// FolderInput is the name of a folder beside the recipe, by its path.
func FolderInput(path string) string { return "folder " + path }

// ImageInput is the name of a container image, by its reference.
func ImageInput(ref string) string { return "oci image " + ref }

// DebInput is the name of a package beside the recipe, by its path or address.
func DebInput(path string) string { return "deb " + path }

// ArchiveInput is the name of a file that describes an archive of packages, by its path.
func ArchiveInput(path string) string { return "archive file " + path }

// SetName is the name of the packages that a layer asks for; asked is over what decides them.
func SetName(asked digest.Digest) string { return "debian packages " + asked.Short() }

// ToolchainSet is the name of the packages of a kernel's tool-chain of a kind, which runs on an architecture and builds
// for one; both by dpkg's names.
func ToolchainSet(kind, host, target string) string {
	return fmt.Sprintf("%s%s on %s for %s", toolchainPrefix, kind, host, target)
}

// toolchainPrefix begins the names of tool-chains.
const toolchainPrefix = "tool-chain "

// IsToolchain says whether a set of that name is a tool-chain.
func IsToolchain(set string) bool { return strings.HasPrefix(set, toolchainPrefix) }

// Toolchains are the sets that are tool-chains.
func (l *Lock) Toolchains() []Set {
	return slices.DeleteFunc(slices.Clone(l.Sets), func(s Set) bool { return !IsToolchain(s.Name) })
}
