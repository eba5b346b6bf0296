#!/bin/sh
# Builds the programs into OUT/ARCH/, for all architectures or the ones named. The same commit makes the same bytes, in
# whatever folder. usage: ci/dist.sh OUT VERSION COMMIT [ARCH...]
set -eu
out=$1 version=$2 commit=$3
shift 3
[ $# -gt 0 ] || set -- x86_64 aarch64 ppc64le s390x riscv64
go=$(sh ci/setup.sh go-path)
export CGO_ENABLED=0 GOTOOLCHAIN=local GOOS=linux
for arch in "$@"; do
	case $arch in
	x86_64) GOARCH=amd64 ;;
	aarch64) GOARCH=arm64 ;;
	ppc64le | s390x | riscv64) GOARCH=$arch ;;
	*) echo "dist: no architecture $arch" >&2; exit 2 ;;
	esac
	export GOARCH
	rm -rf "${out:?}/$arch"
	mkdir -p "$out/$arch"
	for p in katabuild katabuild-cc kata-runtime kata-agent-ctl kata-deploy runk \
		csi-kata-directvolume containerd-shim-kata-v2; do
		flags="-s -w -buildid= -X main.version=$version"
		[ "$p" != katabuild ] || flags="$flags -X main.commit=$commit"
		"$go" build -trimpath -buildvcs=false -ldflags="$flags" -o "$out/$arch/$p" "./cmd/$p"
	done
	# The agent has no version of its own: guests that are built of the same source have the same agent.
	"$go" build -trimpath -buildvcs=false -ldflags="-s -w -buildid=" -o "$out/$arch/kata-agent-$arch" ./cmd/kata-agent
done
