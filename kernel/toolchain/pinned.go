package toolchain

import (
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
)

// The tool-chains that a kernel can be built with.
const (
	Debian = "debian" // gcc and binutils of Debian packages, in a root of their own
	LLVM   = "llvm"   // clang and lld, likewise
	Host   = "host"   // what is installed on this machine
)

// Kinds lists the tool-chains, the default first.
func Kinds() []string { return []string{Debian, LLVM, Host} }

// Suite is the suite of Debian that the packages of a tool-chain are taken from.
const Suite = "trixie"

// Packages lists the Debian packages of a tool-chain that runs on host and builds kernels for target; what they depend
// on comes along. kind is Debian or LLVM.
func Packages(kind string, target, host arch.Arch) []string {
	list := []string{
		"bash", "bc", "bison", "coreutils", "cpio", "dash", "diffutils", "findutils", "flex", "grep", "gzip", "kmod",
		"libc6-dev", "libelf-dev", "libncurses-dev", "libssl-dev", "lz4", "m4", "make", "mawk", "openssl", "pahole",
		"perl-base", "python3-minimal", "sed", "tar", "xz-utils", "zstd",
	}
	if kind == LLVM {
		list = append(list, "clang", "lld", "llvm")
	} else {
		list = append(list, "binutils", "gcc")
		if target.Name != host.Name {
			// gcc-x86-64-linux-gnu has x86_64-linux-gnu-gcc.
			list = append(list, "gcc-"+strings.ReplaceAll(strings.TrimSuffix(target.CrossPrefix, "-"), "_", "-"))
		}
	}
	slices.Sort(list)
	return list
}

// Links are the symbolic links that maintainer scripts of the packages would have made.
func Links() map[string]string {
	return map[string]string{"/usr/bin/awk": "mawk"}
}

// Package is one package of a pinned tool-chain. Its digest is that of the .deb.
type Package = Tool

// Pinned is the tool-chain of packages that are unpacked to a root. The compiler is called by the same name on every
// host, since a kernel names its compiler.
func Pinned(kind string, target arch.Arch, packages []Package) Toolchain {
	t := Toolchain{Kind: kind, Tools: slices.Clone(packages), Prefix: target.CrossPrefix}
	if kind == LLVM {
		t.Prefix = ""
	}
	slices.SortFunc(t.Tools, func(a, b Tool) int { return strings.Compare(a.Name, b.Name) })
	return t
}
