#!/bin/sh
# Installs what this host lacks to build, boot and test: Debian packages by apt, and Go where it is missing or too old.
# Run by `make setup`; it changes nothing where nothing is missing.
#
# usage: ci/setup.sh [packages|go|tests|arch|cross|packaging|guests]   (packages and go without an argument; tests also
# brings what judges our work in tests, and a containerd; arch what emulates machines of other architectures, cross what
# emulates their programs; packaging what judges packages; guests what builds and boots guests of all architectures)
set -eu

# The one place that pins Go. go.mod asks for at least this minor version.
GO_VERSION=1.26.8
# Packages, each with the file that shows it is there:
#   qemu runs guests; katabuild brings what kernels are built with.
PACKAGES="
qemu-system-x86:/usr/bin/qemu-system-x86_64
make:/usr/bin/make
git:/usr/bin/git
ca-certificates:/etc/ssl/certs/ca-certificates.crt
debian-archive-keyring:/usr/share/keyrings/debian-archive-keyring.gpg
"

# What builds kernels with --toolchain host, which tests do; cpio judges initrds.
HOST_TOOLS="
gcc:/usr/bin/gcc
binutils:/usr/bin/ld
libc6-dev:/usr/include/stdio.h
flex:/usr/bin/flex
bison:/usr/bin/bison
m4:/usr/bin/m4
bc:/usr/bin/bc
libelf-dev:/usr/include/gelf.h
kmod:/sbin/depmod
lz4:/usr/bin/lz4
perl:/usr/bin/perl
cpio:/usr/bin/cpio
zstd:/usr/bin/zstd
xz-utils:/usr/bin/xz
iproute2:/bin/ip
util-linux:/usr/bin/unshare
"

# What tests compare our work with: other people's tools for file systems, disks and hash trees, and their
# registry, token and client of remote caches.
JUDGES="
erofs-utils:/usr/bin/fsck.erofs
e2fsprogs:/sbin/fsck.ext4
cryptsetup-bin:/usr/sbin/veritysetup
gdisk:/usr/sbin/sgdisk
fdisk:/usr/sbin/sfdisk
attr:/usr/bin/setfattr
openssl:/usr/bin/openssl
faketime:/usr/bin/faketime
groff-base:/usr/bin/groff
bzip2:/bin/bzip2
python3-securesystemslib:/usr/lib/python3/dist-packages/securesystemslib/__init__.py
docker-registry:/usr/bin/docker-registry
softhsm2:/usr/bin/softhsm2-util
opensc:/usr/bin/pkcs11-tool
bazel-bootstrap:/usr/bin/bazel
"

# What runs containers on our runtime in tests: a containerd and the runtime it is compared with, networks, and programs
# for images.
CONTAINERS="
containerd:/usr/bin/containerd
runc:/usr/sbin/runc
crun:/usr/bin/crun
containernetworking-plugins:/usr/lib/cni/bridge
iptables:/usr/sbin/iptables
busybox-static:/bin/busybox
qemu-system-common:/usr/lib/qemu/virtiofsd
procps:/usr/bin/pgrep
"

# What emulates machines of the other architectures.
MACHINES="
qemu-system-arm:/usr/bin/qemu-system-aarch64
qemu-system-ppc:/usr/bin/qemu-system-ppc64
qemu-system-misc:/usr/bin/qemu-system-riscv64
opensbi:/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin
"

# What emulates programs of the other architectures.
EMULATORS="
qemu-user-static:/usr/bin/qemu-s390x-static
"

# What judges packages.
PACKAGING="
lintian:/usr/bin/lintian
"

say() { echo "setup: $*" >&2; }

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
		say "needs root or sudo to run: $*"; exit 1
	fi
}

packages() {
	missing=
	for p in $1; do
		[ -e "${p#*:}" ] || missing="$missing ${p%%:*}"
	done
	[ -z "$missing" ] && return 0
	command -v apt-get >/dev/null || { say "this host has no apt-get; install the likes of:$missing"; exit 1; }
	say "installing$missing"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
	# shellcheck disable=SC2086 # a list of words
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# good_go CMD: whether CMD is a Go of the pinned minor version or newer.
good_go() {
	v=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
	v=${v#go}
	major=${v%%.*}; rest=${v#*.}; minor=${rest%%[!0-9]*}
	want=${GO_VERSION#*.}; want=${want%%.*}
	[ "$major" -gt 1 ] || [ "$minor" -ge "$want" ]
}

cache() { echo "${XDG_CACHE_HOME:-$HOME/.cache}/katabuild-go"; }

# go_path prints the Go to use: the host's where it is new enough, else the one that get_go left.
go_path() {
	for g in go /usr/local/go/bin/go "$(cache)/$GO_VERSION/bin/go"; do
		if command -v "$g" >/dev/null && good_go "$g"; then command -v "$g"; return 0; fi
	done
	echo go
}

# get_go unpacks Debian trixie's Go without installing it, and lets that fetch the pinned tool-chain as a Go module:
# signed packages and the
# module checksum database vouch for it, and no root is needed.
get_go() {
	[ "$(go_path)" != go ] && return 0
	good_go go 2>/dev/null && return 0
	say "fetching Go $GO_VERSION"
	t=$(mktemp -d)
	trap 'rm -rf "$t"' EXIT
	mkdir -p "$t/state/lists/partial" "$t/cache/archives/partial" "$t/parts"
	: >"$t/status"
	uri=$(apt-get indextargets --format '$(CREATED_BY) $(REPO_URI)' |
		sed -n 's|^Packages \(.*/debian/*\)$|\1|p' | head -n 1)
	[ -n "$uri" ] || { say "no Debian archive among the host's apt sources; install Go $GO_VERSION by hand"; exit 1; }
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main" >"$t/sources.list"
	o="-o Dir::State=$t/state -o Dir::State::status=$t/status -o Dir::Cache=$t/cache"
	o="$o -o Dir::Etc::sourcelist=$t/sources.list"
	o="$o -o Dir::Etc::sourceparts=$t/parts -o Acquire::Languages=none -o APT::Sandbox::User="
	# shellcheck disable=SC2086 # options are words
	apt-get $o update -qq >/dev/null 2>&1 || true
	# shellcheck disable=SC2086
	(cd "$t" && apt-get $o download golang-1.24-go golang-1.24-src >/dev/null)
	for d in "$t"/*.deb; do dpkg-deb -x "$d" "$t/tree"; done
	GOROOT="$t/tree/usr/lib/go-1.24" GOTOOLCHAIN="go$GO_VERSION" GOFLAGS= GOMODCACHE="$t/mod" \
		"$t/tree/usr/lib/go-1.24/bin/go" version >&2
	chmod -R u+w "$t/mod"
	mkdir -p "$(cache)"
	rm -rf "$(cache)/$GO_VERSION"
	mv "$t"/mod/golang.org/toolchain@*go"$GO_VERSION".* "$(cache)/$GO_VERSION"
	good_go "$(cache)/$GO_VERSION/bin/go" || { say "the fetched Go does not run"; exit 1; }
}

# modules brings what the programs of `make lint` are made from, and what go mod tidy looks at, so that both work
# offline. Go itself brings what a build needs.
modules() {
	go=$(go_path)
	GOTOOLCHAIN=local "$go" -C ci/tools mod download
	GOTOOLCHAIN=local "$go" -C ci/tools/collector mod download
	GOTOOLCHAIN=local "$go" -C ci/tools/sanity mod download
	GOTOOLCHAIN=local "$go" -C ci/tools/oci mod download
	GOTOOLCHAIN=local "$go" mod tidy -diff >/dev/null 2>&1 || true # says nothing here: make lint does
}

case "${1:-all}" in
packages) packages "$PACKAGES" ;;
go) get_go ;;
go-path) go_path ;;
all) packages "$PACKAGES"; get_go ;;
tests) packages "$PACKAGES $HOST_TOOLS $JUDGES $CONTAINERS $MACHINES"; get_go; modules ;;
arch) packages "$MACHINES" ;;
cross) packages "$EMULATORS" ;;
packaging) packages "$PACKAGES $PACKAGING"; get_go ;;
guests) packages "$PACKAGES $MACHINES"; get_go ;;
*) say "usage: ci/setup.sh [packages|go|go-path|tests|arch|cross|packaging|guests]"; exit 2 ;;
esac
